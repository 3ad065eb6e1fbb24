"""Label files, oversampling, unions of datasets, images and augmentation; test_bad_input.py has wrong input."""

import os
import shutil
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from benchmarks.augmentation_strength import AUTHORS, picture
from datasets import augmentation
from datasets.augmentation import AUGMENTATION, augment
from datasets.images import FaceImages, make_loader
from datasets.labels import Video, oversampling_factor, read_datasets, read_split
from datasets.samplers import TrainingBatches
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, normalise, resize
from evaluation.predictions import collect_scores
from tests.helpers import make_dataset
from utils.data_roots import parse_data_root, root_of
from utils.errors import InputError
from utils.images import read_image
from utils.world import World


def read(root: Path, split: str = "train", name: str = "tiny") -> list[Video]:
    return read_split(name, split, root / "labels", root / "faces")


def test_a_data_root_for_each_dataset(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_dataset(tmp_path / name, name, seed=ord(name))
        shutil.copytree(tmp_path / name / "labels", tmp_path / "labels", dirs_exist_ok=True)
    text = f"a={tmp_path}/a/faces,b={tmp_path}/b/faces"
    roots = parse_data_root(text)
    assert str(roots) == text and parse_data_root(str(roots)) == roots
    train, _, test = read_datasets(["a", "b"], tmp_path / "labels", roots, "1")
    assert {video.folder.relative_to(tmp_path).parts[0] for video in train} == set(test) == {"a", "b"}
    with pytest.raises(InputError, match="--data_root"):
        read_datasets(["a", "b"], tmp_path / "labels", parse_data_root(f"a={tmp_path}/a/faces"), "1")
    assert root_of("FF++_c23/Deepfakes", parse_data_root("FF++_c23=x,b=y")) == Path("x")


def test_a_data_root_is_a_folder_or_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_data_root("faces,old") == Path("faces,old")
    assert str(parse_data_root("lr=0.1/faces")) == "lr=0.1/faces" and parse_data_root("a=b") != Path("a=b")
    (tmp_path / "a=b").mkdir()
    assert parse_data_root("a=b") == Path("a=b")
    for wrong in ("a=x,a=y", "=x", "a=", ""):
        with pytest.raises(ArgumentTypeError):
            parse_data_root(wrong)


def test_read_split(tiny: Path) -> None:
    videos = read(tiny)
    assert [(v.path, v.label) for v in videos] == [
        ("tiny/train/real/000", 0),
        ("tiny/train/real/001", 0),
        ("tiny/train/fake/000", 1),
        ("tiny/train/fake/001", 1),
    ]
    assert list(videos[0].images) == ["0000.png", "0001.png", "0002.png"]


def test_images_are_sorted_and_other_files_ignored(tiny: Path) -> None:
    folder = tiny / "faces/tiny/train/real/000"
    for name in ("0000.png", "0001.png", "0002.png"):
        (folder / name).rename(folder / f"x{name}")
    for name in ("b.PNG", "a.jpg", "c.txt", ".hidden"):
        (folder / name).write_bytes(b"")
    assert list(read(tiny)[0].images) == ["a.jpg", "b.PNG", "x0000.png", "x0001.png", "x0002.png"]


def test_label_file_with_bom_crlf_blank_lines_spaces_and_absolute_paths(tiny: Path) -> None:
    spaced = tiny / "faces/a name with spaces"
    (tiny / "faces/tiny/train/real/000").rename(spaced)
    text = f"\ufeff0,a name with spaces,3\r\n\r\n0, {tiny / 'faces/tiny/train/real/001'} ,3\r\n"
    (tiny / "labels/tiny/train_real.txt").write_bytes(text.encode())
    assert [v.folder for v in read(tiny)[:2]] == [spaced, tiny / "faces/tiny/train/real/001"]


def test_each_folder_is_read_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file system call is slow on a network disk with a hundred thousand folders."""
    calls, realpath, listdir = [], os.path.realpath, os.listdir

    def counting(function: Callable[[Path], Any]) -> Callable[..., Any]:
        return lambda folder, **options: (calls.append(folder), function(folder, **options))[1]

    def is_label_folder(folder: Path, **_: Any) -> bool:
        assert tiny / "labels" in folder.parents
        return True

    (tiny / "link").symlink_to(tiny / "faces")
    monkeypatch.setattr(os.path, "realpath", counting(realpath))
    monkeypatch.setattr(os, "listdir", counting(listdir))
    monkeypatch.setattr(Path, "is_dir", is_label_folder)
    read_datasets(["tiny"], tiny / "labels", tiny / "link", "1")
    assert len(calls) == 6 + 12  # parents and folders
    assert calls[:2] == [str(tiny / "link/tiny/train/real"), tiny / "faces/tiny/train/real/000"]


def test_symbolic_link_to_itself(tiny: Path) -> None:
    folder = tiny / "faces/tiny/train/real/000"
    shutil.rmtree(folder)
    folder.symlink_to(folder)
    with pytest.raises(OSError, match="Too many levels of symbolic links.*train/real/000"):
        read(tiny)


def test_wrong_number_of_frames_prints_a_note(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    (tiny / "faces/tiny/val/real/000/0000.png").unlink()
    assert sum(len(v.images) for v in read(tiny, "val")) == 11
    note = capsys.readouterr().out
    assert note.startswith("note: ") and " 12 " in note and " 11" in note


@pytest.mark.parametrize(
    ("dataset", "factor"),
    [
        ("FF++", 4),
        ("FF++_c23", 4),
        ("FF++_c40", 4),
        ("DFDC-Preview", 4),
        ("DFDC", 5),
        ("Celeb-DF-v2", 6),
        ("demo", 1),
        ("FF++_c23/Deepfakes", 1),
    ],
)
def test_paper_oversampling(dataset: str, factor: int) -> None:
    assert oversampling_factor(dataset, [], "paper") == factor


def video(label: int, frames: int) -> Video:
    return Video("d", f"{label}", label, Path("x"), tuple(f"{i}.png" for i in range(frames)))


def test_auto_oversampling_is_the_rounded_ratio_of_frames() -> None:
    assert oversampling_factor("d", [video(0, 10), video(1, 20), video(1, 16)], "auto") == 4
    assert oversampling_factor("d", [video(0, 10), video(1, 34)], "auto") == 3
    assert oversampling_factor("d", [video(0, 30), video(1, 10)], "auto") == 1
    assert oversampling_factor("FF++_c23", [video(0, 10), video(1, 10)], "7") == 7


def test_union_repeats_real_videos_by_the_factor_of_each_dataset(tmp_path: Path) -> None:
    make_dataset(tmp_path, "FF++_c23", videos=1)
    make_dataset(tmp_path, "Celeb-DF-v2", videos=2, seed=1)
    both = ["FF++_c23", "Celeb-DF-v2"]
    train, val, test = read_datasets(both, tmp_path / "labels", tmp_path / "faces", "paper")
    counted = [(v.dataset, v.label) for v in train]
    assert counted.count(("FF++_c23", 0)) == 4
    assert counted.count(("Celeb-DF-v2", 0)) == 2 * 6
    assert counted.count(("FF++_c23", 1)) + counted.count(("Celeb-DF-v2", 1)) == 3
    assert [v.dataset for v in val] == ["FF++_c23"] * 2 + ["Celeb-DF-v2"] * 4
    assert {name: len(videos) for name, videos in test.items()} == {"FF++_c23": 2, "Celeb-DF-v2": 4}


def test_datasets_of_a_union_may_share_folders_with_one_label(tiny: Path) -> None:
    shutil.copytree(tiny / "labels/tiny", tiny / "labels/again")
    where = tiny / "labels", tiny / "faces", "1"
    train, _, _ = read_datasets(["tiny", "again"], *where)
    assert len(train) == 8
    shared = (tiny / "labels/tiny/train_real.txt").read_text().replace("0,", "1,", 1)
    (tiny / "labels/again/train_fake.txt").write_text(shared.splitlines()[0])
    (tiny / "labels/again/train_real.txt").write_text("0,tiny/train/real/001,3")
    with pytest.raises(InputError, match="tiny/train_real.txt.*again/train_fake.txt"):
        read_datasets(["tiny", "again"], *where)


def test_images_are_rgb(tmp_path: Path) -> None:
    bgr = np.zeros((8, 8, 3), np.uint8)
    bgr[:, :, 2] = 200
    cv2.imwrite(str(tmp_path / "red.png"), bgr)
    assert read_image(tmp_path / "red.png")[0, 0].tolist() == [200, 0, 0]


def test_16_bit_image_is_converted_to_8_bits(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "deep.png"), np.array([[0, 257, 128 * 257, 65535]], np.uint16))
    image = read_image(tmp_path / "deep.png")
    assert image[0, :, 0].tolist() == image[0, :, 2].tolist() == [0, 1, 128, 255]


def test_normalise() -> None:
    images = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    assert IMAGENET_MEAN == (0.485, 0.456, 0.406)
    assert IMAGENET_STD == (0.229, 0.224, 0.225)
    assert normalise(images).flatten().numpy() == pytest.approx((np.array([1, 0, 0.2]) - mean) / std, rel=1e-5)
    # The authors' channel order BGR, with the RGB mean.
    assert normalise(images, "BGR").flatten().numpy() == pytest.approx((np.array([0.2, 0, 1]) - mean) / std, rel=1e-5)


def test_augmentation_depends_only_on_seed_epoch_and_position(tiny: Path) -> None:
    def images(seed: int, epoch: int, workers: int) -> torch.Tensor:
        faces = FaceImages(read(tiny), 32, seed)
        batches = TrainingBatches(len(faces), 5, seed=0, world=World("cpu"))
        batches.epoch = epoch
        loaded = list(make_loader(faces, 5, workers, World("cpu"), batches))
        order = torch.cat([batch.positions for batch in loaded]).argsort()
        return torch.cat([batch.images for batch in loaded])[order]

    first = images(0, 1, workers=0)
    assert torch.equal(first, images(0, 1, workers=2))
    assert not torch.equal(first, images(0, 2, workers=0))
    assert not torch.equal(first, images(1, 1, workers=0))
    assert torch.equal(FaceImages(read(tiny), 32, 0)[1, 7][0], first[7])


def test_repeated_videos_get_different_augmentation(tiny: Path) -> None:
    faces = FaceImages(read(tiny)[:1] * 3, 32, seed=0)
    assert not torch.equal(faces[0][0], faces[3][0])
    assert faces.path(0) == faces.path(3) == "tiny/train/real/000/0000.png"


def test_validation_images_are_only_resized(tiny: Path) -> None:
    faces = FaceImages(read(tiny, "val"), 20)
    image = cv2.imread(str(tiny / "faces/tiny/val/real/000/0000.png"))[:, :, ::-1]
    assert np.array_equal(faces[0][0].permute(1, 2, 0).numpy(), cv2.resize(image, (20, 20)))
    assert resize(image, 20).shape == (20, 20, 3)


def test_augmentation_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [(probability, [transform.__name__ for transform in choice]) for probability, choice in AUGMENTATION]
    assert steps == [
        (0.5, ["compress"]),
        (0.1, ["add_noise"]),
        (0.05, ["blur"]),
        (0.5, ["flip"]),
        (0.7, ["change_brightness", "shift_pca", "shift_hsv"]),
        (0.2, ["to_grey"]),
        (0.5, ["shift_scale_rotate"]),
    ]

    applied: list[str] = []

    def recorder(name: str) -> Callable[..., np.ndarray]:
        return lambda image, rng: (applied.append(name), image)[1]  # type: ignore[func-returns-value]

    recorders = tuple((p, tuple(recorder(name) for name in names)) for p, names in steps)
    monkeypatch.setattr(augmentation, "AUGMENTATION", recorders)
    rng, draws = np.random.default_rng(0), 5000
    for _ in range(draws):
        augment(picture(), rng)
    for probability, names in steps:
        for name in names:
            assert applied.count(name) / draws == pytest.approx(probability / len(names), abs=0.02)


@pytest.mark.parametrize("name", AUTHORS)
def test_strengths_equal_albumentations_1_3_1(name: str) -> None:
    image, rng, transform = picture(), np.random.default_rng(0), getattr(augmentation, name)
    changes = [np.abs(transform(image, rng).astype(float) - image).mean() for _ in range(3000)]
    assert np.mean(changes) == pytest.approx(AUTHORS[name], rel=0.03)


class Extreme:
    """A generator that draws the lowest (0) or the highest (1) value."""

    def __init__(self, end: int) -> None:
        self.end = end

    def uniform(self, *limits: float) -> float:
        return limits[self.end]


@pytest.mark.parametrize(("end", "angle", "scale", "shift"), [(0, -10, 0.8, -0.1), (1, 10, 1.2, 0.1)])
def test_affine_ranges(end: int, angle: float, scale: float, shift: float) -> None:
    image = np.zeros((101, 101, 3), np.uint8)
    image[48:53, 68:73] = 200  # 20 pixels right of the centre
    moved = augmentation.shift_scale_rotate(image, Extreme(end))  # type: ignore[arg-type]
    y, x = np.nonzero(moved[..., 0] > 100)
    direction = np.array([np.cos(np.radians(angle)), -np.sin(np.radians(angle))])  # anticlockwise, y points down
    assert (x.mean(), y.mean()) == pytest.approx(50 + 101 * shift + 20 * scale * direction, abs=0.5)
    white = augmentation.shift_scale_rotate(np.full_like(image, 255), Extreme(0))  # type: ignore[arg-type]
    assert white[-1, -1].tolist() == [0, 0, 0]


def test_pca_moves_colours_along_the_principal_component() -> None:
    rng = np.random.default_rng(0)
    image = (rng.integers(0, 2, (64, 64, 1)) * [160, 80, 40] + [40, 80, 100]).astype(np.uint8)
    component, value = np.array([4, 2, 1]) / 21**0.5, (160**2 + 80**2 + 40**2) / 255**2 / 4  # p (1 - p) = 1 / 4
    shifts = np.array([(augmentation.shift_pca(image, rng) - image.astype(float)).mean((0, 1)) for _ in range(2000)])
    assert (shifts @ component).std() == pytest.approx(255 * 0.1 * value, rel=0.05)  # alpha ~ N(0, 0.1)
    assert np.abs(shifts - np.outer(shifts @ component, component)).max() < 1  # rounded down


def test_augmentation_does_not_change_its_input() -> None:
    image, rng = picture(), np.random.default_rng(0)
    image.setflags(write=False)  # as in a pack
    for name in (*AUTHORS, "flip"):
        before = image.copy()
        getattr(augmentation, name)(image, rng)
        assert np.array_equal(image, before)


def test_validation_videos_of_two_datasets_stay_apart(tmp_path: Path) -> None:
    """Two datasets may use one name for different videos, and share a folder of real images."""
    folders = {"a": tmp_path / "a", "b": tmp_path / "b"}
    videos = [Video(name, "real/1", 0, folder, ("0.png",)) for name, folder in folders.items()]
    videos += [Video(name, "shared", 0, tmp_path / "shared", ("0.png",)) for name in folders]
    scored, _ = collect_scores(FaceImages(videos, 8), np.arange(4), np.array([0.1, 0.9, 0.5, 0.5]), tmp_path)
    assert scored.videos.tolist() == scored.folders.tolist() == [0, 1, 2, 2]
    alone, _ = collect_scores(FaceImages(videos[:1], 8), np.arange(1), np.array([0.1]), tmp_path)
    assert alone.video_names == ["real/1"]


def test_malformed_sources_are_found_before_a_run(tiny: Path) -> None:
    (tiny / "labels/tiny/sources.csv").write_text("path,video\n")
    with pytest.raises(InputError, match="sources.csv"):
        read_split("tiny", "val", tiny / "labels", tiny / "faces")
