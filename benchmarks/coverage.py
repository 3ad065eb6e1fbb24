"""Simulate how often the 95 % interval of an AUC holds the true AUC.

    python -m benchmarks.coverage [--rounds 4000]

A test set has pairs of source videos as in FaceForensics++: two real and eight fake videos each. Scores are normal. In
mode "none" they are independent. In mode "class", each class of a pair has its own random effect, with half of the
variance. In mode "shared", both classes of a pair have one effect. "clusters" is this project's interval; "videos"
treats every video as a cluster.
"""

import argparse

import numpy as np
from scipy.stats import norm

from evaluation.intervals import auc_interval
from utils.progress import progress

MODES = ("none", "class", "shared")
REALS, FAKES = 2, 8  # videos of a pair


def draw(rng: np.random.Generator, mode: str, pairs: int, gap: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a test set: the labels, scores and pairs of its videos.

    Args:
        rng: the random numbers.
        mode: one of `MODES`.
        pairs: number of pairs of sources.
        gap: mean score of fake videos minus mean score of real videos; every score has a variance of 1.
    """
    labels = np.tile(np.repeat([0, 1], [REALS, FAKES]), pairs)
    pair = np.repeat(np.arange(pairs), REALS + FAKES)
    effects = rng.normal(size=(pairs, 2))
    effect = {"none": rng.normal(size=len(pair)), "class": effects[pair, labels], "shared": effects[pair, 0]}[mode]
    return labels, gap * labels + np.sqrt(0.5) * (effect + rng.normal(size=len(pair))), pair


def coverage(mode: str, auc: float, rounds: int, pairs: int = 70, seed: int = 0) -> dict[str, float]:
    """Return the share of intervals that hold the true AUC, with pairs and with videos as clusters.

    Args:
        mode: one of `MODES`.
        auc: the AUC of independent videos.
        rounds: number of simulated test sets.
        pairs: number of pairs of sources.
        seed: seed of the simulation.
    """
    rng = np.random.default_rng(seed)
    gap = np.sqrt(2) * norm.ppf(auc)
    # A shared effect cancels in the difference of a fake and a real video of one pair.
    true = auc + (norm.cdf(gap) - auc) / pairs if mode == "shared" else auc
    held = {"clusters": 0, "videos": 0}
    for _ in progress(range(rounds), f"{mode}, AUC {auc}, {pairs} pairs", unit="test sets", delay=2):
        labels, scores, pair = draw(rng, mode, pairs, gap)
        for unit, clusters in (("clusters", pair), ("videos", np.arange(len(pair)))):
            interval = auc_interval(labels, scores, clusters)
            held[unit] += interval is not None and interval[0] <= true <= interval[1]
    return {unit: count / rounds for unit, count in held.items()}


def main() -> None:
    """Print a table for several numbers of pairs and AUCs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4000, help="simulated test sets of each kind (default: 4000)")
    args = parser.parse_args()
    print("| pairs | AUC | effect | clusters | videos |\n|---|---|---|---|---|")
    for pairs in (70, 30, 12):
        for auc in (0.75, 0.9, 0.98):
            for mode in MODES:
                found = coverage(mode, auc, args.rounds, pairs)
                print(f"| {pairs} | {auc} | {mode} | {found['clusters']:.1%} | {found['videos']:.1%} |", flush=True)


if __name__ == "__main__":
    main()
