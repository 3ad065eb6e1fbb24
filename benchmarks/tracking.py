"""Count the tracks of each person, in videos of one person and in scenes composed of two.

    python -m benchmarks.tracking --weights FILE --portraits FOLDER VIDEO VIDEO ...

The command prints the Markdown tables of docs/preprocessing.md. Each video must show another person; the detector's
highest-scored box is this person's face. Every two videos give three scenes. FOLDER holds one portrait of each of many
people.
"""

import argparse
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import cv2
import numpy as np
import torch
from torchvision.ops import box_iou

from faces import tracks
from faces.detectors import NMS_IOU, Detector, load_face_detector, shrink
from faces.videos import FrameReader
from utils.progress import progress

SAMPLINGS: dict[str, tuple[int, int | None]] = {
    "--frames 8": (1, 8),
    "--frames 16": (1, 16),
    "--frames 32": (1, 32),
    "--every 5": (5, None),
}
STEP = 0.75  # widths of the face that it moves between two samples of the scene "moving"
HEIGHT = 360  # of every frame, in pixels


class Sample(NamedTuple):
    """A sampled frame (HEIGHT x W x 3), its position in the video, and the box of the person's face."""

    position: int
    frame: np.ndarray
    box: np.ndarray


# A frame of a scene: its position, its pixels, and the box of each person (None: hidden).
Shown = tuple[int, np.ndarray, list[np.ndarray | None]]
Scene = Iterator[Shown]


def read(video: Path, detector: Detector) -> dict[str, list[Sample]]:
    """Read a video; return the samples with a face, for each sampling."""
    samples: dict[int, Sample | None] = {}
    positions: dict[str, list[int]] = {}
    for name, (every, count) in SAMPLINGS.items():
        positions[name] = []
        for position, frame in FrameReader(video, every, count):
            positions[name].append(position)
            if position not in samples:
                small = shrink(frame)
                (found,) = detector(small[None])
                samples[position] = None
                if len(found.boxes):
                    scale = HEIGHT / small.shape[0]
                    resized = cv2.resize(small, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
                    samples[position] = Sample(position, resized, found.boxes[np.argmax(found.scores)] * scale)
    return {name: [sample for p in listed if (sample := samples[p])] for name, listed in positions.items()}


def move(sample: Sample, centre: tuple[float, float], width: float, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift a sample, so that its face has this centre and this width in pixels.

    Returns:
        The pixels, of the same size as `frame`, and the box of the face.
    """
    box = sample.box
    scale = width / (box[2] - box[0])
    shift = np.array(centre) - scale * (box[:2] + box[2:]) / 2
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    moved = cv2.warpAffine(sample.frame, matrix, frame.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    return moved, (scale * box + np.tile(shift, 2)).astype(np.float32)


def alone(person: Sequence[Sample]) -> Scene:
    """Show one person, as in the video."""
    for position, frame, box in person:
        yield position, frame, [box]


def moving(person: Sequence[Sample]) -> Scene:
    """Show one person, who moves from side to side, `STEP` widths of the face between samples."""
    for number, sample in enumerate(person):
        width = sample.box[2] - sample.box[0]
        span = sample.frame.shape[1] - width
        way = number * STEP * width % (2 * span)
        moved, box = move(sample, (width / 2 + min(way, 2 * span - way), HEIGHT / 2), width, sample.frame)
        yield sample.position, moved, [box]


def exchange(first: Sequence[Sample], second: Sequence[Sample]) -> Scene:
    """Show two people next to each other, who exchange places in the middle of the video."""
    middle = min(len(first), len(second)) // 2
    for number, (a, b) in enumerate(zip(first, second, strict=False)):
        left, right = (a, b) if number < middle else (b, a)
        width = left.frame.shape[1]
        boxes: list[np.ndarray | None] = [left.box, right.box + np.array([width, 0, width, 0], np.float32)]
        yield a.position, cv2.hconcat([left.frame, right.frame]), boxes if left is a else boxes[::-1]


def cut(first: Sequence[Sample], second: Sequence[Sample]) -> Scene:
    """Show one person, then cut to the other, whose face has the place and the size of the first face."""
    middle = min(len(first), len(second)) // 2
    last = first[middle - 1].box
    centre = ((last[0] + last[2]) / 2, (last[1] + last[3]) / 2)
    for number, (a, b) in enumerate(zip(first, second, strict=False)):
        if number < middle:
            yield a.position, a.frame, [a.box, None]
        else:
            moved, box = move(b, centre, last[2] - last[0], a.frame)
            yield a.position, moved, [None, box]


def crossing(first: Sequence[Sample], second: Sequence[Sample]) -> Scene:
    """Move the second person from left to right, in front of the first."""
    steps = min(len(first), len(second)) - 1
    for number, (a, b) in enumerate(zip(first, second, strict=False)):
        width = a.box[2] - a.box[0]
        x = width + (a.frame.shape[1] - 2 * width) * number / steps
        moved, box = move(b, (x, (a.box[1] + a.box[3]) / 2), width, a.frame)
        mask = np.zeros(a.frame.shape[:2], np.uint8)
        height = box[3] - box[1]
        cv2.ellipse(mask, ((x, box[1] + 0.45 * height), (1.3 * width, 1.3 * height), 0), 1, cv2.FILLED)  # the head
        frame = np.where(mask[..., None] > 0, moved, a.frame)
        overlap = float(box_iou(torch.from_numpy(a.box[None]), torch.from_numpy(box[None])))
        # A detector reports one of two boxes that overlap as much as this.
        yield a.position, frame, [None if overlap > NMS_IOU else a.box, box]


def overlap_cost(new: Sequence[tracks.Detection], old: Sequence[tracks.Detection]) -> np.ndarray:
    """Link by intersection over union alone, which must be at least 0.2."""
    boxes, last = (torch.from_numpy(np.stack([face.box for face in faces])) for faces in (new, old))
    return (1 - box_iou(boxes, last).numpy()) / 0.8


# The names of faces.tracks that each rule replaces, with their new values.
RULES: dict[str, dict[str, Any]] = {
    "overlap of at least 0.2": {"link_cost": overlap_cost},
    "movement and colours": {},
    "REACH = 2": {"REACH": 2.0},
    "REACH = 4": {"REACH": 4.0},
    "SPEED = 0": {"SPEED": 0.0},
    "SPEED = 0.2": {"SPEED": 0.2},
    "MAX_LOOK_DISTANCE = 0.32": {"MAX_LOOK_DISTANCE": 0.32},
    "MAX_LOOK_DISTANCE = 0.52": {"MAX_LOOK_DISTANCE": 0.52},
}
SCENES: dict[str, tuple[Callable[..., Scene], int]] = {  # and the number of people
    "alone": (alone, 1),
    "moving": (moving, 1),
    "exchange": (exchange, 2),
    "cut": (cut, 2),
    "crossing": (crossing, 2),
}


def count(scene: Iterable[Shown], rule: str) -> tuple[list[int], int]:
    """Track a scene; return the number of tracks of each person, and of tracks that hold more than one person."""
    tracker, ready = tracks.FaceTracker(), []
    people: dict[int, list[int]] = {}  # by position, in the order of the boxes
    with mock.patch.multiple(tracks, **RULES[rule]) if RULES[rule] else nullcontext():
        for position, frame, boxes in scene:
            people[position] = [person for person, box in enumerate(boxes) if box is not None]
            found = np.array([box for box in boxes if box is not None], np.float32)
            ready += tracker.push(position, frame, found, np.ones(len(found), np.float32))
        ready += tracker.flush()
    held: dict[int, set[int]] = {}  # the people of each track
    for position, _, faces in ready:
        for person, face in zip(people[position], faces, strict=True):
            held.setdefault(face.track, set()).add(person)
    numbers = [sum(person in who for who in held.values()) for person in set().union(*held.values())]
    return numbers, sum(len(who) > 1 for who in held.values())


def print_look_distances(people: list[dict[str, list[Sample]]], portraits: np.ndarray) -> None:
    """Print the distances between the looks of one person, and of two people."""
    looks = [
        {name: np.stack([tracks.look(s.frame, s.box) for s in samples]) for name, samples in p.items()} for p in people
    ]
    rows = {
        f"one person, successive samples, {name}": np.concatenate(
            [np.sqrt(np.maximum(0, 1 - (p[name][1:] * p[name][:-1]).sum(1))) for p in looks]
        )
        for name in SAMPLINGS
    }
    pairs = itertools.combinations([p["--frames 32"] for p in looks], 2)
    rows["two people of the videos"] = np.concatenate([np.sqrt(1 - a @ b.T).ravel() for a, b in pairs])
    if len(portraits):
        above = np.triu_indices(len(portraits), 1)
        rows[f"two of {len(portraits)} portraits"] = np.sqrt(np.maximum(0, 1 - portraits @ portraits.T))[above]
    limit = tracks.MAX_LOOK_DISTANCE
    print(f"| faces | pairs | minimum | median | maximum | below {limit} |\n|---|---|---|---|---|---|")
    for name, d in rows.items():
        print(f"| {name} | {len(d)} | {d.min():.2f} | {np.median(d):.2f} | {d.max():.2f} | {(d < limit).mean():.2%} |")


def read_portraits(folder: Path, detector: Detector) -> np.ndarray:
    """Return the looks of the faces in a folder of images, N x 4608."""
    looks = []
    for file in progress(sorted(f for f in folder.rglob("*") if f.is_file()), "portraits", unit="images"):
        frame = np.asarray(cv2.imread(str(file)))
        (found,) = detector(frame[None])
        if len(found.boxes):
            looks.append(tracks.look(frame, found.boxes[np.argmax(found.scores)]))
    return np.stack(looks)


def main() -> None:
    """Run the measurements and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="RetinaFace checkpoint")
    parser.add_argument("--portraits", type=Path, help="folder of portraits, each of another person")
    parser.add_argument("videos", type=Path, nargs="+", help="videos of one person each, all of different people")
    args = parser.parse_args()
    detector = load_face_detector("retinaface", args.weights, torch.device("cpu"))[0]
    people = [read(video, detector) for video in progress(args.videos, "detect", unit="videos")]
    portraits = read_portraits(args.portraits, detector) if args.portraits else np.empty((0, 0))
    print_look_distances(people, portraits)

    results: dict[tuple[str, str, str], tuple[list[int], int]] = {
        (scene, rule, name): ([], 0) for scene in SCENES for rule in RULES for name in SAMPLINGS
    }
    for (scene, (make, size)), sampling in progress(
        list(itertools.product(SCENES.items(), SAMPLINGS)), "scenes", unit="scenes"
    ):
        for group in itertools.combinations([person[sampling] for person in people], size):
            film = list(make(*group))
            for rule in RULES:
                numbers, merged = results[scene, rule, sampling]
                more_numbers, more_merged = count(film, rule)
                results[scene, rule, sampling] = numbers + more_numbers, merged + more_merged

    def cell(scene: str, rule: str, samplings: Sequence[str]) -> str:
        numbers = [n for sampling in samplings for n in results[scene, rule, sampling][0]]
        merged = sum(results[scene, rule, sampling][1] for sampling in samplings)
        return f"{np.mean(numbers):.2f}" + (f" ({merged} merged)" if merged else "")

    print(f"\n| scene | rule | {' | '.join(SAMPLINGS)} |\n|---|---|{'---|' * len(SAMPLINGS)}")
    for scene, rule in itertools.product(SCENES, list(RULES)[:2]):
        print(f"| {scene} | {rule} | {' | '.join(cell(scene, rule, [s]) for s in SAMPLINGS)} |")
    print(f"\n| constant | {' | '.join(SCENES)} |\n|---|{'---|' * len(SCENES)}")
    for rule in list(RULES)[1:]:
        print(f"| {rule} | {' | '.join(cell(scene, rule, list(SAMPLINGS)) for scene in SCENES)} |")


if __name__ == "__main__":
    main()
