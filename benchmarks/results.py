"""Print the table of docs/results.md from tested runs with several seeds.

    python -m benchmarks.results output/realorfake --default default

The folder holds one run folder for each configuration and seed, named <configuration>-seed_<seed>, as analysis.ablation
names them. AUCs are of frames. Interval and p value take the folders of images as clusters, see `evaluation.intervals`;
they are for other test images and the same seeds.
"""

import argparse
import re
from pathlib import Path

import numpy as np

from evaluation.intervals import auc_difference
from evaluation.predictions import Scores, read_predictions
from utils.tables import format_rows


def read_runs(folder: Path) -> dict[str, list[Scores]]:
    """Read the test scores of all finished runs, by configuration and in the order of the seeds."""
    runs: dict[str, list[Scores]] = {}
    for predictions in sorted(folder.glob("*-seed_*/predictions.csv")):
        name = re.sub(r"-seed_\d+$", "", predictions.parent.name)
        runs.setdefault(name, []).append(next(iter(read_predictions(predictions).values())))
    return runs


def make_row(name: str, runs: list[Scores], default: list[Scores]) -> list[str]:
    """Return the AUC of each seed, their mean, and the difference from the default with its interval and p value."""
    images = default[0]
    if any(run.paths != images.paths for run in runs):
        raise SystemExit(f"{name} was tested on other images than the default.")
    first, second = (np.stack([run.scores for run in part]) for part in (default, runs))
    aucs, interval, p = auc_difference(images.labels, first, second, images.clusters)
    each = [auc_difference(images.labels, row, row, images.clusters).aucs[0] for row in second]
    cells = [name, ", ".join(f"{auc:.3f}" for auc in each), f"{aucs[1]:.3f}"]
    if runs is default or interval is None or p is None:
        return [*cells, "", ""]
    change = f"{aucs[1] - aucs[0]:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]"
    return [*cells, change, f"{p:.2g}"]


def main() -> None:
    """Print one row per configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the run folders")
    parser.add_argument("--default", default="default", help="configuration that the others are compared with")
    args = parser.parse_args()
    runs = read_runs(args.folder)
    if args.default not in runs:
        parser.error(f"{args.folder} has no tested run {args.default}-seed_<seed>")
    default = runs[args.default]
    header = ["configuration", "AUC of each seed", "mean", "difference from the default, 95 %", "p"]
    print(format_rows([header, *(make_row(name, found, default) for name, found in runs.items())]))


if __name__ == "__main__":
    main()
