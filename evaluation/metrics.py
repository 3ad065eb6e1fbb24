"""How well scores tell fake from real: of frames, of videos, and with what certainty."""

import re

import numpy as np

from evaluation.intervals import RESAMPLES, bootstrap_auc, interval

CALIBRATION_BINS = 15
METRICS = ("acc", "auc", "ap", "eer", "log_loss", "brier", "ece", "tpr_at_fpr_0.01", "tpr_at_fpr_0.1")


def binary_metrics(labels: np.ndarray, scores: np.ndarray, threshold: float | None = None) -> dict[str, float | None]:
    """Measure how well scores tell fake from real.

    Args:
        labels: N >= 1, 0 real and 1 fake.
        scores: N, from 0 (real) to 1 (fake), float64.
        threshold: a score above it means fake; None leaves ``acc_at_threshold`` out.

    Returns:
        Shares from 0 to 1: ``acc`` at a threshold of 0.5, ``auc`` (area under the ROC curve), ``ap`` (average
        precision, fake the positive class), ``eer`` (equal error rate, read off the ROC curve where the two
        kinds of error are closest, as their mean), ``brier`` (mean squared error of the score), ``ece`` (expected
        calibration error: over `CALIBRATION_BINS` bins of equal width, the mean distance between the mean score
        and the share of fakes, weighted by the number of scores), ``tpr_at_fpr_0.01`` and ``tpr_at_fpr_0.1`` (the
        largest share of fakes found at a threshold that calls no more than 1 % or 10 % of the real ones fake);
        and ``log_loss`` in nats. With one class alone auc, ap, eer and both tpr are not defined: None.

    Raises:
        ValueError: scores that are no numbers from 0 to 1.
    """
    from sklearn import metrics as sk  # a second to import, and often not needed

    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if not ((scores >= 0) & (scores <= 1)).all():  # NaN is neither
        raise ValueError("scores must be numbers from 0 to 1")
    clipped = scores.clip(1e-15, 1 - 1e-15)  # a certain and wrong answer costs 35 nats, not infinitely many
    result: dict[str, float | None] = dict.fromkeys(METRICS)
    result |= {
        "acc": float(np.mean((scores > 0.5) == labels)),
        "log_loss": float(sk.log_loss(labels, clipped, labels=[0, 1])),
        "brier": float(np.mean((scores - labels) ** 2)),
        "ece": calibration_error(labels, scores),
    }
    if 0 < labels.sum() < len(labels):
        false, true, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
        closest = np.abs(false - (1 - true)).argmin()
        result |= {
            "auc": float(sk.roc_auc_score(labels, scores)),
            "ap": float(sk.average_precision_score(labels, scores)),
            "eer": float((false[closest] + 1 - true[closest]) / 2),
            "tpr_at_fpr_0.01": float(true[false <= 0.01].max()),
            "tpr_at_fpr_0.1": float(true[false <= 0.1].max()),
        }
    if threshold is not None:
        result["acc_at_threshold"] = float(np.mean((scores > threshold) == labels))
    return result


def calibration_bins(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count scores, and sum scores and labels, in `CALIBRATION_BINS` bins of equal width from 0 to 1."""
    bins = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    count, score, fakes = (
        np.bincount(bins, weights=weights, minlength=CALIBRATION_BINS) for weights in (None, scores, labels)
    )
    return count, score, fakes


def calibration_error(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the expected calibration error (Naeini et al., AAAI 2015) of N scores from 0 to 1."""
    _, score, fakes = calibration_bins(labels, scores)
    return float(np.abs(score - fakes).sum() / len(scores))


def choose_threshold(labels: np.ndarray, scores: np.ndarray, fpr: float | None = None) -> float | None:
    """Choose the threshold of equal error; or, of those that call no more than `fpr` of the real ones fake, the lowest.

    Returns:
        The threshold, half-way between two scores; None where there is one class alone.
    """
    from sklearn.metrics import roc_curve

    if not 0 < np.sum(labels) < len(labels):
        return None
    false, true, lowest_fake = roc_curve(labels, scores, drop_intermediate=False)
    chosen = np.abs(false - (1 - true)).argmin() if fpr is None else np.flatnonzero(false <= fpr)[-1]
    highest_real = lowest_fake[chosen + 1] if chosen + 1 < len(lowest_fake) else 0.0
    lowest = min(lowest_fake[chosen], 1.0)  # called fake: those above the threshold, this one among them
    middle = (lowest + highest_real) / 2
    return float(middle if middle < lowest else highest_real)  # between neighbouring doubles it may round up


def score_videos(scores: np.ndarray, videos: np.ndarray, how: str) -> np.ndarray:
    """Score videos by their frames.

    Args:
        scores: N.
        videos: N, from 0 to V - 1: which video each frame is of.
        how: ``mean``; ``max``; or ``top5``, the mean of the five highest (of any number).

    Returns:
        V scores.
    """
    count = np.bincount(videos)
    if how == "mean":
        return np.bincount(videos, weights=scores) / count
    most = 1 if how == "max" else int(how.removeprefix("top"))
    order = np.lexsort((-scores, videos))  # by video, the highest score first
    rank = np.arange(len(scores)) - np.repeat(np.cumsum(count) - count, count)
    kept = order[rank < most]
    return np.bincount(videos[kept], weights=scores[kept]) / np.minimum(count, most)


def dataset_metrics(
    labels: np.ndarray,
    scores: np.ndarray,
    videos: np.ndarray,
    video_score: str = "mean",
    threshold: float | None = None,
    resamples: int = RESAMPLES,
) -> dict[str, float | int | list[float] | None]:
    """Measure frames and videos.

    Args:
        labels: N, one a frame, 0 real and 1 fake.
        scores: N, from 0 to 1.
        videos: N, which video each frame is of, any integers.
        video_score: see `score_videos`.
        threshold: see `binary_metrics`.
        resamples: of the bootstrap of both AUCs; 0 leaves their intervals out.

    Returns:
        ``frames`` and ``videos`` (counts); the frames' metrics, see `binary_metrics`, and the 95 % interval of their
        AUC by bootstrap over videos, ``auc_interval`` (None where a class has fewer than two videos); the videos'
        under the same names with ``video_`` before them.
    """
    _, first, video = np.unique(videos, return_index=True, return_inverse=True)
    of_videos = score_videos(scores, video, video_score)
    result: dict = {"frames": len(labels), "videos": len(first)}
    # Of a class's only video every draw holds the same frames: an interval would say that nothing is uncertain.
    enough = min(np.bincount(labels[first], minlength=2)) > 1
    for prefix, y, s, v in (("", labels, scores, video), ("video_", labels[first], of_videos, np.arange(len(first)))):
        measured = binary_metrics(y, s, threshold)
        if resamples:
            measured["auc_interval"] = interval(bootstrap_auc(y, s, v, resamples)) if enough else None
        result |= {prefix + name: value for name, value in measured.items()}
    return result


# The folder of a manipulation in FaceForensics++.
FFPP_MANIPULATION = r"manipulated_sequences/([^/]+)"


def group_of(path: str, pattern: str) -> str | None:
    """Return what the first group of a regular expression, or all of it, matches in a fake video's path; else None."""
    match = re.search(pattern, path)
    return (match[1] if match.re.groups else match[0]) or None if match else None


def group_metrics(
    labels: np.ndarray, scores: np.ndarray, videos: np.ndarray, paths: list[str], pattern: str, **options: object
) -> dict[str, dict]:
    """Measure each group of fakes against all real videos.

    Args:
        labels: N, one a frame, as are `scores` and `videos`, which index `paths`.
        scores: see `dataset_metrics`.
        videos: see above.
        paths: of the videos.
        pattern: a regular expression that names a fake video's group, see `group_of`. Fakes that it does not match
            are in none.
        options: of `dataset_metrics`.
    """
    names = {int(video): group_of(paths[video], pattern) for video in np.unique(videos[labels == 1])}
    groups = {}
    for name in sorted({name for name in names.values() if name}):
        members = [video for video, its_name in names.items() if its_name == name]
        kept = (labels == 0) | np.isin(videos, members)
        groups[name] = dataset_metrics(labels[kept], scores[kept], videos[kept], **options)
    return groups
