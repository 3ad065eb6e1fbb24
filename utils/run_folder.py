"""The folder of a run, ``output/<name>/``, and the checks that keep one run from overwriting another."""

import shutil
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.files import write_json

TRAINING_FILES = ("model_*.pth", "train.log", "events.out.tfevents.*")
TEST_FILES = ("results.json", "predictions.csv", "report.html", "study_*.json", "study_*.png", "study_embedding_*")


def check_output_folder(folder: Path, resume_model: Path | None, overwrite: bool, test: bool = False) -> bool:
    """Return whether `folder` holds the run that `resume_model` belongs to.

    A folder holds a run if it holds a checkpoint or results. The remains of a run that failed before its first
    checkpoint do not count.

    Args:
        folder: the run folder to write to.
        resume_model: the checkpoint to resume or to test.
        overwrite: allow replacing another run, or older results.
        test: whether the command is a test.

    Raises:
        InputError: the folder holds another run, or results that a test would replace, and `overwrite` is False.
    """
    if resume_model is not None and resume_model.resolve().parent == folder.resolve():
        if test and not overwrite and (folder / "results.json").is_file():
            raise InputError(f"{folder} already holds results; give another --name, or --overwrite to replace them.")
        return True
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, not an output folder; give another --name or --save_path.")
    held = [file.name for pattern in ("model_*.pth", *TEST_FILES) for file in sorted(folder.glob(pattern))]
    if held and not overwrite:
        raise InputError(f"{folder} holds another run ({held[0]}); give another --name, or --overwrite to replace it.")
    return False


def start_output_folder(folder: Path, patterns: tuple[str, ...], args: dict[str, Any]) -> None:
    """Create the folder, remove files of an earlier run that match `patterns`, and write ``args.json``.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in patterns:
            for file in folder.glob(pattern):
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        write_json(folder / "args.json", args)
    except OSError as error:
        raise InputError(
            f"the output folder {folder} cannot be written: {error.strerror}; give another --save_path."
        ) from error
