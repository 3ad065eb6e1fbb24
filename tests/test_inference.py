"""inference.py as a user runs it, on small images and videos of synthetic faces."""

import ast
import csv
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import urllib.error
from fractions import Fraction
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import inference
import preprocessing
import training
from datasets.transforms import normalise, resize
from evaluation.verdicts import LEVELS, Cutoffs
from faces.detectors import Detections
from faces.tracks import MAX_DISTANCE
from faces.videos import FrameReader
from inference import load_detector
from models.backbones import build_network
from models.checkpoints import save_checkpoint
from models.gradcam import heatmaps
from scoring import detector as scoring_detector
from scoring.annotate import FAKE, REAL, STRIP_HEIGHT, UNCERTAIN, ScoreStrip, annotate_video, draw_faces
from scoring.detector import ScoredFace
from scoring.files import annotation_targets, is_video, load_image, score_file
from scoring.scores import NO_CALIBRATION, FileScore
from tests.helpers import ROOT, TINY
from tests.test_checkpoints import official
from tests.test_preprocessing import FACE, HEIGHT, WIDTH, fixed_detector, picture, write_video
from utils.errors import InputError

FACES = {"every": 2, "frames": None, "margin": 1.4, "crop_size": 80, "detector": "mtcnn", "weights": None}
FACES |= {"all_faces": False, "videos": "/data/training/videos"}
# Of the validation videos, the real ones score 0.05 to 0.25, and the fake ones 0.75 to 0.95.
CALIBRATION = {"video_score": "mean", "wanted_fpr": None} | {
    level: {
        "threshold": 0.5,
        "fpr": 0.0,
        "fnr": 0.0,
        "real": np.linspace(0.05, 0.25, 39).tolist(),
        "fake": np.linspace(0.75, 0.95, 39).tolist(),
    }
    for level in LEVELS
}
CUTOFFS = Cutoffs(0.5, 0.5)  # for errors of 5 %, because the classes do not overlap


def checkpoint(file: Path, model: str = "tiny_cnn", num_LIBs: int = 2, size: int = 32, **entries: Any) -> Path:
    """Write a checkpoint of an untrained network, as training.py does."""
    torch.manual_seed(0)
    network = build_network(model, num_LIBs, size)
    args = {"model": model, "num_LIBs": num_LIBs, "size": size}
    entries = {"args": args, "channels": "RGB", "calibration": CALIBRATION, "faces": FACES} | entries
    save_checkpoint(file, network, model, 1, **entries)
    return file


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model") / "model_best.pth")


@pytest.fixture
def fixed_face_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the face detector by one that knows where the synthetic face is."""
    monkeypatch.setattr(
        scoring_detector, "load_face_detector", lambda *_: (fixed_detector, {"detector": "mtcnn", "weights": None})
    )


def score(*arguments: Any) -> int:
    return inference.main(["--gpu_num", "cpu", *map(str, arguments)])


def write_image(file: Path, image: np.ndarray, **options: Any) -> Path:
    """Write an image with Pillow: RGB, RGBA or grey."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file, **options)
    return file


def orientation(value: int) -> Image.Exif:
    """EXIF data with an orientation; 6 rotates the image clockwise."""
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def read_records(file: Path) -> list[dict[str, Any]]:
    """The records in a file of JSON Lines."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def photo(*people: int) -> np.ndarray:
    return np.ascontiguousarray(picture(0, *people)[..., ::-1])


PAGE = (ROOT / "docs/inference.md").read_text()
EXAMPLES = {
    "page": re.findall(r"```python\n(import numpy.*?)```", PAGE, flags=re.DOTALL)[0],
    "docstring": textwrap.dedent(inference.__doc__.partition("From Python:\n\n")[2]) + "print(detector(images)[0][0])",
}


def tree(root: Path) -> list[str]:
    return sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())


# ----------------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_in_python_need_no_network(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, lambda *_, **__: pytest.fail("the example connects to the network"))
    Path("output/ff").mkdir(parents=True)
    checkpoint(Path("output/ff/model_best.pth"), faces=None)
    write_image(tmp_path / "photo.png", photo(0))
    write_video(tmp_path / "clip.mp4")
    exec(EXAMPLES[example], {"images": [photo(0)]})
    assert re.search(r" (real|fake|uncertain)\n0 \[\(0, 0\.|score=0\.", capsys.readouterr().out)


@pytest.mark.slow
def test_scores_equal_the_test_scores_of_training(tmp_path: Path) -> None:
    """Preprocess, train and test; then score the test videos, and their face crops."""
    for split in ("train", "val", "test"):
        for person, kind in enumerate(("real", "fake")):
            write_video(tmp_path / f"videos/{split}/{kind}/a.mp4", frames=22, people=(person,))
    labels, faces = ["--dataset_root", str(tmp_path / "labels")], tmp_path / "faces"
    more = ["--faces", str(faces), "--every", "2", "--margin", "1.2", "--detector", "mtcnn", "--gpu_num", "cpu"]
    videos = ["--dataset", "folder", "--videos", str(tmp_path / "videos"), "--num_workers", "0"]
    assert preprocessing.main([*videos, *labels, *more]) == 0
    where = ["--dataset", "folder", *labels, "--data_root", str(faces), "--save_path", str(tmp_path / "output")]
    assert training.main([*TINY.split(), *where, "--epoch", "1", "--name", "run"]) == 0
    with (tmp_path / "output/run/predictions.csv").open() as file:
        tested = {row["path"]: float(row["score"]) for row in csv.DictReader(file)}

    best = tmp_path / "output/run/model_best.pth"
    assert score("--model", best, tmp_path / "videos/test", "--json", tmp_path / "a.json") == 0
    found = read_records(tmp_path / "a.json")
    scored = {
        f"folder/test/{Path(video['file']).parent.name}/a/{face['frame']:04d}.png": face["score"]
        for video in found
        for face in video["detections"]
    }
    assert len(tested) > 18 and scored.keys() == tested.keys()
    assert scored == pytest.approx(tested, abs=1e-6)
    stored = torch.load(best, weights_only=True)
    assert stored["faces"]["detector"] == "mtcnn"
    for video in found:
        assert video["model"]["thresholds"]["video"]["threshold"] == stored["calibration"]["video"]["threshold"]
        assert video["crops"]["every"] == 2 and video["crops"]["margin"] == 1.2 and not video["crops"]["default"]
    crops = [faces / path for path in tested]
    assert score("--model", best, "--faces_given", "True", *crops, "--json", tmp_path / "b.json") == 0
    assert [video["score"] for video in read_records(tmp_path / "b.json")] == pytest.approx(
        list(tested.values()), abs=1e-6
    )


def test_recipe_and_calibration_come_from_the_checkpoint(model: Path) -> None:
    detector = load_detector(model, gpu_num="cpu")
    assert (detector.calibration, detector.size, detector.channels) == (CALIBRATION, 32, "RGB")
    assert detector.cutoffs() == pytest.approx(CUTOFFS)
    assert detector.face_detector == "mtcnn"
    assert (detector.recipe.every, detector.recipe.margin, detector.recipe.crop_size) == (2, 1.4, 80)
    assert not detector.network.training


def test_defaults_for_a_checkpoint_without_recipe_and_calibration(tmp_path: Path) -> None:
    detector = load_detector(checkpoint(tmp_path / "m.pth", calibration=None, faces=None), gpu_num="cpu")
    assert detector.calibration is detector.cutoffs() is None and detector.face_detector == "retinaface"
    assert (detector.recipe.every, detector.recipe.margin, detector.recipe.crop_size) == (5, 1.3, 256)


def test_detector_in_python(model: Path) -> None:
    detector = load_detector(model, gpu_num="cpu")
    assert detector([]) == []
    (one, none, two) = detector([photo(0), photo(), photo(0, 1)])
    assert [len(faces) for faces in (one, none, two)] == [1, 0, 2]
    left, top, right, bottom = one[0].box
    assert 20 < left < right < 20 + FACE and 10 < top < bottom < 30 + FACE
    assert [face.track for face in two] == [0, 1]
    sizes = [np.prod(face.box[2:] - face.box[:2]) for face in two]
    assert sizes[0] >= sizes[1]
    assert all(0 <= face.score <= 1 and face.heatmap is None for face in (*one, *two))


@pytest.mark.parametrize(
    "images",
    [
        [photo(0) / np.float32(255)],
        photo(0),
        [photo(0)[:, :, 0]],
        [np.dstack([photo(0), photo(0)[:, :, :1]])],
        ["a.png"],
        "a.png",
        [photo(0)[:0]],
    ],
    ids=["float", "not in a list", "grey", "alpha", "name", "bare name", "empty"],
)
def test_detector_refuses_other_arrays_than_8_bit_rgb(model: Path, images: Any) -> None:
    detector = load_detector(model, gpu_num="cpu", faces_given=True)
    with pytest.raises(ValueError, match="image 0 .*H x W x 3 arrays of uint8, RGB"):
        detector(images)


def test_options_from_python(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="--gpu_num 0: .*no GPU"):
        load_detector(model, gpu_num=0)
    with pytest.raises(InputError, match="--detector foo: .*retinaface.* mtcnn"):
        load_detector(model, gpu_num="cpu", detector="foo")


def test_face_crops_are_scored_unchanged(model: Path) -> None:
    detector = load_detector(model, gpu_num="cpu", faces_given=True)
    crop = np.random.default_rng(0).integers(0, 255, (50, 40, 3), dtype=np.uint8)
    ((face,),) = detector([crop])
    images = normalise(torch.from_numpy(resize(crop, 32)).permute(2, 0, 1)[None])
    with torch.inference_mode():
        expected = detector.network(images).fused.double().softmax(1)[0, 1].item()
    assert face.score == pytest.approx(expected, abs=1e-7)
    assert face.box.tolist() == face.crop_box.tolist() == [0, 0, 40, 50]


def test_video_frames_can_be_face_crops(model: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "a.mp4", frames=6)
    frames = list(load_detector(model, gpu_num="cpu", faces_given=True).video(clip))
    assert [position for position, _ in frames] == [0, 2, 4]
    assert all(faces[0].box.tolist() == [0, 0, WIDTH, HEIGHT] for _, faces in frames)


def test_download_of_the_face_detector_fails(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(InputError, match="--detector_weights .*--detector mtcnn"):
        load_detector(model, gpu_num="cpu", detector="retinaface")([photo(0)])
    image = write_image(tmp_path / "a.png", photo(0))
    refused(capsys, "--model", model, image, "--detector", "retinaface", says="--detector_weights")


@pytest.mark.slow
def test_official_checkpoint_gets_bgr_images(tmp_path: Path) -> None:
    official(tmp_path / "theirs.pth", "mobilenet-2", "module.")
    detector = load_detector(tmp_path / "theirs.pth", gpu_num="cpu", faces_given=True)
    assert (detector.channels, detector.size, detector.calibration) == ("BGR", 224, None)
    crop = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    images = torch.from_numpy(crop).permute(2, 0, 1)[None]
    with torch.inference_mode():
        bgr, rgb = (
            detector.network(normalise(x)).fused.double().softmax(1)[0, 1].item() for x in (images.flip(1), images)
        )
    assert detector([crop])[0][0].score == pytest.approx(bgr, rel=1e-6) != pytest.approx(rgb, rel=1e-6)


# --------------------------------------------------------------------------------------------------------- verdicts


def scored_face(score: float, track: int = 0, box: Any = (20, 20, 60, 80), **parts: Any) -> ScoredFace:
    place = np.array(box, np.float32)
    blank = np.zeros((8, 8, 3), np.uint8)
    return ScoredFace(place, 1.0, score, track, place, parts.get("heatmap"), parts.get("crop", blank))


def faces(*scores: float) -> list[ScoredFace]:
    return [scored_face(score, track) for track, score in enumerate(scores)]


def steady_detector(calibration: dict[str, Any] | None = CALIBRATION, **parts: Any) -> Any:
    """A detector that gives every crop one score, so no score changes with the crop."""
    plain = {"score": lambda crops: (np.full(len(crops), 0.5), None), "calibration": calibration, "network": None}
    return SimpleNamespace(
        **plain | {"checkpoint": {"args": {}}, "training_faces": FACES, "faces_given": False} | parts
    )


def file_score(
    frames: list[list[ScoredFace]], calibration: dict[str, Any] | None = CALIBRATION, **options: Any
) -> FileScore:
    result = FileScore(Path("a.mp4"), True, calibration["video_score"] if calibration else "mean")
    for i, found in enumerate(frames):
        result.add(i / 25, found)
    result.decide(steady_detector(calibration), **{"error": 0.05, **options})
    return result


def test_video_score_is_its_highest_face_score() -> None:
    result = file_score([faces(0.1, 0.9), faces(0.3, 0.5), faces(0.2, 0.7)])
    assert result.score == pytest.approx(0.7) and result.verdict == "fake"
    assert (result.face, len(result.people), result.frames) == (1, 2, 3)
    assert [person.score for person in result.people] == pytest.approx([0.2, 0.7])
    assert str(result).startswith("a.mp4: fake 0.700 [0.700, 0.700] (") and str(result).endswith(", 3 frames)")
    assert "2 people, person 1 " in str(result)


def test_video_score_is_combined_as_in_the_calibration() -> None:
    frames = [faces(0.1), faces(0.9), faces(0.5)]
    for how, score in (("mean", 0.5), ("max", 0.9), ("top2", 0.7)):
        assert file_score(frames, CALIBRATION | {"video_score": how}).score == pytest.approx(score)
    assert file_score(frames, None).score == pytest.approx(0.5)


def test_crops_of_many_people_do_not_fill_the_memory() -> None:
    """Of 300 people, one after the other, few keep their crops; among them is the person with the highest score."""
    rng = np.random.default_rng(0)
    means, lengths = rng.random(300).round(1), rng.integers(3, 9, 300)
    for how in ("mean", "max"):
        result = FileScore(Path("a.mp4"), True, how)
        for track, (mean, length) in enumerate(zip(means, lengths, strict=True)):
            for _ in range(length):
                result.add(0.0, [scored_face(mean + rng.uniform(-0.01, 0.01) * (how == "max"), track)])
        assert sum(person.crops is not None for person in result.tracks.values()) < 40
        result.decide(steady_detector(), 0.05)  # all tracks are short, so all count
        assert result.score == max(person.score for person in result.people) and len(result.people) == 300


def test_short_track_is_ignored() -> None:
    result = file_score([*[faces(0.1, 0.9)] * 2, *[faces(0.1)] * 8])
    assert (len(result.people), result.ignored, result.verdict) == (1, 1, "real")


@pytest.mark.parametrize("length", [1, 2])
def test_very_short_video_is_scored_by_the_face_in_all_frames(length: int) -> None:
    assert file_score([faces(0.6)] * length).verdict == "fake"
    assert file_score([faces(0.1, 0.9), faces(0.1)]).verdict == "real"


def test_score_between_the_cutoffs_is_uncertain() -> None:
    overlapping = CALIBRATION | {"video": CALIBRATION["video"] | {"real": np.linspace(0.1, 0.8, 39).tolist()}}
    for score, verdict in ((0.75, "real"), (0.77, "uncertain"), (0.79, "fake")):
        assert file_score([faces(score)] * 3, overlapping).verdict == verdict, score
    assert file_score([faces(0.77)] * 3, overlapping, error=0.06).verdict == "uncertain"


def test_every_verdict_has_its_error_rates() -> None:
    """Of 39 real and 39 fake videos, and the new one, those as high or as low."""
    alone, pair = file_score([faces(0.9)] * 3), file_score([faces(0.9, 0.1)] * 3)
    assert (alone.verdict, alone.false_positive_rate) == ("fake", 1 / 40)
    assert alone.false_negative_rate == (1 + sum(score <= alone.score for score in CALIBRATION["video"]["fake"])) / 40
    assert (pair.verdict, pair.false_positive_rate) == ("fake", 2 / 40)  # each person may be called fake
    assert (file_score([faces(0.1)] * 3).verdict, file_score([faces(0.1)] * 3).false_negative_rate) == ("real", 1 / 40)
    assert "FPR 2.5 %" in str(alone) and "FPR 5 %" in str(pair)
    assert "FPR 100 %" in str(file_score([faces(0.01)] * 3))


def test_more_people_need_a_higher_score() -> None:
    many = CALIBRATION | {"video": CALIBRATION["video"] | {"fake": [0.2] * 39}}
    one, three = file_score([faces(0.247)] * 3, many), file_score([faces(0.247, 0.1, 0.1)] * 3, many)
    assert (one.verdict, three.verdict) == ("fake", "uncertain")
    assert one.cutoffs.fake < three.cutoffs.fake == 1.0  # 39 real videos are too few for an error of 5 % / 3


def test_checkpoint_without_calibration_gives_a_score_and_no_verdict() -> None:
    result = file_score([faces(0.9)] * 3, None)
    assert result.score == pytest.approx(0.9) and result.spread == pytest.approx((0.9, 0.9))
    assert result.verdict == "" and result.notes == [NO_CALIBRATION]
    assert result.cutoffs is result.false_positive_rate is None and NO_CALIBRATION in str(result)


def test_notes_about_the_checkpoint() -> None:
    def notes(**parts: Any) -> str:
        result = FileScore(Path("a.png"))
        result.add(0.0, faces(0.9))
        result.decide(steady_detector(**parts), 0.05)
        return "; ".join(result.notes)

    assert notes() == notes(training_faces=None, faces_given=True) == ""
    assert "a guess" in notes(training_faces=None)
    assert "drawn faces" in notes(checkpoint={"args": {}, "about": ["drawn faces"]})


# ----------------------------------------------------------------------------------------------------------- images


def test_image_formats_and_modes(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    image = photo(0)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    a = tmp_path / "images"
    write_image(a / "plain.png", image)
    write_image(a / "exif.png", np.rot90(image).copy(), exif=orientation(6))
    write_image(a / "grey.png", grey)
    write_image(a / "grey 16 bit.png", grey.astype(np.uint16) * 257)
    write_image(a / "alpha.png", np.dstack([image, np.full_like(grey, 255)]))
    write_image(a / "größer 顔.webp", image, lossless=True)
    assert score("--model", model, a, "--json", tmp_path / "a.json") == 0
    found = {Path(x["file"]).stem: x for x in read_records(tmp_path / "a.json")}
    assert len(found) == 6 and all(len(x["people"]) == x["frames"] == 1 for x in found.values())
    for same in ("exif", "alpha", "größer 顔"):
        assert found[same]["detections"] == found["plain"]["detections"]
    assert found["grey 16 bit"]["detections"] == found["grey"]["detections"]
    printed = capsys.readouterr().out.splitlines()
    expected = f"{a / 'größer 顔.webp'}: {found['plain']['verdict']} {found['plain']['score']:.3f} ["
    assert any(line.startswith(expected) for line in printed) and len(printed) == 6


def test_files_without_a_score_are_reported_and_the_others_scored(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_image(tmp_path / "in/good.png", photo(0))
    write_image(tmp_path / "in/wall.png", photo())
    write_image(tmp_path / "in/dot.png", np.zeros((1, 1, 3), np.uint8))
    (tmp_path / "in/cut.png").write_bytes((tmp_path / "in/good.png").read_bytes()[:3000])
    (tmp_path / "in/no image.jpg").write_text("text")
    (tmp_path / "in/empty.png").write_bytes(b"")
    (tmp_path / "in/broken.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(2000))
    write_video(tmp_path / "in/wall.mp4", people=())
    outputs = ["--annotate", tmp_path / "out", "--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv"]
    assert score("--model", model, tmp_path / "in", *outputs) == 3
    causes = {Path(x["file"]).name: x["cause"] for x in read_records(tmp_path / "a.json")}
    assert causes.pop("good.png") == ""
    assert all("no face" in causes.pop(name) for name in ("wall.png", "dot.png", "wall.mp4"))
    assert len(causes) == 4 and all(cause.startswith("unreadable: ") for cause in causes.values()), causes
    assert tree(tmp_path / "out") == ["good_annotated.png"]
    printed = capsys.readouterr().out
    assert re.search(r"wall\.mp4: not scored: .*3 frames\n", printed)
    for flags, shown in ((["--traceback"], True), ([], False)):
        assert score("--model", model, tmp_path / "in/cut.png", *flags) == 3
        assert ("Traceback" in capsys.readouterr().err) is shown


def test_content_identifies_files_with_unknown_endings(
    model: Path, tmp_path: Path, fixed_face_detector: None, capsys: pytest.CaptureFixture
) -> None:
    write_video(tmp_path / "a.mp4").rename(tmp_path / "clip")
    write_video(tmp_path / "a.mp4").rename(tmp_path / "clip.ts")
    write_image(tmp_path / "a.png", photo(0)).rename(tmp_path / "photo.scan")
    (tmp_path / "cut").write_bytes((tmp_path / "photo.scan").read_bytes()[:3000])
    (tmp_path / "notes.txt").write_text("FFmpeg would render this as a video\n" * 9)
    (tmp_path / "noise").write_bytes(np.random.default_rng(0).bytes(9000))
    names = ("clip", "clip.ts", "photo.scan", "cut", "notes.txt", "noise")
    assert score("--model", model, *(tmp_path / name for name in names), "--json", tmp_path / "a.json") == 3
    clip, stream, image, cut, *others = read_records(tmp_path / "a.json")
    assert clip["score"] is not None and (clip["frames"], stream["frames"], image["frames"]) == (3, 3, 1)
    assert image["score"] is not None and "unreadable" in cut["cause"] and "video" not in cut["cause"]
    assert all("neither an image nor a video" in other["cause"] for other in others)
    assert "clip: " in capsys.readouterr().out
    pytest.importorskip("av")
    assert score("--model", model, tmp_path / "clip", tmp_path / "photo.scan", "--annotate", tmp_path / "out") == 0
    assert tree(tmp_path / "out") == ["clip_annotated.mp4", "photo_annotated.png"]


def test_file_that_cannot_be_opened_is_not_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    file = write_video(tmp_path / "a.mp4").rename(tmp_path / "clip")
    assert is_video(file)
    monkeypatch.setattr(Path, "open", forbidden)
    assert not is_video(file)


def test_repeated_file_is_scored_once(
    model: Path, tmp_path: Path, fixed_face_detector: None, capsys: pytest.CaptureFixture
) -> None:
    file = write_image(tmp_path / "in/a.png", photo(0))
    write_image(tmp_path / "in/.hidden.png", photo(0))
    assert score("--model", model, file, tmp_path / "in", tmp_path / "in/../in/a.png") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("folder", ["in", "in/drawn", "."])
def test_annotated_copies_are_not_scored_and_replace_no_other_file(
    model: Path,
    tmp_path: Path,
    fixed_face_detector: None,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
) -> None:
    pytest.importorskip("av")
    write_image(tmp_path / "in/a.png", photo(0))
    write_video(tmp_path / "in/b.mp4")
    mine = [write_image(tmp_path / folder / "a_annotated.png", photo(1)), tmp_path / folder / "b_annotated.mp4"]
    write_video(mine[1], people=(1,))
    before = [file.read_bytes() for file in mine]
    monkeypatch.chdir(tmp_path)
    for spelling in (tmp_path / folder, folder):
        assert score("--model", model, "in", "--annotate", spelling) == 0
        lines, first = capsys.readouterr().out.splitlines(), tree(tmp_path)
        assert len(lines) == (2 if folder == "." else 4)
        assert len(first) == 4 + len(lines) and "a_annotated_2.png" in lines[0]
    assert tree(tmp_path) == first and [file.read_bytes() for file in mine] == before
    # An annotated copy given by name is scored.
    assert score("--model", model, Path(folder) / "a_annotated_2.png", "--annotate", folder) == 0
    assert "a_annotated_2_annotated.png" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------------- videos


def timed_video(file: Path, seconds: list[float], people: tuple[int, ...] = (0,), rate: int = 25) -> Path:
    """Write a video with one frame at each time, and `rate` frames per second in its header."""
    av = pytest.importorskip("av")
    with av.open(f"file:{file}", "w") as container:
        codec = "libvpx" if file.suffix == ".webm" else "libx264"
        stream = container.add_stream(codec, rate=rate, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p")
        stream.codec_context.time_base = Fraction(1, 10_000)
        for number, time in enumerate(seconds):
            frame = av.VideoFrame.from_ndarray(picture(number, *people), format="bgr24")
            frame.pts, frame.time_base = round(10_000 * time), Fraction(1, 10_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


VARYING = [0.04 * i for i in range(30)] + [1.2 + 0.387 * i for i in range(30)]


@pytest.mark.slow
def test_truncated_video_gets_a_note(
    model: Path, tmp_path: Path, fixed_face_detector: None, capsys: pytest.CaptureFixture
) -> None:
    whole = timed_video(tmp_path / "whole.mkv", [0.04 * i for i in range(200)])
    timed_video(tmp_path / "varying.mkv", VARYING)  # the header declares 312 frames, but the duration is right
    content = whole.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) // 2])
    assert score("--model", model, tmp_path, "--json", tmp_path / "a.json") == 0
    cut, varying, all_there = read_records(tmp_path / "a.json")
    assert not any("frames" in note for note in varying["notes"] + all_there["notes"]) and varying["frames"] == 30
    length = int(re.search(r"(\d+) of 200 frames", cut["notes"][0])[1])
    assert cut["frames"] == -(-length // 2) and 20 < length < 180
    assert f", {cut['frames']} frames; {cut['notes'][0]}" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_times_follow_the_timestamps(tmp_path: Path, ending: str) -> None:
    reader = FrameReader(timed_video(tmp_path / f"a.{ending}", VARYING))
    assert len(list(reader)) == 12
    assert list(reader.times) == pytest.approx(VARYING, abs=1e-3)


def test_frames_with_almost_equal_times_are_all_annotated(
    model: Path, tmp_path: Path, fixed_face_detector: None
) -> None:
    source = timed_video(tmp_path / "a.mp4", [0.0, 0.04, 0.08, 0.0803, 0.0806, 0.12, 0.16])
    assert score("--model", model, source, "--annotate", tmp_path / "drawn") == 0
    assert len(list(FrameReader(tmp_path / "drawn/a_annotated.mp4", every=1))) == 7


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["mkv", "webm"])
def test_clock_ticks_in_place_of_a_frame_rate(tmp_path: Path, ending: str) -> None:
    times = [0.036 * i for i in range(100)]
    reader = FrameReader(timed_video(tmp_path / f"a.{ending}", times, rate=1000))
    assert reader.fps == 25 and reader.length() == 100
    assert len(list(reader)) == 20 and not reader.ends_early()
    assert list(reader.times) == pytest.approx(times, abs=2e-3)


@pytest.mark.parametrize("ending", ["avi", "mpg", "mkv", "mp4"])
def test_constant_frame_rate_gives_even_times(tmp_path: Path, ending: str) -> None:
    """AVI has no timestamps for its last frames, and Matroska rounds all of them."""
    av = pytest.importorskip("av")
    with av.open(f"file:{tmp_path}/a.{ending}", "w") as container:
        codec = "mpeg2video" if ending == "mpg" else "libx264"
        stream = container.add_stream(codec, rate=Fraction(30000, 1001), width=WIDTH, height=HEIGHT, pix_fmt="yuv420p")
        for number in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number, 0), format="bgr24")))
        container.mux(stream.encode())
    reader = FrameReader(tmp_path / f"a.{ending}")
    assert len(list(reader)) == 8
    assert list(reader.times) == pytest.approx([i * 1001 / 30000 for i in range(40)], abs=1e-9)


# ---------------------------------------------------------------------------------------------------------- outputs


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
def test_outputs_to_a_pipe_and_a_symbolic_link(model: Path, tmp_path: Path, fixed_face_detector: None) -> None:
    image, pipe, read = write_image(tmp_path / "a.png", photo(0)), tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    link = tmp_path / "link.csv"
    link.symlink_to("real.csv")
    assert score("--model", model, image, "--json", pipe, "--csv", link) == 0
    reader.join(300)
    assert pipe.is_fifo() and [Path(json.loads(line)["file"]) for line in read[0].splitlines()] == [image]
    assert link.is_symlink() and tree(tmp_path) == ["a.png", "link.csv", "real.csv"]


# -------------------------------------------------------------------------------------------------- annotated copies


def read_video(file: Path) -> tuple[list[np.ndarray], dict[str, Any]]:
    av = pytest.importorskip("av")
    with av.open(f"file:{file}") as container:
        stream = container.streams.video[0]
        about = {"codec": stream.codec_context.name, "pix_fmt": stream.pix_fmt, "rate": stream.average_rate}
        frames = list(container.decode(stream))
        about |= {"times": [frame.time for frame in frames], "length": container.duration / av.time_base}
        return [frame.to_ndarray(format="bgr24") for frame in frames], about


def lossless_video(file: Path, frames: int, width: int, height: int, rate: Fraction) -> Path:
    """Write a video of `picture` with PyAV; OpenCV writes even sizes only."""
    av = pytest.importorskip("av")
    with av.open(f"file:{file}", "w") as container:
        stream = container.add_stream("png", rate=rate, width=width, height=height, pix_fmt="rgb24")
        for number in range(frames):
            image = cv2.copyMakeBorder(picture(number, 0), 0, height, 0, width, cv2.BORDER_REPLICATE)[:height, :width]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")))
        container.mux(stream.encode())
    return file


@pytest.mark.parametrize("width, height, rate", [(200, 140, Fraction(25)), (201, 139, Fraction(30000, 1001))])
def test_annotated_video_plays_in_browsers(
    model: Path, tmp_path: Path, fixed_face_detector: None, width: int, height: int, rate: Fraction
) -> None:
    source = lossless_video(tmp_path / "a: b.avi", 12, width, height, rate)
    before = source.read_bytes()
    assert score("--model", model, source, "--annotate", tmp_path / "out") == 0
    frames, about = read_video(tmp_path / "out/a: b_annotated.mp4")
    originals, _ = read_video(source)
    assert about["times"] == pytest.approx([float(i / rate) for i in range(12)], abs=1e-9)
    assert about.items() >= {"codec": "h264", "pix_fmt": "yuv420p", "rate": rate}.items()
    assert about["length"] == pytest.approx(12 / rate, abs=1e-6)
    assert len(frames) == 12
    assert frames[0].shape == (-(-(height + STRIP_HEIGHT) // 2) * 2, -(-width // 2) * 2, 3)
    for frame, original in zip(frames, originals, strict=True):
        change = np.abs(frame[:height, :width].astype(int) - original).max(axis=2)
        assert (change[60:100, 20] > 40).all() and (change[60:100, 20 + FACE] > 40).all()  # the box's sides
        assert np.median(change[:, 150:]) < 8
        assert (frame[height + 2 : height + 10, width // 4 : width // 2].mean() > 200).all()  # the strip
    assert source.read_bytes() == before and tree(tmp_path / "out") == ["a: b_annotated.mp4"]
    content = (tmp_path / "out/a: b_annotated.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # plays while it is downloaded


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_annotated_video_keeps_a_variable_frame_rate(
    model: Path, tmp_path: Path, fixed_face_detector: None, ending: str
) -> None:
    source = timed_video(tmp_path / f"a.{ending}", VARYING)
    assert score("--model", model, source, "--annotate", tmp_path, "--json", tmp_path / "a.json") == 0
    _, about = read_video(tmp_path / "a_annotated.mp4")
    assert about["times"] == pytest.approx(VARYING, abs=1e-3)
    assert about["length"] == pytest.approx(VARYING[-1] + 0.3, abs=0.3)
    ((found),) = read_records(tmp_path / "a.json")
    assert [face["time"] for face in found["detections"]] == pytest.approx(VARYING[::2], abs=2e-3)


@pytest.mark.parametrize("name", ["a.png", "a.mp4"])
def test_evidence_is_drawn_into_the_face_only(
    model: Path, tmp_path: Path, fixed_face_detector: None, name: str
) -> None:
    file = tmp_path / name
    write_image(file, photo(0)) if name == "a.png" else write_video(file)
    drawn = []
    argv = ["--model", model, file, "--precision", "bf16"]
    for evidence in ("False", "True"):
        record = tmp_path / f"{evidence}.json"
        out = ["--annotate", tmp_path / evidence, "--evidence", evidence, "--json", record]
        assert score(*argv, *out) == 0
        # Heatmaps need float32.
        assert read_records(record)[0]["model"]["precision"] == {"False": "bf16", "True": "fp32"}[evidence]
        target = tmp_path / evidence / f"a_annotated{file.suffix}"
        drawn.append(cv2.imread(str(target)) if name == "a.png" else read_video(target)[0][2])
    inside, outside = np.s_[40:100, 40:100], np.s_[40:100, 160:]
    change = np.abs(drawn[0].astype(int) - drawn[1])
    assert change[inside].mean() > 5 and change[outside].mean() < 1


def test_box_is_drawn_at_the_face_of_a_rotated_image(model: Path, tmp_path: Path, fixed_face_detector: None) -> None:
    image = photo(0)
    file = write_image(tmp_path / "a.jpg", np.rot90(image).copy(), exif=orientation(6), quality=95)
    assert score("--model", model, file, "--annotate", tmp_path) == 0
    drawn = cv2.imread(str(tmp_path / "a_annotated.png"))
    assert drawn.shape == image.shape
    assert any(np.array_equal(drawn[80, 20], colour) for colour in (REAL, FAKE, UNCERTAIN))


def test_files_with_one_name_get_different_annotated_copies(tmp_path: Path) -> None:
    names = ["a/x.mp4", "b/x.mp4", "b/y.png", "b/y.jpg", "b/c/../y.webp"]
    targets = annotation_targets([tmp_path / name for name in names], Path("out"))
    assert [str(target) for target in targets.values()] == [
        "out/a/x_annotated.mp4",
        "out/b/x_annotated.mp4",
        "out/b/y_annotated.png",
        "out/b/y_annotated_2.png",
        "out/b/y_annotated_3.png",
    ]
    assert list(annotation_targets([Path("x.mp4")], Path("out")).values()) == [Path("out/x_annotated.mp4")]


def test_unusual_file_names_print_on_one_line(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "in"
    for name in ("b\nc.png", os.fsdecode(b"caf\xe9.png"), "a.png"):
        write_image(folder / "plain.png", photo(0)).rename(folder / name)
    assert score("--model", model, folder, "--faces_given", True, "--annotate", tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(re.search(r"\) -> .*_annotated\.png$", line) for line in lines)
    assert all(line.encode() for line in lines) and "caf\\udce9_annotated" in lines[2]
    assert len(tree(tmp_path / "out")) == 3


def test_long_name_is_cut_in_the_annotated_copy(tmp_path: Path) -> None:
    names = ["é" * 125 + ".png", "é" * 124 + "n.png"]
    first, second = annotation_targets([tmp_path / name for name in names], Path("out")).values()
    assert first == Path("out") / f"{'é' * 75}_annotated.png" and second == first.with_stem(f"{first.stem}_2")


def test_labels_number_the_faces_of_several_people() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    first, second = (scored_face(0.25, track, (20, 60, 180, 180)) for track in (0, 1))
    other = scored_face(0.25, 1, (20, 150, 180, 190))
    wide = [
        np.flatnonzero((draw_faces(image, found, CUTOFFS)[50] == REAL).all(axis=1)).max()
        for found in ([first], [first, other], [second])
    ]
    assert wide[0] < wide[1] and wide[0] < wide[2]  # the number makes the label longer


def test_verdict_is_drawn_for_images_only() -> None:
    image, face = np.zeros((200, 200, 3), np.uint8), scored_face(0.25, box=(20, 60, 180, 180))
    plain, worded, grey = (
        draw_faces(image, [face], cutoffs, verdicts)
        for cutoffs, verdicts in ((CUTOFFS, False), (CUTOFFS, True), (None, True))
    )
    ends = [np.flatnonzero(drawn[50].any(axis=1)).max() for drawn in (plain, worded, grey)]
    assert ends[0] == ends[2] < ends[1]
    assert (grey[100, 20] == UNCERTAIN).all() and (plain[100, 20] == REAL).all()


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (30, 24), (140, 200), (720, 1280)])
def test_labels_fit_the_frame(height: int, width: int) -> None:
    """Text and margins of each label are in the frame, and no label covers another one."""
    found = [
        scored_face(0.9, 0, (0.1 * width, 0.2 * height, 0.5 * width, 0.9 * height)),
        scored_face(0.1, 1, (0.6 * width, 0.2 * height, 1.1 * width, 0.9 * height)),
    ]
    placed = []
    rectangle = cv2.rectangle

    def keep(image: np.ndarray, start: Any, end: Any, colour: Any, thickness: int) -> Any:
        if thickness == cv2.FILLED:
            placed.append((*start, *end))
        return rectangle(image, start, end, colour, thickness)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cv2, "rectangle", keep)
        draw_faces(np.zeros((height, width, 3), np.uint8), found, CUTOFFS)
    (a_left, a_top, a_right, a_bottom), (b_left, b_top, b_right, b_bottom) = placed
    assert all(0 <= left < right <= width and 0 <= top < bottom <= height for left, top, right, bottom in placed)
    if height >= 48:
        assert a_right < b_left or a_bottom < b_top


def test_an_image_is_drawn_with_the_verdict_of_the_file(model: Path, tmp_path: Path) -> None:
    """A verdict that changes with the crop is uncertain in the copy, too."""
    result = FileScore(Path("a.png"), score=0.9, verdict="uncertain", cutoffs=CUTOFFS)
    assert result.drawn_cutoffs().verdict(0.9) == "uncertain" and result.drawn_cutoffs().verdict(0.4) == "real"
    result.verdict = "fake"
    assert result.drawn_cutoffs() == CUTOFFS

    file = write_image(tmp_path / "a.png", photo(0))
    detector, seen = load_detector(model, gpu_num="cpu", faces_given=True), []

    def draw(image: np.ndarray, found: Any, cutoffs: Any) -> np.ndarray:
        seen.append(cutoffs.verdict(found[0].score))
        return image

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scoring.files.draw_faces", draw)
        patch.setattr("scoring.scores.score_variants", lambda *_: np.array([0.0, 1.0]))
        assert score_file(detector, file, target=tmp_path / "b.png").verdict == "uncertain" and seen == ["uncertain"]


def boxes_drawn(tmp_path: Path, scored: list[tuple[int, list[ScoredFace]]], frames: int) -> list[bool]:
    """For each frame of a video without faces, whether a box is drawn in its annotated copy."""
    pytest.importorskip("av")
    source = write_video(tmp_path / "a.mp4", frames=frames, people=())
    annotate_video(source, tmp_path / "out.mp4", iter(scored), CUTOFFS)
    return [bool(np.abs(f[:HEIGHT].astype(int) - 90).max() > 40) for f in read_video(tmp_path / "out.mp4")[0]]


def test_boxes_disappear_between_distant_scored_frames(tmp_path: Path) -> None:
    """With --frames of preprocessing.py, the scored frames may be seconds apart."""
    drawn = boxes_drawn(tmp_path, [(2, faces(0.9)), (29, faces(0.9))], 30)
    assert [position for position, there in enumerate(drawn) if there] == [*range(2, 3 + MAX_DISTANCE), 29]


def test_box_moves_between_scored_frames(tmp_path: Path) -> None:
    (face,) = faces(0.9)
    moved = face._replace(box=face.box + [80, 0, 80, 0], crop_box=face.crop_box + [80, 0, 80, 0])
    pytest.importorskip("av")
    source = write_video(tmp_path / "a.mp4", frames=5, people=())
    annotate_video(source, tmp_path / "out.mp4", iter([(0, [face]), (4, [moved])]), CUTOFFS)
    for position, frame in enumerate(read_video(tmp_path / "out.mp4")[0]):
        assert abs(int(frame[60, 20 + 20 * position, 2]) - FAKE[2]) < 60


def test_frames_are_resized_to_the_first_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reader:
        fps, length, times = 25.0, lambda _: 4, [0, 0.04, 0.08, 0.12]

        def __init__(self, *_: object, **__: object) -> None: ...

        def __iter__(self) -> Any:
            return iter((i, np.full((90 + 10 * i, 120 - 10 * i, 3), 90, np.uint8)) for i in range(4))

    pytest.importorskip("av")
    monkeypatch.setattr("scoring.annotate.FrameReader", Reader)
    annotate_video(tmp_path, tmp_path / "out.mp4", iter([(0, faces(0.9)), (2, faces(0.1))]), CUTOFFS)
    frames, _ = read_video(tmp_path / "out.mp4")
    assert [frame.shape for frame in frames] == [(90 + STRIP_HEIGHT, 120, 3)] * 4


@pytest.mark.parametrize(("height", "width", "delay"), [(40, 60, 3_000_000), (8, 16_500, 100), (16_500, 8, 100)])
def test_animations_of_unusual_speed_or_size_are_annotated(
    model: Path, tmp_path: Path, height: int, width: int, delay: int
) -> None:
    """A frame of 50 minutes, and sides that are longer than x264 takes."""
    pytest.importorskip("av")
    first, second = (Image.fromarray(np.full((height, width, 3), level, np.uint8)) for level in (90, 200))
    first.save(tmp_path / "a.png", save_all=True, append_images=[second], duration=delay)
    more = ["--faces_given", "True", "--annotate", tmp_path / "out", "--json", tmp_path / "a.json"]
    assert score("--model", model, tmp_path / "a.png", *more) == 0
    frames, about = read_video(tmp_path / "out/a_annotated.mp4")
    assert len(frames) == 2 and about["times"] == pytest.approx([0, delay / 1000])
    assert frames[0].shape[:2] == (min(height, 16_000) + STRIP_HEIGHT, min(width, 16_000))


def test_strip_plots_the_scores_so_far() -> None:
    strip = ScoreStrip(100, 0.4, Cutoffs(0.3, 0.6))
    for time, scores in ((0, [0.9]), (0.2, [0.9, 0.2]), (0.24, []), (0.4, [0.1])):
        strip.add(time, faces(*scores))
    picture = strip.draw(0.2)
    assert picture.shape == (STRIP_HEIGHT, 100, 3)
    assert np.abs(picture[:20, 25].astype(int) - FAKE).sum(axis=1).min() == 0  # high, and red
    assert (picture[:12, 75:] == 255).all() and np.abs(picture[45:, 99].astype(int) - REAL).sum(axis=1).min() == 0
    now = np.flatnonzero((picture == 120).all(axis=(0, 2)))
    assert now.tolist() == [16 + round((99 - 16) / 2)]  # half of the width right of the axis


@pytest.mark.parametrize("width", [20, 48, 64, 200, 1280])
def test_strip_has_an_axis_and_the_cutoffs(width: int) -> None:
    strip, plain = ScoreStrip(width, 4.0, Cutoffs(0.3, 0.6)), ScoreStrip(width, 4.0, None)
    picture, without = strip.draw(0.0), plain.draw(0.0)
    changed = np.flatnonzero((picture != without).any(axis=(1, 2)))
    assert [round((1 - score) * (STRIP_HEIGHT - 9)) + 4 for score in (0.6, 0.3)] == changed.tolist()
    left = strip._left
    assert (picture[10:50, left - 2] == 120).all() and left < width / 2
    # The curve does not cover the numbers.
    for time in (0.0, 1.0, 4.0):
        plain.add(time, faces(0.5))
    assert (plain.draw(0.0)[:, : left - 2] == without[:, : left - 2]).all()
    assert (without[:, : max(0, left - 5)] < 255).any() == (width >= 40)


def test_faces_outside_of_small_images_can_be_drawn() -> None:
    heat = np.ones((3, 3), np.float32)
    for height, width in ((1, 1), (2, 300), (40, 30)):
        image = np.zeros((height, width, 3), np.uint8)
        for box in ([-50, -50, 500, 500], [400, 400, 410, 410], [0, 0, 1, 1], [-9, -9, -8, -8]):
            assert draw_faces(image, [scored_face(1.0, box=box, heatmap=heat)], CUTOFFS).shape == image.shape


def test_channels_last_features_give_equal_heatmaps(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network, images = build_network("test_resnet", 2, 64).eval(), torch.randn(2, 3, 64, 64)
    expected, _, _ = heatmaps(network, images)
    assert expected.shape[:2] == (2, 2) and expected.amax() == 1 and expected.amin() == 0
    for block in network.backbones():
        features, head = block.forward_features, block.forward_head
        monkeypatch.setattr(block, "forward_features", lambda x, f=features: f(x).permute(0, 2, 3, 1))
        monkeypatch.setattr(block, "forward_head", lambda x, f=head: f(x.permute(0, 3, 1, 2)))
        block.output_fmt = "NHWC"
    torch.testing.assert_close(heatmaps(network, images)[0], expected)


# ----------------------------------------------------------------------------------------------------------- memory


def peak_memory(tmp_path: Path, model: Path, *lengths: int) -> list[float]:
    """Peak memory in MB of a process after it scored a video of each length in frames."""
    code = (
        # One core: the encoder keeps more frames with more threads.
        "import os, re, sys\nos.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from pathlib import Path\nimport inference\nfrom scoring import detector\n"
        "from tests.test_preprocessing import fixed_detector\n"
        "detector.load_face_detector = lambda *_: (fixed_detector, {'detector': 'mtcnn', 'weights': None})\n"
        "for source in sys.argv[2:]:\n"
        "    more = ['--json', source + '.json', '--annotate', source + '_out', '--evidence', 'True']\n"
        "    assert inference.main(['--gpu_num', 'cpu', '--model', sys.argv[1], source, *more]) == 0\n"
        # The peak in getrusage includes the parent process.
        "    print(re.search('VmHWM:[^0-9]*([0-9]+)', Path('/proc/self/status').read_text())[0])\n"
    )
    videos = [lossless_video(tmp_path / f"{n}.avi", n, 320, 240, Fraction(25)) for n in lengths]
    command = [sys.executable, "-c", code, str(model), *map(str, videos)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [int(line.split()[1]) / 1024 for line in done.stdout.splitlines() if line.startswith("VmHWM:")]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs the peak memory in Linux's /proc")
def test_memory_does_not_grow_with_the_video(tmp_path: Path, model: Path) -> None:
    pytest.importorskip("av")
    short, long = peak_memory(tmp_path, model, 80, 280)
    # The additional frames take 46 MB. The encoder keeps about fifty frames.
    assert long < short + 25, (short, long)


# ------------------------------------------------------------------------------------------------------------- ONNX


@pytest.fixture(scope="session")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    file = tmp_path_factory.mktemp("onnx") / "new/model.onnx"
    assert score("--model", model, "--export", file) == 0
    return file


def metadata(file: Path) -> dict[str, Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_exported_network_gives_equal_scores(model: Path, exported: Path, batch: int) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    crops = list(np.random.default_rng(batch).integers(0, 255, (batch, 32, 32, 3), dtype=np.uint8))
    mean, std = (np.array(metadata(exported)["normalise"][key], np.float32) for key in ("mean", "std"))
    images = ((np.stack(crops).astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)
    (scores,) = session.run(["score"], {"images": images})
    expected, _ = load_detector(model, gpu_num="cpu").score(crops)
    assert scores.shape == (batch,) and np.abs(scores - expected).max() < 1e-4


@pytest.mark.slow
def test_exported_network_describes_its_preprocessing(exported: Path) -> None:
    found = metadata(exported)
    assert (found["format"], found["recipe"]) == (1, "checkpoint")
    cutoffs = {"real_below": pytest.approx(0.5), "fake_above": pytest.approx(0.5)}
    assert found["verdict"] == {"error": 0.05, "between": "uncertain", "frame": cutoffs, "video": cutoffs}
    assert (found["normalise"]["channels"], found["resize"]["size"]) == ("RGB", 32)
    assert (found["detect"]["detector"], found["sample"]["every"]) == ("mtcnn", 2)
    assert (found["crop"]["margin"], found["crop"]["size"]) == (1.4, 80)
    page = (ROOT / "docs/onnx.md").read_text()
    assert set(found) == set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)), "the page lists every key"
    assert tree(exported.parent) == ["model.onnx"]


@pytest.mark.slow
def test_exported_network_contains_no_path(exported: Path) -> None:
    content = exported.read_bytes()
    for path in (FACES["videos"], str(ROOT), os.path.dirname(torch.__file__), '.py", line', str(exported.parent)):
        assert path.encode() not in content, path


@pytest.mark.slow
def test_onnx_runtime_collects_no_usage_data(exported: Path, tmp_path: Path) -> None:
    """ONNX Runtime keeps usage data in the home folder until it sends them."""
    code = "import scoring.export, onnxruntime, sys; onnxruntime.InferenceSession(sys.argv[1])"
    names = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in names} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, str(exported)], cwd=ROOT, env=environment, check=True)
    assert not [path for path in tree(tmp_path) if "onnxruntime" in path]


@pytest.fixture
def exported_graph(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The graph of `exported`, which another export of the same network gets at once."""
    graph = pytest.importorskip("onnx").load(exported)
    del graph.metadata_props[:]
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: SimpleNamespace(model_proto=graph))
    return graph


@pytest.mark.slow
def test_export_to_a_full_disk(model: Path, disk: Path, exported_graph: Any, capsys: pytest.CaptureFixture) -> None:
    file = disk / "model.onnx"
    file.write_bytes(b"old")
    (disk / "other").write_bytes(bytes(shutil.disk_usage(disk).free - 10**6))  # the network takes 2 MB
    assert inference.main(["--model", str(model), "--export", str(file), "--overwrite", "True"]) == 2
    assert str(file) in capsys.readouterr().err.splitlines()[-1]
    assert tree(disk) == ["model.onnx", "other"] and file.read_bytes() == b"old"


@pytest.mark.slow
def test_export_of_a_checkpoint_without_a_recipe(tmp_path: Path, exported_graph: Any) -> None:
    import onnxruntime

    file = checkpoint(tmp_path / "m.pth", faces=None, calibration=None)
    assert score("--model", file, "--export", tmp_path / "m.onnx") == 0
    found = metadata(tmp_path / "m.onnx")
    assert found["recipe"] == "default" and found["verdict"] is None and found["detect"]["detector"] is None
    assert [output.name for output in onnxruntime.InferenceSession(tmp_path / "m.onnx").get_outputs()] == ["score"]


def test_export_error_without_a_message(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)

    def fail(*_: object, **__: object) -> None:
        raise torch.onnx.errors.OnnxExporterError("steps") from AssertionError()

    monkeypatch.setattr(torch.onnx, "export", fail)
    refused(capsys, "--model", model, "--export", tmp_path / "a.onnx", says="does not support this network: Assertion")


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1, 1.01])
def test_wrong_export_is_not_written(
    model: Path, tmp_path: Path, exported_graph: Any, capsys: pytest.CaptureFixture, factor: float
) -> None:
    """All scores are 1, so only the logits show the difference."""
    from onnx import numpy_helper

    content, sure = torch.load(model, weights_only=True), np.array([-50, 50], np.float32)
    content["state_dict"]["linear.1.bias"] = torch.from_numpy(sure)
    torch.save(content, tmp_path / "sure.pth")
    (bias,) = (weights for weights in exported_graph.graph.initializer if weights.name == "network.linear.1.bias")
    bias.CopyFrom(numpy_helper.from_array(np.float32(factor) * sure, bias.name))
    assert score("--model", tmp_path / "sure.pth", "--export", tmp_path / "a.onnx") == (0 if factor == 1 else 2)
    assert ("logits" in capsys.readouterr().err) == (factor != 1)
    assert tree(tmp_path) == (["a.onnx"] if factor == 1 else []) + ["sure.pth"]


PROGRAM, VIDEO_FUNCTIONS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/onnx.md").read_text(), flags=re.DOTALL)


@pytest.fixture
def sensitive(tmp_path: Path, exported_graph: Any, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """A checkpoint and its ONNX file; a pixel counts 30 times as much as in `model`."""
    from onnx import numpy_helper

    file = checkpoint(tmp_path / "m.pth", **request.param)
    content = torch.load(file, weights_only=True)
    content["state_dict"]["linear.1.weight"] *= 30
    torch.save(content, file)
    (weights,) = (value for value in exported_graph.graph.initializer if value.name == "network.linear.1.weight")
    weights.CopyFrom(numpy_helper.from_array(content["state_dict"]["linear.1.weight"].numpy(), weights.name))
    assert score("--model", file, "--export", tmp_path / "m.onnx") == 0
    return file, tmp_path / "m.onnx"


def ten_images(folder: Path) -> dict[str, list[list[float]]]:
    """Write ten images; return the boxes of the faces in each."""
    rng = np.random.default_rng(0)

    def image(height: int, width: int) -> np.ndarray:
        coarse = rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
        return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)

    images = {
        "landscape.png": (image(120, 200), [[60.3, 20.2, 130.9, 101.7]]),
        "portrait.png": (image(200, 120), [[20.5, 60.5, 50.0, 99.0]]),
        "grey.png": (image(100, 100)[:, :, 0], [[25, 25, 75, 75]]),
        "alpha.png": (np.dstack([image(80, 90), image(80, 90)[:, :, :1]]), [[20, 10, 70, 66.6]]),
        "small.png": (image(40, 48), [[10, 10, 30, 31]]),
        "two.bmp": (image(150, 240), [[10, 30, 90, 120], [140.2, 40.1, 200.4, 110.8]]),
        "left.png": (image(100, 100), [[-30, -20, 40, 50]]),
        "right.png": (image(100, 130), [[90, 60, 150, 130.5]]),
        "outside.png": (image(90, 90), [[300, -400, 340, -350]]),
        "turned.jpg": (image(110, 160), [[15, 40, 80, 120]]),
    }
    for name, (pixels, _) in images.items():
        write_image(folder / name, pixels, **({"exif": orientation(6)} if name == "turned.jpg" else {}))
    return {str(folder / name): boxes for name, (_, boxes) in images.items()}


def project_scores(
    model: Path, boxes: dict[str, list[list[float]]], monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[float]]:
    """The scores of the faces in images, by `score_file`, with a face detector that finds the given boxes."""
    detector = load_detector(model, gpu_num="cpu", precision="fp32")
    results = {}
    for path, found in boxes.items():
        detections = Detections(np.array(found, np.float32), np.ones(len(found), np.float32))
        monkeypatch.setattr(detector, "find_faces", lambda _, detections=detections: [detections])
        scored: list[ScoredFace] = []
        result = score_file(detector, Path(path), on_frame=lambda *frame, scored=scored: scored.extend(frame[2]))
        results[path] = [face.score for box in detections.boxes for face in scored if np.array_equal(face.box, box)]
        assert result.score == max(results[path])
    return results


def run_program(file: Path, boxes: dict[str, Any], folder: Path) -> dict[str, list[float]]:
    """Run the program of docs/onnx.md in a folder without this project."""
    (folder / "score.py").write_text(PROGRAM)
    (folder / "boxes.json").write_text(json.dumps(boxes))
    command = [sys.executable, "-I", "score.py", str(file), "boxes.json"]
    return json.loads(subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sensitive",
    [{}, {"channels": "BGR", "faces": FACES | {"crop_size": 0}}, {"faces": None}],
    indirect=True,
    ids=["RGB", "BGR", "default"],
)
def test_program_in_the_page_gives_the_scores_of_the_project(
    tmp_path: Path, sensitive: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, file = sensitive
    boxes = ten_images(tmp_path / "images")
    found, expected = run_program(file, boxes, tmp_path), project_scores(model, boxes, monkeypatch)
    assert len(found) == 10 and found.keys() == expected.keys()
    for path in boxes:
        assert found[path] == pytest.approx(expected[path], abs=1e-4), path
    flat = np.concatenate(list(found.values()))
    assert 0.01 < flat.min() and flat.max() < 0.99 and flat.std() > 0.02  # an extreme score would hide differences

    crops = load_detector(model, gpu_num="cpu", precision="fp32", faces_given=True)
    whole = run_program(file, {path: [None] for path in boxes}, tmp_path)
    assert whole == {path: [pytest.approx(score_file(crops, Path(path)).score, abs=1e-4)] for path in boxes}


@pytest.mark.slow
@pytest.mark.parametrize("sensitive", [{}], indirect=True)
def test_program_in_the_page_follows_the_metadata(
    tmp_path: Path, sensitive: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Each setting counts: with another one, a score differs by more than the tolerance."""
    import onnx

    def scores(key: str = "format", **settings: Any) -> np.ndarray:
        network = onnx.load(sensitive[1])
        (entry,) = (entry for entry in network.metadata_props if entry.key == key)
        if settings:
            entry.value = json.dumps(json.loads(entry.value) | settings)
        onnx.save(network, tmp_path / "changed.onnx")
        capsys.readouterr()
        runpy.run_path(str(tmp_path / "score.py"))
        return np.concatenate(list(json.loads(capsys.readouterr().out).values()))

    (tmp_path / "score.py").write_text(PROGRAM)
    (tmp_path / "boxes.json").write_text(json.dumps(ten_images(tmp_path / "images")))
    monkeypatch.setattr(sys, "argv", ["score.py", str(tmp_path / "changed.onnx"), str(tmp_path / "boxes.json")])
    original = scores()
    for key, setting in (
        ("crop", {"margin": 1.38}),
        ("crop", {"padding": 128}),
        ("crop", {"size": 72}),
        ("crop", {"shrink": "INTER_LINEAR"}),
        ("crop", {"enlarge": "INTER_LINEAR"}),
        ("resize", {"interpolation": "INTER_AREA"}),
        ("normalise", {"channels": "BGR"}),
        ("normalise", {"mean": [0.5, 0.5, 0.5]}),
        ("normalise", {"std": [0.25, 0.25, 0.25]}),
    ):
        assert np.abs(scores(key, **setting) - original).max() > 1e-3, (key, setting)


def test_opencv_reads_the_pixels_that_the_project_reads(tmp_path: Path) -> None:
    """The program of the page reads images with OpenCV."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(cv2.resize(rng.integers(0, 256, (30, 20, 3), dtype=np.uint8), (121, 160)))
    grey_16_bit = Image.fromarray(rng.integers(0, 65536, (50, 40), dtype=np.uint16))
    transparent = image.copy()
    transparent.putalpha(128)
    files: list[tuple[str, Image.Image, int, dict[str, Any]]] = [
        *((f"{n}.jpg", image, 0, {"quality": 75, "subsampling": n, "exif": orientation(6)}) for n in range(3)),
        ("progressive.jpg", image, 0, {"progressive": True}),
        ("grey.jpg", image.convert("L"), 0, {}),
        ("cmyk.jpg", image.convert("CMYK"), 1, {}),
        ("turned.png", image, 0, {"exif": orientation(8)}),
        ("palette.png", image.quantize(64), 0, {}),
        ("alpha.png", transparent, 0, {}),
        ("grey_16_bit.png", grey_16_bit, 1, {}),
        ("turned.webp", image, 0, {"exif": orientation(3)}),
        ("a.bmp", image, 0, {}),
    ]
    for name, content, tolerance, options in files:
        content.save(tmp_path / name, **options)
        found, expected = cv2.imread(str(tmp_path / name))[..., ::-1], load_image(tmp_path / name)
        assert found.shape == expected.shape, name
        assert np.abs(found.astype(int) - expected).max() <= tolerance, name


def test_program_in_the_page_is_short_and_needs_three_packages() -> None:
    nodes = list(ast.walk(ast.parse(PROGRAM + VIDEO_FUNCTIONS)))
    imports = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    assert imports == {"json", "sys", "cv2", "numpy", "onnxruntime"}
    assert not any(isinstance(node, ast.ImportFrom) for node in nodes)
    assert len([line for line in PROGRAM.splitlines() if line]) <= 40


@pytest.mark.slow
@pytest.mark.parametrize("sensitive", [{"faces": FACES | {"every": 6}}], indirect=True)
def test_video_functions_in_the_page_give_the_score_of_the_project(
    tmp_path: Path, sensitive: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Two faces move; a third appears in two frames only, and does not count."""
    model, file = sensitive
    video = write_video(tmp_path / "clip.mp4", frames=61, people=(0, 1))
    seen = count()

    def moving_detector(frames: np.ndarray) -> list[Detections]:
        found = []
        for _ in frames:
            n = next(seen)
            boxes = [[20 + n, 20, 90 + n, 80 + n % 3], [124 - n, 25, 180, 90 + 2 * n]][: 2 if n != 6 else 1]
            boxes += [[0, 110, 20, 135]] if n in (2, 3) else []
            found.append(Detections(np.array(boxes, np.float32), np.ones(len(boxes), np.float32)))
        return found

    monkeypatch.setattr(
        scoring_detector, "load_face_detector", lambda *_: (moving_detector, {"detector": "mtcnn", "weights": None})
    )
    detector = load_detector(model, gpu_num="cpu", precision="fp32")
    scored: dict[int, dict[int, ScoredFace]] = {}
    expected = score_file(
        detector, video, on_frame=lambda position, _, faces: scored.update({position: {f.track: f for f in faces}})
    )

    (tmp_path / "score.py").write_text(PROGRAM + VIDEO_FUNCTIONS)
    (tmp_path / "boxes.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["score.py", str(file), str(tmp_path / "boxes.json")])
    page = runpy.run_path(str(tmp_path / "score.py"))
    capsys.readouterr()
    positions, tracks = list(scored), {track for found in scored.values() for track in found}
    scores: dict[int, list[float]] = {track: [] for track in tracks}
    boxes = {track: {p: found[track].box for p, found in scored.items() if track in found} for track in tracks}
    for i, (position, frame) in enumerate(FrameReader(video, page["meta"]["sample"]["every"])):
        for track, face in scored[position].items():
            found = page["score_face"](frame, page["smooth_box"](i, positions, boxes[track]))
            assert found == pytest.approx(face.score, abs=1e-4), (position, track)
            scores[track].append(found)
    assert len(positions) == 11 and len(scores) == 3 and len(expected.people) == 2
    assert page["video_score"](list(scores.values()), len(positions)) == pytest.approx(expected.score, abs=1e-4)
    jumping = {0: [0, 0, 10, 10], 5: [2, 0, 12, 10], 10: [11, 0, 21, 10]}  # the last hardly overlaps the second
    assert page["smooth_box"](1, [0, 5, 10], jumping).tolist() == [1, 0, 11, 10]
    for how, combined in (("max", 0.6), ("top2", 0.5)):
        monkeypatch.setitem(page["meta"]["combine"], "frames_of_a_face", how)
        assert page["video_score"]([[0.1, 0.6, 0.4]], 3) == pytest.approx(combined)
    monkeypatch.setitem(page["meta"]["combine"], "frames_of_a_face", "mean")
    for frames, lengths, combined in ((50, (6, 4), 0.4), (50, (6, 5), 0.9), (50, (2, 2), 0.9), (2, (2, 2), 0.9)):
        scores = [[mean] * n for n, mean in zip(lengths, (0.4, 0.9), strict=True)]
        result = file_score([[face for face in faces(0.4, 0.9) if i < lengths[face.track]] for i in range(frames)])
        assert (page["video_score"](scores, frames), result.score) == pytest.approx((combined, combined))


# ------------------------------------------------------------------------------------------------------ wrong input


def refused(capsys: pytest.CaptureFixture, *arguments: Any, says: str) -> None:
    capsys.readouterr()
    assert score(*arguments) == 2
    caught = capsys.readouterr()
    lines = caught.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("inference.py: error: ") and says in lines[0], caught.err


def test_wrong_arguments(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture, fixed_face_detector: None) -> None:
    image, weights = write_image(tmp_path / "a.png", photo(0)), tmp_path / "w.pth"
    (tmp_path / "empty").mkdir()
    weights.touch()
    here = tree(tmp_path)
    refused(capsys, image, says="--model")
    refused(capsys, "--model", model, says="--serve")
    refused(capsys, "--model", model, "", says="an empty path")
    for flag in ("--json", "--csv", "--annotate"):
        refused(capsys, "--model", model, "--export", tmp_path / "x", flag, "y", says=flag)
    serve = "--serve", "--host", "nowhere.invalid"
    refused(capsys, "--model", model, image, *serve, says=f"remove --serve or {image}")
    refused(capsys, "--model", model, tmp_path / "no.png", says=f"{tmp_path / 'no.png'} does not exist")
    refused(capsys, "--model", model, tmp_path / "empty", says=".avif) or video (.mp4, ")
    refused(capsys, "--model", model, "https://example.org/a.png", says="'https://example.org/a.png' is a URL")
    refused(capsys, "--model", model, image, "--evidence", says="--annotate FOLDER")
    refused(capsys, "--model", model, image, "--annotate", image, says="is a file; give a folder")
    refused(capsys, "--model", model, image, "--json", tmp_path, says="is a folder; give a file")
    refused(capsys, "--model", model, image, "--csv", image, says="would replace")
    refused(capsys, "--model", model, image, "--export", model, says="would replace")
    given = "--model", model, image, "--detector_weights", weights
    refused(capsys, *given, "--csv", weights, "--overwrite", says="would replace")
    both = tmp_path / "both"
    refused(capsys, "--model", model, image, "--json", both, "--csv", both, says="would replace")
    drawn = tmp_path / "out/a_annotated.png"
    refused(capsys, "--model", model, image, "--annotate", tmp_path / "out", "--json", drawn, says="would replace")
    refused(capsys, "--model", model, image, "--json", image / "a.json", says="a.png")
    refused(capsys, "--model", model, image, "--gpu_num", "x", says="--gpu_num")
    refused(capsys, "--model", model, image, "--jsn", "x", says="'--json'")
    assert tree(tmp_path) == here


def password_file(folder: Path, password: str = "correct horse") -> Path:
    (folder / "password").write_text(f"{password}\n")
    return folder / "password"


def test_page_for_other_machines_needs_a_password(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av")
    started: list[tuple] = []
    monkeypatch.setattr("scoring.page.serve", lambda _, *arguments: started.append(arguments))
    serve = "--model", model, "--serve"
    for host in ("0.0.0.0", "::", "192.0.2.1", "localhost.example.org", "", "127.0.0.1.example.org"):
        refused(capsys, *serve, "--host", host, says="--password_file FILE")
    given = *serve, "--host", "0.0.0.0", "--password_file"
    refused(capsys, *given, tmp_path / "none", says="--password_file")
    for short in ("", "short", "顔" * 4):
        refused(capsys, *given, password_file(tmp_path, short), says="at least 12 characters")
    for host in ("127.0.0.1", "localhost", "::1"):
        assert score(*serve, "--host", host) == 0
    assert score(*given, password_file(tmp_path)) == 0
    assert [(host, password) for host, _, _, _, password in started] == [
        ("127.0.0.1", None), ("localhost", None), ("::1", None), ("0.0.0.0", b"correct horse")
    ]  # fmt: skip


def test_page_on_an_impossible_address(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av")  # checked before the port
    serve = "--model", model, "--serve"
    refused(capsys, *serve, "--port", "70000", says="'70000'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(capsys, *serve, "--port", port, says=f"127.0.0.1, port {port}: ")
    serve += "--password_file", password_file(tmp_path)
    refused(capsys, *serve, "--host", "nowhere.invalid", says="nowhere.invalid: ")
    refused(capsys, *serve, "--host", "192.0.2.1", says="give another --host or --port")
    monkeypatch.setitem(sys.modules, "av", None)
    refused(capsys, *serve, says="--serve needs PyAV")


def test_error_of_a_wrong_checkpoint_names_the_flag(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    image = write_image(tmp_path / "a.png", photo(0))
    (tmp_path / "text.pth").write_text("no checkpoint")
    whole = torch.load(model, weights_only=True)
    torch.save({**whole, "state_dict": {"weight": torch.zeros(3)}}, tmp_path / "other.pth")
    torch.save({**whole, "args": {**whole["args"], "model": "resnet18x"}}, tmp_path / "unknown.pth")
    broken = {key: x * torch.nan if x.is_floating_point() else x for key, x in whole["state_dict"].items()}
    torch.save({**whole, "state_dict": broken}, tmp_path / "nan.pth")
    for name in ("no.pth", "text.pth", "other.pth", "unknown.pth", "nan.pth", "."):
        out = ["--json", tmp_path / "a.json", "--annotate", tmp_path / "out", "--faces_given", "True"]
        refused(capsys, "--model", tmp_path / name, image, *out, says="--model")
        assert not (tmp_path / "a.json").exists() and not tree(tmp_path / "out")


def test_evidence_of_a_transformer_is_refused_before_scoring(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = checkpoint(tmp_path / "vit.pth", "test_vit", 2, 160)
    image = write_image(tmp_path / "a.png", photo(0))
    refused(capsys, "--model", file, image, "--annotate", tmp_path / "out", "--evidence", says="--model")
    assert not (tmp_path / "out").exists()
    assert score("--model", file, image, "--faces_given") == 0


def test_annotating_a_video_without_pyav_is_refused_before_scoring(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    clip = write_video(tmp_path / "a.mp4")
    refused(capsys, "--model", model, clip, "--annotate", tmp_path / "out", says="--annotate for videos needs PyAV")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_export_without_onnx(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    refused(capsys, "--model", model, "--export", tmp_path / "a.onnx", says="--export needs ONNX")
    assert not tree(tmp_path)


def test_interruption_leaves_complete_files_only(
    model: Path,
    tmp_path: Path,
    fixed_face_detector: None,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_image(tmp_path / "in/a.png", photo(0))
    clip = write_video(tmp_path / "in/b.mp4", frames=60)
    real = scoring_detector.ForgeryDetector.score
    calls = []

    def interrupted(self: Any, crops: Any, evidence: bool = False) -> Any:
        calls.append(1)
        if len(calls) == 3:  # after the image and its variants
            raise KeyboardInterrupt
        return real(self, crops, evidence)

    monkeypatch.setattr(scoring_detector.ForgeryDetector, "score", interrupted)
    outputs = ["--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv", "--annotate", tmp_path / "out"]
    assert score("--model", model, tmp_path / "in", *outputs) == 130
    assert tree(tmp_path) == ["a.csv", "a.json", "in/a.png", "in/b.mp4", "out/a_annotated.png"]
    assert [Path(record["file"]).name for record in read_records(tmp_path / "a.json")] == ["a.png"]
    assert clip.is_file() and "interrupted" in capsys.readouterr().err


def test_full_disk(
    model: Path,
    tmp_path: Path,
    fixed_face_detector: None,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = write_image(tmp_path / "a.png", photo(0))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    refused(capsys, "--model", model, image, "--annotate", tmp_path / "out", says="a_annotated.png")
    assert tree(tmp_path) == ["a.png"]
    for flag in ("--json", "--csv"):
        if Path("/dev/full").exists():
            refused(capsys, "--model", model, image, flag, "/dev/full", says=f"{flag}: /dev/full")


def test_bug_is_not_reported_as_wrong_input(
    model: Path, tmp_path: Path, fixed_face_detector: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write_image(tmp_path / "a.png", photo(0))

    def bug(*_: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(scoring_detector.ForgeryDetector, "score", bug)
    with pytest.raises(RuntimeError, match="shapes"):
        score("--model", model, image, "--json", tmp_path / "a.json")


def test_note_about_other_face_detector_weights(
    tmp_path: Path, fixed_face_detector: None, capsys: pytest.CaptureFixture
) -> None:
    image = write_image(tmp_path / "a.png", photo(0))
    file = checkpoint(tmp_path / "m.pth", faces={**FACES, "detector": "retinaface", "weights": "0" * 64})
    assert score("--model", file, image) == 0
    assert "--detector_weights" in capsys.readouterr().err


def test_wrong_face_detector_weights(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    image = write_image(tmp_path / "a.png", photo(0))
    refused(capsys, "--model", model, image, "--detector_weights", image, says="--detector_weights")
    with pytest.raises(InputError):
        load_detector(model, detector="retinaface", detector_weights=image, gpu_num="cpu")([photo(0)])
