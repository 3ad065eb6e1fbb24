"""Metrics of frame and video scores, with confidence intervals."""

import re
from typing import Any, NamedTuple

import numpy as np

from evaluation.intervals import auc_interval
from evaluation.predictions import Scores

CALIBRATION_BINS = 15
METRICS = ("acc", "auc", "ap", "eer", "log_loss", "brier", "ece", "tpr_at_fpr_0.01", "tpr_at_fpr_0.1")
FFPP_MANIPULATION = r"manipulated_sequences/([^/]+)"  # the folder of a manipulation in FaceForensics++


def binary_metrics(labels: np.ndarray, scores: np.ndarray, threshold: float | None = None) -> dict[str, float | None]:
    """Compute the metrics of scores against labels.

    Args:
        labels: N >= 1, 0 real and 1 fake.
        scores: N, from 0 (real) to 1 (fake), float64.
        threshold: a score above it means fake; None leaves out ``acc_at_threshold``.

    Returns:
        ``acc``: accuracy at a threshold of 0.5.
        ``auc``: area under the ROC curve.
        ``ap``: average precision, with fake as the positive class.
        ``eer``: equal error rate, the mean of both error rates at the point of the ROC curve where they are closest.
        ``log_loss``: in nats.
        ``brier``: mean squared error of the score.
        ``ece``: expected calibration error, see `calibration_error`.
        ``tpr_at_fpr_0.01``, ``tpr_at_fpr_0.1``: the highest true positive rate at a false positive rate of at most
        1 % or 10 %.
        ``acc_at_threshold``: accuracy at `threshold`.
        All but ``log_loss`` range from 0 to 1. ``auc``, ``ap``, ``eer`` and both true positive rates are None if the
        labels have a single class.

    Raises:
        ValueError: a score is not a number from 0 to 1.
    """
    from sklearn import metrics as sk  # slow to import

    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if not ((scores >= 0) & (scores <= 1)).all():  # also false for NaN
        raise ValueError("scores must be numbers from 0 to 1")
    clipped = scores.clip(1e-15, 1 - 1e-15)  # keeps the log loss finite
    result: dict[str, float | None] = dict.fromkeys(METRICS)
    result |= {
        "acc": float(np.mean((scores > 0.5) == labels)),
        "log_loss": float(sk.log_loss(labels, clipped, labels=[0, 1])),
        "brier": float(np.mean((scores - labels) ** 2)),
        "ece": calibration_error(labels, scores),
    }
    if 0 < labels.sum() < len(labels):
        fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
        closest = np.abs(fpr - (1 - tpr)).argmin()
        result |= {
            "auc": float(sk.roc_auc_score(labels, scores)),
            "ap": float(sk.average_precision_score(labels, scores)),
            "eer": float((fpr[closest] + 1 - tpr[closest]) / 2),
            "tpr_at_fpr_0.01": float(tpr[fpr <= 0.01].max()),
            "tpr_at_fpr_0.1": float(tpr[fpr <= 0.1].max()),
        }
    if threshold is not None:
        result["acc_at_threshold"] = float(np.mean((scores > threshold) == labels))
    return result


def calibration_bins(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the number of scores, their sum and the number of fakes in each bin, `CALIBRATION_BINS` values each.

    Args:
        labels: N, 0 real and 1 fake.
        scores: N, from 0 to 1.
    """
    bins = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    count, score, fakes = (
        np.bincount(bins, weights=weights, minlength=CALIBRATION_BINS) for weights in (None, scores, labels)
    )
    return count, score, fakes


def calibration_error(labels: np.ndarray, scores: np.ndarray) -> float:
    """Compute the expected calibration error (Naeini et al., AAAI 2015).

    It is the mean of abs(mean score - share of fakes) over `CALIBRATION_BINS` bins of equal width, weighted by the
    number of scores in the bin.
    """
    _, score, fakes = calibration_bins(labels, scores)
    return float(np.abs(score - fakes).sum() / len(scores))


def choose_threshold(labels: np.ndarray, scores: np.ndarray, fpr: float | None = None) -> float | None:
    """Choose a decision threshold from validation scores.

    Args:
        labels: N, 0 real and 1 fake.
        scores: N, from 0 to 1.
        fpr: choose the lowest threshold with at most this false positive rate, 0 to 1; None chooses the equal error
            rate point.

    Returns:
        The threshold, halfway between two neighbouring scores, or between the last score and 0 or 1; None if the labels
        have a single class.
    """
    from sklearn.metrics import roc_curve  # slow to import

    if not 0 < np.sum(labels) < len(labels):
        return None
    fprs, tprs, cutoffs = roc_curve(labels, scores, drop_intermediate=False)
    chosen = np.abs(fprs - (1 - tprs)).argmin() if fpr is None else np.flatnonzero(fprs <= fpr)[-1]
    below = cutoffs[chosen + 1] if chosen + 1 < len(cutoffs) else 0.0
    above = min(cutoffs[chosen], 1.0)  # roc_curve calls scores >= cutoff fake, this project scores > threshold
    middle = (above + below) / 2
    return float(middle if middle < above else below)  # between neighbouring doubles, middle == above


def combine_frames(scores: np.ndarray, folders: np.ndarray, video_score: str) -> np.ndarray:
    """Combine the frame scores of each face into one score.

    Args:
        scores: N, the frame scores.
        folders: N, the number of each frame's face, from 0 to F - 1.
        video_score: ``mean``, ``max``, or ``topK`` such as ``top5`` (mean of the K highest).

    Returns:
        F scores.
    """
    count = np.bincount(folders)
    if video_score == "mean":
        return np.bincount(folders, weights=scores) / count
    k = 1 if video_score == "max" else int(video_score.removeprefix("top"))
    order = np.lexsort((-scores, folders))  # by face, then from the highest score down
    rank = np.arange(len(scores)) - np.repeat(np.cumsum(count) - count, count)
    kept = order[rank < k]
    return np.bincount(folders[kept], weights=scores[kept]) / np.minimum(count, k)


class VideoScores(NamedTuple):
    """The scores of V videos.

    Attributes:
        labels: V, 0 real and 1 fake; a video with a fake face is fake.
        scores: V, the highest score of the video's faces.
        clusters: V, the number of each video's cluster.
        videos: V, the number of each video in `Scores.video_names`.
    """

    labels: np.ndarray
    scores: np.ndarray
    clusters: np.ndarray
    videos: np.ndarray


def score_videos(scored: Scores, video_score: str) -> VideoScores:
    """Combine frame scores into video scores.

    Args:
        scored: the frame scores.
        video_score: see `combine_frames`; a video with several faces has its highest face score.
    """
    _, first, folders = np.unique(scored.folders, return_index=True, return_inverse=True)
    face_scores = combine_frames(scored.scores, folders, video_score)
    videos, first_face, video = np.unique(scored.videos[first], return_index=True, return_inverse=True)
    scores, labels = np.zeros(len(videos)), np.zeros(len(videos), int)
    np.maximum.at(scores, video, face_scores)
    np.maximum.at(labels, video, scored.labels[first])
    return VideoScores(labels, scores, scored.clusters[first][first_face], videos)


def dataset_metrics(
    scored: Scores, video_score: str = "mean", thresholds: tuple[float | None, float | None] = (None, None)
) -> dict[str, Any]:
    """Compute the metrics of frames and of videos.

    Args:
        scored: the frame scores.
        video_score: see `combine_frames`.
        thresholds: the decision thresholds of frames and of videos, see `binary_metrics`.

    Returns:
        ``frames``, ``videos``, ``clusters``: number of each.
        The frame metrics of `binary_metrics`, and ``auc_interval``: the 95 % interval ``[low, high]``, see
        `evaluation.intervals.auc_interval`.
        The video metrics, with the prefix ``video_``.
    """
    videos = score_videos(scored, video_score)
    clusters = len(np.unique(videos.clusters))
    result: dict[str, Any] = {"frames": len(scored.labels), "videos": len(videos.labels), "clusters": clusters}
    frames = (scored.labels, scored.scores, scored.clusters)
    for prefix, level, threshold in zip(("", "video_"), (frames, videos[:3]), thresholds, strict=True):
        metrics = {**binary_metrics(*level[:2], threshold), "auc_interval": auc_interval(*level)}
        result |= {prefix + name: value for name, value in metrics.items()}
    return result


def group_of(path: str, pattern: str) -> str | None:
    """Return the first capture group of a regular expression in a path, or else the match; None without a match."""
    match = re.search(pattern, path)
    return (match[1] if match.re.groups else match[0]) or None if match else None


def group_metrics(
    scored: Scores,
    pattern: str,
    video_score: str = "mean",
    thresholds: tuple[float | None, float | None] = (None, None),
) -> dict[str, dict[str, Any]]:
    """Compute the metrics of each group of fake videos against all real videos.

    Args:
        scored: the frame scores.
        pattern: regular expression that names the group of a fake image by the path of its folder, see `group_of`;
            fake images without a match are in no group.
        video_score: see `combine_frames`.
        thresholds: see `dataset_metrics`.

    Returns:
        Group name -> result of `dataset_metrics`, sorted by name.
    """
    fake = np.flatnonzero(scored.labels == 1)
    folders, first = np.unique(scored.folders[fake], return_index=True)
    names = {
        folder: group_of(scored.paths[fake[i]].rpartition("/")[0], pattern)
        for folder, i in zip(folders, first, strict=True)
    }
    groups = {}
    for group in sorted({name for name in names.values() if name}):
        members = [folder for folder, name in names.items() if name == group]
        kept = (scored.labels == 0) | np.isin(scored.folders, members)
        groups[group] = dataset_metrics(scored.select(kept), video_score, thresholds)
    return groups
