"""Faces over time: boxes of successive frames linked to tracks, and smoothed."""

from collections import deque
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

MIN_OVERLAP = 0.2  # intersection over union of a face's boxes in two successive sampled frames
MAX_GAP = 10  # sampled frames for which a face may be lost and still be the same
REACH = 2  # sampled frames before and after, over which a box is averaged
MAX_REACH = 10  # frames of the video before and after: sparser samples are too far apart to be averaged


class Face(NamedTuple):
    """One face of one frame.

    Attributes:
        track: the number of the person's track in this video, from 0.
        box: left, top, right, bottom in pixels, averaged over time; it may reach beyond the frame.
        found: the box as the detector gave it.
        score: the detector's, 0 to 1.
    """

    track: int
    box: np.ndarray
    found: np.ndarray
    score: float


class FrameFaces(NamedTuple):
    """A frame (H x W x 3), its position in the video, and its faces."""

    position: int
    frame: np.ndarray
    faces: list[Face]


class FaceTracker:
    """Follow the faces of one video, frame by frame, in memory that does not grow with its frames' number.

    A box goes to the track whose last box it overlaps most, by an optimal assignment; a box without one begins a
    new track. Frames come out `REACH` frames late, when the boxes after them are known.
    """

    def __init__(self) -> None:
        self._frames: deque[tuple[int, np.ndarray, dict[int, tuple[np.ndarray, float]]]] = deque()
        self._next = 0  # which of the frames in the deque comes out next
        self._seen = 0
        self._last: dict[int, tuple[int, np.ndarray]] = {}  # track: when it was last seen, and where
        self._tracks = 0

    def push(self, position: int, frame: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> list[FrameFaces]:
        """Take the next frame with its N boxes (N x 4, pixels) and scores (N); return the frames that are ready."""
        tracks = self._assign(boxes)
        found = {t: (box, float(score)) for t, box, score in zip(tracks, boxes, scores, strict=True)}
        self._frames.append((position, frame, found))
        self._seen += 1
        return self._ready(REACH)

    def flush(self) -> list[FrameFaces]:
        """Return the frames that are left, when the video has ended."""
        return self._ready(0)

    def _assign(self, boxes: np.ndarray) -> list[int]:
        self._last = {t: seen for t, seen in self._last.items() if self._seen - seen[0] <= MAX_GAP}
        names = list(self._last)
        tracks = [-1] * len(boxes)
        if names and len(boxes):
            before = np.stack([self._last[name][1] for name in names])
            overlap = box_iou(torch.from_numpy(boxes), torch.from_numpy(before)).numpy()
            for row, column in zip(*linear_sum_assignment(-overlap), strict=True):
                if overlap[row, column] >= MIN_OVERLAP:
                    tracks[row] = names[column]
        for row, box in enumerate(boxes):
            if tracks[row] < 0:
                tracks[row], self._tracks = self._tracks, self._tracks + 1
            self._last[tracks[row]] = (self._seen, box)
        return tracks

    def _ready(self, wait: int) -> list[FrameFaces]:
        ready = []
        while self._next + wait < len(self._frames):
            position, frame, found = self._frames[self._next]
            around = [self._frames[i] for i in range(len(self._frames)) if abs(i - self._next) <= REACH]
            near = [boxes for other, _, boxes in around if abs(other - position) <= MAX_REACH]
            faces = [
                Face(track, np.mean([boxes[track][0] for boxes in near if track in boxes], axis=0), box, score)
                for track, (box, score) in found.items()
            ]
            ready.append(FrameFaces(position, frame, faces))
            self._next += 1
            if self._next > REACH:
                self._frames.popleft()
                self._next -= 1
        return ready
