"""ACC, AUC, AP, EER and log loss, of frames and of videos."""

import numpy as np
import torch
import torch.nn.functional as F


def binary_metrics(labels: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    """Measure how well scores tell fake from real.

    Args:
        labels: N >= 1, 0 real and 1 fake.
        scores: N, from 0 (real) to 1 (fake), float64.

    Returns:
        Shares from 0 to 1: ``acc`` at a threshold of 0.5, ``auc`` (area under the ROC curve), ``ap`` (average
        precision, fake the positive class), ``eer`` (equal error rate, read off the ROC curve where the two
        kinds of error are closest, as their mean); and ``log_loss`` in nats. With one class alone auc, ap and
        eer are not defined: None.
    """
    from torchmetrics.functional import classification as metrics  # a second to import, and often not needed

    target = torch.as_tensor(labels)
    score = torch.as_tensor(scores, dtype=torch.float64)
    clipped = score.clamp(1e-15, 1 - 1e-15)  # a certain and wrong answer costs 35 nats, not infinitely many
    both = 0 < target.sum() < len(target)
    return {
        "acc": ((score > 0.5) == target).double().mean().item(),
        "auc": metrics.binary_auroc(score, target).item() if both else None,
        "ap": metrics.binary_average_precision(score, target).item() if both else None,
        "eer": metrics.binary_eer(score, target).item() if both else None,
        "log_loss": F.binary_cross_entropy(clipped, target.double()).item(),
    }


def dataset_metrics(labels: np.ndarray, scores: np.ndarray, videos: np.ndarray) -> dict[str, float | int | None]:
    """Measure frames, and videos, whose score is the mean of their frames'.

    Args:
        labels: N, one a frame, 0 real and 1 fake.
        scores: N, from 0 to 1.
        videos: N, which video each frame is of, any integers.

    Returns:
        ``frames`` and ``videos`` (counts), the frames' ``acc``, ``auc``, ``ap``, ``eer``, ``log_loss``, and
        ``video_auc``, ``video_acc``, ``video_eer``; see `binary_metrics`.
    """
    _, first, video = np.unique(videos, return_index=True, return_inverse=True)
    video_scores = np.bincount(video, weights=scores) / np.bincount(video)
    of_videos = binary_metrics(labels[first], video_scores)
    return {
        "frames": len(labels),
        "videos": len(first),
        **binary_metrics(labels, scores),
        **{f"video_{name}": of_videos[name] for name in ("auc", "acc", "eer")},
    }
