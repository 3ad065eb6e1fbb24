"""Measure how steady a score is: score tighter crops, mirror images and recompressed copies of a face."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from faces.videos import evenly_spaced

CROP_SHARE = 0.05  # share of the side that a tighter crop leaves out
JPEG_QUALITIES = (90, 70, 50)
LONGEST = 1024  # pixels; networks use 224
KEPT = 3  # number of crops of a person in a video whose variants are scored


class KeptCrops:
    """A few crops of a track, evenly spaced in time, in constant memory."""

    def __init__(self) -> None:
        self._crops: list[np.ndarray] = []
        self._step, self._seen = 1, 0

    def add(self, crop: np.ndarray) -> None:
        """Add the next crop of the track, H x W x 3, uint8."""
        if self._seen % self._step == 0:
            self._crops.append(crop)
            if len(self._crops) == 2 * KEPT:
                self._crops, self._step = self._crops[::2], 2 * self._step
        self._seen += 1

    def chosen(self) -> list[np.ndarray]:
        """Return at most `KEPT` crops."""
        return [self._crops[i] for i in evenly_spaced(len(self._crops), KEPT)]


def shrink(crop: np.ndarray) -> np.ndarray:
    """Shrink a crop to at most `LONGEST` pixels a side, because all its variants are in memory at once."""
    height, width = crop.shape[:2]
    scale = LONGEST / max(height, width)
    if scale >= 1:
        return crop
    return cv2.resize(crop, None, fx=max(scale, 1 / width), fy=max(scale, 1 / height), interpolation=cv2.INTER_AREA)


def variants(crop: np.ndarray) -> list[np.ndarray]:
    """Return variants of a face crop that show the same face, each h x w x 3, uint8.

    These are five tighter crops (four corners and centre), mirror images of the crop and of these five, and the crop as
    JPEG of each of `JPEG_QUALITIES`.

    Args:
        crop: H x W x 3, uint8, RGB.
    """
    height, width = crop.shape[:2]
    below, beside = round(CROP_SHARE * height), round(CROP_SHARE * width)
    corners = [(y, x) for y in (0, below) for x in (0, beside)]
    cuts = [crop[y : y + height - below, x : x + width - beside] for y, x in [*corners, (below // 2, beside // 2)]]
    mirrored = [cut[:, ::-1] for cut in (crop, *cuts)]
    copies = []
    for quality in JPEG_QUALITIES:
        _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(crop[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
        copies.append(np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1])
    return [np.ascontiguousarray(variant) for variant in (*cuts, *mirrored, *copies)]


def score_variants(
    crops: Sequence[np.ndarray], score: float, score_crops: Callable[[list[np.ndarray]], np.ndarray]
) -> np.ndarray:
    """Score the variants of a face.

    In a video, the crops represent all frames: the score of a variant is `score` plus the mean change over the crops.

    Args:
        crops: N >= 1 crops of the face, each H x W x 3, uint8, RGB.
        score: the score of the face, 0 to 1.
        score_crops: maps crops to their scores.

    Returns:
        1 + V scores, 0 to 1: `score`, then the scores of the V variants.
    """
    small = [shrink(crop) for crop in crops]
    found = np.stack([score_crops([crop, *variants(crop)]) for crop in small])
    return np.clip(score + (found - found[:, :1]).mean(axis=0), 0.0, 1.0)
