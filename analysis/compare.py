"""Test whether two runs that were tested on the same images differ in AUC by more than chance.

    python -m analysis.compare output/baseline output/ff

Both run folders hold a predictions.csv. The difference is the AUC of RUN_B minus the AUC of RUN_A, for frames and for
videos, with a paired bootstrap over videos and DeLong's test. The command writes
study_compare_<last two parts of RUN_A's path>.json and .png to RUN_B's folder.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from utils import parsing as parse
from utils.command import check_command_line, run_command
from utils.errors import InputError, first_ten
from utils.progress import progress


@dataclass(kw_only=True)
class CompareArguments:
    """All arguments of the study; the help texts document the fields."""

    run_a: Path = parse.positional(parse.path, "folder of the first tested run")
    run_b: Path = parse.positional(parse.path, "folder of the second tested run; the study is written here")
    video_score: str = parse.argument(
        "mean",
        parse.video_score,
        parse.VIDEO_SCORE_TEXT,
    )


def parse_arguments(argv: list[str] | None) -> CompareArguments:
    """Parse and check the command line."""
    args: CompareArguments = parse.Parser("-m analysis.compare", __doc__, CompareArguments).parse(argv)
    for folder in (args.run_a, args.run_b):
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}; give the folder of a tested run.")
    return args


if __name__ == "__main__":
    check_command_line("analysis.compare", lambda: parse_arguments(None))  # before the slow imports

import numpy as np
from matplotlib.figure import Figure

from analysis.study import BLUE, GREY, ORANGE, write_study
from evaluation.delong import delong_test
from evaluation.intervals import RESAMPLES, draw_videos, interval, weighted_auc
from evaluation.metrics import score_videos
from evaluation.predictions import read_predictions

UNITS = ("frames", "videos")


class Pair(NamedTuple):
    """Two runs' scores of the images of one dataset.

    Attributes:
        labels: N, 0 real and 1 fake.
        videos: N, the index of each image's video, 0 to V - 1.
        first: N scores of the first run, 0 to 1.
        second: N scores of the second run, 0 to 1.
    """

    labels: np.ndarray
    videos: np.ndarray
    first: np.ndarray
    second: np.ndarray


# --------------------------------------------------------------------------------------------------------- predictions


def pair_runs(first: Path, second: Path) -> dict[str, Pair]:
    """Read the predictions of two runs and match them image by image.

    Returns:
        The scores by dataset, in the order of the first run.

    Raises:
        InputError: a run cannot be read, the runs differ in an image or a label, or a dataset has one class only.
    """
    one, other = (read_predictions(folder / "predictions.csv") for folder in (first, second))
    images = [{(name, path) for name, scored in run.items() for path in scored.paths} for run in (one, other)]
    for run, extra in ((first, images[0] - images[1]), (second, images[1] - images[0])):
        if extra:
            names = first_ten([f"{dataset} {path}" for dataset, path in sorted(extra)])
            raise InputError(f"the runs were tested on different images; {len(extra)} are only in {run}: {names}.")
    pairs, changed = {}, []
    for dataset, scored in one.items():
        index = {path: i for i, path in enumerate(other[dataset].paths)}
        order = [index[path] for path in scored.paths]
        differ = np.flatnonzero(scored.labels != other[dataset].labels[order])
        changed += [f"{dataset} {scored.paths[i]}" for i in differ]
        pairs[dataset] = Pair(scored.labels, scored.videos, scored.scores, other[dataset].scores[order])
    if changed:
        raise InputError(f"the runs differ in the labels of {len(changed)} images: {first_ten(changed)}.")
    for dataset, pair in pairs.items():
        if not 0 < pair.labels.sum() < len(pair.labels):
            raise InputError(f"the test set of {dataset} has one class only; the AUC needs real and fake images.")
    return pairs


# ------------------------------------------------------------------------------------------------------------ measures


def aggregate_videos(pair: Pair, video_score: str) -> Pair:
    """Return the labels and scores of the V videos; see `evaluation.metrics.score_videos`."""
    _, first, videos = np.unique(pair.videos, return_index=True, return_inverse=True)
    scores = (score_videos(scores, videos, video_score) for scores in (pair.first, pair.second))
    return Pair(pair.labels[first], np.arange(len(first)), *scores)


def bootstrap_differences(pair: Pair, resamples: int = RESAMPLES, seed: int = 0, title: str = "") -> np.ndarray:
    """Return the difference of AUC, second run minus first, in each bootstrap draw of videos.

    Both runs share each draw. Draws of one class only are left out, as in `evaluation.intervals.bootstrap_auc`.
    """
    first, second = (weighted_auc(pair.labels, scores, pair.videos) for scores in (pair.first, pair.second))
    draws = draw_videos(int(pair.videos.max()) + 1, resamples, seed)
    bar = progress(draws, title, total=resamples, unit="draws", delay=1)
    differences = np.array([second(weights) - first(weights) for weights in bar])
    return differences[~np.isnan(differences)]


def bootstrap_p(differences: np.ndarray) -> float | None:
    """Return the two-sided p value of the hypothesis that the AUCs are equal; None without draws.

    Twice the share of draws on the less frequent side of 0, ties included. The observed difference counts as one more
    draw, so p is never 0 (Davison and Hinkley, 1997, section 4.2).
    """
    if not len(differences):
        return None
    rarer = min(np.sum(differences <= 0), np.sum(differences >= 0))
    return float(min(1.0, 2 * (rarer + 1) / (len(differences) + 1)))


def compare(pair: Pair, resamples: int = RESAMPLES, title: str = "") -> dict[str, Any]:
    """Compare two runs on frames or on videos.

    Returns:
        ``count``, ``auc_a``, ``auc_b``, their ``difference`` (b - a), and for ``bootstrap`` and ``delong`` the 95 %
        ``interval`` of the difference and ``p``. Undefined values are None; the bootstrap needs two videos per class.
    """
    first_frames = np.unique(pair.videos, return_index=True)[1]
    enough = min(np.bincount(pair.labels[first_frames], minlength=2)) > 1
    ones = np.ones(int(pair.videos.max()) + 1)
    first, second = (weighted_auc(pair.labels, scores, pair.videos)(ones) for scores in (pair.first, pair.second))
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


def summarise(results: dict[str, dict[str, Any]]) -> str:
    """List the differences by the verdict of the bootstrap: significant, perhaps chance, not tested."""
    verdicts: dict[str, list[str]] = {
        "Significant (bootstrap over videos, p < 0.05)": [],
        "Not significant (p >= 0.05; may be chance)": [],
        "Not tested (one video in a class; the result does not generalise to other videos)": [],
    }
    significant, chance, untested = verdicts.values()
    for dataset, units in results.items():
        for unit, result in units.items():
            p = result["bootstrap"]["p"]
            verdict = untested if p is None else significant if p < 0.05 else chance
            verdict.append(f"{dataset} {unit} {result['difference']:+.4f}")
    return " ".join(f"{verdict}: {', '.join(found)}." for verdict, found in verdicts.items() if found)


def describe_method(first: Path, second: Path, video_score: str) -> str:
    """Describe how the runs are compared."""
    return (
        f"The difference is the AUC of {second} (B) minus the AUC of {first} (A) on the same images. "
        f"The video score is the {video_score} of the video's frame scores. "
        f"The bootstrap resamples the videos {RESAMPLES:,} times; both runs use the same draws. "
        "Prefer its 95 % interval and p value. "
        "DeLong's test assumes independent images, but frames of one video are dependent. "
        "For frames, its interval is therefore too narrow."
    )


def make_table(results: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Return the header and one row per dataset and unit."""

    def cells(test: dict[str, Any]) -> list[str]:
        low_high, p = test["interval"], test["p"]
        return [
            "-" if low_high is None else f"[{low_high[0]:+.4f}, {low_high[1]:+.4f}]",
            "-" if p is None else f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}",
        ]

    header = ["dataset", "unit", "count", "AUC A", "AUC B", "B - A", "bootstrap 95 %", "p", "DeLong 95 %", "p"]
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
    """Draw each difference with both intervals, one row per dataset and unit."""
    rows = [(f"{dataset}\n{unit}", result) for dataset, units in results.items() for unit, result in units.items()]
    figure = Figure(figsize=(7.5, 1.5 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=1, zorder=0)
    styles = (("bootstrap", "paired bootstrap over videos", -0.12, BLUE, "o"), ("delong", "DeLong", 0.12, ORANGE, "s"))
    for test, label, shift, colour, marker in styles:
        axes.plot([], [], marker, color=colour, label=label)
        for y, (_, result) in enumerate(rows):
            if result[test]["interval"]:  # a dot without an interval would look exact
                axes.plot(result[test]["interval"], [y + shift] * 2, color=colour, linewidth=2, solid_capstyle="butt")
                axes.plot(result["difference"], y + shift, marker, color=colour)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    names = f"A: {first.resolve().name}\nB: {second.resolve().name}"
    axes.set_xlabel(f"AUC of B minus AUC of A, with 95 % interval\n{names}")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


# ------------------------------------------------------------------------------------------------------------- command


def run(args: CompareArguments) -> None:
    """Compare the runs and write the study."""
    results: dict[str, dict[str, Any]] = {}
    for dataset, pair in pair_runs(args.run_a, args.run_b).items():
        both = zip(UNITS, (pair, aggregate_videos(pair, args.video_score)), strict=True)
        results[dataset] = {unit: compare(part, title=f"{dataset} {unit}") for unit, part in both}
    write_study(
        args.run_b,
        "compare",
        "-".join(args.run_a.resolve().parts[-2:]),
        f"{args.run_b.resolve().name} (B) compared with {args.run_a.resolve().name} (A)",
        summarise(results),
        make_table(results),
        {"run_a": str(args.run_a), "run_b": str(args.run_b), "video_score": args.video_score, "datasets": results},
        draw(results, args.run_a, args.run_b),
        describe_method(args.run_a, args.run_b, args.video_score),
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 2 for wrong input, 130 for an interruption."""
    return run_command("analysis.compare", lambda: run(parse_arguments(argv)), "fewer images")


if __name__ == "__main__":
    sys.exit(main())
