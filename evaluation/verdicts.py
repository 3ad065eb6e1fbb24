"""Verdicts with known error rates: real, fake, or uncertain.

Two cutoffs come from the scores of the validation videos by split conformal prediction, for each class apart (Vovk,
Gammerman and Shafer, Algorithmic Learning in a Random World, 2005, section 4.5). The verdict is fake for at most a
share `error` of the real videos, and real for at most this share of the fake videos, as long as new videos resemble the
validation videos.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from evaluation.metrics import choose_threshold, score_videos
from evaluation.predictions import Scores

VERDICTS = ("real", "fake", "uncertain")
LEVELS = ("frame", "video")
ERROR = 0.05  # default share of wrong verdicts


class Cutoffs(NamedTuple):
    """A score below `real` means real, above `fake` means fake, and between them uncertain."""

    real: float
    fake: float

    def verdict(self, score: float) -> str:
        """Return real, fake or uncertain."""
        return "fake" if score > self.fake else "real" if score < self.real else "uncertain"


def calibrate(scored: Scores, fpr: float | None, video_score: str) -> dict[str, Any] | None:
    """Choose thresholds from the scores of the validation set, and keep the scores that verdicts need.

    Args:
        scored: the frame scores.
        fpr: the false positive rate of both thresholds; None for the equal error rate point.
        video_score: how frames combine, see `evaluation.metrics.combine_frames`.

    Returns:
        Plain values: ``video_score``; ``wanted_fpr``, the argument `fpr`; and for ``frame`` and ``video`` each a
        ``threshold``, the ``fpr`` and ``fnr`` (false positive and negative rate) that it has on the validation set, and
        the sorted scores of the ``real`` and of the ``fake`` videos: of the video itself for ``video``, of its middle
        frame for ``frame``, because the frames of a video are not independent. None if the videos have a single class.
    """
    videos = score_videos(scored, video_score)
    if not 0 < videos.labels.sum() < len(videos.labels):
        return None
    order = np.argsort(scored.videos, kind="stable")
    ends = np.cumsum(np.bincount(scored.videos))
    middle = order[(np.r_[0, ends[:-1]] + ends) // 2]
    content: dict[str, Any] = {"video_score": video_score, "wanted_fpr": fpr}
    samples = {"frame": (scored.labels[middle], scored.scores[middle]), "video": (videos.labels, videos.scores)}
    for level, (labels, scores) in {"frame": (scored.labels, scored.scores), "video": samples["video"]}.items():
        threshold = choose_threshold(labels, scores, fpr)
        called_fake, (one_labels, one_scores) = scores > threshold, samples[level]
        content[level] = {
            "threshold": threshold,
            "fpr": float(called_fake[labels == 0].mean()),
            "fnr": float(1 - called_fake[labels == 1].mean()),
            "real": sorted(one_scores[one_labels == 0].tolist()),
            "fake": sorted(one_scores[one_labels == 1].tolist()),
        }
    return content


def thresholds_of(calibration: dict[str, Any] | None) -> dict[str, dict[str, float] | None]:
    """Return the ``threshold`` of ``frame`` and of ``video``, with its ``fpr`` and ``fnr``; None without one."""
    keys = ("threshold", "fpr", "fnr")
    return {level: calibration and {key: calibration[level][key] for key in keys} for level in LEVELS}


def choose_cutoffs(calibration: dict[str, Any], level: str, error: float, faces: int = 1) -> Cutoffs:
    """Choose the cutoffs of verdicts.

    Args:
        calibration: the result of `calibrate`.
        level: frame for a single image, video for a video.
        error: the share of each class, 0 to 1, that may get the verdict of the other.
        faces: the number of faces whose highest score is judged. Each real face may be called fake, so each gets an
            equal part of `error` (Bonferroni).

    Returns:
        The cutoffs. With too few validation videos for `error`, `real` is 0 (no score means real) or `fake` is 1 (no
        score means fake).
    """
    real, fake = calibration[level]["real"], calibration[level]["fake"]
    rank = max(1, math.ceil((1 - error / faces) * (len(real) + 1)))
    fake_above = real[rank - 1] if rank <= len(real) else 1.0
    rank = min(len(fake), math.floor(error * (len(fake) + 1)))
    real_below = fake[rank - 1] if rank >= 1 else 0.0
    if real_below > fake_above:  # any cutoff between them keeps both errors
        real_below = fake_above = (real_below + fake_above) / 2
    return Cutoffs(real_below, fake_above)


def error_rates(calibration: dict[str, Any], level: str, score: float, faces: int = 1) -> tuple[float, float]:
    """Return how often a real video scores as high, and a fake video as low, as this one: conformal p values.

    Args:
        calibration: the result of `calibrate`.
        level: frame or video.
        score: the highest score of the faces.
        faces: the number of faces.

    Returns:
        The false positive rate: the largest share of real videos with as many faces that score as high. The false
        negative rate: the largest share of fake videos that score as low.
    """
    real, fake = np.array(calibration[level]["real"]), np.array(calibration[level]["fake"])
    as_high = (1 + np.sum(real >= score)) / (len(real) + 1)
    as_low = (1 + np.sum(fake <= score)) / (len(fake) + 1)
    return min(1.0, faces * float(as_high)), float(as_low)


def measure_verdicts(calibration: dict[str, Any], scored: Scores, error: float) -> dict[str, Any]:
    """Measure the error rates of the verdicts on a test set, with the cutoffs for videos of one person.

    Args:
        calibration: the result of `calibrate`.
        scored: the frame scores of the test set.
        error: see `choose_cutoffs`.

    Returns:
        ``error`` and ``video_score``; the cutoffs ``real_below`` and ``fake_above``; ``real_called_fake`` and
        ``fake_called_real``, shares of the videos of a class (None without such videos); ``uncertain``, the share of
        all videos.
    """
    cutoffs = choose_cutoffs(calibration, "video", error)
    videos = score_videos(scored, calibration["video_score"])
    real, fake = (videos.scores[videos.labels == label] for label in (0, 1))
    between = (videos.scores >= cutoffs.real) & (videos.scores <= cutoffs.fake)
    return {
        "error": error,
        "video_score": calibration["video_score"],
        "real_below": cutoffs.real,
        "fake_above": cutoffs.fake,
        "real_called_fake": float(np.mean(real > cutoffs.fake)) if len(real) else None,
        "fake_called_real": float(np.mean(fake < cutoffs.real)) if len(fake) else None,
        "uncertain": float(np.mean(between)),
    }
