"""Confidence intervals and tests of AUCs of images that are not independent.

Frames of one video resemble each other, and so do videos that were made from one source. Images are therefore grouped
in clusters, and the variance of the AUC comes from sums over clusters (Obuchowski, Biometrics 53 (1997) 567-578). With
one image per cluster it is the variance of DeLong, DeLong and Clarke-Pearson (Biometrics 44 (1988) 837-845).
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit, stdtr, stdtrit  # scipy.stats is slow to import


class AUCs(NamedTuple):
    """The AUCs of K models on the same images.

    Attributes:
        values: K.
        covariance: K x K, the covariance of the AUCs.
        clusters: number of clusters with real images or number of clusters with fake images, the smaller one.
    """

    values: np.ndarray
    covariance: np.ndarray
    clusters: int


def clustered_aucs(labels: np.ndarray, scores: np.ndarray, clusters: np.ndarray) -> AUCs:
    """Compute the AUCs of K models on the same images, and their covariance.

    The ranks make this take N log N time: Sun and Xu, IEEE Signal Processing Letters 21 (2014) 1389-1393.

    Args:
        labels: N, 0 real and 1 fake, at least one of each.
        scores: K x N.
        clusters: N, the number of each image's cluster, 0 or more. A cluster may have images of both classes.

    Returns:
        The AUCs. Their covariance is NaN if a class is in a single cluster.
    """
    fake = labels == 1
    fakes, reals = int(fake.sum()), int((~fake).sum())
    ranks = _midranks(scores)
    # For each fake, the share of reals below it; for each real, the share of fakes above it. Ties count half.
    components = np.empty(scores.shape)
    components[:, fake] = (ranks[:, fake] - _midranks(scores[:, fake])) / reals
    components[:, ~fake] = 1 - (ranks[:, ~fake] - _midranks(scores[:, ~fake])) / fakes
    values = components[:, fake].mean(axis=1)

    names, cluster = np.unique(clusters, return_inverse=True)
    weights = np.where(fake, 1 / fakes, 1 / reals) * (components - values[:, None])
    count = len(names)
    in_fake, in_real = (
        np.array([np.bincount(cluster[part], row[part], count) for row in weights]) for part in (fake, ~fake)
    )
    with_fake, with_real = (len(np.unique(cluster[part])) for part in (fake, ~fake))
    cross = in_fake @ in_real.T
    covariance = _unbiased(with_fake) * in_fake @ in_fake.T + _unbiased(with_real) * in_real @ in_real.T
    covariance += _unbiased(count) * (cross + cross.T)
    return AUCs(values, covariance, min(with_fake, with_real))


def _midranks(scores: np.ndarray) -> np.ndarray:
    """Return the ranks of K x N scores in each row, from 1; tied scores share their mean rank."""
    ordered = np.sort(scores, axis=1)
    first = [np.searchsorted(row, values, "left") for row, values in zip(ordered, scores, strict=True)]
    last = [np.searchsorted(row, values, "right") for row, values in zip(ordered, scores, strict=True)]
    return (np.array(first) + np.array(last) + 1) / 2


def _unbiased(count: int) -> float:
    return count / (count - 1) if count > 1 else np.nan


def auc_interval(labels: np.ndarray, scores: np.ndarray, clusters: np.ndarray) -> list[float] | None:
    """Return the 95 % confidence interval ``[low, high]`` of an AUC.

    It is symmetric on the logit scale, with the quantile of Student's t for the number of clusters less one, because
    the AUC's distribution is skewed near 1 and its variance is uncertain with few clusters. An AUC of 0 or 1 has no
    variance; its interval is Wilson's (1927) for a share, with the clusters as independent trials.

    Args:
        labels: N, 0 real and 1 fake.
        scores: N.
        clusters: N, see `clustered_aucs`.

    Returns:
        The interval; None if a class is in fewer than two clusters.
    """
    if not 0 < labels.sum() < len(labels):
        return None
    aucs = clustered_aucs(labels, scores[None], clusters)
    if aucs.clusters < 2:
        return None
    auc, variance, quantile = float(aucs.values[0]), float(aucs.covariance[0, 0]), _quantile(aucs.clusters)
    if 0 < auc < 1 and variance > 0:
        margin = quantile * np.sqrt(variance) / (auc * (1 - auc))
        return [float(expit(logit(auc) - margin)), float(expit(logit(auc) + margin))]
    share = quantile**2 / (aucs.clusters + quantile**2)
    middle = auc + share * (0.5 - auc)
    margin = share * np.sqrt(0.25 + aucs.clusters * auc * (1 - auc) / quantile**2)
    return [max(0.0, float(middle - margin)), min(1.0, float(middle + margin))]


class Difference(NamedTuple):
    """The difference of two AUCs on the same images.

    Attributes:
        aucs: both AUCs, or their means over the runs.
        interval: 95 % interval ``[low, high]`` of the second AUC minus the first; None if it is not defined.
        p: two-sided p value of the hypothesis that both AUCs are equal; None if it is not defined.
    """

    aucs: tuple[float, float]
    interval: list[float] | None
    p: float | None


def auc_difference(labels: np.ndarray, first: np.ndarray, second: np.ndarray, clusters: np.ndarray) -> Difference:
    """Test whether two models have the same AUC on the same images.

    Args:
        labels: N, 0 real and 1 fake, at least one of each.
        first: N scores of the first model; or S x N, the scores of S runs, whose AUCs are averaged.
        second: scores of the second model, N or S x N.
        clusters: N, see `clustered_aucs`.

    Returns:
        The difference. It holds for other images, not for other runs. Interval and p are None if a class is in fewer
        than two clusters, or if the difference has no variance, such as between two AUCs of 1. Equal scores have p = 1.
    """
    rows = np.atleast_2d(first), np.atleast_2d(second)
    aucs = clustered_aucs(labels, np.concatenate(rows), clusters)
    weights = np.repeat([-1 / len(rows[0]), 1 / len(rows[1])], [len(rows[0]), len(rows[1])])
    means = float(aucs.values[weights < 0].mean()), float(aucs.values[weights > 0].mean())
    value = means[1] - means[0]
    if aucs.clusters < 2:
        return Difference(means, None, None)
    deviation = float(np.sqrt(max(weights @ aucs.covariance @ weights, 0.0)))  # rounding can make it negative
    if deviation < 1e-12:
        return Difference(means, [0.0, 0.0], 1.0) if np.array_equal(*rows) else Difference(means, None, None)
    margin = _quantile(aucs.clusters) * deviation
    p = float(2 * stdtr(aucs.clusters - 1, -abs(value) / deviation))
    return Difference(means, [value - margin, value + margin], p)


def _quantile(clusters: int) -> float:
    return float(stdtrit(clusters - 1, 0.975))
