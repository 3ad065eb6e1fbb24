"""Train the paper's ablations and tabulate the AUCs; each configuration changes one factor of the default.

    python -m analysis.ablation --dataset FF++_c23 --save_path output/ablation
    python -m analysis.ablation --dataset demo --save_path output/ablation --only blocks,losses -- --model mobilenet \\
        --pretrained False --size 64 --bs 16 --epoch 2

Every run gets the arguments of training.py after --. Such an argument changes the default configuration, even if a
table varies it. The command trains each configuration with each seed, one run after the other. A run has a folder under
--save_path and a .log file beside it. The same command again skips finished runs and resumes interrupted ones.

The command writes study_ablation_<dataset>.json, .md and .png to --save_path. With --only, the file names end in the
names of the tables.
"""

from utils.process import exit_on_interrupt  # isort: skip

exit_on_interrupt(__name__, "analysis.ablation")  # before the slow imports

import argparse
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.runs import (
    TABLES,
    Run,
    Tables,
    check_folder,
    is_finished,
    label,
    make_grid,
    make_run,
    parse_training,
    split_command_line,
    train,
)
from datasets.labels import read_datasets
from utils import parsing as parse
from utils.command import check_command_line, run_command
from utils.errors import InputError, first_ten
from utils.files import read_json, report_invalid_entries, write_if_changed
from utils.progress import progress

METRICS = {"auc": "frame AUC", "video_auc": "video AUC"}


def seeds(text: str) -> list[int]:
    """Parse a comma-separated list of different integers >= 0."""
    found = [parse.count_or_zero(part) for part in text.split(",")]
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"'{text}' is not a comma-separated list of different integers")
    return found


@dataclass(kw_only=True)
class AblationArguments:
    """All arguments of the study; the help texts document the fields."""

    dataset: list[str] = parse.argument(["FF++_c23"], parse.names, "comma-separated dataset names to train and test on")
    save_path: Path = parse.required(parse.path, "folder for the runs and the tables")
    seeds: list[int] = parse.argument(
        [0, 1, 2], seeds, "comma-separated seeds; each configuration is trained once per seed"
    )
    only: list[str] = parse.argument(list(TABLES), parse.some_of("table", TABLES), "comma-separated tables to make")


def parse_arguments(argv: list[str]) -> tuple[AblationArguments, list[str]]:
    """Parse the command line; return its arguments and the arguments after ``--``, which every run gets.

    Raises:
        InputError: an argument of this command or of training.py is wrong, or this command sets it for each run.
    """
    own, passed_on = split_command_line(argv)
    args = parse.Parser("-m analysis.ablation", __doc__, AblationArguments).parse(own)
    args.only = [table for table in TABLES if table in args.only]
    if args.save_path.exists() and not args.save_path.is_dir():
        raise InputError(f"--save_path {args.save_path} is a file; give a folder.")
    return args, passed_on


if __name__ == "__main__":
    check_command_line("analysis.ablation", lambda: parse_arguments(sys.argv[1:]))  # before the slow imports

import numpy as np
from matplotlib.figure import Figure

from analysis.study import (
    BLUE,
    ORANGE,
    format_change,
    format_mean,
    mean_and_deviation,
    prepare_folder,
    study_name,
    write_study,
)
from evaluation.intervals import auc_difference
from evaluation.metrics import score_videos
from evaluation.predictions import Scores, read_predictions
from models.backbones import check_model_name
from utils.devices import select_devices

# ---------------------------------------------------------------------------------------------------------------- runs


def measure(job: Run) -> dict[str, float | None]:
    """Return the test AUCs of a finished run; the mean over the test sets if it has several."""
    file = job.folder / "results.json"
    results = read_json(file)
    with report_invalid_entries(file, f"remove {job.folder} and run the command again"):
        metrics = results.get("average") or list(results["datasets"].values())[0]
        return {name: None if metrics[name] is None else float(metrics[name]) for name in METRICS}


def compare_to_default(runs: list[Run], default: list[Run]) -> dict[str, Any] | None:
    """Compare the video AUC of a configuration with the video AUC of the default; both are means over the seeds.

    Returns:
        ``difference``, its 95 % ``interval`` over test videos, and ``p``; None for the default itself, with several
        datasets, if the runs tested different images, or if the test set has one class only.
    """
    scored = [[read_predictions(job.folder / "predictions.csv") for job in jobs] for jobs in (default, runs)]
    tests = [test for tests in scored for test in tests]
    if runs == default or any(len(test) > 1 for test in tests):
        return None
    first, second = ([next(iter(test.values())) for test in tests] for tests in scored)
    images, video_score = first[0], runs[0].settings["video_score"]
    if any(other.paths != images.paths for other in (*first, *second)):
        return None

    def video_scores(runs: list[Scores]) -> np.ndarray:
        return np.stack([score_videos(run, video_score).scores for run in runs])

    videos = score_videos(images, video_score)
    if not 0 < videos.labels.sum() < len(videos.labels):
        return None
    aucs, interval, p = auc_difference(videos.labels, video_scores(first), video_scores(second), videos.clusters)
    return {"difference": aucs[1] - aucs[0], "interval": interval, "p": p}


# ------------------------------------------------------------------------------------------------------------- writing


def summarise(values: list[float | None]) -> dict[str, Any]:
    """Return the defined values and their `mean_and_deviation`."""
    return {"values": [value for value in values if value is not None], **mean_and_deviation(values)}


def make_table(tables: Tables) -> list[list[str]]:
    """Return the header and one row per configuration."""
    table = [["table", "arguments", "runs", *METRICS.values(), "video AUC minus default"]]
    for name, rows in tables.items():
        for row in rows:
            change = row["change"]
            shown = "-" if change is None else format_change(change["difference"], change["interval"])
            table.append([name, row["label"], str(row["finished"]), *(format_mean(row[m]) for m in METRICS), shown])
    return table


def describe_cells(failed: list[dict[str, str]]) -> str:
    """Explain the cells of the tables, and name the failed runs."""
    cells = (
        "Each AUC is the mean ± standard deviation (ddof 1) over the seeds. The interval of a difference is for other "
        "test videos and the same seeds."
    )
    return cells + (f" Failed runs, left out: {first_ten([job['name'] for job in failed])}." if failed else "")


def describe_method(numbers: dict[str, Any]) -> str:
    """Describe the runs."""
    datasets, seeds = " and ".join(numbers["datasets"]), ", ".join(map(str, numbers["seeds"]))
    sentences = [
        f"Each configuration changes one factor of the default and is trained on {datasets} with the "
        f"seed{'s' * (len(numbers['seeds']) > 1)} {seeds}.",
        "The table shows the AUC on the test set, for frames and for videos.",
        f"All runs use {numbers['passed_on']}." if numbers["passed_on"] else "All other arguments have their defaults.",
    ]
    if len(numbers["datasets"]) > 1:
        sentences.append("Each AUC is the mean over the test sets of the datasets.")
    return " ".join(sentences)


def make_markdown(text: str, tables: Tables) -> str:
    """Format the text and the tables as Markdown."""
    parts = ["# Ablation", text]
    for name, rows in tables.items():
        header, *lines = [row[1:] for row in make_table({name: rows})]
        lines = [header, ["---"] * len(header), *lines]
        parts += [f"## {name.capitalize()}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    return "\n\n".join(parts) + "\n"


def draw(tables: Tables) -> Figure:
    """Draw one panel per table: mean and standard deviation of each configuration, and a dot per seed."""
    heights = [1 + len(rows) for rows in tables.values()]
    figure = Figure(figsize=(8, 1.4 + 0.42 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(tables), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    styles = (("auc", -0.15, BLUE, "o"), ("video_auc", 0.15, ORANGE, "s"))
    for axes, (name, rows) in zip(panels, tables.items(), strict=True):
        for metric, shift, colour, marker in styles:
            for y, row in enumerate(rows):
                result = row[metric]
                if result["mean"] is None:
                    continue
                options = {"color": colour, "markersize": 6, "capsize": 3}
                axes.errorbar(result["mean"], y + shift, xerr=result["std"] or 0, fmt=marker, **options)
                axes.plot(result["values"], [y + shift] * len(result["values"]), ".", color=colour, alpha=0.5)
            axes.plot([], [], marker, color=colour, label=METRICS[metric])  # for the legend, even if a row is empty
        axes.set_yticks(range(len(rows)), [row["label"] for row in rows], fontsize=8)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(name, fontsize=10, loc="left")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[-1].set_xlabel("AUC: mean and standard deviation over seeds; a small dot is one seed")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


# ------------------------------------------------------------------------------------------------------------- command


def run(args: AblationArguments, passed_on: list[str]) -> None:
    """Train the missing runs, then write the study.

    Raises:
        InputError: a dataset or an argument is wrong, or a run failed; the study is then written from the other runs.
    """
    # Check all input before the first of many runs.
    base = parse_training(["--dataset", ",".join(args.dataset), *passed_on])
    check_model_name(base.model)
    select_devices(base.gpu_num)
    read_datasets(base.dataset, base.dataset_root, base.data_root, base.oversample)
    grid = make_grid(args.only, base)
    configurations = {name: changes for rows in grid.values() for name, changes in rows.items()}
    runs = {
        name: [make_run(args.dataset, args.save_path, passed_on, changes, seed) for seed in args.seeds]
        for name, changes in configurations.items()
    }
    all_runs = [job for jobs in runs.values() for job in jobs]
    for job in all_runs:
        check_folder(job)
    pending = [job for job in all_runs if not is_finished(job)]
    print(f"{args.save_path}: {len(all_runs)} runs, {len(all_runs) - len(pending)} already finished")

    prepare_folder(args.save_path)
    failed = []
    with progress(pending, unit="runs", leave=True) as bar:
        for job in bar:
            bar.set_description(job.folder.name)
            if not (train(job) and is_finished(job)):
                failed.append(job)
                bar.write(f"failed: {job.folder.name}, see {job.log}", file=sys.stderr)
    failures = f"{len(failed)} of {len(all_runs)} runs failed: " + first_ten([f"see {job.log}" for job in failed])
    if len(failed) == len(all_runs):
        raise InputError(f"{failures}; fix the cause and run the same command again.")

    tables: Tables = {}
    default_runs = runs.get("default", [])
    for table, rows in grid.items():
        tables[table] = []
        for row, name in zip(TABLES[table], rows, strict=True):
            measured = [measure(job) for job in runs[name] if job not in failed]
            metrics = {metric: summarise([result[metric] for result in measured]) for metric in METRICS}
            folders = [job.folder.name for job in runs[name]]
            pairs = list(zip(runs[name], default_runs, strict=False))  # by seed
            finished = [pair for pair in pairs if not any(job in failed for job in pair)]
            change = compare_to_default(*map(list, zip(*finished, strict=True))) if finished else None
            row_metrics = {"finished": len(measured), "change": change, **metrics}
            tables[table].append({"label": label(row, base), "runs": folders, **row_metrics})
    numbers: dict[str, Any] = {
        "datasets": args.dataset,
        "seeds": args.seeds,
        "passed_on": shlex.join(passed_on),
        "failed": [{"name": job.folder.name, "log": str(job.log)} for job in failed],
        "tables": tables,
    }
    summary, method = describe_cells(numbers["failed"]), describe_method(numbers)
    title = f"Ablation on {', '.join(args.dataset)}"
    # A selection of tables must not replace the file of all tables.
    subject = "_".join([*args.dataset, *(args.only if args.only != list(TABLES) else [])])
    write_study(args.save_path, "ablation", subject, title, summary, make_table(tables), numbers, draw(tables), method)
    markdown = args.save_path / f"{study_name('ablation', subject)}.md"
    write_if_changed(markdown, make_markdown(f"{summary} {method}", tables))
    print(f"tables: {markdown}")
    if failed:
        raise InputError(f"{failures}; run the same command again to retry them.")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 2 for wrong input or a failed run, 130 for an interruption."""
    return run_command(
        "analysis.ablation",
        lambda: run(*parse_arguments(sys.argv[1:] if argv is None else argv)),
        "a smaller --bs after --",
        lambda: "; run the same command again to continue",
    )


if __name__ == "__main__":
    sys.exit(main())
