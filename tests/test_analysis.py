"""The studies compare, robustness and embedding: their numbers against loops and hand calculations; the commands."""

import csv
import hashlib
import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

import training
from analysis import compare, embedding, robustness
from analysis import study as study_module
from analysis.corruptions import CORRUPTIONS
from analysis.study import choose_positions
from datasets import images
from datasets.images import FaceImages
from datasets.labels import read_split
from datasets.transforms import normalise
from engine import BadImages, fake_probability
from evaluation.predictions import read_predictions
from evaluation.predictions import write_predictions as save_predictions
from losses.terms import Logits
from models.backbones import build_network
from models.checkpoints import load_trained, save_checkpoint
from run_folder import RunFolder
from tests.helpers import arguments, make_dataset, scores_of
from utils.errors import InputError
from utils.training_arguments import TrainingArguments
from utils.world import World

Row = tuple[str, str, int, float]


class Pair(NamedTuple):
    """Labels and videos of N images, and their scores in two runs."""

    labels: np.ndarray
    videos: np.ndarray
    first: np.ndarray
    second: np.ndarray


def make_pair(seed: int = 0, videos: int = 12, digits: int = 1) -> Pair:
    """Score frames of several videos by two runs; few digits give many ties."""
    rng = np.random.default_rng(seed)
    video = np.unique(rng.integers(0, videos, 10 * videos), return_inverse=True)[1]
    labels = (video % 3 > 0).astype(int)
    first, second = (np.clip(rng.normal(0.4 + gap * labels, 0.2), 0, 1).round(digits) for gap in (0.1, 0.2))
    return Pair(labels, video, first, second)


def read_study(folder: Path, name: str) -> dict:
    """Read the JSON of a study and check what all studies share."""
    (file,) = folder.glob(f"study_{name}_*.json")
    content = json.loads(file.read_text())
    assert list(content) == ["title", "text", "table", "plots", "numbers"]
    assert content["plots"] == [f"{file.stem}.png"] and content["text"].endswith(".")
    assert {len(row) for row in content["table"]} == {len(content["table"][0])}
    assert all(isinstance(cell, str) for row in content["table"] for cell in row)
    assert min(imread(file.with_suffix(".png")).shape[:2]) > 200
    assert not list(folder.glob("*.part"))
    return content


def assert_fails(main: Callable[[list[str]], int], argv: list, capsys: pytest.CaptureFixture, *words: str) -> None:
    """Assert that a command fails with exit code 2 and one error line that contains the words."""
    assert main([str(part) for part in argv]) == 2
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "error" in line]
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]


def assert_short(printed: str) -> None:
    """Assert that a study prints one short paragraph between its table and its files."""
    *_, summary, _ = printed.split("\n\n")
    assert 5 < len(summary.split()) < 60, summary


# ------------------------------------------------------------------------------------------------------------- compare


def test_one_video_in_a_class_is_not_tested(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    labels, videos = np.array([0, 0, 1, 1, 1]), np.array([0, 0, 1, 2, 2])
    good = np.array([0.1, 0.2, 0.7, 0.8, 0.9])
    pair = Pair(labels, videos, 1 - good, good)
    runs = [write_predictions(tmp_path / which, rows_of(pair, which)) for which in ("first", "second")]
    assert compare.main([str(run) for run in runs]) == 0
    for unit in json.loads((next(runs[1].glob("study_*.json"))).read_text())["numbers"]["datasets"]["set"].values():
        assert unit["difference"] == 1
        assert unit["interval"] is None and unit["p"] is None
    printed = capsys.readouterr().out
    assert "Not tested" in printed and "ignificant" not in printed


def write_predictions(folder: Path, rows: list[Row]) -> Path:
    folder.mkdir()
    with (folder / "predictions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("dataset", "path", "label", "score"), *rows])
    return folder


def rows_of(pair: Pair, which: str, dataset: str = "set") -> list[Row]:
    scores = getattr(pair, which)
    paths = [f"{video}/{i}.png" for i, video in enumerate(pair.videos)]
    return [(dataset, path, int(y), float(s)) for path, y, s in zip(paths, pair.labels, scores, strict=True)]


def test_videos_and_clusters_come_from_the_file_or_else_the_folders(tmp_path: Path) -> None:
    rows = [("set", f"{folder}/1.png", 0, 0.5) for folder in ("b", "a/c", "a")]
    (plain,) = read_predictions(write_predictions(tmp_path / "plain", rows) / "predictions.csv").values()
    assert plain.video_names == plain.cluster_names == ["b", "a/c", "a"]
    celeb = [("set", f"Celeb-synthesis/id1_id{n}_0007/1.png", 1, 0.5) for n in (2, 3)]
    (known,) = read_predictions(write_predictions(tmp_path / "known", celeb) / "predictions.csv").values()
    assert len(known.video_names) == 2 and known.cluster_names == ["id1_0007"]
    scored = scores_of([0, 0, 1], [0.1, 0.2, 0.3], ["v", "v", "w"], ["c", "c", "c"], folders=["v/0", "v/1", "w"])
    save_predictions(tmp_path / "predictions.csv", {"set": scored})
    (again,) = read_predictions(tmp_path / "predictions.csv").values()
    assert again.paths == scored.paths and again.video_names == ["v", "w"] and again.cluster_names == ["c"]
    for found, wanted in zip(again[1:6], scored[1:6], strict=True):
        assert found.tolist() == wanted.tolist()


def test_compare_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    one, two = make_pair(), make_pair(1, digits=9)
    a = write_predictions(tmp_path / "a", rows_of(one, "first") + rows_of(two, "first", "other"))
    # The order of the lines must not matter.
    b = write_predictions(tmp_path / "b", rows_of(two, "second", "other") + rows_of(one, "second")[::-1])
    assert compare.main([str(a), str(b), "--video_score", "max"]) == 0
    assert not list(a.glob("study_*"))
    content = read_study(b, "compare")
    for name, pair in (("set", one), ("other", two)):
        found = content["numbers"]["datasets"][name]["frames"]
        aucs = [roc_auc_score(pair.labels, scores) for scores in (pair.first, pair.second)]
        assert [found["auc_a"], found["auc_b"]] == pytest.approx(aucs)
        assert found["difference"] == pytest.approx(aucs[1] - aucs[0])
        low, high = found["interval"]
        assert low < found["difference"] < high
        videos = content["numbers"]["datasets"][name]["videos"]
        video_labels = [pair.labels[pair.videos == video][0] for video in range(12)]
        highest = [pair.second[pair.videos == video].max() for video in range(12)]
        assert videos["auc_b"] == pytest.approx(roc_auc_score(video_labels, highest))
        assert videos["count"] == 12
    assert len(content["table"]) == 5
    printed = capsys.readouterr().out
    assert f"{aucs[1] - aucs[0]:+.4f}" in printed
    assert_short(printed)


def test_report_shows_studies_and_overwrite_removes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported = []

    def report(folder: Path) -> None:
        reported.append((folder, read_study(folder, "compare")["title"]))

    monkeypatch.setattr("analysis.study.write_report", report)
    pair = make_pair()
    a, b = (write_predictions(tmp_path / which, rows_of(pair, which)) for which in ("first", "second"))
    assert compare.main([str(a), str(b)]) == 0
    assert not reported  # no results.json yet
    (b / "results.json").write_text("{}")
    assert compare.main([str(a), str(b)]) == 0
    assert reported == [(b, "second (B) compared with first (A)")]
    with pytest.raises(InputError, match="--overwrite"):
        RunFolder(TrainingArguments(save_path=tmp_path, name=b.name), World("cpu"))
    (b / "study_embedding_tiny").mkdir()
    (b / "study_embedding_tiny" / "tensors.tsv").write_text("1")
    (b / "study_notes.txt").write_text("the user's")
    folder = RunFolder(TrainingArguments(save_path=tmp_path, name=b.name, overwrite=True), World("cpu"))
    folder.open()
    folder.replace_old_run()
    folder.close()
    assert sorted(file.name for file in b.iterdir()) == [".lock", "args.json", "study_notes.txt"]


def test_a_run_equals_itself(tmp_path: Path) -> None:
    a = write_predictions(tmp_path / "a", rows_of(make_pair(), "first"))
    assert compare.main([str(a), str(a)]) == 0
    for result in read_study(a, "compare")["numbers"]["datasets"]["set"].values():
        assert result["difference"] == 0
        assert result["interval"] == [0, 0] and result["p"] == 1


def test_a_planted_difference_is_significant(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    videos = np.repeat(np.arange(60), 4)
    labels = videos % 2
    good = np.clip(0.5 + 0.3 * (2 * labels - 1) + rng.normal(0, 0.1, 240), 0, 1)
    pair = Pair(labels, videos, rng.random(240), good)
    a, b = (write_predictions(tmp_path / which, rows_of(pair, which)) for which in ("first", "second"))
    assert compare.main([str(a), str(b)]) == 0
    for result in read_study(b, "compare")["numbers"]["datasets"]["set"].values():
        assert result["difference"] > 0.3
        assert result["p"] < 1e-6 and result["interval"][0] > 0.2


def test_runs_that_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = rows_of(make_pair(), "first")
    a = write_predictions(tmp_path / "a", rows)
    (tmp_path / "empty").mkdir()
    flipped = [(dataset, path, 1 - label, score) for dataset, path, label, score in rows[:2]]
    folders = {
        "fewer": (rows[3:], ["3 are only in", "/a:", f"set {rows[0][1]}"]),
        "more": ([*rows, ("set", "x/y.png", 0, 0.5)], ["1 are only in", "/more:", "x/y.png"]),
        "flipped": (flipped + rows[2:], ["labels of 2 images", rows[0][1]]),
        "twice": ([*rows, rows[0]], ["predictions.csv", "twice", rows[0][1]]),
        "no score": ([("set", "x/y.png", 0, "nan")], ["line 2", "score nan"]),
        "cut off": ([("set", "x/y.png")], ["line 2"]),
        "none": ([], ["predictions.csv", "no image"]),
    }
    for name, (content, words) in folders.items():
        assert_fails(compare.main, [a, write_predictions(tmp_path / name, content)], capsys, *words)
        assert not list((tmp_path / name).glob("study*"))
    real = write_predictions(tmp_path / "real", [row for row in rows if row[2] == 0])
    assert_fails(compare.main, [real, real], capsys, "set", "one class")
    assert_fails(compare.main, [a, tmp_path / "empty"], capsys, "predictions.csv")
    assert_fails(compare.main, [a], capsys, "RUN_B", "python -m analysis.compare --help")


# ---------------------------------------------------------------------------------------------------------- robustness


def picture(side: int = 64) -> np.ndarray:
    """Draw waves in each channel: side x side x 3, uint8."""
    y, x = np.mgrid[0:side, 0:side]
    channels = [128 + 90 * np.sin(x / 3), 128 + 90 * np.cos(y / 4), 128 + 90 * np.sin((x + y) / 5)]
    return np.stack(channels, axis=2).astype(np.uint8)


def damage(name: str, strength: float, image: np.ndarray | None = None) -> float:
    """Measure the mean absolute change in grey levels."""
    image = picture() if image is None else image
    before = image.copy()
    after = CORRUPTIONS[name].apply(image, strength, np.random.default_rng(0))
    assert after.shape == image.shape and after.dtype == np.uint8
    assert (image == before).all()
    return float(np.abs(after.astype(float) - image).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_grows_with_strength(name: str) -> None:
    if name == "h264":
        pytest.importorskip("av")
    corruption = CORRUPTIONS[name]
    assert len(corruption.strengths) == 5
    sides = [corruption.strengths]
    if corruption.neutral is not None:
        assert damage(name, corruption.neutral) == 0
        below = [strength for strength in corruption.strengths if strength < corruption.neutral]
        sides = [below[::-1], corruption.strengths[len(below) :]]
    for strengths in sides:
        grown = [damage(name, strength) for strength in strengths]
        assert all(np.diff([0, *grown]) > 0), grown


def test_corruptions_by_hand() -> None:
    rng = np.random.default_rng(0)
    grey = np.full((200, 200, 3), 100, np.uint8)
    noisy = CORRUPTIONS["noise"].apply(grey, 16, rng).astype(float)
    assert noisy.mean() == pytest.approx(100, abs=0.2) and noisy.std() == pytest.approx(16, abs=0.2)
    assert (CORRUPTIONS["brightness"].apply(grey, 1.5, rng) == 150).all()
    assert (CORRUPTIONS["brightness"].apply(grey, 3, rng) == 255).all()
    halves = np.repeat(np.uint8([50, 150]), 50)[None, :, None].repeat(100, 0).repeat(3, 2)
    assert np.unique(CORRUPTIONS["contrast"].apply(halves, 1.5, rng)).tolist() == [25, 175]
    assert np.unique(CORRUPTIONS["contrast"].apply(halves, 2.5, rng)).tolist() == [0, 225]
    checks = np.indices((96, 96)).sum(axis=0)[:, :, None].repeat(3, 2) % 2 * 200
    assert (CORRUPTIONS["resample"].apply(checks.astype(np.uint8), 2, rng) == 100).all()
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    blurred = CORRUPTIONS["blur"].apply(point, 2, rng)[20, 20, 0]
    assert blurred == pytest.approx(255 / (2 * np.pi * 2**2), abs=1)


@pytest.mark.parametrize("name", ["jpeg", "h264"])
def test_codecs_keep_the_channel_order(name: str) -> None:
    if name == "h264":
        pytest.importorskip("av")
    red = np.full((33, 35, 3), (200, 60, 20), np.uint8)  # odd sides, which 4:2:0 does not allow
    assert damage(name, CORRUPTIONS[name].strengths[0], red) < 4


def test_each_image_is_decoded_once_and_workers_do_not_matter(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test_set = FaceImages(read_split("tiny", "test", tiny / "labels", tiny / "faces"), 32)
    read, count = images.read_image, []
    monkeypatch.setattr(images, "read_image", lambda path: count.append(path) or read(path))
    names = ["jpeg", "noise", "h264" if find_spec("av") else "brightness"]
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2, bias=False))
    wrapped = torch.nn.Module()
    wrapped.forward = lambda x: Logits(network(x), network(x), [])
    options = {"channels": "RGB", "bad_images": BadImages(False)}

    def score(chosen: list[int], batch_size: int, workers: int) -> tuple[np.ndarray, np.ndarray]:
        faces = robustness.CorruptedFaces(test_set, chosen, names)
        return robustness.score_versions(
            wrapped, faces, World("cpu"), batch_size=batch_size, num_workers=workers, **options
        )

    positions, scores = score(list(range(12)), 5, 0)
    assert len(count) == len(set(count)) == 12
    assert positions.tolist() == list(range(12)) and scores.shape == (12, 16)
    _, by_workers = score(list(range(12)), 3, 2)
    assert by_workers == pytest.approx(scores, abs=1e-6)
    positions, some = score([2, 7], 5, 0)
    assert positions.tolist() == [2, 7] and some == pytest.approx(scores[[2, 7]], abs=1e-6)
    # A version is the corruption of the resized image.
    noisy = CORRUPTIONS["noise"].apply(test_set[7][0].permute(1, 2, 0).numpy(), 8, np.random.default_rng([0, 7]))
    outputs = wrapped(normalise(torch.from_numpy(noisy).permute(2, 0, 1)[None]))
    column = 1 + robustness.CorruptedFaces(test_set, [0], names).corruptions.index(("noise", 8))
    assert fake_probability(outputs).item() == pytest.approx(scores[7, column], abs=1e-6)


@pytest.mark.slow
def test_the_bar_counts_each_image_once(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test_set = FaceImages(read_split("tiny", "test", trained / "labels", trained / "faces"), 32)
    corrupted = robustness.CorruptedFaces(test_set, [2, 7], ["blur"])
    assert len(corrupted) == 2
    assert [(item[0].shape[0], item[2]) for item in (corrupted[0], corrupted[1])] == [(6, 2), (6, 7)]
    ends = set()

    close = tqdm.close

    def record(bar: tqdm) -> None:
        if bar.desc.startswith("robustness"):
            ends.add((bar.n, bar.total))
        close(bar)

    monkeypatch.setattr(tqdm, "close", record)
    content = (image := trained / "faces/tiny/test/real/000/0000.png").read_bytes()
    image.write_bytes(content[:100])
    more = ["--save_path", str(tmp_path), "--corruptions", "blur", "--skip_bad_images", "True", "--test_bs", "1"]
    assert robustness.main(study_arguments(trained, *more)) == 0
    image.write_bytes(content)
    assert ends == {(24, 24)} and read_study(tmp_path, "robustness")["numbers"]["images"] == 23


def plant_manipulations(root: Path) -> None:
    """Move the fake test videos into the folders of FaceForensics++: two manipulations, two videos each."""
    lines = []
    for number, manipulation in enumerate(["Deepfakes", "FaceSwap", "Deepfakes", "FaceSwap"]):
        folder = f"tiny/manipulated_sequences/{manipulation}/c23/{number} x"
        (root / "faces" / folder).parent.mkdir(parents=True, exist_ok=True)
        (root / f"faces/tiny/test/fake/{number:03d}").rename(root / "faces" / folder)
        lines.append(f"1,{folder},3\n")
    (root / "labels/tiny/test_fake.txt").write_text("".join(lines))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset of two manipulations and a trained and tested run, ``run``."""
    root = tmp_path_factory.mktemp("trained")
    make_dataset(root, videos=4)
    plant_manipulations(root)
    assert training.main(arguments(root, "--name", "run")) == 0
    return root


def study_arguments(root: Path, *more: str) -> list[str]:
    where = ["--dataset_root", str(root / "labels"), "--data_root", str(root / "faces"), "--dataset", "tiny"]
    model = ["--model", str(root / "output/run/model_best.pth"), "--gpu_num", "cpu", "--num_workers", "0"]
    return [*where, *model, *more]


@pytest.mark.slow
def test_robustness_command(trained: Path, capsys: pytest.CaptureFixture) -> None:
    some = "noise,resample,jpeg"
    assert robustness.main(study_arguments(trained, "--corruptions", some)) == 0
    folder = trained / "output/run"
    content = read_study(folder, "robustness")
    numbers, results = content["numbers"], json.loads((folder / "results.json").read_text())["datasets"]["tiny"]
    for name in ("auc", "video_auc"):
        assert numbers["clean"][name] == pytest.approx(results[name], abs=1e-9)
    assert (numbers["images"], numbers["videos"]) == (24, 8)
    for name in some.split(","):
        assert [row["strength"] for row in numbers["corruptions"][name]] == list(CORRUPTIONS[name].strengths)
    assert len(content["table"]) == 1 + 1 + 15
    assert_short(capsys.readouterr().out)

    more = ["--save_path", str(trained / "elsewhere"), "--max_images", "8", "--corruptions", "blur"]
    assert robustness.main(study_arguments(trained, *more)) == 0
    assert read_study(trained / "elsewhere", "robustness")["numbers"]["images"] == 8


@pytest.mark.slow
def test_all_corruptions_in_one_plot(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    more = ["--save_path", str(tmp_path), "--max_images", "4"]
    assert robustness.main(study_arguments(trained, *more)) == 0
    content = read_study(tmp_path, "robustness")
    assert list(content["numbers"]["corruptions"]) == list(CORRUPTIONS) and len(content["table"]) == 37


@pytest.mark.slow
def test_robustness_of_an_authors_checkpoint(tmp_path: Path) -> None:
    make_dataset(tmp_path, videos=1, frames=2)
    network = build_network("mobilenet", 2, 32)
    save_checkpoint(tmp_path / "theirs.pth", network, "mobilenet", 3)
    found, checkpoint = load_trained(tmp_path / "theirs.pth")
    size, channels = checkpoint["args"]["size"], checkpoint["channels"]
    assert (found.num_LIBs, size, channels, found.training) == (2, 224, "BGR", False)
    for name, value in network.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    more = ["--model", str(tmp_path / "theirs.pth"), "--corruptions", "brightness", "--test_bs", "1"]
    assert robustness.main(study_arguments(tmp_path, *more)) == 0
    read_study(tmp_path, "robustness")


@pytest.mark.slow
@pytest.mark.parametrize("main", [robustness.main, embedding.main])
def test_wrong_arguments(
    main: Callable[[list[str]], int], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = trained / "output/run"
    before = sorted(folder.iterdir())

    def fails(*words: str, more: tuple = ()) -> None:
        assert_fails(main, study_arguments(trained, *more), capsys, *words)

    assert_fails(main, ["--dataset", "tiny"], capsys, "--model")
    fails("--model", "x.pth", more=("--model", tmp_path / "x.pth"))
    fails("--model", "args.json", more=("--model", folder / "args.json"))
    fails("'tinny'", "did you mean 'tiny'", more=("--dataset", "tinny"))
    fails("--gpu_nam", "did you mean '--gpu_num'", more=("--gpu_nam", "cpu"))
    fails("--save_path", "args.json", more=("--save_path", folder / "args.json"))
    fails("--max_images", "'0'", more=("--max_images", "0"))
    labels = tmp_path / "labels/tiny"
    labels.mkdir(parents=True)
    (labels / "test_real.txt").write_text((trained / "labels/tiny/test_real.txt").read_text())
    (labels / "test_fake.txt").write_text("")
    fails("--dataset tiny", "one class", more=("--dataset_root", labels.parent))
    if main is robustness.main:
        fails("--max_images 1", "one class", more=("--max_images", "1"))
    image = trained / "faces/tiny/test/real/000/0000.png"
    content = image.read_bytes()
    image.write_bytes(content[:100])
    fails("0000.png", "--skip_bad_images")
    image.write_bytes(content)
    assert sorted(folder.iterdir()) == before


@pytest.mark.slow
def test_wrong_corruptions(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    wrong = study_arguments(trained, "--corruptions", "jpg,blur")
    assert_fails(robustness.main, wrong, capsys, "'jpg'", "did you mean 'jpeg'")
    monkeypatch.setitem(sys.modules, "av", None)
    wrong = study_arguments(trained, "--corruptions", "h264")
    assert_fails(robustness.main, wrong, capsys, "pip install --no-deps -r requirements-extra.txt")
    monkeypatch.setattr(robustness, "read_test_set", lambda *_: 1 / 0)  # the check precedes reading
    assert_fails(robustness.main, wrong, capsys, "--corruptions h264", "PyAV")


@pytest.mark.slow
def test_h264_needs_its_encoder(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(pytest.importorskip("av"), "codecs_available", {"h264"})  # a decoder only
    assert_fails(robustness.main, study_arguments(trained, "--corruptions", "h264"), capsys, "h264", "libx264")


def test_mean_and_deviation_by_hand() -> None:
    found = study_module.mean_and_deviation([1.0, None, 3.0])
    assert found == {"mean": 2, "std": pytest.approx(2**0.5)} and study_module.format_mean(found) == "2.0000 ± 1.4142"
    assert study_module.mean_and_deviation(np.array([[0.5, np.nan]])) == {"mean": 0.5, "std": None}
    assert study_module.format_mean({"mean": 0.5, "std": None}, "+") == "+0.5000"
    assert study_module.format_mean(study_module.mean_and_deviation([])) == study_module.format_mean(None) == "-"


def test_images_are_evenly_spaced() -> None:
    assert choose_positions(5, None) == choose_positions(5, 9) == [0, 1, 2, 3, 4]
    assert choose_positions(10, 2) == [2, 7]
    assert choose_positions(10, 1) == [5]
    assert len(set(choose_positions(1000, 999))) == 999


# ----------------------------------------------------------------------------------------------------------- embedding


def test_features_are_the_inputs_of_the_heads() -> None:
    network = build_network("test_resnet", 3, 32).eval()
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        features = embedding.Features(network)(x)
        outputs = network(x)
    assert features.shape[:2] == (4, 4)
    for i in (1, 2, 3):
        assert torch.equal(features[:, i], getattr(network, f"region_model{i}")(x))
    assert torch.allclose(network.linear(features[:, 0]), outputs.fused, atol=1e-6)


def test_pca_and_tsne_of_planted_clusters() -> None:
    rng = np.random.default_rng(0)
    centre = np.repeat([[0.0] * 8, [9.0] + [0.0] * 7], 15, axis=0)
    features = centre + rng.normal(0, [1, 2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], (30, 8))
    plane = embedding.project(features, "pca")
    _, _, directions = np.linalg.svd(features - features.mean(axis=0))
    wanted = (features - features.mean(axis=0)) @ directions[:2].T
    assert np.abs(plane) == pytest.approx(np.abs(wanted), abs=1e-9)
    plane, again = (embedding.project(features, "tsne") for _ in range(2))
    assert (plane == again).all()
    nearest = np.argsort(np.linalg.norm(plane[:, None] - plane, axis=2), axis=1)[:, 1]
    assert (nearest // 15 == np.arange(30) // 15).mean() > 0.9
    assert embedding.project(features[:4], "tsne").shape == (4, 2)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_equal_features_have_one_place(method: str) -> None:
    plane = embedding.project(np.ones((40, 8), np.float32), method)
    assert plane.shape == (40, 2) and not plane.any()


def test_names_that_are_not_utf_8_or_hold_a_formula(tmp_path: Path) -> None:
    name = "caf\udce9 $\\no$"
    embedding.write_projector(tmp_path / "projector", {"G": np.ones((4, 2))}, [["fake", name, f"{name}/0.png"]] * 4)
    lines = (tmp_path / "projector/00000/G/metadata.tsv").read_text().splitlines()
    assert lines[4] == "fake\tcaf\\udce9 $\\no$\tcaf\\udce9 $\\no$/0.png"
    labels, groups = np.array([0, 0, 1, 1]), ["real", "real", name, name]
    embedding.draw([np.eye(4, 2)], ["G"], labels, groups, "pca").savefig(tmp_path / "embedding.png")
    result = {"frames": {"difference": 0.0, "interval": [-0.1, 0.1]}}
    compare.draw({name: result}, tmp_path / name, tmp_path / "b").savefig(tmp_path / "compare.png")


def test_silhouette_by_hand() -> None:
    # Real at 0 and 1, fake at 10: the real ones have 9/10 and 8/9; a single image in a class has 0.
    found = embedding.silhouette(np.array([[0.0], [1], [10]]), np.array([0, 0, 1]))
    assert found == pytest.approx((9 / 10 + 8 / 9 + 0) / 3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_embedding_command(trained: Path, method: str) -> None:
    assert embedding.main(study_arguments(trained, "--method", method)) == 0
    folder = trained / "output/run"
    content = read_study(folder, "embedding")
    numbers = content["numbers"]
    assert [row[0] for row in content["table"]] == ["feature", "G", "z_1", "z_2"]
    assert list(numbers["planes"]) == ["G", "z_1", "z_2"]
    assert np.array(numbers["planes"]["z_2"]).shape == (24, 2)
    assert [numbers["groups"].count(name) for name in ("real", "Deepfakes", "FaceSwap")] == [12, 6, 6]

    # The projector's files hold each image's features and path.
    network, checkpoint = load_trained(folder / "model_best.pth")
    size, channels = checkpoint["args"]["size"], checkpoint["channels"]
    config = (folder / "study_embedding_tiny/projector_config.pbtxt").read_text()
    for i, name in enumerate(("G", "z_1", "z_2")):
        part = folder / f"study_embedding_tiny/00000/{name}"
        assert f"00000/{name}/tensors.tsv" in config and f"00000/{name}/metadata.tsv" in config
        lines = [line.split("\t") for line in (part / "metadata.tsv").read_text().splitlines()]
        assert lines[0] == ["label", "group", "path"]
        assert lines[-1] == ["fake", "FaceSwap", "tiny/manipulated_sequences/FaceSwap/c23/3 x/0002.png"]
        image = FaceImages(read_split("tiny", "test", trained / "labels", trained / "faces"), size)[23][0]
        with torch.no_grad():
            wanted = embedding.Features(network)(normalise(image[None], channels))[0, i]
        found = np.loadtxt(part / "tensors.tsv")
        assert found.shape[0] == 24 and found[23] == pytest.approx(wanted.numpy(), rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_the_authors_networks_get_bgr(trained: Path, tmp_path: Path) -> None:
    network = build_network("mobilenet", 1, 224)
    save_checkpoint(tmp_path / "theirs.pth", network, "mobilenet", 3)
    more = ["--model", str(tmp_path / "theirs.pth"), "--max_images", "8", "--method", "pca", "--group_by", "c23/([02])"]
    assert embedding.main(study_arguments(trained, *more)) == 0
    numbers = read_study(tmp_path, "embedding")["numbers"]
    assert set(numbers["groups"]) == {"real", "0", "2", "fake"}
    image = cv2.imread(str(trained / "faces" / numbers["paths"][0]))  # BGR, like the authors' loader
    x = torch.from_numpy(cv2.resize(image, (224, 224))).permute(2, 0, 1)[None]
    with torch.no_grad():
        wanted = embedding.Features(network.eval())(normalise(x))[0, 1]
    found = np.loadtxt(tmp_path / "study_embedding_tiny/00000/z_1/tensors.tsv")[0]
    assert found == pytest.approx(wanted.numpy(), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("module", [compare, robustness, embedding])
def test_help(module: ModuleType, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    name = module.__name__
    assert capsys.readouterr().out.startswith(f"usage: python -m {name} ")


@pytest.mark.slow
def test_studies_of_different_datasets_keep_their_files(trained: Path, tmp_path: Path) -> None:
    make_dataset(trained, "other", seed=4)
    for dataset in ("tiny", "other"):
        more = ["--save_path", str(tmp_path), "--corruptions", "blur", "--dataset", dataset]
        assert robustness.main(study_arguments(trained, *more)) == 0
    files = sorted(tmp_path.glob("study_robustness_*.json"))
    assert [file.stem for file in files] == ["study_robustness_other", "study_robustness_tiny"]
    digest = hashlib.sha256((trained / "output/run/model_best.pth").read_bytes()).hexdigest()
    for file in files:
        content = json.loads(file.read_text())
        assert content["numbers"]["checkpoint_sha256"] == digest
        assert digest[:16] in content["text"] and "model_best.pth" in content["text"]


@pytest.mark.slow
@pytest.mark.parametrize("main", [robustness.main, embedding.main])
def test_the_folder_is_checked_before_the_work(
    main: Callable[[list[str]], int], trained: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (robustness, study_module):
        monkeypatch.setattr(module, "evaluate", lambda *_, **__: pytest.fail("the study started"))
    assert_fails(main, study_arguments(trained, "--save_path", "/proc/here"), capsys, "--save_path /proc/here")


@pytest.mark.slow
def test_group_by_without_a_match(trained: Path, tmp_path: Path) -> None:
    more = ["--save_path", str(tmp_path), "--group_by", "(nowhere)?fake", "--method", "pca"]
    assert embedding.main(study_arguments(trained, *more)) == 0
    assert set(read_study(tmp_path, "embedding")["numbers"]["groups"]) == {"real", "fake"}
