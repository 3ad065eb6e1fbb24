"""Metrics against their definitions and against values computed by hand, and where they are undefined."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from evaluation.metrics import (
    METRICS,
    binary_metrics,
    choose_threshold,
    combine_frames,
    dataset_metrics,
    group_metrics,
    score_videos,
)
from tests.helpers import scores_of

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
    scored = scores_of([label] * 4, [0.1, 0.2, 0.3, 0.9], "aabb")
    metrics = dataset_metrics(scored, thresholds=(0.25, 0.25))
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
    assert combine_frames(scores, videos, "mean") == pytest.approx([0.4, 0.6, 0.1, 0.2])
    assert combine_frames(scores, videos, "max") == pytest.approx([0.45, 0.9, 0.1, 0.2])
    assert combine_frames(scores, videos, "top1") == pytest.approx([0.45, 0.9, 0.1, 0.2])
    assert combine_frames(scores, videos, "top2") == pytest.approx([0.4, 0.75, 0.1, 0.2])
    assert combine_frames(scores, videos, "top9") == pytest.approx([0.4, 0.6, 0.1, 0.2])


def test_dataset_metrics_cover_frames_and_videos() -> None:
    # Interleaved frames of four videos; video 7 has a higher mean than video 3, but a lower first frame.
    videos = np.array([3, 7, 3, 7, 5, 9])
    labels = np.array([0, 1, 0, 1, 0, 1])
    scores = np.array([0.45, 0.3, 0.35, 0.9, 0.1, 0.2])
    metrics = dataset_metrics(scores_of(labels, scores, videos, [0, 1, 0, 1, 1, 9]), thresholds=(0.15, 0.3))
    assert (metrics["frames"], metrics["videos"], metrics["clusters"]) == (6, 4, 3)
    means, truth = np.array([0.4, 0.1, 0.6, 0.2]), np.array([0, 0, 1, 1])
    for name, value in binary_metrics(truth, means, 0.3).items():
        assert metrics[f"video_{name}"] == value
    for name, value in binary_metrics(labels, scores, 0.15).items():
        assert metrics[name] == value


def test_faces_of_one_video_are_one_video() -> None:
    """A video with a fake face is fake, and scores as high as its highest face."""
    scored = scores_of(
        [0, 0, 1, 1, 0], [0.1, 0.3, 0.8, 0.6, 0.9], ["a", "a", "a", "a", "b"], folders=["a/0", "a/0", "a/1", "a/1", "b"]
    )
    videos = score_videos(scored, "mean")
    assert videos.labels.tolist() == [1, 0] and videos.scores == pytest.approx([0.7, 0.9])
    metrics = dataset_metrics(scored)
    assert metrics["videos"] == 2 and metrics["video_auc"] == 0


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
        "original_sequences/youtube/c23/1",
        *(f"manipulated_sequences/{m}/c23/1_2" for m in ("Deepfakes", "FaceSwap")),
    ]
    videos = np.repeat(paths, 2)
    scored = scores_of([0, 0, 1, 1, 1, 1], [0.4, 0.6, 0.9, 0.8, 0.1, 0.5], videos)
    groups = group_metrics(scored, r"manipulated_sequences/([^/]+)/")
    assert list(groups) == ["Deepfakes", "FaceSwap"]
    assert groups["Deepfakes"]["auc"] == 1 and groups["FaceSwap"]["auc"] == 0.25
    assert groups["FaceSwap"]["frames"] == 4 and groups["FaceSwap"]["videos"] == 2
    assert list(group_metrics(scored, "Face.*?(?=/)")) == ["FaceSwap"]
    assert group_metrics(scored, "nothing") == {}
