"""Intervals and tests of AUCs: against their definitions, and how often an interval holds the true AUC."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from benchmarks.coverage import MODES, coverage
from evaluation.intervals import auc_difference, auc_interval, clustered_aucs


def sample(digits: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return N labels, 3 x N scores and N clusters that hold both classes; few digits give many ties."""
    rng = np.random.default_rng(seed)
    labels, clusters = rng.integers(0, 2, 60), rng.integers(0, 9, 60)
    return labels, (rng.normal(size=(3, 60)) + 0.5 * labels).round(digits), clusters


def by_definition(labels: np.ndarray, scores: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the AUCs and Obuchowski's covariance pair by pair of images."""
    fakes, reals = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    psi = np.zeros((len(scores), len(fakes), len(reals)))
    for k, score in enumerate(scores):
        for i, fake in enumerate(fakes):
            for j, real in enumerate(reals):
                psi[k, i, j] = 1.0 if score[fake] > score[real] else 0.5 if score[fake] == score[real] else 0.0
    aucs = psi.mean(axis=(1, 2))
    names = sorted(set(clusters))
    sums = np.zeros((2, len(scores), len(names)))
    for part, (members, axis) in enumerate(((fakes, 2), (reals, 1))):
        for k in range(len(scores)):
            for image, component in zip(members, psi[k].mean(axis=axis - 1), strict=True):
                sums[part, k, names.index(clusters[image])] += (component - aucs[k]) / len(members)
    counts = [len({clusters[image] for image in members}) for members in (fakes, reals)]
    covariance = np.zeros((len(scores), len(scores)))
    for k in range(len(scores)):
        for m in range(len(scores)):
            for part, count in enumerate(counts):
                covariance[k, m] += count / (count - 1) * sum(sums[part, k] * sums[part, m])
            cross = sum(sums[0, k] * sums[1, m]) + sum(sums[1, k] * sums[0, m])
            covariance[k, m] += len(names) / (len(names) - 1) * cross
    return aucs, covariance


@pytest.mark.parametrize("digits", [0, 9])
def test_the_covariance_equals_its_definition(digits: int) -> None:
    labels, scores, clusters = sample(digits)
    for groups in (clusters, np.arange(60)):  # the second is DeLong's
        found, (aucs, covariance) = clustered_aucs(labels, scores, groups), by_definition(labels, scores, groups)
        assert found.values == pytest.approx(aucs, abs=1e-12)
        assert found.values == pytest.approx([roc_auc_score(labels, score) for score in scores], abs=1e-12)
        assert found.covariance == pytest.approx(covariance, abs=1e-12)
        assert found.clusters == min(len(set(groups[labels == label])) for label in (0, 1))


def test_an_interval_by_hand() -> None:
    # Fakes 3 and 1, reals 2 and 0: the fakes' components are 1 and 1/2, the reals' 1/2 and 1; the AUC is 3/4. Its
    # variance is 1/8 / 2 + 1/8 / 2. Against a perfect score the difference is 1/4 with variance 1/8. Student's t with
    # one degree of freedom has the quantile 12.7062, and P(|t| > 1 / sqrt(2)) = 1 - 2 / pi atan(1 / sqrt(2)).
    labels, first, second = np.array([1, 1, 0, 0]), np.array([3.0, 1, 2, 0]), np.array([3.0, 3, 0, 0])
    clusters = np.arange(4)
    aucs, (low, high), p = auc_difference(labels, first, second, clusters)
    assert aucs == pytest.approx((0.75, 1))
    assert (high - low) / 2 == pytest.approx(12.7062 * 0.125**0.5, rel=1e-5)
    assert p == pytest.approx(1 - 2 / np.pi * np.arctan(0.5**0.5))
    low, high = auc_interval(labels, first, clusters)
    assert np.log(low / (1 - low)) == pytest.approx(np.log(3) - 12.7062 * 0.125**0.5 / (0.75 * 0.25), rel=1e-5)
    low, high = auc_interval(labels, second, clusters)
    assert (low, high) == (pytest.approx(2 / (2 + 12.7062**2), rel=1e-5), 1)


def test_what_is_not_defined() -> None:
    labels, scores = np.array([1, 1, 0, 0]), np.array([3.0, 3, 0, 0])
    apart = np.arange(4)
    assert auc_difference(labels, scores, scores, apart) == ((1, 1), [0, 0], 1)
    assert auc_difference(labels, scores, 2 * scores, apart) == ((1, 1), None, None)  # other scores, no variance either
    assert auc_difference(labels, -scores, scores, apart) == ((0, 1), None, None)  # no variance says nothing
    for clusters in (np.zeros(4, int), np.array([0, 1, 2, 2])):
        assert auc_interval(labels, scores, clusters) is None
        assert auc_difference(labels, -scores, scores, clusters) == ((0, 1), None, None)
    assert auc_interval(np.ones(4, int), scores, apart) is None


def test_several_runs_are_averaged() -> None:
    labels, scores, clusters = sample(9)
    single = auc_difference(labels, scores[0], scores[1], clusters)
    assert auc_difference(labels, scores[[0, 0]], scores[[1, 1, 1]], clusters)[0] == pytest.approx(single[0])
    twice = auc_difference(labels, scores[[0, 0]], scores[[1, 1]], clusters)
    assert twice[1] == pytest.approx(single[1]) and twice[2] == pytest.approx(single[2])
    assert auc_difference(labels, scores[:2], scores[2], clusters)[0][0] == pytest.approx(
        (roc_auc_score(labels, scores[0]) + roc_auc_score(labels, scores[1])) / 2
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_95_of_100_intervals_hold_the_true_auc(mode: str) -> None:
    """70 pairs of sources as in the test set of FaceForensics++; the source explains half of the scores' variance."""
    assert 0.93 <= coverage(mode, auc=0.9, rounds=1000)["clusters"] <= 0.97


@pytest.mark.slow
def test_the_simulation_finds_intervals_that_are_too_narrow() -> None:
    """Videos as units miss what videos of one source have in common."""
    assert coverage("class", auc=0.9, rounds=500)["videos"] < 0.9


@pytest.mark.slow
def test_equal_runs_differ_in_one_of_ten_tests() -> None:
    found = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        labels, clusters = np.arange(120) % 2, np.arange(120) // 6
        shared = norm.rvs(size=20, random_state=rng)[clusters]
        p = auc_difference(labels, *(labels + shared + rng.normal(0, 1, (2, 120))), clusters).p
        found.append(p < 0.1)
    assert 0.05 < np.mean(found) < 0.15
