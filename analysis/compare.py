"""Compare two runs that tested the same images: is the difference of their AUCs more than chance?

    python -m analysis.compare output/baseline output/ff

Both folders hold a predictions.csv. The difference is RUN_B's AUC less RUN_A's, of frames and of videos; its interval
and p value come from a paired bootstrap over videos and from DeLong's test. Written into RUN_B's folder:
study_compare_<the last two parts of RUN_A's path>.json and .png.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from analysis.study import BLUE, GREY, ORANGE, write_study
from evaluation.delong import delong_test
from evaluation.intervals import RESAMPLES, draw_videos, interval, weighted_auc
from evaluation.metrics import score_videos
from evaluation.predictions import read_predictions
from utils import parsing as parse
from utils.command import run_command
from utils.errors import InputError, first_ten

UNITS = ("frames", "videos")


class Pair(NamedTuple):
    """The scores of one dataset's images by two runs.

    Attributes:
        labels: N, 0 real and 1 fake.
        videos: N, from 0 to V - 1: which video each image is of.
        first: N, the scores of the first run, from 0 to 1.
        second: N, those of the second.
    """

    labels: np.ndarray
    videos: np.ndarray
    first: np.ndarray
    second: np.ndarray


# --------------------------------------------------------------------------------------------------------- predictions


def pair_runs(first: Path, second: Path) -> dict[str, Pair]:
    """Read two runs, and set the scores of each image side by side.

    Returns:
        Each dataset's scores, in the order of the first run.

    Raises:
        InputError: a run cannot be read, the two differ in an image or a label, or a dataset has one class alone.
    """
    one, other = (read_predictions(folder / "predictions.csv") for folder in (first, second))
    images = [{(name, path) for name, scored in run.items() for path in scored.paths} for run in (one, other)]
    for run, extra in ((first, images[0] - images[1]), (second, images[1] - images[0])):
        if extra:
            names = first_ten([f"{dataset} {path}" for dataset, path in sorted(extra)])
            raise InputError(f"the runs did not test the same images: {len(extra)} are in {run} alone: {names}.")
    pairs, changed = {}, []
    for dataset, scored in one.items():
        line = {path: i for i, path in enumerate(other[dataset].paths)}
        order = [line[path] for path in scored.paths]
        differ = np.flatnonzero(scored.labels != other[dataset].labels[order])
        changed += [f"{dataset} {scored.paths[i]}" for i in differ]
        pairs[dataset] = Pair(scored.labels, scored.videos, scored.scores, other[dataset].scores[order])
    if changed:
        raise InputError(
            f"the runs do not agree on what is real: the labels of {len(changed)} images differ: {first_ten(changed)}."
        )
    for dataset, pair in pairs.items():
        if not 0 < pair.labels.sum() < len(pair.labels):
            raise InputError(f"the test set of {dataset} holds one class alone, of which no AUC is defined.")
    return pairs


# ------------------------------------------------------------------------------------------------------------ measures


def of_videos(pair: Pair, video_score: str) -> Pair:
    """Return the videos' labels and scores, V, see `evaluation.metrics.score_videos`."""
    _, first, videos = np.unique(pair.videos, return_index=True, return_inverse=True)
    scores = (score_videos(scores, videos, video_score) for scores in (pair.first, pair.second))
    return Pair(pair.labels[first], np.arange(len(first)), *scores)


def bootstrap_differences(pair: Pair, resamples: int = RESAMPLES, seed: int = 0, title: str = "") -> np.ndarray:
    """Return the AUC of the second run less that of the first in each draw of videos, the same for both.

    See `evaluation.intervals.bootstrap_auc`: a draw of one class alone is left out.
    """
    first, second = (weighted_auc(pair.labels, scores, pair.videos) for scores in (pair.first, pair.second))
    draws = draw_videos(int(pair.videos.max()) + 1, resamples, seed)
    bar = tqdm(draws, title, total=resamples, unit=" draws", leave=False, delay=1)
    differences = np.array([second(weights) - first(weights) for weights in bar])
    return differences[~np.isnan(differences)]


def bootstrap_p(differences: np.ndarray) -> float | None:
    """Return the two-sided p value of no difference: twice the share of draws on the rarer side of 0, and on it.

    The difference itself counts as one draw more, so that p is never 0 (Davison and Hinkley, 1997, section 4.2).
    """
    if not len(differences):
        return None
    rarer = min(np.sum(differences <= 0), np.sum(differences >= 0))
    return float(min(1.0, 2 * (rarer + 1) / (len(differences) + 1)))


def compare(pair: Pair, resamples: int = RESAMPLES, title: str = "") -> dict[str, Any]:
    """Compare two runs on frames, or on videos.

    Returns:
        ``auc_a``, ``auc_b``, their ``difference``, b less a; ``bootstrap`` and ``delong``, each with the 95 %
        ``interval`` of the difference and ``p`` (None where they are not defined: the bootstrap's where a class has
        one video alone, of which every draw is the same).
    """
    first_frames = np.unique(pair.videos, return_index=True)[1]
    enough = min(np.bincount(pair.labels[first_frames], minlength=2)) > 1
    everything = np.ones(int(pair.videos.max()) + 1)
    first, second = (weighted_auc(pair.labels, scores, pair.videos)(everything) for scores in (pair.first, pair.second))
    differences = bootstrap_differences(pair, resamples if enough else 0, title=title)
    delong = delong_test(pair.labels, pair.first, pair.second)
    return {
        "count": len(pair.labels),
        "auc_a": first,
        "auc_b": second,
        "difference": second - first,
        "bootstrap": {"interval": interval(differences), "p": bootstrap_p(differences)},
        "delong": {"interval": delong and delong[1], "p": delong and delong[2]},
    }


# ------------------------------------------------------------------------------------------------------------- writing


def describe(results: dict[str, dict[str, Any]], first: Path, second: Path, video_score: str) -> str:
    """Say what was measured, how, and what came out."""
    sentences = [
        f"The AUC of {second} (B) less that of {first} (A) on the same images, of frames and of videos; a video's "
        f"score is the {video_score} of its frames'.",
        f"The first interval (95 %) and p value are those of a paired bootstrap: {RESAMPLES:,} draws of as many "
        "videos, the same for both runs.",
        "The second are those of DeLong's test, which takes frames for independent; those of one video are not, so "
        "that for frames its interval is too narrow: there the bootstrap is the one to trust.",
    ]
    for dataset, units in results.items():
        for unit, result in units.items():
            p = result["bootstrap"]["p"]
            if p is None:
                verdict = "says nothing of other videos: one class has fewer than two"
            else:
                verdict = "may be chance" if p >= 0.05 else "is more than chance at the level of 5 %"
            sentences.append(f"On {dataset} the difference of {unit}, {result['difference']:+.4f}, {verdict}.")
    return " ".join(sentences)


def make_table(results: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Return a row a dataset and unit, below the header."""

    def cells(test: dict[str, Any]) -> list[str]:
        low_high, p = test["interval"], test["p"]
        return [
            "-" if low_high is None else f"[{low_high[0]:+.4f}, {low_high[1]:+.4f}]",
            "-" if p is None else f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}",
        ]

    header = ["dataset", "of", "number", "AUC A", "AUC B", "B - A", "bootstrap 95 %", "p", "DeLong 95 %", "p"]
    rows = [
        [
            dataset, unit, str(r["count"]), f"{r['auc_a']:.4f}", f"{r['auc_b']:.4f}", f"{r['difference']:+.4f}",
            *cells(r["bootstrap"]), *cells(r["delong"]),
        ]
        for dataset, units in results.items()
        for unit, r in units.items()
    ]  # fmt: skip
    return [header, *rows]


def draw(results: dict[str, dict[str, Any]], first: Path, second: Path) -> Figure:
    """Draw the differences as dots with both intervals, a row a dataset and unit."""
    rows = [(f"{dataset}\n{unit}", result) for dataset, units in results.items() for unit, result in units.items()]
    figure = Figure(figsize=(7.5, 1.5 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=1, zorder=0)
    styles = (("bootstrap", "paired bootstrap over videos", -0.12, BLUE, "o"), ("delong", "DeLong", 0.12, ORANGE, "s"))
    for test, label, shift, colour, marker in styles:
        axes.plot([], [], marker, color=colour, label=label)
        for y, (_, result) in enumerate(rows):
            if result[test]["interval"]:  # else nothing is known of how far off it may be
                axes.plot(result[test]["interval"], [y + shift] * 2, color=colour, linewidth=2, solid_capstyle="butt")
                axes.plot(result["difference"], y + shift, marker, color=colour)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(
        f"AUC of B less that of A, with 95 % interval\nA: {first.resolve().name}\nB: {second.resolve().name}"
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


# ------------------------------------------------------------------------------------------------------------- command


@dataclass(kw_only=True)
class CompareArguments:
    """Every argument of the study; the fields are documented by their help texts."""

    run_a: Path = parse.positional(parse.path, "folder of the first tested run")
    run_b: Path = parse.positional(parse.path, "folder of the second tested run; the study is written there")
    video_score: str = parse.argument(
        "mean",
        parse.video_score,
        "how frame scores combine into the video score: mean, max, or topK such as top5 (mean of the K highest)",
    )


def parse_arguments(argv: list[str] | None) -> CompareArguments:
    """Parse the command line."""
    return parse.Parser("-m analysis.compare", __doc__, CompareArguments).parse(argv)


def run(args: CompareArguments) -> None:
    """Do what the arguments say."""
    results: dict[str, dict[str, Any]] = {}
    for dataset, pair in pair_runs(args.run_a, args.run_b).items():
        both = zip(UNITS, (pair, of_videos(pair, args.video_score)), strict=True)
        results[dataset] = {unit: compare(part, title=f"{dataset} {unit}") for unit, part in both}
    write_study(
        args.run_b,
        "compare",
        "-".join(args.run_a.resolve().parts[-2:]),
        f"{args.run_b.resolve().name} compared with {args.run_a.resolve().name}",
        describe(results, args.run_a, args.run_b, args.video_score),
        make_table(results),
        {"run_a": str(args.run_a), "run_b": str(args.run_b), "video_score": args.video_score, "datasets": results},
        draw(results, args.run_a, args.run_b),
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 for wrong input, 130 for an interruption."""
    return run_command("analysis.compare", lambda: run(parse_arguments(argv)), "fewer images")


if __name__ == "__main__":
    sys.exit(main())
