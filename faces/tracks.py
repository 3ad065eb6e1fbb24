"""Face tracks: link the boxes of successive frames and smooth them."""

from collections import deque
from typing import NamedTuple

import numpy as np
import scipy  # scipy.optimize, which is slow to import, loads when it is used
import torch

from utils.imports import without_compiler

with without_compiler():
    from torchvision.ops import box_iou

MIN_IOU = 0.2  # of a face's boxes in successive sampled frames
MAX_GAP = 10  # sampled frames after which a lost face gets a new track
SMOOTHING_RADIUS = 2  # sampled frames before and after, over which a box is averaged
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


class FaceTracker:
    """Track the faces of one video frame by frame, in constant memory.

    An optimal assignment matches each box to the track whose last box it overlaps most. An unmatched box starts a new
    track. Frames are returned `SMOOTHING_RADIUS` frames late, because smoothing needs the boxes that follow.
    """

    def __init__(self) -> None:
        self._frames: deque[tuple[int, np.ndarray, dict[int, tuple[np.ndarray, float]]]] = deque()
        self._next = 0  # index in the deque of the next frame to return
        self._pushed = 0
        self._last: dict[int, tuple[int, np.ndarray]] = {}  # track: frame number and box of its last detection
        self._track_count = 0

    def push(self, position: int, frame: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> list[FrameFaces]:
        """Add a frame with its boxes (N x 4, pixels) and scores (N); return the frames that are ready."""
        tracks = self._assign(boxes)
        detected = {t: (box, float(score)) for t, box, score in zip(tracks, boxes, scores, strict=True)}
        self._frames.append((position, frame, detected))
        self._pushed += 1
        return self._ready(SMOOTHING_RADIUS)

    def flush(self) -> list[FrameFaces]:
        """Return the remaining frames at the end of the video."""
        return self._ready(0)

    def _assign(self, boxes: np.ndarray) -> list[int]:
        self._last = {t: last for t, last in self._last.items() if self._pushed - last[0] <= MAX_GAP}
        candidates = list(self._last)
        tracks = [-1] * len(boxes)
        if candidates and len(boxes):
            last_boxes = np.stack([self._last[track][1] for track in candidates])
            overlap = box_iou(torch.from_numpy(boxes), torch.from_numpy(last_boxes)).numpy()
            for row, column in zip(*scipy.optimize.linear_sum_assignment(-overlap), strict=True):
                if overlap[row, column] >= MIN_IOU:
                    tracks[row] = candidates[column]
        for row, box in enumerate(boxes):
            if tracks[row] < 0:
                tracks[row], self._track_count = self._track_count, self._track_count + 1
            self._last[tracks[row]] = (self._pushed, box)
        return tracks

    def _ready(self, delay: int) -> list[FrameFaces]:
        ready = []
        while self._next + delay < len(self._frames):
            position, frame, detected = self._frames[self._next]
            around = [self._frames[i] for i in range(len(self._frames)) if abs(i - self._next) <= SMOOTHING_RADIUS]
            near = [boxes for other, _, boxes in around if abs(other - position) <= MAX_DISTANCE]
            faces = [
                Face(track, np.mean([boxes[track][0] for boxes in near if track in boxes], axis=0), box, score)
                for track, (box, score) in detected.items()
            ]
            ready.append(FrameFaces(position, frame, faces))
            self._next += 1
            if self._next > SMOOTHING_RADIUS:
                self._frames.popleft()
                self._next -= 1
        return ready
