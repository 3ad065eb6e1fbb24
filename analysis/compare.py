"""Test whether two runs that were tested on the same images differ in AUC by more than chance.

    python -m analysis.compare output/baseline output/ff

Both run folders hold a predictions.csv. The difference is the AUC of RUN_B minus the AUC of RUN_A, for frames and for
videos. Its interval and p value take into account that frames of one video, and videos of one source, are not
independent. The command writes study_compare_<last two parts of RUN_A's path>.json and .png to RUN_B's folder.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils import parsing as parse
from utils.command import check_command_line, run_command
from utils.errors import InputError, first_ten


@dataclass(kw_only=True)
class CompareArguments:
    """All arguments of the study; the help texts document the fields."""

    run_a: Path = parse.positional(parse.path, "folder of the first tested run")
    run_b: Path = parse.positional(parse.path, "folder of the second tested run; the study is written here")
    video_score: str = parse.argument("mean", parse.video_score, parse.VIDEO_SCORE_TEXT)


def parse_arguments(argv: list[str] | None) -> CompareArguments:
    """Parse and check the command line.

    Raises:
        InputError: an argument is wrong or missing, or names a missing file or folder.
    """
    args: CompareArguments = parse.Parser("-m analysis.compare", __doc__, CompareArguments).parse(argv)
    for folder in (args.run_a, args.run_b):
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}; give the folder of a tested run.")
    return args


if __name__ == "__main__":
    check_command_line("analysis.compare", lambda: parse_arguments(None))  # before the slow imports

import numpy as np
from matplotlib.figure import Figure

from analysis.study import BLUE, GREY, plot_text, write_study
from evaluation.intervals import auc_difference
from evaluation.metrics import score_videos
from evaluation.predictions import Scores, read_predictions

UNITS = ("frames", "videos")
Pair = tuple[Scores, Scores]  # two runs' scores of the same images, in the same order


# --------------------------------------------------------------------------------------------------------- predictions


def pair_runs(first: Path, second: Path) -> dict[str, Pair]:
    """Read the predictions of two runs and match them image by image.

    Returns:
        The scores by dataset, in the order of the first run, with its videos and clusters.

    Raises:
        InputError: a run cannot be read, the runs differ in an image or a label, or a dataset has one class only.
    """
    one, other = (read_predictions(folder / "predictions.csv") for folder in (first, second))
    images = [{(name, path) for name, scored in run.items() for path in scored.paths} for run in (one, other)]
    for run, extra in ((first, images[0] - images[1]), (second, images[1] - images[0])):
        if extra:
            names = first_ten([f"{dataset} {path}" for dataset, path in sorted(extra)])
            raise InputError(
                f"the runs were tested on different images; {len(extra)} are only in {run}: {names}; test both runs on "
                "the same label files."
            )
    pairs, changed = {}, []
    for dataset, scored in one.items():
        index = {path: i for i, path in enumerate(other[dataset].paths)}
        order = [index[path] for path in scored.paths]
        differ = np.flatnonzero(scored.labels != other[dataset].labels[order])
        changed += [f"{dataset} {scored.paths[i]}" for i in differ]
        pairs[dataset] = scored, scored._replace(scores=other[dataset].scores[order])
    if changed:
        raise InputError(
            f"the runs differ in the labels of {len(changed)} images: {first_ten(changed)}; test both runs on the same "
            "label files."
        )
    for dataset, (scored, _) in pairs.items():
        if len(set(score_videos(scored, "mean").labels)) < 2:
            raise InputError(
                f"the test set of {dataset} has one class only; give runs that were tested on both classes."
            )
    return pairs


# ------------------------------------------------------------------------------------------------------------ measures


def compare(pair: Pair, video_score: str) -> dict[str, dict[str, Any]]:
    """Compare two runs on frames and on videos.

    Returns:
        For ``frames`` and ``videos`` each: ``count``, ``clusters``, ``auc_a``, ``auc_b``, their ``difference`` (b - a),
        its 95 % ``interval`` and ``p``, both None where `evaluation.intervals.auc_difference` does not define them.
    """
    results = {}
    for unit in UNITS:
        one, other = pair if unit == "frames" else (score_videos(scored, video_score) for scored in pair)
        aucs, interval, p = auc_difference(one.labels, one.scores, other.scores, one.clusters)
        results[unit] = {
            "count": len(one.labels),
            "clusters": len(np.unique(one.clusters)),
            "auc_a": aucs[0],
            "auc_b": aucs[1],
            "difference": aucs[1] - aucs[0],
            "interval": interval,
            "p": p,
        }
    return results


# ------------------------------------------------------------------------------------------------------------- writing


def summarise(results: dict[str, dict[str, Any]]) -> str:
    """List the differences by verdict: significant, perhaps chance, not tested."""
    verdicts: dict[str, list[str]] = {
        "Significant (p < 0.05)": [],
        "Not significant (p >= 0.05; may be chance)": [],
        "Not tested (a class has one cluster, or the scores have no variance)": [],
    }
    significant, chance, untested = verdicts.values()
    for dataset, units in results.items():
        for unit, result in units.items():
            p = result["p"]
            verdict = untested if p is None else significant if p < 0.05 else chance
            verdict.append(f"{dataset} {unit} {result['difference']:+.4f}")
    return " ".join(f"{verdict}: {', '.join(found)}." for verdict, found in verdicts.items() if found)


def describe_method(first: Path, second: Path, video_score: str) -> str:
    """Describe how the runs are compared."""
    return (
        f"The difference is the AUC of {second} (B) minus the AUC of {first} (A) on the same images. "
        f"The score of a face is the {video_score} of its frame scores; the score of a video is its highest face "
        "score. The test is DeLong's test for clusters of images (Obuchowski, 1997), because frames of one video, and "
        "videos of one source, are not independent."
    )


def make_table(results: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Return the header and one row per dataset and unit."""
    rows = []
    for dataset, units in results.items():
        for unit, r in units.items():
            low_high, p = r["interval"], r["p"]
            rows.append(
                [
                    dataset, unit, str(r["count"]), str(r["clusters"]), f"{r['auc_a']:.4f}", f"{r['auc_b']:.4f}",
                    f"{r['difference']:+.4f}", f"[{low_high[0]:+.4f}, {low_high[1]:+.4f}]" if low_high else "-",
                    "-" if p is None else f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}",
                ]
            )  # fmt: skip
    return [["dataset", "unit", "count", "clusters", "AUC A", "AUC B", "B - A", "95 %", "p"], *rows]


def draw(results: dict[str, dict[str, Any]], first: Path, second: Path) -> Figure:
    """Draw each difference with its interval, one row per dataset and unit."""
    rows = [(dataset, unit, result) for dataset, units in results.items() for unit, result in units.items()]
    figure = Figure(figsize=(7.5, 1.5 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=1, zorder=0)
    for y, (_, _, result) in enumerate(rows):
        if result["interval"]:  # a dot without an interval would look exact
            axes.plot(result["interval"], [y, y], color=BLUE, linewidth=2, solid_capstyle="butt")
            axes.plot(result["difference"], y, "o", color=BLUE)
    axes.set_yticks(range(len(rows)), [f"{plot_text(dataset)}\n{unit}" for dataset, unit, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    names = f"A: {plot_text(first.resolve().name)}\nB: {plot_text(second.resolve().name)}"
    axes.set_xlabel(f"AUC of B minus AUC of A, with 95 % interval\n{names}")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


# ------------------------------------------------------------------------------------------------------------- command


def run(args: CompareArguments) -> None:
    """Compare the runs and write the study."""
    pairs = pair_runs(args.run_a, args.run_b)
    results = {dataset: compare(pair, args.video_score) for dataset, pair in pairs.items()}
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
