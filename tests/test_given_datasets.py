"""Datasets whose images are on the disk already: the clone of realorfake, and file lists of other projects."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from corpora import realorfake
from corpora.new_labels import write_label_files
from datasets.labels import read_datasets
from datasets.sources import group_folders
from utils.images import read_image


def make_clone(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Draw a small clone of realorfake; return the arguments of the command."""
    monkeypatch.setattr(realorfake, "FOLDERS", {"real": (2, 1, 1), "fake": (1, 1, 1)})
    rng = np.random.default_rng(0)
    for _, images in realorfake.list_folders():
        for image in images:
            (root / "clone" / image).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / "clone" / image), rng.integers(0, 255, (16, 16, 3), np.uint8))
    where = ["--faces", str(root / "faces"), "--dataset_root", str(root / "labels"), "--size", "8"]
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
