"""DeLong's test: whether two scores of the same images have the same AUC.

DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837-845; the structural components by midranks, in
N log N in place of N squared, as in Sun and Xu, IEEE Signal Processing Letters 21 (2014) 1389-1393.
"""

import numpy as np
from scipy.stats import norm, rankdata


def auc_covariance(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the AUCs of several scores of the same images, and their covariance.

    Args:
        labels: N, 0 real and 1 fake, at least two of each.
        scores: K x N.

    Returns:
        K AUCs, and K x K.
    """
    fake, real = scores[:, labels == 1], scores[:, labels == 0]
    fakes, reals = fake.shape[1], real.shape[1]
    ranks = rankdata(np.concatenate([fake, real], axis=1), axis=1)  # midranks: ties get their mean
    # Of each fake image the share of real ones below it, of each real one the share of fakes above it, ties half.
    of_fake = (ranks[:, :fakes] - rankdata(fake, axis=1)) / reals
    of_real = 1 - (ranks[:, fakes:] - rankdata(real, axis=1)) / fakes
    return of_fake.mean(axis=1), np.atleast_2d(np.cov(of_fake) / fakes + np.cov(of_real) / reals)


def delong_test(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, list[float], float] | None:
    """Compare two scores of the same images.

    Args:
        labels: N, 0 real and 1 fake.
        first: N scores.
        second: N scores.

    Returns:
        The AUC of `second` less that of `first`, its 95 % interval, and the two-sided p value of no difference; None
        where a class has fewer than two images, which leaves the variance undefined.
    """
    if min(np.sum(labels), len(labels) - np.sum(labels)) < 2:
        return None
    aucs, covariance = auc_covariance(labels, np.stack([first, second]))
    difference = float(aucs[1] - aucs[0])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    deviation = float(np.sqrt(max(variance, 0.0)))  # rounding may leave it a hair below 0
    half = float(norm.ppf(0.975)) * deviation
    if deviation < 1e-12:  # equal scores, or two AUCs of 0 or 1, which have no variance
        p = 1.0 if abs(difference) < 1e-12 else 0.0
    else:
        p = float(2 * norm.sf(abs(difference) / deviation))
    return difference, [difference - half, difference + half], p
