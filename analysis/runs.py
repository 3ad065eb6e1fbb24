"""Runs of training.py that differ in a few arguments: make them for the tables of the paper, start and resume them."""

import subprocess
import sys
from pathlib import Path
from typing import IO, Any, NamedTuple

from utils import parsing as parse
from utils.command import remember_traceback, traceback_flag
from utils.errors import InputError
from utils.files import read_json
from utils.process import Stopped
from utils.training_arguments import (
    NOT_INHERITED,
    TrainingArguments,
    check_training_arguments,
    parse_training_arguments,
)

Tables = dict[str, list[dict[str, Any]]]  # the rows of each table

ROOT = Path(__file__).parent.parent
# The arguments that each table varies around the default.
TABLES: Tables = {
    # One block has no leave-one-out heads, so it cannot train with the local loss.
    "blocks": [{"num_LIBs": 1, "lil_loss": False}, *({"num_LIBs": n} for n in range(2, 7))],
    "losses": [{"lil_loss": lil, "gil_loss": gil} for lil in (False, True) for gil in (False, True)],
    "backbone": [{"model": name} for name in ("resnet", "efficientnet", "mobilenet")],
    "divergence": [{"mi_calculator": name} for name in ("kl", "w")],
    "balance": [{"balance_loss_method": name} for name in ("auto", "hyper")],
    "mixup": [{"mixup": mixup} for mixup in (False, True)],
    "recipe": [{}, {"channels": "BGR"}, {"lr_schedule": "official"}, {"recipe": "official"}],
}
# The arguments that a study sets for each run.
RESERVED = ("--name", "--seed", "--dataset", "--save_path", "--test", "--resume_model", "--save_model", "--overwrite")


def split_command_line(argv: list[str], reserved: tuple[str, ...] = RESERVED) -> tuple[list[str], list[str]]:
    """Split a command line at ``--``; return the study's own arguments and the arguments that every run gets.

    Raises:
        InputError: training.py rejects an argument after ``--``, or it is one of the `reserved` flags.
    """
    remember_traceback(argv)
    cut = argv.index("--") if "--" in argv else len(argv)
    passed_on = argv[cut + 1 :]
    for part in passed_on:
        if part.split("=")[0] in reserved:
            raise InputError(f"{part.split('=')[0]} cannot follow --: this command sets it for each run; remove it.")
    parse_training(passed_on)
    return argv[:cut], passed_on


def parse_training(argv: list[str]) -> TrainingArguments:
    """Parse and check a command line of training.py that does not resume a checkpoint.

    Raises:
        InputError: an argument is wrong, or contradicts another.
    """
    args = parse_training_arguments(argv)
    check_training_arguments(args)
    return args


class Run(NamedTuple):
    """One training run.

    Attributes:
        folder: the run folder.
        arguments: the command line of training.py.
        settings: the parsed arguments, as args.json stores them.
    """

    folder: Path
    arguments: list[str]
    settings: dict[str, Any]

    @property
    def log(self) -> Path:
        """The run's log file."""
        return self.folder.with_name(f"{self.folder.name}.log")


# ---------------------------------------------------------------------------------------------------------------- grid


def configuration_name(changes: dict[str, Any]) -> str:
    """Name a configuration by its differences from the default."""
    return "-".join(f"{key}_{value}" for key, value in sorted(changes.items())) or "default"


def make_grid(tables: list[str], base: TrainingArguments) -> dict[str, dict[str, dict[str, Any]]]:
    """Return each table's configurations by name, as differences from `base`.

    A configuration in several tables, such as the default, has one name and is trained once.
    """
    return {
        table: {
            configuration_name(changes): changes
            for row in TABLES[table]
            for changes in [{key: value for key, value in row.items() if getattr(base, key) != value}]
        }
        for table in tables
    }


def make_run(dataset: list[str], save_path: Path, passed_on: list[str], changes: dict[str, Any], seed: int = 0) -> Run:
    """Return the run of a configuration with a seed.

    Args:
        dataset: names of the datasets to train and test on.
        save_path: folder of the run folders.
        passed_on: arguments of training.py that every run gets.
        changes: the arguments in which the configuration differs from the default.
        seed: the value of ``--seed``.

    Raises:
        InputError: training.py would reject the arguments.
    """
    name = f"{configuration_name(changes)}-seed_{seed}"
    arguments = ["--dataset", ",".join(dataset), "--save_path", str(save_path), *passed_on]
    arguments += [part for key, value in changes.items() for part in (f"--{key}", str(value))]
    arguments += ["--name", name, "--seed", str(seed)]
    try:
        parsed = parse_training(arguments)
    except InputError as error:
        raise InputError(f"cannot train {configuration_name(changes)}: {error} Choose other tables.") from error
    return Run(save_path / name, arguments, parse.plain_arguments(parsed))


# ---------------------------------------------------------------------------------------------------------------- runs


def check_folder(job: Run) -> None:
    """Raise InputError if the folder holds a run with other arguments."""
    file = job.folder / "args.json"
    if not file.is_file() or not any((job.folder / name).is_file() for name in ("results.json", "model_last.pth")):
        return
    found = read_json(file)
    # --save_path may name the same folder differently, and args.json says what --precision auto has become.
    skipped = (*NOT_INHERITED, "save_path", *["precision"] * (job.settings["precision"] == "auto"))
    for key, value in job.settings.items():
        if key not in skipped and found.get(key, value) != value:
            raise InputError(
                f"{job.folder} has a run with --{key} {parse.show_default(found.get(key)) or None}, not "
                f"{parse.show_default(value) or None}; give another --save_path or remove the folder."
            )


def execute(script: str, arguments: list[str], log: Path) -> bool:
    """Run a command of this project, such as training.py.

    Args:
        script: file name of the command.
        arguments: its command line.
        log: file that its output is appended to.

    Returns:
        Whether the command succeeded.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as out:
        return call([sys.executable, str(ROOT / script), *arguments, *traceback_flag], out) == 0


def call(command: list[str], out: IO[str]) -> int:
    """Run a command with its output in a file, and return its exit code.

    After a signal, wait until the command has written its checkpoint.

    Raises:
        Stopped: this process received a signal, which the command gets too.
    """
    with subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            return process.wait()
        except Stopped as stop:
            process.send_signal(stop.number)
            raise
        except KeyboardInterrupt:
            process.wait()  # Ctrl-C has reached it too
            raise


def training_arguments(job: Run) -> list[str]:
    """Return the arguments that start a run, or continue it from its last checkpoint."""
    last = job.folder / "model_last.pth"
    return job.arguments + (["--resume_model", str(last)] if last.is_file() else [])


def train(job: Run) -> bool:
    """Train or resume a run, with its output appended to its log; return whether it succeeded."""
    return execute("training.py", training_arguments(job), job.log)


def is_finished(job: Run) -> bool:
    """Return whether a run has been trained and tested."""
    return (job.folder / "results.json").is_file()


def label(row: dict[str, Any], base: TrainingArguments) -> str:
    """Label a row by its arguments, and mark the default."""
    default = all(getattr(base, key) == value for key, value in row.items())
    return ", ".join(f"{key} {value}" for key, value in row.items()) + " (default)" * default
