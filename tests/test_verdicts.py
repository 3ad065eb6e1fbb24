"""Verdicts: their cutoffs by hand, and how often they are wrong."""

import numpy as np
import pytest

from evaluation.verdicts import calibrate, choose_cutoffs, error_rates, measure_verdicts
from tests.helpers import scores_of


def calibration_of(real: list[float], fake: list[float]) -> dict:
    """Calibrate on videos of one frame."""
    scores = [*real, *fake]
    found = calibrate(scores_of([0] * len(real) + [1] * len(fake), scores, range(len(scores))), None, "mean")
    assert found is not None
    return found


def test_a_calibration_by_hand() -> None:
    labels, videos = [0] * 3 + [0] * 2 + [1] * 3 + [1], [*"aaabbcccd"]
    found = calibrate(scores_of(labels, [0.1, 0.3, 0.2, 0.5, 0.4, 0.9, 0.4, 0.8, 0.7], videos), None, "max")
    assert found["video_score"] == "max" and found["wanted_fpr"] is None
    assert found["video"]["real"] == [0.3, 0.5] and found["video"]["fake"] == [0.7, 0.9]
    assert found["frame"]["real"] == [0.3, 0.4] and found["frame"]["fake"] == [0.4, 0.7]  # the middle frames
    assert found["video"]["threshold"] == pytest.approx(0.6)
    assert (found["video"]["fpr"], found["video"]["fnr"]) == (0, 0)
    threshold = found["frame"]["threshold"]
    assert found["frame"]["fpr"] == np.mean(np.array([0.1, 0.3, 0.2, 0.5, 0.4]) > threshold)
    assert found["frame"]["fnr"] == np.mean(np.array([0.9, 0.4, 0.8, 0.7]) <= threshold)
    assert calibrate(scores_of([1, 1], [0.1, 0.2], "ab"), None, "mean") is None
    # A real person beside a fake one: both frames' classes are there, but both videos are fake.
    beside = scores_of([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8], "aabb", folders=["a/0", "a/1", "b/0", "b/1"])
    assert calibrate(beside, None, "mean") is None


def test_cutoffs_by_hand() -> None:
    tenths = [i / 10 for i in range(1, 10)]
    found = calibration_of(tenths, tenths)
    # Of 9 videos and a new one, 2 of 10 may be beyond the cutoff.
    assert choose_cutoffs(found, "video", 0.2) == pytest.approx((0.2, 0.8))
    assert choose_cutoffs(found, "video", 0.2, faces=2) == pytest.approx((0.2, 0.9))
    assert choose_cutoffs(found, "video", 0.2, faces=3) == pytest.approx((0.2, 1.0))  # no score means fake
    assert choose_cutoffs(found, "video", 0.09) == (0.0, 1.0)
    assert choose_cutoffs(found, "video", 1.0) == pytest.approx((0.5, 0.5))  # any verdict may be wrong
    verdicts = [choose_cutoffs(found, "video", 0.2).verdict(score) for score in (0.19, 0.2, 0.8, 0.81)]
    assert verdicts == ["real", "uncertain", "uncertain", "fake"]
    assert error_rates(found, "video", 0.85) == pytest.approx((0.2, 0.9))
    assert error_rates(found, "video", 0.85, faces=3) == pytest.approx((0.6, 0.9))


def test_classes_that_do_not_overlap_leave_nothing_uncertain() -> None:
    found = calibration_of([0.1] * 20, [0.9] * 20)
    assert choose_cutoffs(found, "video", 0.05) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("faces", [1, 3])
def test_the_errors_stay_below_their_limit(faces: int) -> None:
    """Over many validation and test sets, at most 10 % of the real and of the fake videos get the other verdict."""
    rng, wrong = np.random.default_rng(0), np.zeros(2)
    for _ in range(400):
        found = calibration_of(rng.beta(2, 4, 60).tolist(), rng.beta(4, 2, 60).tolist())
        cutoffs = choose_cutoffs(found, "video", 0.1, faces)
        wrong += [
            np.mean(rng.beta(2, 4, (50, faces)).max(axis=1) > cutoffs.fake),
            np.mean(rng.beta(4, 2, 50) < cutoffs.real),
        ]
    assert (wrong / 400 <= 0.105).all() and wrong[1] / 400 > 0.08


def test_a_highest_face_needs_a_higher_cutoff() -> None:
    """With the cutoff of one face, a photo of ten real people would be called fake too often."""
    rng = np.random.default_rng(0)
    found, ten = (
        calibration_of(rng.random(1000).tolist(), rng.random(1000).tolist()),
        rng.random((2000, 10)).max(axis=1),
    )
    assert np.mean(ten > choose_cutoffs(found, "frame", 0.05).fake) > 0.3
    assert np.mean(ten > choose_cutoffs(found, "frame", 0.05, faces=10).fake) <= 0.06


def test_measured_errors_by_hand() -> None:
    found = calibration_of([i / 20 for i in range(20)], [i / 20 for i in range(1, 20)])
    scored = scores_of([0, 0, 0, 1, 1], [0.97, 0.5, 0.01, 0.99, 0.03], "abcde")
    assert measure_verdicts(found, scored, 0.05) == {
        "error": 0.05,
        "video_score": "mean",
        "real_below": pytest.approx(0.05),
        "fake_above": pytest.approx(0.95),
        "real_called_fake": pytest.approx(1 / 3),
        "fake_called_real": 0.5,
        "uncertain": 0.2,
    }
    assert measure_verdicts(found, scored.select(scored.labels == 1), 0.05)["real_called_fake"] is None
