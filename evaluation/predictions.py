"""predictions.csv: the score of every tested image."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.images import FaceImages
from utils.errors import InputError
from utils.files import atomic_write


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
    with atomic_write(file) as part, part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as lines:
        writer = csv.writer(lines)
        writer.writerow(["dataset", "path", "label", "score"])
        for dataset, (faces, positions, scores) in predictions.items():
            for position, score in zip(positions, scores, strict=True):
                writer.writerow([dataset, faces.path(position), faces.labels[position], repr(float(score))])
