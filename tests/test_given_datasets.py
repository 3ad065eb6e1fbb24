"""Datasets whose images are on the disk already: the clone of realorfake, and file lists of other projects."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import training
from corpora import lists, realorfake
from corpora.new_labels import write_label_files
from datasets.labels import Video, read_datasets, read_split
from datasets.sources import group_folders
from tests.helpers import ROOT, arguments
from utils.errors import InputError
from utils.images import read_image


def make_clone(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Draw a small clone of realorfake; return the arguments of the command."""
    monkeypatch.setattr(realorfake, "FOLDERS", {"real": (2, 1, 1), "fake": (1, 1, 1)})
    monkeypatch.setattr(realorfake, "SIDE", 8)
    rng = np.random.default_rng(0)
    for _, images in realorfake.list_folders():
        for image in images:
            (root / "clone" / image).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / "clone" / image), rng.integers(0, 255, (16, 16, 3), np.uint8))
    where = ["--faces", str(root / "faces"), "--dataset_root", str(root / "labels")]
    return [str(root / "clone"), *where]


def test_realorfake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = make_clone(tmp_path, monkeypatch)
    assert realorfake.main(argv) == 0
    train, val, test = read_datasets(["realorfake"], tmp_path / "labels", tmp_path / "faces", "1")
    assert [len(train), len(val), len(test["realorfake"])] == [3, 2, 2]
    assert {len(video.images) for video in [*train, *val, *test["realorfake"]]} == {4}
    fake = read_image(tmp_path / "faces/test/fake/000/3.webp")
    full = read_image(tmp_path / "clone/data/fake/fake_11.jpg").astype(float)
    assert fake == pytest.approx(full.reshape(8, 2, 8, 2, 3).mean((1, 3)), abs=0.51)  # area, and no loss after it
    paths = [video.path for video in train]
    assert len(set(group_folders(paths, tmp_path / "labels/realorfake/sources.csv").clusters)) == len(paths)


def test_realorfake_skips_finished_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = make_clone(tmp_path, monkeypatch)
    assert realorfake.main(argv) == 0
    finished, again = tmp_path / "faces/train/real/000/0.webp", tmp_path / "faces/train/real/000/1.webp"
    finished.write_bytes(b"finished")
    again.unlink()
    assert realorfake.main(argv) == 0
    assert finished.read_bytes() == b"finished" and again.is_file()


def test_realorfake_without_all_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = make_clone(tmp_path, monkeypatch)
    (tmp_path / "clone/data/real/5.jpg").unlink()
    assert realorfake.main(argv) == 2
    assert not (tmp_path / "faces").exists() and not (tmp_path / "labels").exists()


def test_label_files_of_something_else_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = make_clone(tmp_path, monkeypatch)
    other = tmp_path / "labels/realorfake/val_fake.txt"
    other.parent.mkdir(parents=True)
    other.write_text("1,other,3\n")
    assert realorfake.main(argv) == 2
    assert [file.name for file in other.parent.iterdir()] == ["val_fake.txt"] and other.read_text() == "1,other,3\n"


def test_the_split_of_realorfake(tmp_path: Path) -> None:
    write_label_files(tmp_path, (folder for folder, _ in realorfake.list_folders()))
    lines = {file.stem: file.read_text().splitlines() for file in tmp_path.glob("*.txt")}
    assert {name: len(of) for name, of in lines.items()} == {
        "train_real": 90, "train_fake": 30, "val_real": 18, "val_fake": 6, "test_real": 42, "test_fake": 14
    }  # fmt: skip
    assert lines["train_real"][0] == "0,train/real/000,4" and lines["test_fake"][-1] == "1,test/fake/013,4"
    images = [image for _, images in realorfake.list_folders() for image in images]
    assert len(set(images)) == len(images) == 800
    published = Path(os.environ.get("TEST_DATA", ROOT.parent / "shared")) / "data/realorfake/labels/realorfake"
    if not published.is_dir():
        pytest.skip(f"no label files in {published}")
    assert {file.stem: file.read_text().splitlines() for file in published.glob("*.txt")} == lines


def make_frames(root: Path, folder: str, count: int = 3, separator: str = "/", prefix: str = "") -> list[str]:
    """Create empty images; return their paths as a list has them."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    names = [f"{number:03d}.png" for number in range(count)]
    for name in names:
        (root / folder / name).touch()
    return [(prefix + f"{folder}/{name}").replace("/", separator) for name in names]


def bench(root: Path, **options: str) -> dict[str, Any]:
    """Create frames in the layout of DeepfakeBench, and its FF-DF.json with two compressions."""
    content: dict[str, Any] = {"FF-DF": {"FF-real": {}, "FF-DF": {}}}
    videos = {"train": ("000", "000_003"), "val": ("071", "071_054"), "test": ("953", "953_974")}
    for split, names in videos.items():
        for kind, place, name in zip(
            ("FF-real", "FF-DF"), ("original_sequences/youtube", "manipulated_sequences/Deepfakes"), names, strict=True
        ):
            content["FF-DF"][kind][split] = {
                compression: {
                    name: {
                        "label": kind,
                        "frames": make_frames(root, f"FaceForensics++/{place}/{compression}/frames/{name}", **options)
                    }
                }
                for compression in ("c23", "c40")
            }  # fmt: skip
    return content


def run_lists(root: Path, content: dict[str, Any], *more: str) -> int:
    (root / "list.json").write_text(json.dumps(content))
    where = ["--root", str(root / "data"), "--dataset_root", str(root / "labels"), "--name", "bench"]
    return lists.main([str(root / "list.json"), *where, *more])


def read(root: Path, split: str, name: str = "bench") -> list[Video]:
    return read_split(name, split, root / "labels", root / "data")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"separator": "\\", "prefix": "./datasets/"},
        {"prefix": "/somewhere/else/"},
        {"separator": "\\", "prefix": "D:/x/"},
        {"prefix": "../data/"},
    ],
)
def test_deepfakebench(tmp_path: Path, options: dict[str, str]) -> None:
    content = bench(tmp_path / "data", **options)
    assert run_lists(tmp_path, content) == 2  # two compressions
    assert run_lists(tmp_path, content, "--compression", "raw") == 2
    assert not (tmp_path / "labels").exists()
    assert run_lists(tmp_path, content, "--compression", "c40") == 0
    train, val, test = read_datasets(["bench"], tmp_path / "labels", tmp_path / "data", "1")
    assert [(video.path, video.label, len(video.images)) for video in train] == [
        ("FaceForensics++/original_sequences/youtube/c40/frames/000", 0, 3),
        ("FaceForensics++/manipulated_sequences/Deepfakes/c40/frames/000_003", 1, 3),
    ]
    assert len(val) == len(test["bench"]) == 2
    paths = [video.path for video in train]
    assert len(set(group_folders(paths, tmp_path / "labels/bench/sources.csv").clusters)) == 1


def test_only_listed_frames_are_used(tmp_path: Path) -> None:
    content = bench(tmp_path / "data")
    video = content["FF-DF"]["FF-real"]["test"]["c23"]["953"]
    video["frames"] = video["frames"][::2]
    for _ in range(2):  # again
        assert run_lists(tmp_path, content, "--compression", "c23") == 0
        real, fake = read(tmp_path, "test")
        assert list(real.images) == ["000.png", "002.png"] and (real.folder / "002.png").is_file()
        assert len(fake.images) == 3 and fake.folder.is_relative_to(tmp_path / "data")


def test_frames_that_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    content = bench(tmp_path / "data")
    folder = tmp_path / "data/FaceForensics++/original_sequences/youtube/c23/frames"
    (folder / "953/001.png").unlink()
    (folder / "000").rename(folder / "elsewhere")
    assert run_lists(tmp_path, content, "--compression", "c23") == 2
    error = capsys.readouterr().err
    assert "4 listed frames" in error and "953/001.png" in error and not (tmp_path / "labels").exists()
    assert run_lists(tmp_path, content, "--compression", "c23", "--allow_missing") == 0
    assert list(read(tmp_path, "test")[0].images) == ["000.png", "002.png"]
    assert (tmp_path / "labels/bench/train_real.txt").read_text() == ""
    assert run_lists(tmp_path, content, "--compression", "c23", "--root", str(tmp_path)) == 2


def test_a_video_in_several_splits_is_kept_in_the_last(tmp_path: Path) -> None:
    """Celeb-DF's list has the test videos in all splits; DFDC's has a video in place of the videos of val."""
    old, new = (
        {"label": "CelebDFv2_real", "frames": make_frames(tmp_path / "data", f"CDF/Celeb-real/frames/id0_{n}")}
        for n in range(2)
    )
    fake = {"label": "CelebDFv2_fake", "frames": make_frames(tmp_path / "data", "CDF/Celeb-synthesis/frames/id0_id1_1")}
    content = {
        "CDF": {
            "CelebDFv2_real": {"train": {"id0_0": old, "id0_1": new}, "val": new, "test": {"id0_1": new}},
            "CelebDFv2_fake": {
                "train": {},
                "val": {"no": {"label": "CelebDFv2_fake", "frames": []}},
                "test": {"f": fake},
            },
        }
    }
    assert run_lists(tmp_path, content) == 0
    labels = tmp_path / "labels/bench"
    assert (labels / "train_real.txt").read_text() == "0,CDF/Celeb-real/frames/id0_0,3\n"
    assert (labels / "val_real.txt").read_text() == (labels / "val_fake.txt").read_text() == ""
    paths = [video.path for video in read(tmp_path, "test")]
    assert len(paths) == 2
    clusters = group_folders([*paths, "CDF/Celeb-real/frames/id0_0"], labels / "sources.csv").clusters
    assert clusters[0] == clusters[1] != clusters[2]


def df40(name: str, **videos: dict[str, dict[str, list[str]]]) -> dict[str, Any]:
    """Return a list of DF40, from its name and the videos of each label, by split."""
    content = {
        label: {
            split: {video: {"label": label, "frames": frames} for video, frames in of_split.get(split, {}).items()}
            for split in ("train", "test", "val")
        }
        for label, of_split in videos.items()
    }
    return {name: content}


def test_a_face_swap_of_df40(tmp_path: Path) -> None:
    """The real videos are those of FaceForensics++; the test videos are in val too."""

    def frames(folder: str) -> list[str]:
        return make_frames(tmp_path / "data", folder, prefix="deepfakes_detection_datasets/")

    real, fake = "FaceForensics++/original_sequences/youtube/c23/frames", "DF40/simswap/ff/frames"
    real_test, fake_test = {"953": frames(f"{real}/953")}, {"953_974": frames(f"{fake}/953_974")}
    content = df40(
        "simswap_ff",
        simswap_Real={"train": {"000": frames(f"{real}/000")}, "val": real_test, "test": real_test},
        simswap_Fake={"train": {"000_003": frames(f"{fake}/000_003")}, "val": fake_test, "test": fake_test},
    )
    assert run_lists(tmp_path, content) == 0
    for split, names in (("train", ("000", "000_003")), ("test", ("953", "953_974"))):
        found = [(video.path, video.label, len(video.images)) for video in read(tmp_path, split)]
        assert found == [(f"{real}/{names[0]}", 0, 3), (f"{fake}/{names[1]}", 1, 3)]
    assert (tmp_path / "labels/bench/val_fake.txt").read_text() == ""


def test_whole_faces_of_df40(tmp_path: Path) -> None:
    """Each image is a video in the list, but a folder is a video in the label files; "real" is in the method's name."""
    folders = {kind: f"DF40/whichisreal/{kind}" for kind in ("real", "fake")}
    images = {kind: make_frames(tmp_path / "data", folder) for kind, folder in folders.items()}
    videos = {kind: {str(number): [image] for number, image in enumerate(of)} for kind, of in images.items()}
    content = df40("whichisreal", whichisreal_Real={"test": videos["real"]}, whichisreal_Fake={"test": videos["fake"]})
    assert run_lists(tmp_path, content) == 0
    found = [(video.path, video.label, len(video.images)) for video in read(tmp_path, "test")]
    assert found == [(folders["real"], 0, 3), (folders["fake"], 1, 3)]


def gend(root: Path) -> list[str]:
    """Create frames in the layout of GenD below ``root/data``, and its lists; return their names."""
    files = []
    for split, number in (("train", "000"), ("val", "071"), ("test", "953")):
        for source, video in (("real", number), ("Real3DPortrait", f"{number}_003")):
            files.append(root / f"config/FF/{split}/{source}.txt")
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            files[-1].write_text("\n".join(reversed(make_frames(root / "data", f"datasets/FF/{source}/{video}"))))
    return [str(file) for file in files]


def test_gend(tmp_path: Path) -> None:
    where = ["--dataset_root", str(tmp_path / "labels"), "--name", "gend"]
    assert lists.main([*gend(tmp_path), "--root", str(tmp_path / "data"), *where]) == 0
    for split in ("train", "val", "test"):
        assert [video.path.split("/")[2] for video in read(tmp_path, split, "gend")] == ["real", "Real3DPortrait"]
    paths = [video.path for video in read(tmp_path, "test", "gend")]
    assert len(set(group_folders(paths, tmp_path / "labels/gend/sources.csv").clusters)) == 1


@pytest.mark.parametrize("unlisted", [False, True])
@pytest.mark.parametrize("kind", ["deepfakebench", "gend"])
def test_a_training_on_listed_images_copies_and_changes_none(
    tmp_path: Path, capsys: pytest.CaptureFixture, kind: str, unlisted: bool
) -> None:
    """An image that is not listed has no link below the label files, and no part in the training."""
    data, labels = tmp_path / "data", tmp_path / "labels"
    if kind == "gend":
        files = gend(tmp_path)
    else:
        files = [str(tmp_path / "list.json"), "--compression", "c23"]
        (tmp_path / "list.json").write_text(json.dumps(bench(data)))
    rng = np.random.default_rng(0)
    images = sorted(data.rglob("*.png"))
    for image in images:
        cv2.imwrite(str(image), rng.integers(0, 255, (40, 40, 3), np.uint8))
    if unlisted:
        shutil.copy(images[0], images[0].with_name("unlisted.png"))

    def content() -> dict[Path, tuple[int, ...]]:
        states = {path: path.lstat() for path in data.rglob("*")}
        return {path: (state.st_ino, state.st_mtime_ns, state.st_size) for path, state in states.items()}

    before = content()
    where = ["--root", str(data), "--dataset_root", str(labels), "--name", "given"]
    assert lists.main([*files, *where]) == 0
    links = sorted(path.resolve() for path in labels.rglob("*") if path.is_symlink())
    assert links == (images[:3] if unlisted else [])
    written = {path.name for path in labels.rglob("*") if path.is_file() and not path.is_symlink()}
    texts = {f"{split}_{label}.txt" for split in ("train", "val", "test") for label in ("real", "fake")}
    assert written == {*texts, "sources.csv"}
    capsys.readouterr()
    argv = arguments(tmp_path, "--dataset", "given", "--data_root", str(data), "--name", "run")
    assert training.main(argv) == 0
    assert "3 real and 3 fake images per epoch, 6 validation images" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "output/run/results.json").read_text())["datasets"]["given"]
    assert (metrics["videos"], metrics["frames"]) == (2, 6)
    assert content() == before


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("test/DF.txt", "test"),
        ("FFIW/val-fake.txt", "val"),
        ("my-train/train-real.txt", "train"),
        ("DFD/fake.txt", "test"),
    ],
)
def test_the_split_of_a_list_of_gend(tmp_path: Path, name: str, split: str) -> None:
    file = tmp_path / name
    file.parent.mkdir()
    file.write_text("datasets/DFD/fake/a/000.png\n")
    assert [one.split for one in lists.read_gend(file)] == [split]


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '{"a": {"b": {"c": {"frames": ["x/y"]}}}}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.json").write_text(text)
    where = ["--root", str(tmp_path), "--dataset_root", str(tmp_path / "labels"), "--name", "bench"]
    assert lists.main([str(tmp_path / "list.json"), *where]) == 2
    (tmp_path / "list.txt").write_text("frame.png\n")
    with pytest.raises(InputError):
        lists.read_gend(tmp_path / "list.txt")


@pytest.mark.parametrize("slashes", ["/", "//"])
def test_absolute_and_relative_paths_in_one_list_keep_all_frames(slashes: str, tmp_path: Path) -> None:
    """The links to the frames of an absolute folder would be made in that folder, which is removed first."""
    relative, absolute = tmp_path / "root/real/v", tmp_path / "other/fake/v"
    for folder in (relative, absolute):
        folder.mkdir(parents=True)
        for number in range(2):
            (folder / f"{number}.png").touch()
    file = tmp_path / "train.txt"
    file.write_text(f"real/v/0.png\n{slashes}{str(absolute)[1:]}/0.png\n")
    where = ["--root", str(tmp_path / "root"), "--dataset_root", str(tmp_path / "labels"), "--name", "d"]
    lists.main([str(file), *where])
    assert len(list(absolute.iterdir())) == len(list(relative.iterdir())) == 2
    assert not any(path.is_symlink() for path in tmp_path.glob("*/*/*/*"))
