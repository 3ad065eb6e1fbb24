"""What a run leaves under ``output/<name>/``, and that it never overwrites another run's by accident."""

import shutil
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.files import write_json

TRAINING_FILES = ("model_*.pth", "train.log", "events.out.tfevents.*")
TEST_FILES = ("results.json", "predictions.csv", "report.html", "study_*.json", "study_*.png", "study_embedding_*")


def check_output_folder(folder: Path, resume_model: Path | None, overwrite: bool, test: bool = False) -> bool:
    """Tell whether `folder` holds the very run that is resumed or, for a `test`, tested.

    A folder holds a run where it holds a checkpoint or results; what a run leaves that failed before its first
    checkpoint stands in nobody's way.

    Raises:
        InputError: it holds another run, or results that a test would replace, and `overwrite` is not given.
    """
    if resume_model is not None and resume_model.resolve().parent == folder.resolve():
        if test and not overwrite and (folder / "results.json").is_file():
            raise InputError(
                f"{folder} holds results already; give another --name, or --overwrite True to replace them."
            )
        return True
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, not an output folder; give another --name or --save_path.")
    held = [file.name for pattern in ("model_*.pth", *TEST_FILES) for file in sorted(folder.glob(pattern))]
    if held and not overwrite:
        raise InputError(
            f"{folder} holds another run ({held[0]}); give another --name, or --overwrite True to replace it."
        )
    return False


def start_output_folder(folder: Path, patterns: tuple[str, ...], args: dict[str, Any]) -> None:
    """Make the folder, remove from it what matches `patterns` of a run before, and write ``args.json``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in patterns:
            for file in folder.glob(pattern):
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        write_json(folder / "args.json", args)
    except OSError as error:
        raise InputError(f"the output folder {folder} cannot be written: {error.strerror}.") from error
