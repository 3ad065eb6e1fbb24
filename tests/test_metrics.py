"""Metrics against scikit-learn, and what happens where they are not defined."""

import numpy as np
import pytest
from sklearn import metrics as sk

from utils.metrics import binary_metrics, dataset_metrics


def sample(n: int = 400, digits: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores with many ties."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n)
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1).round(digits)
    return labels, scores


@pytest.mark.parametrize("digits", [1, 2, 9])
def test_against_scikit_learn(digits: int) -> None:
    labels, scores = sample(digits=digits)
    ours = binary_metrics(labels, scores)
    assert ours["acc"] == pytest.approx(sk.accuracy_score(labels, scores > 0.5))
    assert ours["auc"] == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-6)
    assert ours["ap"] == pytest.approx(sk.average_precision_score(labels, scores), abs=1e-6)
    clipped = np.clip(scores, 1e-15, 1 - 1e-15)
    assert ours["log_loss"] == pytest.approx(sk.log_loss(labels, clipped))
    false, true, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    closest = np.abs(false - (1 - true)).argmin()
    assert ours["eer"] == pytest.approx((false[closest] + 1 - true[closest]) / 2, abs=1e-6)


def test_eer_by_hand() -> None:
    # At the threshold 0.5 one of four real and one of four fake images are on the wrong side.
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    scores = np.array([0.1, 0.2, 0.3, 0.7, 0.4, 0.8, 0.9, 0.95])
    assert binary_metrics(labels, scores)["eer"] == pytest.approx(0.25)


def test_scores_of_nought_and_one() -> None:
    perfect = binary_metrics(np.array([0, 1]), np.array([0.0, 1.0]))
    assert perfect == pytest.approx({"acc": 1, "auc": 1, "ap": 1, "eer": 0, "log_loss": 0}, abs=1e-6)
    assert np.isfinite(binary_metrics(np.array([0, 1]), np.array([1.0, 0.0]))["log_loss"])


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone(label: int) -> None:
    metrics = binary_metrics(np.full(4, label), np.array([0.1, 0.2, 0.3, 0.9]))
    assert metrics["auc"] is metrics["ap"] is metrics["eer"] is None
    assert metrics["acc"] == pytest.approx(0.25 if label else 0.75)
    assert metrics["log_loss"] > 0


def test_videos_are_scored_by_the_mean_of_their_frames() -> None:
    # Frames of four videos, interleaved; video 7's mean is above that of video 3 although its first frame is not.
    videos = np.array([3, 7, 3, 7, 5, 9])
    labels = np.array([0, 1, 0, 1, 0, 1])
    scores = np.array([0.45, 0.3, 0.35, 0.9, 0.1, 0.2])
    metrics = dataset_metrics(labels, scores, videos)
    assert metrics["frames"] == 6
    assert metrics["videos"] == 4
    means, truth = [0.4, 0.1, 0.6, 0.2], [0, 0, 1, 1]
    assert metrics["video_auc"] == pytest.approx(sk.roc_auc_score(truth, means))
    assert metrics["video_acc"] == pytest.approx(0.75)
    assert list(metrics) == [
        "frames", "videos", "acc", "auc", "ap", "eer", "log_loss", "video_auc", "video_acc", "video_eer",
    ]  # fmt: skip
