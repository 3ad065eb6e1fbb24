"""preprocessing.py on small videos of synthetic faces."""

import json
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from fractions import Fraction
from functools import cache
from importlib.util import find_spec
from itertools import count, cycle, islice, product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

import preprocessing
import training
from corpora.label_files import SHEET_COLUMNS, SHEET_SIDE, write_contact_sheet
from corpora.layouts import SourceVideo, find_videos
from datasets.labels import CLASSES, SPLITS, Video, read_split
from datasets.sources import read_sources
from demo.dataset import draw_video, plan
from faces import detectors
from faces.detectors import Detections
from faces.extraction import Outcome, Source, StageTimes, extract_faces, is_done
from faces.recipe import Recipe, claim_folder
from faces.videos import FrameReader
from tests.helpers import ROOT, TINY, start_fork
from tests.test_faces import VIDEOS, WEIGHTS, needs_videos, needs_weights
from tests.test_layouts import NEWER, make_layout
from utils.errors import InputError
from utils.files import create_part, remove_stale_parts

needs_submitit = pytest.mark.skipif(find_spec("submitit") is None, reason="submitit is not installed")
FACE = 96  # pixels
WIDTH, HEIGHT = 200, 140


@cache
def faces(person: int) -> tuple[np.ndarray, ...]:
    """Three synthetic face crops of one person, FACE x FACE x 3, BGR."""
    video = plan(0, (4, 2, 2), 2)[person]
    return tuple(frame.before[..., ::-1].copy() for frame in draw_video(video, 0, FACE, 3)[0])


def picture(frame: int, *people: int, left: int = 20) -> np.ndarray:
    """A frame with the people next to each other on a grey background."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for place, person in enumerate(people):
        x = left + place * (FACE + 4)
        image[20 : 20 + FACE, x : x + FACE] = faces(person)[frame % 3][:, : WIDTH - x]
    return image


def write_video(file: Path, frames: int = 6, people: tuple[int, ...] = (0,)) -> Path:
    return write_frames(file, (picture(frame, *people) for frame in range(frames)))


def write_frames(file: Path, frames: Iterable[np.ndarray]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    plain = file.with_name("plain.mp4")  # OpenCV cannot write to every name
    writer = cv2.VideoWriter(str(plain), cv2.VideoWriter_fourcc(*"mp4v"), 25, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    os.replace(plain, file)
    return file


def fixed_detector(frames: np.ndarray) -> list[Detections]:
    """A detector that returns the place where `picture` puts the face."""
    box = np.array([[20, 20, 20 + FACE, 20 + FACE]], np.float32)
    return [Detections(box, np.ones(1, np.float32)) for _ in frames]


BOXES = np.array([[120, 40, 180, 100], [10, 10, 90, 130]], np.float32)  # the larger face is not the first


def two_faces(frames: np.ndarray) -> list[Detections]:
    """A detector that returns the places where `two_person_clip` has its faces."""
    return [Detections(BOXES, np.ones(2, np.float32)) for _ in frames]


def no_face(frames: np.ndarray) -> list[Detections]:
    """A detector that finds nothing."""
    return [Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32)) for _ in frames]


def quick_detector(frames: np.ndarray) -> list[Detections]:
    """Find the face of `picture`, unless the frame is plain there; MTCNN takes a hundred times as long."""
    faces = [frame[20 : 20 + FACE, 20 : 20 + FACE] for frame in frames]
    return [(fixed_detector if face.std() > 10 else no_face)(face[None])[0] for face in faces]


def load_quick_detector(name: str, weights: Path | None, device: torch.device) -> tuple[Any, dict[str, Any]]:
    """Load `quick_detector` in place of MTCNN."""
    if name == "mtcnn" and weights is None:
        return quick_detector, {"detector": name, "weights": None}
    return detectors.load_face_detector(name, weights, device)


@pytest.fixture
def mtcnn() -> None:
    """Keep MTCNN, which the command line of `arguments` names."""


@pytest.fixture(autouse=True)
def without_mtcnn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace MTCNN in tests without the fixture `mtcnn`."""
    if "mtcnn" not in request.fixturenames:
        monkeypatch.setattr(preprocessing, "load_face_detector", load_quick_detector)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 6 frames with one face."""
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture(scope="session")
def two_person_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 2 frames with two faces at `BOXES`."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for person, (left, top, right, bottom) in enumerate(BOXES.astype(int)):
        image[top:bottom, left:right] = cv2.resize(faces(person)[0], (right - left, bottom - top))
    return write_frames(tmp_path_factory.mktemp("two people") / "clip.mp4", [image] * 2)


def folder_dataset(root: Path, clip: Path, videos: int = 2) -> Path:
    """Write `videos` copies of the clip for each split and class below ``root/videos``."""
    for split in SPLITS:
        for kind in ("real", "fake"):
            for number in range(videos):
                target = root / "videos" / split / kind / f"{number}.mp4"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(clip, target)
    return root


@pytest.fixture
def dataset(tmp_path: Path, clip: Path) -> Path:
    return folder_dataset(tmp_path / "a folder, größer", clip)


def arguments(root: Path, *more: str) -> list[str]:
    """The command line for ``root/videos``, with the detector that needs no weights file."""
    given = {"--dataset": "folder", "--videos": root / "videos", "--faces": root / "faces"}
    given |= {"--dataset_root": root / "labels", "--detector": "mtcnn", "--gpu_num": "cpu", "--num_workers": "0"}
    given |= dict(zip(more[::2], more[1::2], strict=True))
    return [str(part) for pair in given.items() for part in pair]


def tree(root: Path) -> dict[str, bytes]:
    """The content of every file below a folder, except the recipe, which contains the dataset's root."""
    files = (file for file in sorted(root.rglob("*")) if file.is_file() and file.name != "preprocessing.json")
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


def inodes_and_times(root: Path) -> dict[str, tuple[int, int]]:
    return {str(f): (f.stat().st_ino, f.stat().st_mtime_ns) for f in root.rglob("*") if f.is_file()}


def report(root: Path, name: str = "folder") -> dict:
    return json.loads((root / "labels" / name / "preprocessing_report.json").read_text())


def images(root: Path) -> list[str]:
    return sorted(str(f.relative_to(root / "faces")) for f in (root / "faces").rglob("*.png"))


# --------------------------------------------------------------------------------------------- from videos to training


@pytest.mark.slow
@pytest.mark.usefixtures("mtcnn")
def test_from_videos_to_a_trained_network(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("utils.progress.LINE_INTERVAL", 0)
    assert preprocessing.main(arguments(dataset)) == 0
    printed, bar = capsys.readouterr()
    assert re.search(r"12/12 videos \[.*videos/s, [\d.]+ frames/s\]", bar)
    following = ["python", "training.py", "--dataset", "folder", "--data_root", str(dataset / "faces")]
    assert f"next: {shlex.join([*following, '--dataset_root', str(dataset / 'labels')])}\n" in printed
    label_file = dataset / "labels/folder/val_fake.txt"
    assert label_file.read_text() == "1,folder/val/fake/0,2\n1,folder/val/fake/1,2\n"
    assert sorted(p.name for p in (dataset / "faces/folder/val/fake/0").iterdir()) == [
        "0000.png",
        "0005.png",
        "faces.json",
    ]
    where = ["--dataset", "folder", "--dataset_root", str(dataset / "labels"), "--data_root", str(dataset / "faces")]
    out = ["--save_path", str(dataset / "output"), "--epoch", "1"]
    assert training.main([*TINY.split(), *where, *out]) == 0


@pytest.mark.slow
def test_a_second_run_writes_nothing(dataset: Path) -> None:
    assert preprocessing.main(arguments(dataset, "--contact_sheet", "True")) == 0
    before = inodes_and_times(dataset)
    assert preprocessing.main(arguments(dataset)) == 0
    assert inodes_and_times(dataset) == before


def copy_clip(clip: Path, root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, root / path)


def ffpp(clip: Path, root: Path) -> list[str]:
    for pair in ("071_054", "720_672", "953_974"):
        copy_clip(clip, root, f"original_sequences/youtube/c23/videos/{pair[:3]}.mp4")
        copy_clip(clip, root, f"manipulated_sequences/Deepfakes/c23/videos/{pair}.mp4")
    return [
        "train_real 0,FF++_c23/original_sequences/youtube/c23/071",
        "val_fake 1,FF++_c23/manipulated_sequences/Deepfakes/c23/720_672",
        "test_fake 1,FF++_c23/manipulated_sequences/Deepfakes/c23/953_974",
    ]


def deepfakedetection(clip: Path, root: Path) -> list[str]:
    real, fake = "original_sequences/actors/c23/videos", "manipulated_sequences/DeepFakeDetection/c23/videos"
    copy_clip(clip, root, *(f"{real}/{actor:02d}__kitchen.mp4" for actor in range(1, 29)))
    copy_clip(clip, root, *(f"{fake}/{actor:02d}_{actor + 1:02d}__kitchen__ABC.mp4" for actor in range(1, 28, 2)))
    return []


def celeb_df(clip: Path, root: Path) -> list[str]:
    copy_clip(clip, root, *(f"Celeb-real/id{i}_000{j}.mp4" for i in range(6) for j in range(2)))
    copy_clip(clip, root, *(f"Celeb-synthesis/id{i}_id{i + 1}_000{j}.mp4" for i in range(0, 6, 2) for j in range(2)))
    copy_clip(clip, root, *(f"YouTube-real/0000{i}.mp4" for i in range(4)))
    test = ["1 Celeb-real/id1_0001.mp4", "1 YouTube-real/00002.mp4", "0 Celeb-synthesis/id0_id1_0000.mp4"]
    (root / "List_of_testing_videos.txt").write_text("\n".join(test) + "\n")
    return [
        "test_real 0,Celeb-DF-v2/Celeb-real/id1_0001",
        "test_real 0,Celeb-DF-v2/YouTube-real/00002",
        "test_fake 1,Celeb-DF-v2/Celeb-synthesis/id0_id1_0000",
    ]


def dfdc_preview(clip: Path, root: Path) -> list[str]:
    entries = {}
    for number, split in enumerate(["train"] * 6 + ["test"] * 2):
        for kind, folder in (("real", "original_videos"), ("fake", "method_A")):
            path = f"{folder}/{number}/{number}.mp4"
            copy_clip(clip, root, path)
            entries[path] = {"label": kind, "set": split, "target_id": number, "swapped_id": number}
    (root / "dataset.json").write_text(json.dumps(entries))
    return ["test_real 0,DFDC-Preview/original_videos/6/6", "test_fake 1,DFDC-Preview/method_A/7/7"]


def dfdc(clip: Path, root: Path) -> list[str]:
    for part in (0, 1, 10):
        copy_clip(clip, root, f"dfdc_train_part_{part}/real{part}.mp4", f"dfdc_train_part_{part}/fake{part}.mp4")
        real = {"label": "REAL", "split": "train"}
        fake = {"label": "FAKE", "split": "train", "original": f"real{part}.mp4"}
        entries = {f"real{part}.mp4": real, f"fake{part}.mp4": fake}
        (root / f"dfdc_train_part_{part}/metadata.json").write_text(json.dumps(entries))
    copy_clip(clip, root, "test/videos/a.mp4", "test/videos/b.mp4")
    (root / "test/labels.csv").write_text("filename,label\na.mp4,1\nb.mp4,0\n")
    return [
        "train_real 0,DFDC/dfdc_train_part_1/real1",
        "val_fake 1,DFDC/dfdc_train_part_10/fake10",
        "test_fake 1,DFDC/test/videos/a",
        "test_real 0,DFDC/test/videos/b",
    ]


def tree_of_folders(clip: Path, root: Path) -> list[str]:
    copy_clip(clip, root, *(f"{kind}/{i}.mp4" for kind in ("real", "fake") for i in range(6)))
    return []


LAYOUTS = {
    "FF++_c23": ffpp,
    "FF++_c23/Deepfakes": ffpp,
    "DeepFakeDetection": deepfakedetection,
    "Celeb-DF-v2": celeb_df,
    "Celeb-DF-v1": lambda clip, root: [line.replace("-v2", "-v1") for line in celeb_df(clip, root)],
    "DFDC-Preview": dfdc_preview,
    "DFDC": dfdc,
    "folder": tree_of_folders,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_label_files_that_can_be_read(
    name: str, tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocessing, "load_face_detector", lambda *_: (fixed_detector, {"detector": "fixed"}))
    expected = LAYOUTS[name](clip, tmp_path / "videos")
    assert preprocessing.main(arguments(tmp_path, "--dataset", name, "--frames", "2")) == 0
    label_folder = tmp_path / "labels" / name
    for line in expected:
        file, _, start = line.partition(" ")
        assert f"{start},2" in (label_folder / f"{file}.txt").read_text().splitlines()
    listed = [v.path for s in SPLITS for v in read_split(name, s, tmp_path / "labels", tmp_path / "faces")]
    found = sum(1 for _ in (tmp_path / "videos").rglob("*.mp4"))
    assert len(listed) == len(set(listed)) == found - len(report(tmp_path, name)["left_out"])
    check_all(name, tmp_path, monkeypatch)


def check_all(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Assert that --split all lists every video, and extracts only the videos without faces."""
    extracted = []
    monkeypatch.setattr(preprocessing, "extract_here", recording(preprocessing.extract_here, extracted))
    before = {file: file.stat().st_mtime_ns for file in (root / "faces").rglob("*.png")}
    left_out, found = len(report(root, name)["left_out"]), sum(1 for _ in (root / "videos").rglob("*.mp4"))
    assert preprocessing.main(arguments(root, "--dataset", name, "--frames", "2", "--split", "all")) == 0
    assert len(extracted) == left_out
    assert len(read_split(f"{name}_all", "test", root / "labels", root / "faces")) == found
    for split, kind in product(("train", "val"), CLASSES):
        assert (root / "labels" / f"{name}_all" / f"{split}_{kind}.txt").read_text() == ""
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert {folder.name for folder in (root / "faces").iterdir()} == {name.partition("/")[0]}


def recording(function: Callable[..., Any], sources: list[Source]) -> Callable[..., Any]:
    """Wrap extract_here so that it also adds its videos to `sources`."""

    def wrapped(found: list[Source], *args: Any) -> Any:
        sources.extend(found)
        return function(found, *args)

    return wrapped


@pytest.mark.parametrize("name", NEWER)
def test_newer_datasets_give_label_files_with_sources(
    name: str, tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames_only = name == "WildDeepfake"
    monkeypatch.setattr(
        preprocessing,
        "load_face_detector",
        lambda *_: pytest.fail("face crops need no detector") if frames_only else (fixed_detector, {"detector": "x"}),
    )

    def copy(file: Path) -> None:
        if frames_only:
            Image.new("RGB", (32, 32)).save(file, "PNG")
        else:
            shutil.copy(clip, file)

    make_layout(tmp_path / "videos", NEWER[name], copy)
    contact_sheet = ("--contact_sheet", "True") if frames_only else ()
    assert preprocessing.main(arguments(tmp_path, "--dataset", name, "--frames", "1", *contact_sheet)) == 0
    used = [v for v in find_videos(name, tmp_path / "videos", name) if v.split and v.file.exists()]
    splits = {v.split for v in used}
    listed = [v for s in splits for v in read_split(name, s, tmp_path / "labels", tmp_path / "faces")]
    assert {v.path for v in listed} == {v.folder for v in used} and len(listed) == len(used) >= 5
    origins = read_sources(tmp_path / "labels" / name / "sources.csv")
    assert {v.folder: v.sources for v in used} == {path: origin.sources for path, origin in origins.items()}
    assert report(tmp_path, name)["masks"] == ({"with one face": 1} if name == "FFIW-10K" else {})
    if frames_only:
        assert not images(tmp_path) and {len(list(Path(v.path).glob("[!.]*"))) for v in listed} == {1, 2}


@pytest.mark.parametrize("name", [name for name in (*LAYOUTS, *NEWER) if name not in ("FF++_c23", "WildDeepfake")])
def test_every_layout_with_missing_and_renamed_videos_of_two_people(
    name: str, tmp_path: Path, two_person_clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(preprocessing, "load_face_detector", lambda *_: (two_faces, {"detector": "fixed"}))
    root, base = tmp_path / "videos", name.partition("/")[0]
    if name in LAYOUTS:
        LAYOUTS[name](two_person_clip, root)
    else:
        make_layout(root, NEWER[name], lambda file: shutil.copy(two_person_clip, file))
    lost, *others = sorted(video.file for video in find_videos(name, root, base) if video.file.exists())
    lost.unlink()
    endings = cycle((".MP4", ".avi", ".mp4"))
    renamed = {file.rename(file.with_suffix(ending)) for file, ending in zip(others, endings, strict=False)}
    assert preprocessing.main(arguments(tmp_path, "--dataset", name, "--frames", "1", "--crop_size", "64")) == 0
    videos = find_videos(name, root, base)
    assert {video.file for video in videos if video.file.exists()} == renamed
    missing = sum(1 for video in videos if video.split and not video.file.exists())
    assert report(tmp_path, name)["causes"] == ({"missing": missing} if missing else {})
    assert (f"without faces: {missing} missing\n" in capsys.readouterr().out) == (missing > 0)
    folders = [video.folder for video in videos if video.split and video.file.exists()]
    labels = (line for file in (tmp_path / "labels" / name).glob("*.txt") for line in file.read_text().splitlines())
    assert sorted(line[2:] for line in labels) == sorted(f"{folder},1" for folder in folders)
    assert all(cropped_box(tmp_path / "faces" / folder) == BOXES[1].tolist() for folder in folders)


def cropped_box(folder: Path) -> list[float]:
    """The box of the first image in a folder of face crops."""
    return json.loads((folder / "faces.json").read_text())["faces"][0][0]["box"]


def write_mask(file: Path, brightness: int = 255) -> None:
    """Write a manipulation mask for the smaller face of `BOXES`."""
    mask = np.full((HEIGHT, WIDTH, 3), 8, np.uint8)  # compression leaves noise
    mask[50:90, 130:170] = brightness
    write_frames(file, [mask] * 6)


def test_deepfakedetection_crops_the_manipulated_face(
    tmp_path: Path, two_person_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mask of the first fake video shows the smaller face; the second fake video has no mask."""
    monkeypatch.setattr(preprocessing, "load_face_detector", lambda *_: (two_faces, {"detector": "fixed"}))
    real, fake = "original_sequences/actors/c23", "manipulated_sequences/DeepFakeDetection/c23"
    names = [f"{real}/videos/01__walk", f"{fake}/videos/01_02__walk__A", f"{fake}/videos/01_03__walk__A"]
    copy_clip(two_person_clip, tmp_path / "videos", *(f"{name}.mp4" for name in names))
    write_mask(tmp_path / "videos/manipulated_sequences/DeepFakeDetection/masks/videos/01_02__walk__A.mp4")
    assert preprocessing.main(arguments(tmp_path, "--dataset", "DeepFakeDetection", "--split", "all")) == 0
    folders = [tmp_path / "faces/DeepFakeDetection" / name.replace("/videos", "") for name in names]
    assert [cropped_box(folder) for folder in folders] == BOXES[[1, 0, 1]].tolist()
    larger, smaller, other = ((folder / "0000.png").read_bytes() for folder in folders)
    assert larger == other != smaller
    assert report(tmp_path, "DeepFakeDetection_all")["masks"] == {"chose among several faces": 1}


@pytest.mark.parametrize("mask", ["right", "dark", "broken", None])
def test_the_face_that_meets_the_mask_is_cropped(mask: str | None, tmp_path: Path, clip: Path) -> None:
    """The left face is larger, the right one is manipulated."""

    def run() -> dict[str, Any]:
        times = StageTimes()
        list(extract_faces([source], Recipe(2, None, 1.3, 64, False), two_faces, 8, 0, times))
        assert is_done(source)
        return json.loads((source.folder / "faces.json").read_text())

    source = Source(clip, tmp_path / "faces/clip", tmp_path / "mask.mp4")
    before = run()
    assert before["faces"][0][0]["box"][0] == 10 and "mask" not in before
    if mask is None:
        return
    if mask == "broken":
        source.mask.write_bytes(b"no video")
    else:
        write_mask(source.mask, 8 if mask == "dark" else 255)
    assert not is_done(source), "the face was chosen without the mask"
    record = run()
    assert record["faces"][0][0]["box"][0] == (120 if mask == "right" else 10)
    states = {"right": "chose among several faces", "dark": "without a face", "broken": "unreadable"}
    assert record["mask"] == states[mask]


def extract(root: Path, workers: int = 0, batch_size: int = 8) -> Generator[Outcome, None, None]:
    """Extract the faces of ``root/videos`` with `fixed_detector`."""
    files = sorted((root / "videos").rglob("*.mp4"))
    found = [Source(file, root / "faces" / file.relative_to(root / "videos").with_suffix("")) for file in files]
    return extract_faces(found, Recipe(), fixed_detector, batch_size, workers, StageTimes())


# ------------------------------------------------------------------------------------------------------------- frames


def numbered_video(file: Path, frames: int) -> Path:
    """A video of plain frames, each 3 grey levels brighter than the frame before."""
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), 25, (64, 64))
    for frame in range(frames):
        writer.write(np.full((64, 64, 3), 20 + 3 * frame, np.uint8))
    writer.release()
    return file


@pytest.mark.parametrize("total, taken", [(1, 1), (5, 1), (6, 2), (63, 13), (68, 14)])
def test_one_frame_in_five_from_frame_0(tmp_path: Path, total: int, taken: int) -> None:
    reader = FrameReader(numbered_video(tmp_path / "a.mp4", total), every=5)
    frames = dict(reader)
    assert list(frames) == list(range(0, total, 5)) and len(frames) == taken
    assert (reader.frames_read, reader.declared_frames) == (total, total)
    for position, frame in frames.items():
        assert abs(float(frame.mean()) - float(frames[0].mean()) - 3 * position) < 1.5


def test_only_the_wanted_frames_are_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = FrameReader(numbered_video(tmp_path / "a.mp4", 12), every=5)
    capture, calls = reader._capture, []

    class Counted:
        def __getattr__(self, name: str) -> Callable:
            calls.append(name)
            return getattr(capture, name)

    monkeypatch.setattr(reader, "_capture", Counted())
    assert len(list(reader)) == 3
    assert calls.count("retrieve") == 3 and calls.count("grab") == 13  # the last grab finds the end


@pytest.mark.parametrize("total, count, expected", [(61, 4, [0, 20, 40, 60]), (10, 1, [0]), (3, 32, [0, 1, 2])])
def test_frames_evenly_spaced(tmp_path: Path, total: int, count: int, expected: list[int]) -> None:
    reader = FrameReader(numbered_video(tmp_path / "a.mp4", total), count=count)
    assert [position for position, _ in reader] == expected


def test_evenly_spaced_frames_without_a_declared_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = FrameReader(numbered_video(tmp_path / "a.mp4", 61), count=4)
    reader.declared_frames = 0
    assert [position for position, _ in reader] == [0, 20, 40, 60]


READ_THREE_FRAMES = """
import pathlib, sys
from faces import videos
videos.OPENING_BYTES = 1 << 26
reader = videos.FrameReader(pathlib.Path(sys.argv[1]), count=3)
reader.declared_frames = 0
print(*(position for position, _ in reader))
"""


def test_frames_are_counted_within_the_memory_that_reading_them_gets(tmp_path: Path) -> None:
    """Six small frames, then six of 64 megapixels; in a new process, which has no free memory."""
    av = pytest.importorskip("av")
    small, large = (cv2.imencode(".jpg", np.zeros((side, side, 3), np.uint8))[1].tobytes() for side in (64, 8000))
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25, width=64, height=64, pix_fmt="yuvj420p")
        for number in range(12):
            packet = av.Packet(small if number < 6 else large)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 25)
            container.mux(packet)
    command = [sys.executable, "-c", READ_THREE_FRAMES, str(tmp_path / "a.mkv")]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout == "0 2 5\n"


@pytest.mark.parametrize("ending", ["mkv", "webm", "mp4"])
def test_evenly_spaced_frames_with_a_variable_rate(tmp_path: Path, ending: str) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / f"a.{ending}"), "w") as container:
        codec = "libvpx" if ending == "webm" else "libx264"
        stream = container.add_stream(codec, rate=25, width=64, height=64, pix_fmt="yuv420p")
        stream.codec_context.time_base = Fraction(1, 100)
        for number in range(61):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 4 * number, np.uint8), format="bgr24")
            frame.pts, frame.time_base = 4 * number if number < 30 else 40 * (number - 27), Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    reader = FrameReader(tmp_path / f"a.{ending}", count=4)
    declared = reader.declared_frames
    assert declared == 61 if ending == "mp4" else declared > 300  # Matroska: as if the rate were constant
    assert [position for position, _ in reader] == [0, 20, 40, 60]


# ----------------------------------------------------------------------------------------------------- wrong input


def test_unusable_videos_are_listed_and_skipped(dataset: Path, capsys: pytest.CaptureFixture) -> None:
    train = dataset / "videos/train/real"
    (train / "broken.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(2000))
    (train / "empty.mp4").write_bytes(b"")
    (train / "text.avi").write_text("no video")
    (train / "folder.mp4").mkdir()
    write_video(train / "faceless.mp4", people=())
    cut = write_video(train / "cut.avi", frames=60)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    assert preprocessing.main(arguments(dataset)) == 0
    causes = {Path(problem["video"]).name: problem["cause"] for problem in report(dataset)["problems"]}
    assert causes.pop("faceless.mp4") == "no face in 2 frames"
    assert "empty" in causes.pop("empty.mp4")
    assert {"broken.mp4", "text.avi"} <= set(causes) and all(c.startswith("unreadable: ") for c in causes.values())
    assert report(dataset)["causes"] == {"unreadable": len(causes) + 1, "no face": 1}
    assert "without faces:" in capsys.readouterr().out
    assert "faceless" not in (dataset / "labels/folder/train_real.txt").read_text()
    assert not list((dataset / "faces").rglob(".*"))


@pytest.mark.slow
def test_a_video_that_ends_early_is_used_and_reported(dataset: Path) -> None:
    clip = dataset / "videos/train/real/long.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 25, (WIDTH, HEIGHT))
    for frame in range(60):
        writer.write(picture(frame, 0))
    writer.release()
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    assert preprocessing.main(arguments(dataset)) == 0
    (entry,) = report(dataset)["cut_short"]
    assert entry["frames_told"] == 60 and 20 < entry["frames_read"] < 40
    assert f"real/long,{-(-entry['frames_read'] // 5)}\n" in (dataset / "labels/folder/train_real.txt").read_text()


@pytest.mark.slow
def test_a_bad_video_is_retried_after_it_was_replaced(dataset: Path, clip: Path) -> None:
    video = dataset / "videos/train/real/new.mp4"
    video.write_bytes(b"half a download")
    assert preprocessing.main(arguments(dataset)) == 0
    before = inodes_and_times(dataset)
    assert preprocessing.main(arguments(dataset)) == 0
    assert inodes_and_times(dataset) == before
    shutil.copy(clip, video)
    assert preprocessing.main(arguments(dataset)) == 0
    assert "train/real/new,2" in (dataset / "labels/folder/train_real.txt").read_text()
    assert not list((dataset / "faces").rglob("*.failed.json"))


def test_a_failed_video_does_not_change_the_split_of_the_others(tmp_path: Path, clip: Path) -> None:
    for root in (tmp_path / "good", tmp_path / "bad"):
        tree_of_folders(clip, root / "videos")
    (tmp_path / "bad/videos/real/3.mp4").write_bytes(b"no video")
    write_video(tmp_path / "bad/videos/fake/4.mp4", people=())
    lines = []
    for root in (tmp_path / "good", tmp_path / "bad"):
        assert preprocessing.main(arguments(root)) == 0
        files = (root / "labels/folder").glob("*.txt")
        lines.append({f"{file.name} {line}" for file in files for line in file.read_text().splitlines()})
    good, bad = lines
    lost = {line.rpartition("folder/")[2] for line in good - bad}
    assert bad < good and lost == {"real/3,2", "fake/4,2"}


# ------------------------------------------------------------------------------------------------------ photos


def write_photos(root: Path, count: int = 6) -> None:
    for kind in CLASSES:
        for number in range(count):
            file = root / "videos" / kind / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(number, 0)[..., ::-1]).save(file, quality=95)


@pytest.mark.slow
def test_photos_can_be_trained_on(tmp_path: Path) -> None:
    write_photos(tmp_path)
    assert preprocessing.main(arguments(tmp_path, "--all_faces", "True")) == 0
    counts = {name: count["images"] for name, count in report(tmp_path)["label_files"].items()}
    assert sum(counts.values()) == 12 and all(counts.values())
    assert len(images(tmp_path)) == 12 and images(tmp_path)[0] == "folder/fake/0/0/0000.png"
    where = ["--dataset_root", str(tmp_path / "labels"), "--data_root", str(tmp_path / "faces")]
    out = ["--dataset", "folder", "--save_path", str(tmp_path / "output"), "--epoch", "1"]
    assert training.main([*TINY.split(), *where, *out]) == 0
    results = json.loads((tmp_path / "output/train_model/results.json").read_text())["datasets"]["folder"]
    assert results["frames"] == results["videos"] == counts["test_real.txt"] + counts["test_fake.txt"]


def test_a_photo_gives_one_crop_and_a_bad_one_a_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "load_face_detector", lambda *_: (fixed_detector, {"detector": "fixed"}))
    write_photos(tmp_path)
    rotated = Image.fromarray(np.rot90(picture(0, 0)[..., ::-1]).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    rotated.save(tmp_path / "videos/real/turned.png", exif=exif)
    Image.fromarray(picture(0, 0)[..., ::-1]).save(tmp_path / "videos/real/straight.png")
    cut = (tmp_path / "videos/real/straight.png").read_bytes()[:3000]
    (tmp_path / "videos/real/cut.png").write_bytes(cut)
    assert preprocessing.main(arguments(tmp_path)) == 0
    turned, straight = (tmp_path / f"faces/folder/real/{name}" for name in ("turned", "straight"))
    assert (turned / "0000.png").read_bytes() == (straight / "0000.png").read_bytes()
    assert len(json.loads((straight / "faces.json").read_text())["faces"][0]) == 1
    (problem,) = report(tmp_path)["problems"]
    assert problem["video"].endswith("cut.png") and "truncated" in problem["cause"]


@pytest.mark.usefixtures("mtcnn")
def test_no_video_with_a_face(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for kind in ("real", "fake"):
        write_video(tmp_path / "videos" / kind / "a.mp4", people=())
    assert preprocessing.main(arguments(tmp_path)) == 2
    assert "preprocessing_report.json" in capsys.readouterr().err
    assert report(tmp_path)["causes"] == {"no face": 2}
    assert not list((tmp_path / "labels").rglob("*.txt"))


@pytest.mark.slow
def test_names_with_spaces_commas_and_other_letters(dataset: Path, clip: Path) -> None:
    names = ["with spaces", "größe 顔", "a,b", " ends with a space ", "percent%2C", "new\nline", "colon:x"]
    for name in names:
        copy_clip(clip, dataset, f"videos/train/real/{name}.mp4")
    copy_clip(
        clip, dataset, "videos/train/real/twice.mp4", "videos/train/real/twice.avi", "videos/train/real/twice/in.mp4"
    )
    odd = os.fsencode(dataset) + b"/videos/train/real/latin-\xe9.mp4"
    shutil.copy(clip, odd)
    assert preprocessing.main(arguments(dataset)) == 0
    read = read_split("folder", "train", dataset / "labels", dataset / "faces")
    assert len(read) == 2 + 2 + len(names) + 3
    assert all(len(video.images) == 2 for video in read)
    paths = [video.path for video in read]
    (problem,) = report(dataset)["problems"]
    assert "UTF-8" in problem["cause"]
    assert {"folder/train/real/größe 顔", "folder/train/real/a%2Cb"} <= set(paths)


@pytest.mark.parametrize(
    "more, sentence",
    [
        (["--dataset", "FF++_c23"], "looked for original_sequences/youtube/c23/videos"),
        (["--dataset", "FF+_c23"], "'FF++_c23'"),
        (["--dataset", "FF++_c23/Deepfake"], "'Deepfakes'"),
        (["--dataset", "Celeb-DF-v2"], "List_of_testing_videos.txt"),
        (["--dataset", "DFDC"], "dfdc_train_part_0"),
        (["--dataset", "DFDC-Preview"], "dataset.json"),
        (["--dataset", "DeepFakeDetection"], "original_sequences/actors/c23/videos"),
        (["--videos", "/nowhere"], "--videos /nowhere does not exist; give the folder of your videos"),
        (["--every", "5", "--frames", "8"], "--frames 8"),
        (["--every", "0"], "--every: '0'"),
        (["--margin", "0"], "--margin: '0'"),
        (["--num_shards", "2", "--shard", "2"], "--shard 2"),
        (["--num_shards", "2", "--jobs", "2"], "--num_shards"),
        (["--shard", "0", "--jobs", "2"], "--shard"),
        (["--num_shards", "2"], "--shard 0"),
        (["--nodes", "2"], "--nodes"),
        (["--submit", "slurm", "--jobs", "2"], "--nodes"),
        (["--submit", "slurm", "--slurm", "x"], "--slurm: 'x'"),
        (["--detector", "haar"], "--detector: unknown value 'haar'"),
        (["--all_faces", "yes"], "--all_faces: 'yes'"),
        (["--name", "a/b"], "--name: 'a/b'"),
        (["--gpu_num", "7"], "--gpu_num"),
        (["--crop", "7"], "'--crop_size'"),
        (["--detector_weights", "x.pth"], "--detector_weights"),
        (["--detector", "retinaface", "--detector_weights", "x.pth"], "x.pth"),
    ],
)
def test_wrong_arguments_print_one_sentence_and_write_nothing(
    dataset: Path, more: list[str], sentence: str, capsys: pytest.CaptureFixture
) -> None:
    assert preprocessing.main(arguments(dataset, *more)) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.strip().splitlines()) == 1
    assert not (dataset / "faces").exists() and not (dataset / "labels").exists()


def test_faces_of_another_recipe_are_refused(dataset: Path, capsys: pytest.CaptureFixture) -> None:
    assert preprocessing.main(arguments(dataset)) == 0
    before = inodes_and_times(dataset)
    assert preprocessing.main(arguments(dataset, "--margin", "1.5")) == 2
    assert "margin 1.3, not 1.5" in capsys.readouterr().err
    assert inodes_and_times(dataset) == before


def test_a_recipe_with_another_entry_is_refused(tmp_path: Path) -> None:
    claim_folder(tmp_path / "faces", {"every": 5, "newer": 2})
    (tmp_path / "faces/train").mkdir()
    with pytest.raises(InputError, match="made with newer 2, not None;"):
        claim_folder(tmp_path / "faces", {"every": 5})


def test_folders_of_another_origin_are_refused(dataset: Path, capsys: pytest.CaptureFixture) -> None:
    (dataset / "faces/folder/mine").mkdir(parents=True)
    assert preprocessing.main(arguments(dataset)) == 2
    assert str(dataset / "faces/folder") in capsys.readouterr().err
    (dataset / "labels/own").mkdir(parents=True)
    (dataset / "labels/own/train_real.txt").write_text("0,x,1\n")
    assert preprocessing.main(arguments(dataset, "--name", "own")) == 2
    assert "train_real.txt" in capsys.readouterr().err
    assert (dataset / "labels/own/train_real.txt").read_text() == "0,x,1\n"


@pytest.mark.usefixtures("mtcnn")
def test_mtcnn_without_facenet_pytorch(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    assert preprocessing.main(arguments(dataset)) == 2
    error = capsys.readouterr().err
    assert "--detector mtcnn" in error and "facenet-pytorch" in error


# ------------------------------------------------------------------------------------------------------- faces, crops


@pytest.fixture
def two_people(tmp_path: Path) -> Path:
    """A real and a fake video of 20 frames: one person in all frames, a smaller second person in the last 15."""
    for kind, (near, other) in (("real", (0, 2)), ("fake", (2, 0))):
        file = tmp_path / f"videos/train/{kind}/a.avi"
        file.parent.mkdir(parents=True)
        writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 25, (WIDTH + 40, HEIGHT))
        for frame in range(20):
            image = np.full((HEIGHT, WIDTH + 40, 3), 90, np.uint8)
            image[20 : 20 + FACE, 10 : 10 + FACE] = faces(near)[frame % 3]
            if frame >= 5:
                small = cv2.resize(faces(other)[frame % 3], (64, 64))
                image[30:94, 150:214] = small
            writer.write(image)
        writer.release()
    return tmp_path


@pytest.mark.usefixtures("mtcnn")
def test_the_main_face_has_the_largest_total_area(two_people: Path) -> None:
    assert preprocessing.main(arguments(two_people)) == 0
    record = json.loads((two_people / "faces/folder/train/real/a/faces.json").read_text())
    (track,) = record["faces"]
    assert [face["image"] for face in track] == ["0000.png", "0005.png", "0010.png", "0015.png"]
    assert all(face["box"][2] < 130 for face in track)


@pytest.mark.usefixtures("mtcnn")
def test_all_faces_have_their_own_folders(two_people: Path) -> None:
    assert preprocessing.main(arguments(two_people, "--all_faces", "True", "--contact_sheet", "True")) == 0
    origins = read_sources(two_people / "labels/folder/sources.csv")
    assert {path.rpartition("/")[0] for path in origins} == {origin.video for origin in origins.values()}
    assert all(len(origin.sources) == 1 for origin in origins.values()) and len(origins) > len({*origins.values()})
    lines = (two_people / "labels/folder/train_real.txt").read_text().splitlines()
    assert lines == ["0,folder/train/real/a/0,4", "0,folder/train/real/a/1,3"]
    videos = read_real_videos(two_people)
    assert [len(video.images) for video in videos] == [4, 3]
    assert Image.open(two_people / "labels/folder/contact_sheet.png").height == 4 * (SHEET_SIDE + 16)


def test_a_damaged_image_in_the_contact_sheet_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "0000.png")
    (tmp_path / "0000.png").write_bytes((tmp_path / "0000.png").read_bytes()[:-20])
    with pytest.raises(InputError, match="0000.png: image file is truncated"):
        write_contact_sheet([SourceVideo(tmp_path, str(tmp_path), 0, "test")], tmp_path, tmp_path / "sheet.png")


def read_real_videos(root: Path) -> list[Video]:
    (root / "labels/folder/test_fake.txt").write_text((root / "labels/folder/train_fake.txt").read_text())
    (root / "labels/folder/test_real.txt").write_text((root / "labels/folder/train_real.txt").read_text())
    return [v for v in read_split("folder", "test", root / "labels", root / "faces") if v.label == 0]


@pytest.mark.parametrize("size, side, upscaled", [("0", None, 0), ("64", 64, 0), ("256", 256, 24)])
def test_crop_size(dataset: Path, size: str, side: int | None, upscaled: int) -> None:
    assert preprocessing.main(arguments(dataset, "--crop_size", size, "--margin", "1.3")) == 0
    record = json.loads((dataset / "faces/folder/train/real/0/faces.json").read_text())
    left, top, right, bottom = record["faces"][0][0]["box"]
    found = round(1.3 * max(right - left, bottom - top))
    (width, height) = Image.open(dataset / "faces/folder/train/real/0/0000.png").size
    assert width == height == (side or width) and (side or abs(width - found) <= 3)
    assert report(dataset)["images_upscaled_more_than_twice"] == upscaled


@pytest.mark.slow
def test_contact_sheet_has_one_row_per_video(dataset: Path) -> None:
    assert preprocessing.main(arguments(dataset, "--contact_sheet", "True")) == 0
    sheet = np.asarray(Image.open(dataset / "labels/folder/contact_sheet.png"))
    band = 16
    assert sheet.shape == (12 * (SHEET_SIDE + band), SHEET_COLUMNS * SHEET_SIDE, 3)
    face = Image.open(dataset / "faces/folder/train/fake/0/0005.png").resize((SHEET_SIDE, SHEET_SIDE))
    rows = [sheet[i * (SHEET_SIDE + band) + band :][:SHEET_SIDE] for i in range(12)]
    assert any(np.array_equal(row[:, SHEET_SIDE : 2 * SHEET_SIDE], np.asarray(face)) for row in rows)
    assert all((row[:, 2 * SHEET_SIDE :] == 255).all() for row in rows)


def copy_start(source: Path, target: Path) -> None:
    """Copy a file; of a video, the first 30 frames, without decoding them."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix != ".mp4":
        shutil.copy(source, target)
        return
    av = pytest.importorskip("av")
    with av.open(str(source)) as whole, av.open(str(target), "w") as start:
        (video, *_) = whole.streams.video
        copy = start.add_stream_from_template(video)
        for packet in islice((packet for packet in whole.demux(video) if packet.dts is not None), 30):
            packet.stream = copy
            start.mux(packet)


@pytest.mark.slow
@needs_weights
@needs_videos
def test_real_videos_can_be_trained_on(tmp_path: Path) -> None:
    more = ["--dataset", "FF++_c23", "--detector", "retinaface", "--detector_weights", str(WEIGHTS), "--frames", "2"]
    for file in VIDEOS.rglob("*.*"):
        copy_start(file, tmp_path / "videos" / file.relative_to(VIDEOS))
    assert preprocessing.main(arguments(tmp_path, *more, "--videos", str(tmp_path / "videos/FF++"))) == 0
    assert report(tmp_path, "FF++_c23")["causes"] == {"missing": 4993}
    assert len(images(tmp_path)) == 14
    where = [
        "--dataset",
        "FF++_c23",
        "--dataset_root",
        str(tmp_path / "labels"),
        "--data_root",
        str(tmp_path / "faces"),
    ]
    out = ["--save_path", str(tmp_path / "output"), "--epoch", "1"]
    assert training.main([*TINY.split(), *where, *out]) == 0
    more[1] = "DFDC"
    assert preprocessing.main(arguments(tmp_path, *more, "--videos", str(tmp_path / "videos/DFDC"))) == 0
    assert (tmp_path / "labels/DFDC/train_fake.txt").read_text() == "1,DFDC/dfdc_train_part_0/brtujopkby,2\n"
    assert report(tmp_path, "DFDC")["causes"] == {"missing": 1}


# ------------------------------------------------------------------------------------------- interruptions and shards


def start_and_wait(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command on ``root/videos`` in another process until it waits with a part of slow.mp4 written."""
    calls = count(1)

    def part_is_written() -> bool:
        return any(root.glob("faces/folder/val/real/.slow.*.part/*/*.png"))

    def detect(frames: np.ndarray) -> list[Detections]:
        if len(frames) == 8 and next(calls) == 4:  # of slow.mp4; the other videos have two frames
            time.sleep(600)
        return quick_detector(frames)

    with monkeypatch.context() as patch:
        patch.setattr(preprocessing, "load_face_detector", lambda *_: (detect, {"detector": "mtcnn", "weights": None}))
        run = start_fork(preprocessing.main, arguments(root, "--num_workers", "1"))
    end = time.monotonic() + 600
    while not part_is_written():
        assert run.is_alive() and time.monotonic() < end
        time.sleep(0.02)
    return run


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> Path:
    """A dataset with slow.mp4, which needs several detector calls, and its faces."""
    root = folder_dataset(tmp_path_factory.mktemp("uninterrupted"), clip)
    write_video(root / "videos/val/real/slow.mp4", frames=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocessing, "load_face_detector", load_quick_detector)
        assert preprocessing.main(arguments(root)) == 0
    return root


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_continues(
    tmp_path: Path,
    uninterrupted: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    how: signal.Signals,
) -> None:
    shutil.copytree(uninterrupted / "videos", tmp_path / "videos")
    run = start_and_wait(tmp_path, monkeypatch)
    os.kill(run.pid, how)
    run.join()
    faces = tmp_path / "faces"
    finished = {file: stamp for file, stamp in inodes_and_times(faces).items() if ".slow." not in file}
    assert finished and not (faces / "folder/val/real/slow").exists() and not (tmp_path / "labels").exists()
    if how is not signal.SIGKILL:
        assert run.exitcode == 128 + how and not list(faces.rglob(".*"))
        assert "; run the same command again" in capfd.readouterr().err.splitlines()[-1]

    assert preprocessing.main(arguments(tmp_path)) == 0
    assert tree(faces) == tree(uninterrupted / "faces")
    after = inodes_and_times(faces)
    assert {file: after[file] for file in finished} == finished
    for name in ("train_real.txt", "val_real.txt", "test_fake.txt"):
        written, expected = (root / "labels/folder" / name for root in (tmp_path, uninterrupted))
        assert written.read_text() == expected.read_text()


def test_the_extraction_can_end_after_any_video(dataset: Path) -> None:
    with closing(extract(dataset)) as outcomes:
        assert next(outcomes).failure is None
    assert len(images(dataset)) == 2 and not list((dataset / "faces").rglob(".*"))


@pytest.mark.slow
def test_a_killed_decoding_process(
    tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    shutil.copytree(uninterrupted / "videos", tmp_path / "videos")
    run = start_and_wait(tmp_path, monkeypatch)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    (worker,) = (c for c in children if b"tracker" not in Path(f"/proc/{c}/cmdline").read_bytes())
    os.kill(int(worker), signal.SIGKILL)
    run.join()
    last_line = capfd.readouterr().err.splitlines()[-1]
    assert run.exitcode == 2 and "killed" in last_line and "--num_workers" in last_line
    assert not list((tmp_path / "faces").rglob(".*"))


@pytest.mark.slow
def test_a_full_disk(dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    written, write_bytes = count(), Path.write_bytes

    def write(file: Path, content: bytes) -> int:
        if next(written) == 5:
            raise OSError(28, "No space left on device", str(file))
        return write_bytes(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write)
        assert preprocessing.main(arguments(dataset)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("preprocessing.py: error:") and "No space left on device" in error
    assert not (dataset / "labels").exists() and not list((dataset / "faces").rglob(".*"))
    assert len(images(dataset)) == 4  # two videos
    assert preprocessing.main(arguments(dataset)) == 0
    assert len(images(dataset)) == 24


@pytest.mark.slow
def test_shards_share_the_work(dataset: Path, tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture) -> None:
    one = folder_dataset(tmp_path / "one", clip)
    assert preprocessing.main(arguments(one)) == 0
    shards = ["--num_shards", "5"]
    done = []
    for shard in (4, 0, 2, 1):
        assert preprocessing.main(arguments(dataset, *shards, "--shard", str(shard))) == 0
        done.append(set(images(dataset)).difference(*done))
    assert not (dataset / "labels").exists()
    assert sorted(len(part) for part in done) == [4, 4, 6, 6]  # images, two a video
    capsys.readouterr()
    assert preprocessing.main(arguments(dataset, *shards)) == 0
    assert re.search(r"note: 2 videos .* 3\n", capsys.readouterr().out)
    assert report(dataset)["unfinished"] == 2
    assert preprocessing.main(arguments(dataset, *shards, "--shard", "3")) == 0
    assert preprocessing.main(arguments(dataset, *shards)) == 0
    assert not re.search("note: .* videos", capsys.readouterr().out)
    assert tree(dataset / "faces") == tree(one / "faces")
    labels = [{n: t for n, t in tree(root / "labels").items() if n.endswith(".txt")} for root in (dataset, one)]
    assert labels[0] == labels[1] and len(labels[0]) == 6


@pytest.mark.slow
@pytest.mark.usefixtures("mtcnn")
def test_jobs_on_this_machine(dataset: Path, tmp_path: Path, clip: Path) -> None:
    one = folder_dataset(tmp_path / "one", clip)
    more = ["--frames", "3", "--name", "mine", "--crop_size", "64", "--all_faces", "True"]  # every job inherits these
    assert preprocessing.main(arguments(one, *more)) == 0
    assert preprocessing.main(arguments(dataset, *more, "--jobs", "2", "--contact_sheet", "True")) == 0
    assert tree(dataset / "faces") == tree(one / "faces") and len(images(dataset)) == 36
    recipe = json.loads((dataset / "faces/mine/preprocessing.json").read_text())
    assert recipe["frames"] == 3 and recipe["crop_size"] == 64 and recipe["all_faces"] is True
    assert (dataset / "labels/mine/contact_sheet.png").is_file()
    logs = [log.read_text() for log in (dataset / "labels/mine/jobs").glob("*.out")]
    shards = [re.findall(r"^(\d+) frames;.*\nshard (\d) of 2 is finished;", log, re.MULTILINE) for log in logs]
    assert sorted(shards) == [[("18", "0")], [("18", "1")]]


SBATCH = """#!{python}
# A cluster of one machine: runs the tasks of the array one after the other and writes their states.
import os, shlex, subprocess, sys, time
script = sys.argv[-1]
lines = open(script).read().splitlines()
if os.environ.get("IN_THE_BACKGROUND") is None:
    print("Submitted batch job 7")
    nowhere = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    command = [sys.executable, __file__, script]
    subprocess.Popen(command, env={{**os.environ, "IN_THE_BACKGROUND": "1"}}, start_new_session=True, **nowhere)
    sys.exit()
folder = shlex.split(lines[-1])[-1]
script = folder + "/7_submission.sh"
tasks = [line for line in lines if "--array" in line][0].split("=")[1].split("%")[0]
first, last = map(int, tasks.split("-"))
while not os.path.exists(folder + "/7_" + str(last) + "_submitted.pkl"):
    time.sleep(0.1)
os.makedirs("{state}", exist_ok=True)
for task in range(first, last + 1):
    names = {{"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(task), "SLURM_NTASKS": "1"}}
    names |= {{"SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}}
    code = subprocess.call(["bash", script], env={{**os.environ, **names}})
    open("{state}/" + str(task), "w").write("COMPLETED" if code == 0 else "FAILED")
"""
SRUN = """#!{python}
import os, subprocess, sys
arguments = [a.replace("%A", "7").replace("%a", os.environ["SLURM_ARRAY_TASK_ID"]).replace("%t", "0") for a in sys.argv]
out = dict(zip(arguments, arguments[1:]))
with open(out["--output"], "w") as stdout, open(out["--error"], "w") as stderr:
    command = arguments[arguments.index("--error") + 2:]
    sys.exit(subprocess.call(command, stdout=stdout, stderr=stderr))
"""
SACCT = """#!{python}
import os
print("JobID|State|NodeList")
os.makedirs("{state}", exist_ok=True)
for task in os.listdir("{state}"):
    print("7_" + task + "|" + open("{state}/" + task).read() + "|here")
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put substitutes of the SLURM commands on the PATH."""
    bin_folder, state = tmp_path / "bin", tmp_path / "state"
    bin_folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        (bin_folder / name).write_text(text.format(python=sys.executable, state=state))
        (bin_folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")


@pytest.mark.slow
@pytest.mark.cluster
@needs_submitit
@pytest.mark.usefixtures("slurm")
def test_jobs_on_a_slurm_cluster(dataset: Path, capfd: pytest.CaptureFixture) -> None:
    options = ["--submit", "slurm", "--nodes", "2", "--slurm", "partition=gpu,time=720,gpus_per_node=1"]
    assert preprocessing.main(arguments(dataset, *options)) == 0
    jobs = dataset / "labels/folder/jobs"
    assert len(images(dataset)) == 24 and len(list(jobs.glob("*_result.pkl"))) == 2
    (script,) = jobs.glob("*_submission.sh")
    for line in ("partition=gpu", "time=720", "gpus-per-node=1", "nodes=1", "array=0-1"):
        assert f"#SBATCH --{line}" in script.read_text()
    assert "next: python training.py" in capfd.readouterr().out


@pytest.mark.parametrize("more", [["--submit", "slurm", "--gpu_num", "3"], ["--jobs", "2", "--gpu_num", "1"]])
def test_starting_jobs_uses_no_gpu(dataset: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]) -> None:
    devices, jobs = [], []

    def load(name: str, weights: Path | None, device: torch.device) -> tuple[None, dict]:
        devices.append(device)
        return None, {"detector": name, "weights": None}

    gpus = 2 if "--jobs" in more else 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(preprocessing, "load_face_detector", load)
    monkeypatch.setattr(preprocessing, "run_jobs", lambda args, *_: jobs.append(args.gpu_num))
    assert preprocessing.main(arguments(dataset, *more)) == 2  # the jobs made no faces
    assert devices == [torch.device("cpu")] and jobs == [more[-1]]


def test_jobs_with_a_missing_gpu(dataset: Path, capsys: pytest.CaptureFixture) -> None:
    assert preprocessing.main(arguments(dataset, "--jobs", "2", "--gpu_num", "7")) == 2
    assert "--gpu_num 7" in capsys.readouterr().err
    assert not (dataset / "faces").exists() and not (dataset / "labels").exists()


def test_without_slurm(dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("PATH", "")
    assert preprocessing.main(arguments(dataset, "--submit", "slurm", "--nodes", "2")) == 2
    assert "--submit slurm" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("print('details', file=sys.stderr)\nsys.exit(f'the cause: {sys.argv[1]}')", "the cause: --traceback"),
        ("sys.exit('')", "exit status 1"),
    ],
)
def test_a_failed_job_is_named(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    script: str,
    cause: str,
) -> None:
    (tmp_path / "broken.py").write_text(f"import sys\n{script}")
    monkeypatch.setattr(preprocessing, "__file__", str(tmp_path / "broken.py"))  # what the jobs run
    assert preprocessing.main([*arguments(dataset, "--jobs", "2"), "--traceback"]) == 2  # the jobs get the flag
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "2 jobs failed" in error and cause in error


@pytest.mark.slow
def test_another_root_is_refused(dataset: Path, tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture) -> None:
    other = folder_dataset(tmp_path / "other", clip)
    assert preprocessing.main(arguments(dataset)) == 0
    before = inodes_and_times(dataset)
    assert preprocessing.main(arguments(dataset, "--videos", str(other / "videos"))) == 2
    assert f"videos {dataset / 'videos'}, not {other / 'videos'}" in capsys.readouterr().err
    assert inodes_and_times(dataset) == before


@pytest.mark.slow
def test_a_partial_download_is_processed_again_when_complete(dataset: Path) -> None:
    clip = dataset / "videos/train/real/0.mp4"
    clip.unlink()
    complete = write_video(dataset / "long.mp4", frames=40)
    clip.write_bytes(write_video(dataset / "short.mp4", frames=4).read_bytes())
    assert preprocessing.main(arguments(dataset)) == 0
    assert "train/real/0,1\n" in (dataset / "labels/folder/train_real.txt").read_text()
    shutil.copy(complete, clip)
    assert preprocessing.main(arguments(dataset)) == 0
    assert "train/real/0,8\n" in (dataset / "labels/folder/train_real.txt").read_text()
    assert len(list((dataset / "faces/folder/train/real/0").glob("*.png"))) == 8
    assert not list((dataset / "faces").rglob(".*"))


def test_the_faces_of_a_replaced_video_are_removed(tmp_path: Path) -> None:
    source = Source(write_video(tmp_path / "a.mp4"), tmp_path / "faces/a")
    list(extract_faces([source], Recipe(), fixed_detector, 8, 0, StageTimes()))
    assert (source.folder / "0000.png").is_file() and is_done(source)
    write_video(source.file, frames=10, people=())
    list(extract_faces([source], Recipe(), no_face, 8, 0, StageTimes()))
    assert os.listdir(tmp_path / "faces") == ["a.failed.json"] and is_done(source)


@pytest.mark.slow
def test_an_unreadable_video_is_retried(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("faces.extraction.FrameReader", fail)
        assert preprocessing.main(arguments(dataset)) == 2
    assert report(dataset)["causes"] == {"unreadable": 12}
    assert preprocessing.main(arguments(dataset)) == 0
    assert len(images(dataset)) == 24


@pytest.mark.slow
@pytest.mark.usefixtures("mtcnn")
def test_frames_of_any_shape(dataset: Path) -> None:
    for name, size in (("tiny", (8, 8)), ("flat", (2000, 2)), ("large", (3840, 2160))):
        writer = cv2.VideoWriter(
            str(dataset / f"videos/train/real/{name}.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, size
        )
        writer.write(np.full((size[1], size[0], 3), 90, np.uint8))
        writer.release()
    assert preprocessing.main(arguments(dataset)) == 0
    causes = [problem["cause"] for problem in report(dataset)["problems"]]
    assert causes == ["no face in 1 frame"] * 3


@pytest.mark.slow
def test_two_runs_at_once(dataset: Path, tmp_path: Path, clip: Path) -> None:
    one = folder_dataset(tmp_path / "one", clip)
    assert preprocessing.main(arguments(one)) == 0

    runs = [start_fork(preprocessing.main, arguments(dataset, "--num_workers", "1")) for _ in range(2)]
    for process in runs:
        process.join()
    assert [process.exitcode for process in runs] == [0, 0]
    assert tree(dataset / "faces") == tree(one / "faces")


def test_shards_that_start_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, folder, listing = {"every": 5}, tmp_path / "folder", Path.iterdir
    folder.mkdir()
    (folder / ".preprocessing.json.elsewhere.1.part").write_text("{")  # another shard writes it at this moment

    def too_late(path: Path) -> Iterator[Path]:
        (folder / "preprocessing.json").write_text(json.dumps(recipe))
        (folder / "train").mkdir(exist_ok=True)
        return listing(path)

    claim_folder(folder, recipe)
    (folder / "preprocessing.json").unlink()
    monkeypatch.setattr(Path, "iterdir", too_late)
    claim_folder(folder, recipe)


def test_another_run_finishes_a_video_first(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, rename = dataset / "faces/val/real/0", os.rename

    def too_late(source: Path, to: Path) -> None:
        if to == target:
            shutil.copytree(source, target)
            (target / "of another run").write_text("")
        rename(source, to)

    monkeypatch.setattr(os, "rename", too_late)
    assert not any(outcome.failure for outcome in extract(dataset))
    assert len(images(dataset)) == 24 and (target / "of another run").is_file()
    assert not list((dataset / "faces").rglob(".*"))


def test_a_slow_video_delays_no_other_worker(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end, others = time.monotonic() + 600, dataset / "the others are finished"

    def wait_for_the_others(file: Path, *rest: Any) -> FrameReader:
        while "test/fake/0" in str(file) and not others.exists() and time.monotonic() < end:
            time.sleep(0.02)
        return FrameReader(file, *rest)

    monkeypatch.setattr("faces.extraction.FrameReader", wait_for_the_others)
    done = []
    for outcome in extract(dataset, workers=2):
        done.append(outcome.source.file.relative_to(dataset / "videos").as_posix())
        if len(done) == 6:  # all videos of the other worker
            others.touch()
    assert len(done) == 12 and "test/fake/0.mp4" not in done[:6]


def test_workers_write_the_same_as_one_process(tmp_path: Path) -> None:
    for number, frames in enumerate((6, 150, 1, 90, 40, 0, 60)):
        write_video(tmp_path / f"videos/{number}.mp4", frames)
    outcomes = list(extract(tmp_path))
    (tmp_path / "faces").rename(tmp_path / "before")
    assert sorted(extract(tmp_path, workers=2, batch_size=1)) == sorted(outcomes)
    assert tree(tmp_path / "faces") == tree(tmp_path / "before") and len(images(tmp_path)) == 71


def test_stale_files_are_removed_once_per_folder(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert preprocessing.main(arguments(dataset)) == 0
    left, lock = create_part(dataset / "faces/folder/train/real/a video that was deleted", folder=True)
    os.close(lock)
    looked = []

    def remove(folder: Path) -> None:
        looked.append(folder)
        remove_stale_parts(folder)

    monkeypatch.setattr(preprocessing, "remove_stale_parts", remove)
    assert preprocessing.main(arguments(dataset)) == 0  # all videos are finished
    assert sorted(looked) == sorted(dataset / f"faces/folder/{split}/{kind}" for split in SPLITS for kind in CLASSES)
    assert not left.exists()


@pytest.mark.slow
def test_a_damaged_record_is_replaced(dataset: Path) -> None:
    assert preprocessing.main(arguments(dataset)) == 0
    (dataset / "faces/folder/train/real/0/faces.json").write_text("{")
    assert preprocessing.main(arguments(dataset)) == 0
    assert json.loads((dataset / "faces/folder/train/real/0/faces.json").read_text())["frames"] == 6
    assert len(images(dataset)) == 24


def test_a_huge_photo_is_a_failure_and_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PNG of 400 megapixels and a small photo."""
    huge, small = tmp_path / "a.png", tmp_path / "b.png"
    header = struct.pack(">4s2I5B", b"IHDR", 20000, 20000, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(bytes(100))]
    signed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    huge.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(signed))
    cv2.imwrite(str(small), picture(0, 0))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", no_decoding_of(huge))
    sources = [Source(file, tmp_path / "faces" / file.stem) for file in (huge, small)]
    first, second = extract_faces(sources, Recipe(), fixed_detector, 8, 0, StageTimes())
    assert "megapixels" in str(first.failure) and second.failure is None
    assert (tmp_path / "faces/a.failed.json").is_file() and (tmp_path / "faces/b/faces.json").is_file()


def no_decoding_of(file: Path) -> Callable[..., Any]:
    load = ImageFile.ImageFile.load

    def checked(image: ImageFile.ImageFile, *more: Any) -> Any:
        assert image.filename != str(file)
        return load(image, *more)

    return checked
