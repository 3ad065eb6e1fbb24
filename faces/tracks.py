"""Face tracks: link the boxes of successive frames by movement and colours, and smooth them."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import scipy  # scipy.optimize, which is slow to import, loads when it is used
import torch

from faces.crops import crop_face
from utils.imports import without_compiler

with without_compiler():
    from torchvision.ops import box_iou

# docs/preprocessing.md, section "Tracks", has the measurements behind these three constants.
REACH = 3.0  # how far a face may move, in sides of the face, however short the time
SPEED = 0.1  # how much farther it may move per frame of the video, in sides of the face
MAX_LOOK_DISTANCE = 0.42  # largest Hellinger distance of a person's colours in two frames
MAX_GAP = 10  # sampled frames after which a lost face gets a new track
SMOOTHING_RADIUS = 2  # sampled frames before and after, over which a box is averaged
MIN_IOU = 0.2  # smallest overlap with the box of the frame itself; a box with less is not averaged
MAX_DISTANCE = 10  # frames of the video; boxes further apart are neither averaged nor interpolated


class Face(NamedTuple):
    """One face of one frame.

    Attributes:
        track: number of the person's track in this video, from 0.
        box: left, top, right, bottom in pixels, averaged over time; may extend beyond the frame.
        raw_box: the detector's box.
        score: the detector's score, 0 to 1.
    """

    track: int
    box: np.ndarray
    raw_box: np.ndarray
    score: float


class FrameFaces(NamedTuple):
    """A frame (H x W x 3), its position in the video, and its faces."""

    position: int
    frame: np.ndarray
    faces: list[Face]


class Detection(NamedTuple):
    """A detected face, as far as linking needs it.

    Attributes:
        number: number of the sampled frame, from 0.
        position: position of the frame in the video.
        box: left, top, right, bottom in pixels.
        look: the colours of the face, from `look`.
    """

    number: int
    position: int
    box: np.ndarray
    look: np.ndarray


def look(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Describe the appearance of a face by its colours.

    Args:
        frame: H x W x 3, uint8, BGR.
        box: left, top, right, bottom in pixels.

    Returns:
        Square root of the histogram of the CIELAB colours in the square around the box: 4608 values, unit length.
    """
    crop, _ = crop_face(frame, box, 1.0, 64)
    histogram = cv2.calcHist([cv2.cvtColor(crop, cv2.COLOR_BGR2LAB)], [0, 1, 2], None, [8, 24, 24], [0, 256] * 3)
    return np.sqrt(histogram.ravel() / histogram.sum())


def link_cost(new: Sequence[Detection], old: Sequence[Detection]) -> np.ndarray:
    """Return how unlikely it is that two detections show one person; pairs with a cost of 1 or more are not linked.

    cost = sqrt(a^2 + b^2). a is the movement divided by the distance that a face may move between the frames. The
    movement is the distance of the centres in sides of the face, plus abs(log2(ratio of the sides)). b is the Hellinger
    distance of the colours divided by `MAX_LOOK_DISTANCE`.

    Args:
        new: N detections in one frame.
        old: M detections in earlier frames.

    Returns:
        Costs, N x M, 0 or more.
    """
    boxes, last_boxes = (np.stack([face.box for face in faces]) for faces in (new, old))
    sides, last_sides = (np.sqrt(np.maximum(b[:, 2:] - b[:, :2], 1).prod(1)) for b in (boxes, last_boxes))
    centres, last_centres = ((b[:, :2] + b[:, 2:]) / 2 for b in (boxes, last_boxes))
    distance = np.linalg.norm(centres[:, None] - last_centres, axis=2)
    moved = distance / np.sqrt(np.outer(sides, last_sides)) + np.abs(np.log2(sides[:, None] / last_sides))
    frames = np.array([[face.position - last.position for last in old] for face in new])
    similarity = np.stack([face.look for face in new]) @ np.stack([face.look for face in old]).T
    look_distance = np.sqrt(np.maximum(1 - similarity, 0))
    return np.hypot(moved / (REACH + SPEED * frames), look_distance / MAX_LOOK_DISTANCE)


class FaceTracker:
    """Track the faces of one video frame by frame, in constant memory.

    An optimal assignment matches the boxes of a frame to the last boxes of the tracks by `link_cost`. An unmatched box
    starts a new track. Frames are returned `SMOOTHING_RADIUS` frames late, because smoothing needs the boxes that
    follow.
    """

    def __init__(self) -> None:
        self._frames: deque[tuple[int, np.ndarray, dict[int, tuple[np.ndarray, float]]]] = deque()
        self._next = 0  # index in the deque of the next frame to return
        self._pushed = 0
        self._last: dict[int, Detection] = {}  # by track
        self._track_count = 0

    def push(self, position: int, frame: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> list[FrameFaces]:
        """Add a frame, H x W x 3, BGR, with boxes (N x 4, pixels) and scores (N); return the frames that are ready."""
        tracks = self._assign([Detection(self._pushed, position, box, look(frame, box)) for box in boxes])
        detected = {t: (box, float(score)) for t, box, score in zip(tracks, boxes, scores, strict=True)}
        self._frames.append((position, frame, detected))
        self._pushed += 1
        return self._ready(SMOOTHING_RADIUS)

    def flush(self) -> list[FrameFaces]:
        """Return the remaining frames at the end of the video."""
        return self._ready(0)

    def _assign(self, faces: list[Detection]) -> list[int]:
        self._last = {track: last for track, last in self._last.items() if self._pushed - last.number <= MAX_GAP}
        candidates = list(self._last)
        tracks = [-1] * len(faces)
        if candidates and faces:
            cost = link_cost(faces, list(self._last.values()))
            # Limited to 1: otherwise two faces that are far apart would break up another pair.
            for row, column in zip(*scipy.optimize.linear_sum_assignment(np.minimum(cost, 1)), strict=True):
                if cost[row, column] < 1:
                    tracks[row] = candidates[column]
        for row, face in enumerate(faces):
            if tracks[row] < 0:
                tracks[row], self._track_count = self._track_count, self._track_count + 1
            self._last[tracks[row]] = face
        return tracks

    def _ready(self, delay: int) -> list[FrameFaces]:
        ready = []
        while self._next + delay < len(self._frames):
            position, frame, detected = self._frames[self._next]
            around = [self._frames[i] for i in range(len(self._frames)) if abs(i - self._next) <= SMOOTHING_RADIUS]
            near = [boxes for other, _, boxes in around if abs(other - position) <= MAX_DISTANCE]
            faces = [
                Face(track, _average(box, [boxes[track][0] for boxes in near if track in boxes]), box, score)
                for track, (box, score) in detected.items()
            ]
            ready.append(FrameFaces(position, frame, faces))
            self._next += 1
            if self._next > SMOOTHING_RADIUS:
                self._frames.popleft()
                self._next -= 1
        return ready


def _average(box: np.ndarray, boxes: list[np.ndarray]) -> np.ndarray:
    """Average the boxes that overlap `box`; if a person moves fast, the others would shift the crop off the face."""
    stacked = np.stack(boxes)
    overlap = box_iou(torch.from_numpy(box[None]), torch.from_numpy(stacked))[0].numpy()
    return np.mean(stacked[overlap >= MIN_IOU], axis=0)
