"""What a run leaves under ``output/<name>/``, and that it never overwrites another run's by accident."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.images import FaceImages
from utils.errors import InputError
from utils.files import whole_file

TRAINING_FILES = ("model_*.pth", "train.log", "events.out.tfevents.*")
TEST_FILES = ("results.json", "predictions.csv", "report.html", "study_*.json", "study_*.png", "study_embedding_*")
COLUMNS = {  # of the table, and what each is in results.json
    "frames": "frames",
    "videos": "videos",
    "ACC": "acc",
    "AUC": "auc",
    "AP": "ap",
    "EER": "eer",
    "log loss": "log_loss",
    "video AUC": "video_auc",
}


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


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all."""
    with whole_file(target) as part:
        shutil.copyfile(source, part)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    with whole_file(file) as part:
        part.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def read_json(file: Path) -> dict[str, Any]:
    """Read a file of `write_json`.

    Raises:
        InputError: it cannot be read, or is not whole.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); remove it, and make it anew.") from error
    return content


class Scores(NamedTuple):
    """A line of predictions.csv in each place.

    Attributes:
        paths: N, of the images.
        labels: N, 0 real and 1 fake.
        scores: N, from 0 to 1.
    """

    paths: list[str]
    labels: np.ndarray
    scores: np.ndarray

    @property
    def videos(self) -> np.ndarray:
        """N, from 0 to V - 1: which video each image is of; a video is a folder of images, in order of name."""
        folders = [path.rpartition("/")[0] for path in self.paths]
        numbers = {folder: number for number, folder in enumerate(sorted(set(folders)))}
        return np.array([numbers[folder] for folder in folders])


def read_predictions(file: Path) -> dict[str, Scores]:
    """Read a predictions.csv, each dataset by itself.

    Raises:
        InputError: there is none, it is none, or an image stands in it twice.
    """
    if not file.is_file():
        raise InputError(f"there is no {file}; give the folder of a run that was tested.")
    images: dict[str, dict[str, tuple[int, float]]] = {}
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
            reader = csv.DictReader(lines)
            for row in reader:
                label, score = int(row["label"]), float(row["score"])
                if label not in (0, 1) or not 0 <= score <= 1:
                    raise ValueError(f"label {label}, score {score}")
                of_dataset = images.setdefault(row["dataset"], {})
                if row["path"] in of_dataset:
                    raise InputError(f"{file}: line {reader.line_num}: the image {row['path']} stands there twice.")
                of_dataset[row["path"]] = label, score
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"{file}: line {reader.line_num} is not a test's: it needs dataset, path, label (0 or 1) and score (0 to "
            f"1); found {error}."
        ) from error
    if not images:
        raise InputError(f"{file} holds no image.")
    return {
        dataset: Scores(list(found), *(np.array(column) for column in zip(*found.values(), strict=True)))
        for dataset, found in images.items()
    }


def write_predictions(file: Path, predictions: dict[str, tuple[FaceImages, np.ndarray, np.ndarray]]) -> None:
    """Write a line an image, whole or not at all: dataset, path, label, score.

    Args:
        file: where to.
        predictions: for each dataset its images, the positions that were scored, and their scores. The scores
            are written to their last digit, so that every metric can be had again from the file.
    """
    # The name of an image may hold bytes that are no text.
    with whole_file(file) as part, part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as lines:
        writer = csv.writer(lines)
        writer.writerow(["dataset", "path", "label", "score"])
        for dataset, (faces, positions, scores) in predictions.items():
            for position, score in zip(positions, scores, strict=True):
                writer.writerow([dataset, faces.path(position), faces.labels[position], repr(float(score))])


def format_table(results: dict[str, Any]) -> str:
    """Return the table of metrics: a row a dataset, a group of it, and the average over datasets.

    Shares from 0 to 1, a dash where one is not defined; 95 % intervals behind the AUCs.

    Args:
        results: the content of results.json.
    """

    def cell(metrics: dict[str, Any], name: str) -> str:
        value, interval = metrics[name], metrics.get(f"{name}_interval")
        if value is None:
            return "-"
        text = f"{value:.1f}".removesuffix(".0") if name in ("frames", "videos") else f"{value:.4f}"
        return f"{text} [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else text

    parts = []
    for dataset, metrics in results["datasets"].items():
        parts += [(dataset, metrics), *((f"  {name}", group) for name, group in metrics.get("groups", {}).items())]
    if "average" in results:
        parts.append(("average", results["average"]))
    rows = [["dataset", *COLUMNS], *([name, *(cell(part, key) for key in COLUMNS.values())] for name, part in parts)]
    return format_rows(rows)


def format_rows(rows: list[list[str]]) -> str:
    """Return a table, its first row the header and its first column to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
