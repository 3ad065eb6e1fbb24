"""Confidence intervals of the AUC by bootstrap over videos."""

from collections.abc import Callable, Iterator

import numpy as np

RESAMPLES = 2000  # of the bootstrap


def weighted_auc(labels: np.ndarray, scores: np.ndarray, videos: np.ndarray) -> Callable[[np.ndarray], float]:
    """Return the function from the videos' weights to the AUC of their frames.

    The scores are sorted once, so that each call takes time linear in their number.

    Args:
        labels: N, 0 real and 1 fake.
        scores: N.
        videos: N, from 0 to V - 1: which video each frame is of.

    Returns:
        A function of V weights from 0 up, such as how often each video was drawn; its value is the share of pairs of a
        fake and a real frame, each pair weighted by both, in which the fake one's score is higher, ties half; NaN
        where the weights leave one class alone.
    """
    order = np.argsort(scores, kind="stable")
    fake, video, scores = labels[order].astype(np.float64), videos[order], scores[order]
    ties = np.flatnonzero(np.r_[True, np.diff(scores) > 0])  # where each different score begins

    def auc(weights: np.ndarray) -> float:
        weight = weights[video].astype(np.float64)
        fakes = np.add.reduceat(weight * fake, ties)
        reals = np.add.reduceat(weight, ties) - fakes
        pairs = fakes.sum() * reals.sum()
        below = np.cumsum(reals) - reals / 2  # of each fake: real ones of a lower score, ties half
        return float((fakes * below).sum() / pairs) if pairs > 0 else float("nan")

    return auc


def draw_videos(total: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield the bootstrap's draws of as many videos as there are, with replacement: how often each is in it, `total`.

    Each is ``numpy.random.default_rng(seed).integers(total, size=total)``, one after the other.
    """
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(rng.integers(total, size=total), minlength=total)


def bootstrap_auc(
    labels: np.ndarray, scores: np.ndarray, videos: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Return the AUC of frames in each of `resamples` draws of as many videos, with replacement.

    Frames of one video are not independent, so that whole videos are drawn. A draw of one class alone is left out.

    Args:
        labels: N, 0 real and 1 fake.
        scores: N.
        videos: N, from 0 to V - 1.
        resamples: how many.
        seed: of the draws, see `draw_videos`.
    """
    auc = weighted_auc(labels, scores, videos)
    aucs = np.array([auc(weights) for weights in draw_videos(int(videos.max()) + 1, resamples, seed)])
    return aucs[~np.isnan(aucs)]


def interval(values: np.ndarray) -> list[float] | None:
    """Return the 95 % percentile interval of bootstrap values; None where there are none."""
    return [float(x) for x in np.percentile(values, [2.5, 97.5])] if len(values) else None
