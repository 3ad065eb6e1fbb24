"""Metrics against their definitions and against values computed by hand, and where they are undefined."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from evaluation.intervals import bootstrap_auc, interval
from evaluation.metrics import METRICS, binary_metrics, choose_threshold, dataset_metrics, group_metrics, score_videos

REAL_FAKE = np.array([0, 0, 0, 0, 1, 1, 1, 1])


def sample(n: int = 400, digits: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and scores with many ties."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n)
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1).round(digits)
    return labels, scores


def by_pairs(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the AUC by its definition: how often a fake scores higher than a real one; ties count half."""
    fake, real = scores[labels == 1][:, None], scores[labels == 0]
    return float(np.mean((fake > real) + 0.5 * (fake == real)))


@pytest.mark.parametrize("digits", [1, 2, 9])
def test_metrics_equal_their_definitions_and_another_library(digits: int) -> None:
    from torchmetrics.functional import (
        classification as tm,
    )  # slow to import, and every worker of xdist imports this file

    labels, scores = sample(digits=digits)
    ours = binary_metrics(labels, scores, threshold=0.4)
    assert tuple(ours) == (*METRICS, "acc_at_threshold")
    assert ours["acc"] == np.mean((scores > 0.5) == (labels == 1))
    assert ours["acc_at_threshold"] == np.mean((scores > 0.4) == (labels == 1))
    assert ours["auc"] == pytest.approx(by_pairs(labels, scores), abs=1e-12)
    target, score = torch.as_tensor(labels), torch.as_tensor(scores)
    assert ours["ap"] == pytest.approx(tm.binary_average_precision(score, target).item(), abs=1e-6)
    assert ours["eer"] == pytest.approx(tm.binary_eer(score, target).item(), abs=1e-6)
    clipped = scores.clip(1e-15, 1 - 1e-15)
    chance = np.where(labels == 1, clipped, 1 - clipped)
    assert ours["log_loss"] == pytest.approx(-np.log(chance).mean(), abs=1e-12)
    assert ours["brier"] == pytest.approx(sk.brier_score_loss(labels, scores), abs=1e-12)
    for limit in (0.01, 0.1):
        rates = [(np.mean(scores[labels == 0] >= t), np.mean(scores[labels == 1] >= t)) for t in [*scores, 2]]
        best = max(true for false, true in rates if false <= limit)
        assert ours[f"tpr_at_fpr_{limit}"] == pytest.approx(best, abs=1e-12)


def test_calibration_error_uses_bins_of_equal_width() -> None:
    labels, scores = sample(digits=9)
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (scores >= low) & (scores < low + 1 / 15)
        if inside.any():
            expected += inside.sum() * abs(scores[inside].mean() - labels[inside].mean())
    assert binary_metrics(labels, scores)["ece"] == pytest.approx(expected / len(scores), abs=1e-9)


# computed by hand: acc, auc, ap, eer, log loss, brier, ece, tpr at 1 % and 10 %
PLANTED = {
    "perfect": ([0, 0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0, 1, 1]),
    "reversed": ([1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0.5, 1, None, 1, 1, 0, 0]),
    "constant": ([0.5] * 8, [0.5, 0.5, 0.5, 0.5, np.log(2), 0.25, 0, 0, 0]),
    "ties": ([0.2, 0.2, 0.2, 0.6, 0.2, 0.6, 0.6, 0.6], [0.75, 0.75, 0.6875, 0.25, None, 0.2, 0.1, 0, 0]),
}


@pytest.mark.parametrize("name", PLANTED)
def test_values_computed_by_hand(name: str) -> None:
    scores, expected = PLANTED[name]
    ours = binary_metrics(REAL_FAKE, np.array(scores, float))
    for metric, value in zip(METRICS, expected, strict=True):
        if value is not None:
            assert ours[metric] == pytest.approx(value, abs=1e-9), metric


def test_eer_by_hand() -> None:
    # At a threshold of 0.5, one of four real and one of four fake images are wrong.
    scores = np.array([0.1, 0.2, 0.3, 0.7, 0.4, 0.8, 0.9, 0.95])
    assert binary_metrics(REAL_FAKE, scores)["eer"] == pytest.approx(0.25)


@pytest.mark.parametrize("label", [0, 1])
def test_a_single_class(label: int) -> None:
    metrics = dataset_metrics(np.full(4, label), np.array([0.1, 0.2, 0.3, 0.9]), np.array([0, 0, 1, 1]), threshold=0.25)
    undefined = {"auc", "ap", "eer", "tpr_at_fpr_0.01", "tpr_at_fpr_0.1", "auc_interval"}
    assert {n for n, v in metrics.items() if v is None} == undefined | {f"video_{n}" for n in undefined}
    assert metrics["acc"] == pytest.approx(0.25 if label else 0.75)
    assert metrics["acc_at_threshold"] == 0.5
    assert metrics["log_loss"] > 0 and metrics["video_brier"] > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1, 1.1])
def test_scores_outside_0_to_1_are_an_error(bad: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        binary_metrics(np.array([0, 1]), np.array([bad, 0.5]))


# -------------------------------------------------------------------------------------------------------------- videos


def test_frame_scores_combine_into_video_scores() -> None:
    scores = np.array([0.45, 0.3, 0.35, 0.9, 0.1, 0.2, 0.6])
    videos = np.array([0, 1, 0, 1, 2, 3, 1])
    assert score_videos(scores, videos, "mean") == pytest.approx([0.4, 0.6, 0.1, 0.2])
    assert score_videos(scores, videos, "max") == pytest.approx([0.45, 0.9, 0.1, 0.2])
    assert score_videos(scores, videos, "top1") == pytest.approx([0.45, 0.9, 0.1, 0.2])
    assert score_videos(scores, videos, "top2") == pytest.approx([0.4, 0.75, 0.1, 0.2])
    assert score_videos(scores, videos, "top9") == pytest.approx([0.4, 0.6, 0.1, 0.2])


def test_dataset_metrics_cover_frames_and_videos() -> None:
    # Interleaved frames of four videos; video 7 has a higher mean than video 3, but a lower first frame.
    videos = np.array([3, 7, 3, 7, 5, 9])
    labels = np.array([0, 1, 0, 1, 0, 1])
    scores = np.array([0.45, 0.3, 0.35, 0.9, 0.1, 0.2])
    metrics = dataset_metrics(labels, scores, videos, threshold=0.15)
    assert (metrics["frames"], metrics["videos"]) == (6, 4)
    means, truth = np.array([0.4, 0.1, 0.6, 0.2]), np.array([0, 0, 1, 1])
    for name, value in binary_metrics(truth, means, 0.15).items():
        assert metrics[f"video_{name}"] == value
    for name, value in binary_metrics(labels, scores, 0.15).items():
        assert metrics[name] == value


# ----------------------------------------------------------------------------------------------------------- intervals


def test_bootstrap_equals_a_plain_loop_over_videos() -> None:
    rng = np.random.default_rng(3)
    videos = rng.integers(0, 12, 150)
    videos = np.unique(videos, return_inverse=True)[1]
    labels = (videos % 3 > 0).astype(int)
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1).round(1)
    draws, expected = np.random.default_rng(5), []
    for _ in range(60):
        drawn = draws.integers(12, size=12)
        frames = np.concatenate([np.flatnonzero(videos == video) for video in drawn])
        if 0 < labels[frames].sum() < len(frames):
            expected.append(sk.roc_auc_score(labels[frames], scores[frames]))
    assert bootstrap_auc(labels, scores, videos, 60, seed=5) == pytest.approx(np.array(expected), abs=1e-9)
    assert interval(np.arange(101) / 100) == pytest.approx([0.025, 0.975])


def test_the_interval_over_videos_is_wider_than_over_frames() -> None:
    rng = np.random.default_rng(0)
    videos = np.repeat(np.arange(40), 25)
    labels = videos % 2
    scores = 1 / (1 + np.exp(-(rng.normal(0, 1, 40)[videos] + 0.8 * labels + rng.normal(0, 0.1, 1000))))
    widths = [np.diff(interval(bootstrap_auc(labels, scores, v, 300))) for v in (videos, np.arange(1000))]
    assert widths[0] > 3 * widths[1]


def test_draws_with_a_single_class_are_left_out() -> None:
    labels, scores, videos = np.array([0, 1]), np.array([0.2, 0.7]), np.array([0, 1])
    aucs = bootstrap_auc(labels, scores, videos, 200)
    assert 60 < len(aucs) < 140 and (aucs == 1).all()
    assert interval(np.array([])) is None


def test_a_class_with_one_video_has_no_interval() -> None:
    labels, scores = np.array([0, 0, 1, 1, 1, 1]), np.array([0.1, 0.6, 0.4, 0.9, 0.3, 0.8])
    one = dataset_metrics(labels, scores, np.array([0, 0, 1, 1, 2, 2]))
    assert one["auc"] is not None and one["auc_interval"] is None and one["video_auc_interval"] is None
    assert dataset_metrics(labels, scores, np.array([0, 1, 2, 2, 3, 3]))["auc_interval"] is not None


# ----------------------------------------------------------------------------------------------- thresholds and groups


def test_threshold_at_the_equal_error_rate() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.7, 0.4, 0.8, 0.9, 0.95])
    threshold = choose_threshold(REAL_FAKE, scores)
    wrong = [np.mean(scores[REAL_FAKE == 0] > threshold), np.mean(scores[REAL_FAKE == 1] <= threshold)]
    assert wrong == [0.25, 0.25]


@pytest.mark.parametrize("fpr, false, true", [(0.0, 0, 0.75), (0.2, 0, 0.75), (0.25, 0.25, 1), (1.0, 1, 1)])
def test_threshold_for_a_false_positive_rate(fpr: float, false: float, true: float) -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.7, 0.4, 0.8, 0.9, 0.95])
    threshold = choose_threshold(REAL_FAKE, scores, fpr)
    found = np.mean(scores[REAL_FAKE == 0] > threshold), np.mean(scores[REAL_FAKE == 1] > threshold)
    assert found == (pytest.approx(false), pytest.approx(true))


def test_threshold_if_every_fake_scores_below_every_real_image() -> None:
    assert 0.9 < choose_threshold(np.array([0, 1]), np.array([0.9, 0.1]), fpr=0.0) <= 1
    assert choose_threshold(np.array([1, 1]), np.array([0.9, 0.1])) is None


@pytest.mark.parametrize("fake", [0.7, 1.0])
def test_threshold_between_neighbouring_doubles(fake: float) -> None:
    real = np.nextafter(fake, 0)
    assert real <= choose_threshold(np.array([0, 1]), np.array([real, fake])) < fake


def test_groups_are_measured_against_all_real_videos() -> None:
    paths = [
        "original_sequences/youtube/c23/1/",
        *(f"manipulated_sequences/{m}/c23/1_2/" for m in ("Deepfakes", "FaceSwap")),
    ]
    videos = np.array([0, 0, 1, 1, 2, 2])
    labels = np.array([0, 0, 1, 1, 1, 1])
    scores = np.array([0.4, 0.6, 0.9, 0.8, 0.1, 0.5])
    groups = group_metrics(labels, scores, videos, paths, r"manipulated_sequences/([^/]+)/", resamples=0)
    assert list(groups) == ["Deepfakes", "FaceSwap"]
    assert groups["Deepfakes"]["auc"] == 1 and groups["FaceSwap"]["auc"] == 0.25
    assert groups["FaceSwap"]["frames"] == 4 and groups["FaceSwap"]["videos"] == 2
    assert list(group_metrics(labels, scores, videos, paths, "Face.*?(?=/)", resamples=0)) == ["FaceSwap"]
    assert group_metrics(labels, scores, videos, paths, "nothing", resamples=0) == {}
