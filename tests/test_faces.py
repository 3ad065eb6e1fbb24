"""Face detectors, tracks, crops and the reading of videos."""

import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from demo.dataset import draw_video, plan
from demo.draw_face import random_person, random_poses, random_scene, render
from faces import detectors
from faces.crops import crop_face
from faces.detectors import LONGER_SIDE, load_face_detector, shrink
from faces.retinaface import ANCHOR_SIDES, MobileNet025, ResNet50, RetinaFace
from faces.tracks import (
    MAX_GAP,
    MAX_LOOK_DISTANCE,
    REACH,
    SMOOTHING_RADIUS,
    SPEED,
    Detection,
    FaceTracker,
    FrameFaces,
    link_cost,
    look,
)
from faces.videos import FrameReader
from tests.helpers import ROOT
from utils.errors import InputError
from utils.files import sha256

CPU = torch.device("cpu")
# Videos and weights that are not distributed with the project.
SHARED = Path(os.environ.get("TEST_DATA", ROOT.parent / "shared"))
WEIGHTS = SHARED / "weights/retinaface_mobilenet0.25_Final.pth"
VIDEOS = SHARED / "data/videos"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"no RetinaFace checkpoint {WEIGHTS}")
needs_videos = pytest.mark.skipif(not VIDEOS.is_dir(), reason=f"no videos in {VIDEOS}")


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = float(np.prod(np.maximum(sides, 0)))
    return common / (float(np.prod(a[2:] - a[:2])) + float(np.prod(b[2:] - b[:2])) - common)


def drawn_frame() -> np.ndarray:
    """A frame (240 x 320 x 3) with a synthetic face of about 75 x 100 pixels in a square at (80, 40)."""
    frame = np.full((240, 320, 3), 90, np.uint8)
    frame[40:168, 80:208] = draw_video(plan(0, (4, 2, 2), 2)[0], 0, 128, 1)[0][0].before[..., ::-1]
    return frame


# ---------------------------------------------------------------------------------------------------------- RetinaFace


@pytest.mark.slow
@pytest.mark.parametrize("body, tensors", [(MobileNet025, 300), (ResNet50, 456)])
def test_checkpoints_of_both_bodies_load(tmp_path: Path, body: type, tensors: int) -> None:
    torch.manual_seed(0)
    network = RetinaFace(body())
    state = network.state_dict()
    assert len(state) == tensors
    for name, content in (
        ("plain", state),
        ("parallel", {f"module.{key}": value for key, value in state.items()}),
        ("wrapped", {"state_dict": state}),
    ):
        torch.save(content, tmp_path / name)
        loaded = detectors.load_retinaface(tmp_path / name)
        assert type(loaded.body) is body and not loaded.training
        assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("body", [MobileNet025, ResNet50])
@pytest.mark.parametrize("height, width", [(64, 96), (45, 77)])
def test_zero_heads_return_the_anchors(body: type, height: int, width: int) -> None:
    network = RetinaFace(body()).eval()
    for parameter in [*network.ClassHead.parameters(), *network.BboxHead.parameters()]:
        torch.nn.init.zeros_(parameter)
    network.ClassHead[0].conv1x1.bias.data[1] = np.log(3.0)  # the first anchor of each position of the finest map
    network.BboxHead[0].conv1x1.bias.data[:4] = torch.tensor([1.0, -1.0, 5.0, 0.0])
    with torch.inference_mode():
        scores, boxes = network(torch.zeros(2, 3, height, width))
    expected = []
    for stride, sides in ANCHOR_SIDES.items():
        for y in range(-(-height // stride)):
            for x in range(-(-width // stride)):
                for side in sides:
                    moved = stride == 8 and side == 16
                    cx, cy = (x + 0.5) * stride + 1.6 * moved, (y + 0.5) * stride - 1.6 * moved
                    w, h = side * np.exp(1.0 if moved else 0.0), side
                    expected.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, 0.75 if moved else 0.5])
    expected = torch.tensor(expected, dtype=torch.float32)
    assert boxes.shape == (2, len(expected), 4)
    torch.testing.assert_close(boxes[1], expected[:, :4], rtol=0, atol=1e-3)
    torch.testing.assert_close(scores[1], expected[:, 4])


def garbage(tmp_path: Path) -> dict[str, Path]:
    files = {name: tmp_path / name for name in ("text", "list", "other", "cut")}
    files["text"].write_text("no checkpoint")
    torch.save([1, 2], files["list"])
    torch.save({"weight": torch.zeros(3)}, files["other"])
    torch.save(RetinaFace(MobileNet025()).state_dict(), tmp_path / "complete")
    files["cut"].write_bytes((tmp_path / "complete").read_bytes()[:100_000])
    return files


@pytest.mark.parametrize("name", ["text", "list", "other", "cut"])
def test_files_that_are_not_a_retinaface_checkpoint_are_refused(tmp_path: Path, name: str) -> None:
    file = garbage(tmp_path)[name]
    with pytest.raises(InputError, match=r"^--detector_weights: .*checkpoint") as caught:
        load_face_detector("retinaface", file, CPU)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_cached_weights_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name, _ = detectors.WEIGHTS["retinaface"]
    file = tmp_path / "hub/checkpoints" / name
    file.parent.mkdir(parents=True)
    torch.save(RetinaFace(MobileNet025()).state_dict(), file)
    with pytest.raises(InputError, match="SHA-256 differs"):
        load_face_detector("retinaface", None, CPU)
    monkeypatch.setitem(detectors.WEIGHTS, "retinaface", (name, sha256(file)))
    _, description = load_face_detector("retinaface", None, CPU)
    assert description == {"detector": "retinaface", "weights": sha256(file)}


@pytest.mark.parametrize("correct", [True, False])
def test_downloaded_weights_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, correct: bool) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    name, _ = detectors.WEIGHTS["retinaface"]
    torch.save(RetinaFace(MobileNet025()).state_dict(), tmp_path / name)
    digest = sha256(tmp_path / name) if correct else "0" * 64
    monkeypatch.setitem(detectors.WEIGHTS, "retinaface", (name, digest))
    monkeypatch.setattr(detectors, "RELEASES", f"file://{tmp_path}/")
    if correct:
        file = detectors.fetch_weights("retinaface")
        before = file.stat().st_mtime_ns
        assert detectors.fetch_weights("retinaface") == file and file.stat().st_mtime_ns == before
    else:
        with pytest.raises(InputError, match=name):
            detectors.fetch_weights("retinaface")
        assert not list((tmp_path / "home").rglob("*.pth"))


def test_a_failed_download_names_the_url_and_the_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(InputError) as caught:
        load_face_detector("retinaface_resnet50", None, CPU)
    url = detectors.RELEASES + detectors.WEIGHTS["retinaface_resnet50"][0]
    assert all(words in str(caught.value) for words in (url, "--detector_weights FILE", "--detector mtcnn"))
    assert not list(tmp_path.rglob("*.p*"))


# ----------------------------------------------------------------------------------------------------- both detectors


@pytest.mark.parametrize("name", ["mtcnn", pytest.param("retinaface", marks=needs_weights)])
def test_a_synthetic_face_is_detected(name: str) -> None:
    detector, _ = load_face_detector(name, WEIGHTS if name == "retinaface" else None, CPU)
    empty = np.full((240, 320, 3), 90, np.uint8)
    with_face, without = detector(np.stack([drawn_frame(), empty]))
    assert len(without.boxes) == len(without.scores) == 0
    assert with_face.boxes.shape == (1, 4) and with_face.boxes.dtype == np.float32
    assert overlap(with_face.boxes[0], np.array([107.0, 58.0, 188.0, 156.0])) > 0.75
    assert 0.5 < with_face.scores[0] <= 1


def test_frames_are_shrunk_for_detection() -> None:
    assert shrink(np.zeros((1920, 1080, 3), np.uint8)).shape == (LONGER_SIDE, 360, 3)
    small = np.zeros((480, 640, 3), np.uint8)
    assert shrink(small) is small


@pytest.mark.slow
@needs_weights
@needs_videos
def test_retinaface_and_mtcnn_agree_on_real_videos() -> None:
    retinaface, description = load_face_detector("retinaface", WEIGHTS, CPU)
    assert description["weights"] == "7c417d4a43c5e2100ef40c2fbd2177d2fd0e5090d8e87c0fa31806cfb895c12f"
    mtcnn, _ = load_face_detector("mtcnn", None, CPU)
    overlaps, frames = [], 0
    for file in sorted(VIDEOS.rglob("*.mp4")):
        _, frame = next(iter(FrameReader(file)))
        small = shrink(frame)[None]
        found, other = retinaface(small)[0], mtcnn(small)[0]
        frames += 1
        if len(found.boxes) and len(other.boxes):
            best = found.boxes[np.argmax(found.scores)]
            overlaps.append(max(overlap(best, box) for box in other.boxes))
    assert len(overlaps) == frames == 8
    assert np.mean(overlaps) > 0.8


@needs_videos
@pytest.mark.parametrize("path, frames", [("519", 151), ("634", 68), ("004", 62), ("750_743", 63)])
def test_frame_counts_of_the_authors_lists(path: str, frames: int) -> None:
    (file,) = (f for f in VIDEOS.rglob(f"{path}.mp4") if "FF++" in f.parts)
    assert sum(1 for _ in FrameReader(file, every=5)) == frames


# --------------------------------------------------------------------------------------------------------------- tracks


def follow(frames: list[list[list[float]]]) -> list[FrameFaces]:
    """Track boxes, one list per frame; the pixels of a frame are its number."""
    tracker, out = FaceTracker(), []
    for position, boxes in enumerate(frames):
        array = np.array(boxes, np.float32).reshape(-1, 4)
        out += tracker.push(position, np.full((2, 2, 3), position, np.uint8), array, np.ones(len(array), np.float32))
    return out + tracker.flush()


def test_frames_are_returned_once_and_in_order() -> None:
    for length in range(8):
        out = follow([[[0, 0, 10, 10]]] * length)
        assert [ready.position for ready in out] == list(range(length))
        assert [int(ready.frame[0, 0, 0]) for ready in out] == list(range(length))


def test_tracks_do_not_depend_on_the_order_of_the_boxes() -> None:
    left, right = [0, 0, 10, 10], [20, 0, 30, 10]
    out = follow([[left, right], [right, left], [right], [left], [left, right]])
    by_place = {(face.track, float(face.raw_box[0])) for ready in out for face in ready.faces}
    assert by_place == {(0, 0.0), (1, 20.0)}


def test_a_face_lost_for_long_starts_a_new_track() -> None:
    box = [0, 0, 10, 10]
    for gap, tracks in ((MAX_GAP - 1, {0}), (MAX_GAP, {0, 1})):
        out = follow([[box], *([[]] * gap), [box]])
        assert {face.track for ready in out for face in ready.faces} == tracks


def test_a_jump_starts_a_new_track() -> None:
    out = follow([[[0, 0, 10, 10]], [[50, 0, 60, 10]]])
    assert [ready.faces[0].track for ready in out] == [0, 1]


def test_a_distant_face_does_not_break_up_a_pair() -> None:
    out = follow([[[0, 0, 10, 10], [20, 0, 30, 10]], [[2, 0, 12, 10], [-60, 0, -50, 10]]])
    assert [face.track for face in out[1].faces] == [0, 2]


def test_boxes_are_averaged_over_time() -> None:
    lefts = [0, 2, 1, 3, 2, 4, 3]
    out = follow([[[x, 0, x + 10, 10]] for x in lefts])
    for i, ready in enumerate(out):
        near = lefts[max(0, i - SMOOTHING_RADIUS) : i + SMOOTHING_RADIUS + 1]
        assert ready.faces[0].box[0] == pytest.approx(np.mean(near))
        assert ready.faces[0].raw_box[0] == lefts[i]


def test_a_bystander_does_not_change_the_average() -> None:
    person, bystander = [0, 0, 10, 10], [12, 0, 22, 10]
    out = follow([[person], [person, bystander], [bystander, person], [person]])
    assert all(face.box[0] == 0 for ready in out for face in ready.faces if face.track == 0)


@functools.cache
def draw_faces(person: int) -> list[np.ndarray]:
    """Draw a person in six poses, each 60 x 48 pixels, BGR; the light is the same for all people."""
    scene = random_scene(np.random.default_rng(1), 64)
    drawn = random_person(np.random.default_rng(person))
    poses = random_poses(np.random.default_rng(person), 6)
    return [render(drawn, scene, pose, 64)[2:62, 8:56, ::-1].astype(np.uint8) for pose in poses]


def film(samples: list[dict[int, float]], every: int = 5) -> list[set[int]]:
    """Track drawn people; return the tracks of each person 0, 1, ...

    Args:
        samples: for each sampled frame, the left edge of each visible person in widths of a face; the last is in front.
        every: frames of the video between two samples.
    """
    shade = np.linspace(60, 180, 800, dtype=np.uint8)
    tracker, ready = FaceTracker(), []
    for number, sample in enumerate(samples):
        frame = np.tile(shade[None, :, None], (100, 1, 3))
        boxes = []
        for person, left in sample.items():
            x = round(48 * left)
            frame[20:80, x : x + 48] = draw_faces(person)[number % 6]
            boxes.append([x, 20, x + 48, 80])
        array = np.array(boxes, np.float32).reshape(-1, 4)
        ready += tracker.push(number * every, frame, array, np.ones(len(array), np.float32))
    tracks: dict[int, set[int]] = {person: set() for person in sorted(set().union(*samples))}
    for sample, (_, _, found) in zip(samples, ready + tracker.flush(), strict=True):
        for person, face in zip(sample, found, strict=True):
            tracks[person].add(face.track)
    return list(tracks.values())


@pytest.mark.parametrize("every", [1, 5, 30])
def test_a_moving_face_keeps_its_track(every: int) -> None:
    assert film([{0: 0.75 * i} for i in range(16)], every) == [{0}]


@pytest.mark.parametrize("every", [5, 30])
def test_two_people_who_cross_keep_their_tracks(every: int) -> None:
    # At sample 5, person 1 hides person 0.
    samples = [{0: 0.75 * i, 1: 7.5 - 0.75 * i} if i != 5 else {1: 3.75} for i in range(11)]
    assert film(samples, every) == [{0}, {1}]


@pytest.mark.parametrize("every", [5, 30])
def test_a_cut_to_another_person_starts_a_new_track(every: int) -> None:
    for other in range(1, 5):
        assert film([{0: 3}] * 4 + [{other: 3}] * 4, every) == [{0}, {1}]


@pytest.mark.parametrize("every", [5, 30])
def test_two_people_who_exchange_places_are_not_merged(every: int) -> None:
    first, second = film([{0: 1, 1: 3}] * 4 + [{1: 1, 0: 3}] * 4, every)
    assert not first & second


def test_a_lost_face_returns_to_its_track_but_another_person_does_not() -> None:
    assert film([{0: 3}] * 4 + [{}] * 4 + [{0: 4.5}] * 4) == [{0}]
    assert film([{0: 3}] * 4 + [{}] * 4 + [{1: 3}] * 4) == [{0}, {1}]
    assert film([{0: 3}] * 4 + [{1: 3}] * 4 + [{0: 3}] * 4) == [{0}, {1}]


def test_link_cost_is_the_movement_and_the_colours() -> None:
    frame = np.zeros((40, 80, 3), np.uint8)
    frame[:, :40], frame[:, 40:] = (200, 60, 60), (60, 60, 200)
    left, right, large = (np.array(box, np.float32) for box in ([0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 20, 20]))
    red = np.array([50, 0, 60, 10], np.float32)
    old = [Detection(0, 0, left, look(frame, left))]
    new = [Detection(1, 5, box, look(frame, box)) for box in (left, right, large, red)]
    reach = REACH + 5 * SPEED
    moved = [
        0,
        2 / reach,
        (0.5 + 1) / reach,
        5 / reach,
    ]  # the centre of the large box: 7.07 of its mean side 14.14 away
    colours = [0, 0, 0, 1 / MAX_LOOK_DISTANCE]
    assert link_cost(new, old)[:, 0] == pytest.approx(np.hypot(moved, colours), abs=1e-3)


def test_the_box_of_a_fast_face_is_not_averaged() -> None:
    out = follow([[[8 * i, 0, 8 * i + 10, 10]] for i in range(6)])
    assert {face.track for ready in out for face in ready.faces} == {0}
    assert all(np.array_equal(face.box, face.raw_box) for ready in out for face in ready.faces)


def test_memory_does_not_grow_with_the_video() -> None:
    tracker = FaceTracker()
    for position in range(200):
        tracker.push(position, np.zeros((1, 1, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
        assert len(tracker._frames) <= 2 * SMOOTHING_RADIUS + 1


# ---------------------------------------------------------------------------------------------------------------- crops


def gradient() -> np.ndarray:
    """An image (100 x 200) whose channels are row, column and 255."""
    rows, columns = np.mgrid[:100, :200].astype(np.uint8)
    return np.stack([rows, columns, np.full_like(rows, 255)], axis=-1)


def test_a_crop_is_a_square_around_the_box() -> None:
    crop, scale = crop_face(gradient(), np.array([50.0, 30.0, 70.0, 70.0]), 1.5, 0)
    assert crop.shape == (60, 60, 3) and scale == 1
    assert crop[0, 0].tolist() == [20, 30, 255] and crop[-1, -1].tolist() == [79, 89, 255]


@pytest.mark.parametrize(
    "box, black",
    [
        ([-20, 0, 20, 40], np.s_[:, :20]),
        ([180, 0, 220, 40], np.s_[:, 20:]),
        ([0, -10, 40, 30], np.s_[:10]),
        ([0, 90, 40, 130], np.s_[10:]),
        ([500, 500, 540, 540], np.s_[:]),
    ],
)
def test_a_crop_is_black_outside_the_frame(box: list[float], black: tuple) -> None:
    crop, _ = crop_face(gradient(), np.array(box, float), 1.0, 0)
    assert crop.shape == (40, 40, 3)
    outside = np.zeros((40, 40), bool)
    outside[black] = True
    assert np.array_equal((crop == 0).all(-1), outside)


@pytest.mark.parametrize("size, scale", [(20, 0.5), (40, 1.0), (100, 2.5)])
def test_a_crop_is_resized(size: int, scale: float) -> None:
    crop, returned_scale = crop_face(gradient(), np.array([80.0, 30.0, 120.0, 70.0]), 1.0, size)
    assert crop.shape == (size, size, 3) and returned_scale == scale
    wanted = cv2.resize(gradient()[30:70, 80:120], (size, size), interpolation=cv2.INTER_LINEAR)
    assert np.abs(crop.astype(int) - wanted).mean() < 1


def test_opencv_prints_nothing_about_a_broken_video(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    code = (
        f"from faces.videos import *\ntry: FrameReader(Path({str(tmp_path / 'text.mp4')!r}))\nexcept VideoError: pass"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
