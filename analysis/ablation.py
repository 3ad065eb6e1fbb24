"""Train the paper's ablations, one factor at a time around the default, and put them into tables.

    python -m analysis.ablation --dataset FF++_c23 --save_path output/ablation
    python -m analysis.ablation --dataset demo --save_path output/ablation --only blocks,losses -- --model mobilenet \\
        --pretrained False --size 64 --bs 16 --epoch 2

Every argument of training.py after -- is passed on to every run; one that a table varies (--num_LIBs, ...) moves the
default around which all tables are made. The runs, each with every seed, go one after the other, and each keeps its
folder under --save_path, checkpoints among it, and its output in a .log file beside. The same command again skips what
is finished and resumes what was interrupted. Written: study_ablation_<dataset>.json, .md
and .png, with the tables of --only in their names.
"""

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from tqdm import tqdm

from analysis.study import BLUE, ORANGE, cell, make_folder, mean_and_deviation, study_name, write_study
from datasets.labels import read_datasets
from models.backbones import check_model_name
from utils import parsing as parse
from utils.command import run_command
from utils.devices import select_devices
from utils.errors import InputError, first_ten
from utils.files import read_json, write_if_changed
from utils.training_arguments import NOT_INHERITED, TrainingArguments, check_training_arguments

SCRIPT = Path(__file__).parent.parent / "training.py"
# What each table varies; everything else stays at the default.
TABLES: dict[str, list[dict[str, Any]]] = {
    # One block has no leave-one-out head, and so no local loss.
    "blocks": [{"num_LIBs": 1, "lil_loss": False}, *({"num_LIBs": n} for n in range(2, 7))],
    "losses": [{"lil_loss": lil, "gil_loss": gil} for lil in (False, True) for gil in (False, True)],
    "divergence": [{"mi_calculator": name} for name in ("kl", "w")],
    "balance": [{"balance_loss_method": name} for name in ("auto", "hyper")],
    "mixup": [{"mixup": mixup} for mixup in (False, True)],
}
# What this command itself decides.
OWN = ("--name", "--seed", "--dataset", "--save_path", "--test", "--resume_model", "--save_model", "--overwrite")
METRICS = {"auc": "frame AUC", "video_auc": "video AUC"}


def seeds(text: str) -> list[int]:
    """Parse a comma list of different whole numbers."""
    found = [parse.number(int, 0)(part) for part in text.split(",")]
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"'{text}' is not a comma list of different whole numbers")
    return found


@dataclass(kw_only=True)
class AblationArguments:
    """Every argument of the study; the fields are documented by their help texts."""

    dataset: list[str] = parse.argument(["FF++_c23"], parse.names, "comma-separated dataset names to train and test on")
    save_path: Path = parse.required(parse.path, "folder of all runs and of the tables")
    seeds: list[int] = parse.argument(
        [0, 1, 2], seeds, "comma-separated seeds; every configuration is trained with each"
    )
    only: list[str] = parse.argument(list(TABLES), parse.some_of("table", TABLES), "comma-separated tables to make")


class Run(NamedTuple):
    """One training.

    Attributes:
        folder: where it goes.
        arguments: its command line.
        settings: what the arguments come to, as args.json holds it.
    """

    folder: Path
    arguments: list[str]
    settings: dict[str, Any]

    @property
    def log(self) -> Path:
        """The file of all that it prints."""
        return self.folder.with_name(f"{self.folder.name}.log")


# ---------------------------------------------------------------------------------------------------------------- grid


def name_of(changes: dict[str, Any]) -> str:
    """Return the name of a configuration: what is not at its default."""
    return "-".join(f"{key}_{value}" for key, value in sorted(changes.items())) or "default"


def make_grid(tables: list[str], base: TrainingArguments) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the configurations of each table, by name, as what differs from `base`.

    A configuration that stands in several tables, as the default does in all, has one name.
    """
    return {
        table: {
            name_of(changes): changes
            for row in TABLES[table]
            for changes in [{key: value for key, value in row.items() if getattr(base, key) != value}]
        }
        for table in tables
    }


def make_run(args: AblationArguments, passed_on: list[str], changes: dict[str, Any], seed: int) -> Run:
    """Return the training of a configuration with a seed.

    Raises:
        InputError: training.py would not take its arguments.
    """
    name = f"{name_of(changes)}-seed_{seed}"
    arguments = ["--dataset", ",".join(args.dataset), "--save_path", str(args.save_path), *passed_on]
    arguments += [part for key, value in changes.items() for part in (f"--{key}", str(value))]
    arguments += ["--name", name, "--seed", str(seed)]
    try:
        parsed = parse_training(arguments)
    except InputError as error:
        raise InputError(f"{name_of(changes)}, which --only may leave out, cannot be trained: {error}") from error
    return Run(args.save_path / name, arguments, parse.plain_arguments(parsed))


# ---------------------------------------------------------------------------------------------------------------- runs


def check_folder(job: Run) -> None:
    """Raise InputError where a run's folder holds a run of other arguments."""
    file = job.folder / "args.json"
    if not file.is_file() or not any((job.folder / name).is_file() for name in ("results.json", "model_last.pth")):
        return
    found = read_json(file)
    for key, value in job.settings.items():
        # The same folder may be called by another path.
        if key not in (*NOT_INHERITED, "save_path") and found.get(key) != value:
            raise InputError(
                f"{job.folder} holds a run with --{key} {found.get(key)}, not {value}; give another --save_path, or "
                "remove it."
            )


def train(job: Run) -> bool:
    """Train, or go on with, a run, all output into its log; tell whether it finished."""
    last = job.folder / "model_last.pth"
    resume = ["--resume_model", str(last)] if last.is_file() else []
    with job.log.open("a", encoding="utf-8") as log:
        command = [sys.executable, str(SCRIPT), *job.arguments, *resume]
        return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode == 0


def is_finished(job: Run) -> bool:
    """Tell whether a run has been trained and tested."""
    return (job.folder / "results.json").is_file()


def measure(job: Run) -> dict[str, float | None]:
    """Return the AUC of frames and of videos that a finished run has on its test set, or on average over several."""
    results = read_json(job.folder / "results.json")
    metrics = results.get("average") or next(iter(results["datasets"].values()))
    return {name: metrics[name] for name in METRICS}


# ------------------------------------------------------------------------------------------------------------- writing


def summarise(values: list[float | None]) -> dict[str, Any]:
    """Return the values that there are, and their `mean_and_deviation`."""
    return {"values": [value for value in values if value is not None], **mean_and_deviation(values)}


def label(row: dict[str, Any], base: TrainingArguments) -> str:
    """Return what a table calls a row: its arguments, and whether it is the default."""
    default = all(getattr(base, key) == value for key, value in row.items())
    return ", ".join(f"{key} {value}" for key, value in row.items()) + " (default)" * default


def make_table(tables: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """Return a row a configuration, below the header."""
    rows = [
        [name, row["label"], str(row["finished"]), *(cell(row[metric]) for metric in METRICS)]
        for name, rows in tables.items()
        for row in rows
    ]
    return [["table", "arguments", "runs", *METRICS.values()], *rows]


def describe(numbers: dict[str, Any]) -> str:
    """Say what was measured, and how."""
    passed_on, failed = numbers["passed_on"], numbers["failed"]
    datasets, seeds = " and ".join(numbers["datasets"]), ", ".join(map(str, numbers["seeds"]))
    each = f"each with the seed{'s' * (len(numbers['seeds']) > 1)} {seeds}"
    sentences = [
        f"Trainings on {datasets} with one factor at a time changed from the default, {each}: the "
        "mean of the AUC on the test set, of frames and of videos, and its standard deviation over seeds (ddof 1).",
        f"Given for every run: {passed_on}." if passed_on else "All other arguments are those of training.py.",
    ]
    if len(numbers["datasets"]) > 1:
        sentences.append("The AUC is the mean over the datasets' test sets.")
    if failed:
        sentences.append(f"Failed, and left out: {first_ten([job['name'] for job in failed])}.")
    return " ".join(sentences)


def make_markdown(text: str, tables: dict[str, list[dict[str, Any]]]) -> str:
    """Return text and tables as Markdown."""
    parts = ["# Ablation", text]
    for name, rows in tables.items():
        lines = [["arguments", "runs", *METRICS.values()], ["---"] * (2 + len(METRICS))]
        lines += [row[1:] for row in make_table({name: rows})[1:]]
        parts += [f"## {name.capitalize()}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    return "\n\n".join(parts) + "\n"


def draw(tables: dict[str, list[dict[str, Any]]]) -> Figure:
    """Draw a panel a table: the mean AUC of each configuration, its standard deviation, and every seed's as a dot."""
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
            axes.plot([], [], marker, color=colour, label=METRICS[metric])  # the legend's, whatever is missing
        axes.set_yticks(range(len(rows)), [row["label"] for row in rows], fontsize=8)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(name, fontsize=10, loc="left")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[-1].set_xlabel("AUC: mean and standard deviation over seeds; small dots, each seed")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


# ------------------------------------------------------------------------------------------------------------- command


def parse_arguments(argv: list[str]) -> tuple[AblationArguments, list[str]]:
    """Parse the command line; return its arguments, and those after ``--``, which every training gets.

    Raises:
        InputError: an argument is wrong, or is set by this command.
    """
    cut = argv.index("--") if "--" in argv else len(argv)
    args = parse.Parser("-m analysis.ablation", __doc__, AblationArguments).parse(argv[:cut])
    passed_on = argv[cut + 1 :]
    args.only = [table for table in TABLES if table in args.only]
    if args.save_path.exists() and not args.save_path.is_dir():
        raise InputError(f"--save_path {args.save_path} is a file; give a folder.")
    for part in passed_on:
        if part.split("=")[0] in OWN:
            raise InputError(f"{part.split('=')[0]} cannot be passed on: every run is given its own.")
    return args, passed_on


def parse_training(argv: list[str]) -> TrainingArguments:
    """Parse the command line of a training that resumes nothing, with the checks that training.py makes."""
    args = parse.Parser("training.py", None, TrainingArguments).parse(argv)
    check_training_arguments(args)
    check_model_name(args.model)
    return args


def run(args: AblationArguments, passed_on: list[str]) -> None:
    """Do what the arguments say."""
    # Everything that can be wrong is looked at before the first of many trainings.
    base = parse_training(["--dataset", ",".join(args.dataset), *passed_on])
    select_devices(base.gpu_num)
    read_datasets(base.dataset, base.dataset_root, base.data_root, base.oversample)
    grid = make_grid(args.only, base)
    configurations = {name: changes for rows in grid.values() for name, changes in rows.items()}
    runs = {
        name: [make_run(args, passed_on, changes, seed) for seed in args.seeds]
        for name, changes in configurations.items()
    }
    everything = [job for jobs in runs.values() for job in jobs]
    for job in everything:
        check_folder(job)
    to_do = [job for job in everything if not is_finished(job)]
    print(f"{args.save_path}: {len(everything)} runs, {len(everything) - len(to_do)} of them finished before")

    make_folder(args.save_path)
    failed = []
    with tqdm(to_do, unit=" runs", dynamic_ncols=True) as bar:
        for job in bar:
            bar.set_description(job.folder.name)
            if not (train(job) and is_finished(job)):
                failed.append(job)
                bar.write(f"failed: {job.folder.name}, see {job.log}", file=sys.stderr)
    failures = f"{len(failed)} of {len(everything)} runs failed: " + first_ten([f"see {job.log}" for job in failed])
    if len(failed) == len(everything):
        raise InputError(f"{failures}.")

    tables = {}
    for table, rows in grid.items():
        tables[table] = []
        for row, name in zip(TABLES[table], rows, strict=True):
            measured = [measure(job) for job in runs[name] if job not in failed]
            metrics = {metric: summarise([result[metric] for result in measured]) for metric in METRICS}
            folders = [job.folder.name for job in runs[name]]
            tables[table].append({"label": label(row, base), "runs": folders, "finished": len(measured), **metrics})
    numbers = {
        "datasets": args.dataset,
        "seeds": args.seeds,
        "passed_on": shlex.join(passed_on),
        "failed": [{"name": job.folder.name, "log": str(job.log)} for job in failed],
        "tables": tables,
    }
    text = describe(numbers)
    title = f"Ablation on {', '.join(args.dataset)}"
    # Some of the tables alone do not replace all of them.
    subject = "_".join([*args.dataset, *(args.only if args.only != list(TABLES) else [])])
    write_study(args.save_path, "ablation", subject, title, text, make_table(tables), numbers, draw(tables))
    markdown = args.save_path / f"{study_name('ablation', subject)}.md"
    write_if_changed(markdown, make_markdown(text, tables))
    print(f"tables: {markdown}")
    if failed:
        raise InputError(f"{failures}; the same command tries them again.")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 for wrong input or a failed run, 130 for an interruption."""
    return run_command(
        "analysis.ablation",
        lambda: run(*parse_arguments(sys.argv[1:] if argv is None else argv)),
        "smaller arguments",
        lambda: "; the same command goes on",
    )


if __name__ == "__main__":
    sys.exit(main())
