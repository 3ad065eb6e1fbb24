"""Simulate what choosing the best epoch on the validation videos does to the error rates of verdicts.

    python -m benchmarks.selection [--simulations 2000]

All epochs are equally good. Their scores of one video are correlated. The epoch with the highest AUC on the validation
videos is chosen, and its cutoffs come from the same videos, as in a training. The wrong verdicts are counted on 2,000
new videos of each class.
"""

import argparse

import numpy as np
from scipy.stats import norm, rankdata

from evaluation.verdicts import ERROR, choose_cutoffs
from utils.tables import format_rows

CORRELATION = 0.7  # between the scores that two epochs give one video of a class
AUC = 0.9
NEW = 2000  # videos of each class


def draw(rng: np.random.Generator, epochs: int, videos: int) -> np.ndarray:
    """Draw scores, epochs x 2 classes x videos, 0 to 1."""
    video, epoch = rng.standard_normal((2, videos)), rng.standard_normal((epochs, 2, videos))
    signal = np.array([0, np.sqrt(2) * norm.ppf(AUC)])[:, None]
    return norm.cdf((signal + np.sqrt(CORRELATION) * video + np.sqrt(1 - CORRELATION) * epoch) / 2)


def simulate(rng: np.random.Generator, epochs: int, videos: int) -> tuple[float, float]:
    """Return the shares of new real videos called fake, and of new fake videos called real."""
    scores = draw(rng, epochs, videos)
    ranks = rankdata(scores.reshape(epochs, -1), axis=1)[:, videos:]  # the AUC grows with the ranks of the fake videos
    real, fake = scores[ranks.sum(axis=1).argmax()]
    calibration = {"video": {"real": sorted(real.tolist()), "fake": sorted(fake.tolist())}}
    cutoffs = choose_cutoffs(calibration, "video", ERROR)
    ((new_real, new_fake),) = draw(rng, 1, NEW)
    return float(np.mean(new_real > cutoffs.fake)), float(np.mean(new_fake < cutoffs.real))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000, help="number of trainings per row (default: 2000)")
    args = parser.parse_args()
    rng, rows = np.random.default_rng(0), [["validation videos", "epochs", "real called fake", "fake called real"]]
    for videos in (24, 140):
        for epochs in (1, 10, 50):
            shares = np.mean([simulate(rng, epochs, videos) for _ in range(args.simulations)], axis=0)
            rows.append([f"{videos} + {videos}", str(epochs), *(f"{share:.1%}" for share in shares)])
    print(format_rows(rows))


if __name__ == "__main__":
    main()
