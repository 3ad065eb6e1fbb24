"""Reproduce a table of the paper: prepare its datasets, train, test, and print published and measured AUCs.

    python -m analysis.reproduce --table losses --data_root /data/faces --videos /data/FaceForensics++ --dry_run
    python -m analysis.reproduce --table cross --data_root /data/faces \\
        --videos FF++_c23=/data/FaceForensics++,Celeb-DF-v2=/data/Celeb-DF-v2,DFDC-Preview=/data/dfdc_preview

The command prints the plan with hours and disk space, and then runs it. Every training and test gets the arguments
after --, which are arguments of training.py. Run the same command again after an interruption: it skips finished steps
and continues interrupted steps. It writes the runs and the table, <table>.md, to --save_path; tables share runs.
"""

from utils.process import exit_on_interrupt  # isort: skip

exit_on_interrupt(__name__, "analysis.reproduce")  # before the slow imports

import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from analysis.runs import (
    RESERVED,
    TABLES,
    Run,
    check_folder,
    execute,
    is_finished,
    label,
    make_grid,
    make_run,
    parse_training,
    split_command_line,
    train,
    training_arguments,
)
from faces.recipe import DETECTORS
from utils import parsing as parse
from utils.command import check_command_line, run_command
from utils.data_roots import DATA_ROOT_TEXT, DataRoot, base_name, has_root, parse_data_root, root_of
from utils.errors import InputError, first_ten
from utils.files import read_json, report_invalid_entries, require_file, write_if_changed
from utils.protocols import PROTOCOLS
from utils.tables import format_rows
from utils.training_arguments import TrainingArguments

TRAINING_SET, PROTOCOL = "FF++_c23", "paper"
WITHIN = [TRAINING_SET, "Celeb-DF-v2", "DFDC-Preview", "DFDC"]
ABLATIONS = ("losses", "blocks", "backbone", "divergence", "balance")
FOOTNOTE = "AUCs with *: the paper tested another number of videos, or its number is unknown (docs/published.md)."


@dataclass(kw_only=True)
class ReproduceArguments:
    """All arguments of the command; the help texts document the fields."""

    table: str = parse.required(
        parse.one_of("within", "cross", *ABLATIONS), f"table to make: within, cross, {', '.join(ABLATIONS)}"
    )
    data_root: DataRoot = parse.required(parse_data_root, DATA_ROOT_TEXT)
    videos: DataRoot | None = parse.argument(
        None,
        parse_data_root,
        "root folder of the videos, to prepare datasets without label files; or one per dataset, such as "
        "FF++_c23=/data/ffpp,DFDC=/data/dfdc",
    )
    dataset_root: Path = parse.argument(
        Path("dataset"), parse.path, "folder of the label files, with one subfolder per dataset"
    )
    save_path: Path = parse.argument(Path("output/reproduce"), parse.path, "output folder of the runs and the table")
    detector: str = parse.argument(
        "retinaface", parse.one_of(*DETECTORS), f"face detector of preprocessing.py: {', '.join(DETECTORS)}"
    )
    detector_weights: Path | None = parse.argument(
        None, parse.path, "RetinaFace checkpoint file (default: the published one, downloaded once)"
    )
    speed: list[float] | None = parse.argument(
        None,
        parse.scales,
        "three speeds for the estimate, per second: training images, test images, preprocessed frames; such as "
        "2000,6900,100 (default: timings on this machine)",
    )
    dry_run: bool = parse.argument(False, parse.boolean, "print the plan and stop")


def parse_arguments(argv: list[str]) -> tuple[ReproduceArguments, list[str]]:
    """Parse the command line; return its arguments, and the arguments of training.py that every run gets.

    Raises:
        InputError: an argument of this command or of training.py is wrong, or this command sets it for each run.
    """
    own, passed_on = split_command_line(argv, (*RESERVED, "--data_root", "--dataset_root"))
    args = parse.Parser("-m analysis.reproduce", __doc__, ReproduceArguments).parse(own)
    if args.save_path.exists() and not args.save_path.is_dir():
        raise InputError(f"--save_path {args.save_path} is a file; give a folder.")
    if args.detector_weights is not None:
        require_file(args.detector_weights, "--detector_weights")
    roots = ["--data_root", str(args.data_root)]
    if args.dataset_root != ReproduceArguments.dataset_root:
        roots += ["--dataset_root", str(args.dataset_root)]
    return args, [*roots, *passed_on]


if __name__ == "__main__":
    check_command_line("analysis.reproduce", lambda: parse_arguments(sys.argv[1:]))  # before the slow imports

from analysis.estimate import Cost, Estimator
from analysis.study import prepare_folder
from corpora.label_files import is_prepared
from corpora.layouts import SourceVideo, check_dataset, find_videos
from evaluation.published import is_same_size, paper_auc
from models.backbones import check_model_name
from utils.devices import select_devices


class Step(NamedTuple):
    """A command of the plan.

    Attributes:
        name: verb and object, such as "prepare DFDC".
        command: the command as the user types it, after ``python``.
        execute: runs the command, and returns whether it succeeded.
        is_done: returns whether the command has nothing left to do.
        cost: estimates hours and bytes.
        place: the folder that needs the disk space.
    """

    name: str
    command: list[str]
    execute: Callable[[], bool]
    is_done: Callable[[], bool]
    cost: Callable[[], Cost]
    place: Path


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        label: first cell.
        run: the run whose AUCs the row shows; None if the dataset is not available.
        dataset: the test set.
        published: the paper's frame AUC and its number of test videos, see `evaluation.published.paper_auc`.
    """

    label: str
    run: Run | None
    dataset: str
    published: tuple[str, int | None] = ("", None)


# ---------------------------------------------------------------------------------------------------------------- plan


def make_plan(args: ReproduceArguments, passed_on: list[str]) -> tuple[list[Step], list[Row]]:
    """Return the steps in their order, and the rows of the table.

    Raises:
        InputError: a dataset that the table needs is not available, an argument is wrong, or a folder holds a run with
            other arguments.
    """
    base = parse_training(passed_on)
    check_model_name(base.model)
    select_devices(base.gpu_num)
    estimator = Estimator(
        args.speed, args.detector, args.detector_weights, args.dataset_root, partial(list_videos, args)
    )

    def available(dataset: str) -> bool:
        return is_prepared(args.dataset_root / dataset) or (args.videos is not None and has_root(dataset, args.videos))

    def make(dataset: str, changes: dict[str, object]) -> Run:
        return make_run([dataset], args.save_path / dataset, passed_on, changes)

    test_sets = {"within": WITHIN, "cross": PROTOCOLS[PROTOCOL].dataset}.get(args.table, [])
    needed = test_sets if args.table == "within" else [TRAINING_SET, *test_sets]
    absent = [name for name in needed if not available(name)]
    tested = [name for name in test_sets if name not in absent]
    if (args.table != "within" and TRAINING_SET in absent) or (test_sets and not tested):
        raise InputError(
            f"--table {args.table}: {absent[0]} is not prepared in {args.dataset_root / absent[0]} and has no folder "
            f"in --videos; give --videos {base_name(absent[0])}=FOLDER."
        )
    if absent:
        print(f"note: datasets left out (no label files, no folder in --videos): {first_ten(absent)}")

    steps = [preparation_step(dataset, args, base, estimator) for dataset in needed if dataset not in absent]
    if args.table in ABLATIONS:
        runs = [make(TRAINING_SET, changes) for changes in make_grid([args.table], base)[args.table].values()]
        names = [label(row, base) for row in TABLES[args.table]]
        rows = [Row(name, run, TRAINING_SET) for name, run in zip(names, runs, strict=True)]
    elif args.table == "within":
        runs = [make(dataset, {}) for dataset in tested]
        trained = dict(zip(tested, runs, strict=True))
        rows = [Row(name, trained.get(name), name, paper_auc(None, name, name)) for name in WITHIN]
    else:
        runs = [make(TRAINING_SET, {})]
    steps += [run_step("train", run, estimator, args) for run in runs]
    if args.table == "cross":
        test = make_test(runs[0], tested, args, passed_on)
        steps.append(run_step("test", test, estimator, args))
        published = {name: paper_auc(PROTOCOL, TRAINING_SET, name) for name in test_sets}
        rows = [Row(name, None if name in absent else test, name, published[name]) for name in test_sets]
    return steps, rows


def make_test(trained: Run, tested: list[str], args: ReproduceArguments, passed_on: list[str]) -> Run:
    """Return the test of a run's best checkpoint by the paper's protocol."""
    folder = trained.folder.with_name(f"{trained.folder.name}-{PROTOCOL}")
    arguments = ["--test", "--resume_model", str(trained.folder / "model_best.pth"), "--protocol", PROTOCOL]
    if tested != PROTOCOLS[PROTOCOL].dataset:
        arguments += ["--dataset", ",".join(tested)]
    arguments += ["--save_path", str(folder.parent), *passed_on, "--name", folder.name]
    return Run(folder, arguments, parse.plain_arguments(parse_training(arguments)))


def run_step(verb: str, run: Run, estimator: Estimator, args: ReproduceArguments) -> Step:
    """Return the step that trains or tests a run."""
    check_folder(run)
    cost = partial(estimator.training if verb == "train" else estimator.test, run)
    command = ["training.py", *training_arguments(run)]
    name = f"{verb} {run.folder.relative_to(args.save_path)}"
    return Step(name, command, partial(train, run), partial(is_finished, run), cost, args.save_path)


def preparation_step(dataset: str, args: ReproduceArguments, base: TrainingArguments, estimator: Estimator) -> Step:
    """Return the step that makes the faces and label files of a dataset with preprocessing.py."""
    faces = root_of(dataset, args.data_root)
    arguments = ["--dataset", base_name(dataset), "--faces", str(faces)]
    if args.videos is not None and has_root(dataset, args.videos):
        arguments += ["--videos", str(root_of(dataset, args.videos))]
    arguments += ["--split", "all"] * dataset.endswith("_all")
    for name, value, usual in (
        ("dataset_root", args.dataset_root, ReproduceArguments.dataset_root),
        ("detector", args.detector, ReproduceArguments.detector),
        ("detector_weights", args.detector_weights, None),
        ("gpu_num", base.gpu_num, None),
        ("num_workers", base.num_workers, TrainingArguments.num_workers),
    ):
        arguments += [f"--{name}", str(value)] * (value != usual)
    log = args.save_path / f"prepare_{dataset}.log"
    return Step(
        f"prepare {dataset}",
        ["preprocessing.py", *arguments],
        partial(execute, "preprocessing.py", arguments, log),
        partial(is_prepared, args.dataset_root / dataset),
        partial(estimator.preparation, dataset, faces, base),
        faces,
    )


def list_videos(args: ReproduceArguments, dataset: str) -> list[SourceVideo] | None:
    """List the videos of a dataset; None if its folder is not on the disk, which only a dry run accepts.

    Raises:
        InputError: the folder does not exist or does not hold the dataset.
    """
    if args.videos is None or not has_root(dataset, args.videos):
        return None
    base, root = base_name(dataset), root_of(dataset, args.videos)
    if args.dry_run and not root.exists():
        return None
    check_dataset(base, root)
    return find_videos(base, root, base, "all" if dataset.endswith("_all") else "disjoint")


def print_plan(table: str, steps: list[Step]) -> None:
    """Print every step with its command line, its estimate, and the disk space that is free."""
    hours, needed = 0.0, dict.fromkeys((step.place for step in steps), 0.0)
    print(f"{table}: {len(steps)} steps")
    for number, step in enumerate(steps, start=1):
        state = "finished"
        if not step.is_done():
            cost = step.cost()
            hours, needed[step.place] = hours + (cost.hours or 0), needed[step.place] + cost.size
            state = f"{format_hours(cost.hours)}, {cost.size / 1e9:.1f} GB"
        print(f"{number}. {step.name}: {state}\n   python {shlex.join(step.command)}", flush=True)
    print(f"to do: {format_hours(hours)}, estimated from timings on this machine or from --speed (docs/studies.md)")
    for place, size in needed.items():
        existing = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
        free = shutil.disk_usage(existing).free
        lack = "; this is not enough" * (size > free)
        print(f"disk: {place} needs {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free{lack}")


def format_hours(hours: float | None) -> str:
    """Format hours, in minutes below one hour; None means that there was nothing to time."""
    if hours is None:
        return "unknown time (no video to time; give --speed)"
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


# --------------------------------------------------------------------------------------------------------------- table


def make_table(first: str, rows: list[Row]) -> list[list[str]]:
    """Return the header, which starts with `first`, and the rows: published and measured AUCs.

    A published AUC that has another number of test videos, or an unknown number, ends with `*`.
    """
    table = [[first, "published frame AUC", "frame AUC", "video AUC", "videos"]]
    for row in rows:
        measured = ["-"] * 3
        published, videos = row.published
        if row.run is not None and is_finished(row.run):
            file = row.run.folder / "results.json"
            results = read_json(file)
            with report_invalid_entries(file, f"remove {row.run.folder} and run the command again"):
                found = results["datasets"][row.dataset]
                aucs = ["-" if found[name] is None else f"{found[name]:.4f}" for name in ("auc", "video_auc")]
                measured = [*aucs, str(found["videos"])]
                if published and not (videos and is_same_size(found["videos"], videos)):
                    published += "*"
        table.append([row.label, published, *measured])
    return table


def run(args: ReproduceArguments, passed_on: list[str]) -> None:
    """Print the plan, run it, and print the table.

    Raises:
        InputError: see `make_plan`; or a step failed.
    """
    steps, rows = make_plan(args, passed_on)
    print_plan(args.table, steps)
    if args.dry_run:
        return
    prepare_folder(args.save_path)
    failed = []
    for step in [step for step in steps if not step.is_done()]:
        print(f"running: {step.name}", flush=True)
        if not (step.execute() and step.is_done()):
            failed.append(step.name)
            print(f"failed: {step.name}", file=sys.stderr)
    table = make_table("arguments" if args.table in ABLATIONS else "test set", rows)
    footnote = f"\n{FOOTNOTE}\n" * any(row[1].endswith("*") for row in table)
    print(f"\n{format_rows(table)}\n{footnote}")
    if not any(row[1] for row in table[1:]):
        print("This project has no published numbers for this table (docs/published.md).")
    file = args.save_path / f"{args.table}.md"
    lines = [table[0], ["---"] * len(table[0]), *table[1:]]
    write_if_changed(file, "".join(f"| {' | '.join(line)} |\n" for line in lines) + footnote)
    print(f"table: {file}")
    if failed:
        raise InputError(
            f"{len(failed)} steps failed: {first_ten(failed)}; see the .log files in {args.save_path}, and run the "
            "same command again to retry them."
        )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 2 for wrong input or a failed step, 130 for an interruption."""
    return run_command(
        "analysis.reproduce",
        lambda: run(*parse_arguments(sys.argv[1:] if argv is None else argv)),
        "a smaller --bs after --",
        lambda: "; run the same command again to continue",
    )


if __name__ == "__main__":
    sys.exit(main())
