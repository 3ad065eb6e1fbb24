"""Confidence intervals of the AUC by bootstrap over videos."""

from collections.abc import Callable, Iterator

import numpy as np

RESAMPLES = 2000  # number of bootstrap draws


def weighted_auc(labels: np.ndarray, scores: np.ndarray, videos: np.ndarray) -> Callable[[np.ndarray], float]:
    """Precompute the sort so that a weighted AUC costs linear time.

    Args:
        labels: N, 0 real and 1 fake.
        scores: N.
        videos: N, the index of each frame's video, from 0 to V - 1.

    Returns:
        ``auc(video_weights) -> float``: the AUC of the frames, each weighted by the weight of its video. The weights
        (V, >= 0) may be how often a draw contains each video. NaN if one class has no weight.
    """
    order = np.argsort(scores, kind="stable")
    fake, video, scores = labels[order].astype(np.float64), videos[order], scores[order]
    ties = np.flatnonzero(np.r_[True, np.diff(scores) > 0])  # first index of each distinct score

    def auc(video_weights: np.ndarray) -> float:
        weight = video_weights[video].astype(np.float64)
        fakes = np.add.reduceat(weight * fake, ties)
        reals = np.add.reduceat(weight, ties) - fakes
        pairs = fakes.sum() * reals.sum()
        below = np.cumsum(reals) - reals / 2  # weight of real frames with a lower score; ties count half
        return float((fakes * below).sum() / pairs) if pairs > 0 else float("nan")

    return auc


def draw_videos(total: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield bootstrap draws of `total` videos with replacement: how often each video was drawn, `total` counts.

    Each draw is ``rng.integers(total, size=total)``; all share ``rng = numpy.random.default_rng(seed)``.
    """
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(rng.integers(total, size=total), minlength=total)


def bootstrap_auc(
    labels: np.ndarray, scores: np.ndarray, videos: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Return the frame AUC of each bootstrap draw of videos.

    Videos are drawn, not frames, because the frames of one video are not independent. Draws with a single class are
    left out.

    Args:
        labels: N, 0 real and 1 fake.
        scores: N.
        videos: N, the index of each frame's video, from 0 to V - 1.
        resamples: number of draws.
        seed: see `draw_videos`.
    """
    auc = weighted_auc(labels, scores, videos)
    aucs = np.array([auc(weights) for weights in draw_videos(int(videos.max()) + 1, resamples, seed)])
    return aucs[~np.isnan(aucs)]


def interval(values: np.ndarray) -> list[float] | None:
    """Return the 95 % percentile interval ``[low, high]`` of bootstrap values; None if there are no values."""
    return [float(x) for x in np.percentile(values, [2.5, 97.5])] if len(values) else None
