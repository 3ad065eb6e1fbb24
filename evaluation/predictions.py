"""predictions.csv: the score of every tested image."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.images import FaceImages
from utils.errors import InputError
from utils.files import atomic_write


class Scores(NamedTuple):
    """The scores of one dataset, in the order of predictions.csv.

    Attributes:
        paths: N, the image paths.
        labels: N, 0 real and 1 fake.
        scores: N, from 0 to 1.
    """

    paths: list[str]
    labels: np.ndarray
    scores: np.ndarray

    @property
    def videos(self) -> np.ndarray:
        """N, the index of each image's video, from 0 to V - 1; videos are image folders, sorted by path."""
        folders = [path.rpartition("/")[0] for path in self.paths]
        numbers = {folder: number for number, folder in enumerate(sorted(set(folders)))}
        return np.array([numbers[folder] for folder in folders])


def read_predictions(file: Path) -> dict[str, Scores]:
    """Read predictions.csv into the scores of each dataset.

    Raises:
        InputError: the file is missing, malformed or empty, or lists an image twice.
    """
    if not file.is_file():
        raise InputError(f"there is no {file}; give the folder of a tested run.")
    images: dict[str, dict[str, tuple[int, float]]] = {}
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
            reader = csv.DictReader(lines)
            for row in reader:
                label, score = int(row["label"]), float(row["score"])
                if label not in (0, 1) or not 0 <= score <= 1:
                    raise ValueError(f"label {label}, score {score}")
                dataset = images.setdefault(row["dataset"], {})
                if row["path"] in dataset:
                    raise InputError(f"{file}: line {reader.line_num}: the file lists the image {row['path']} twice.")
                dataset[row["path"]] = label, score
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"{file}: line {reader.line_num} is malformed ({error}); it needs dataset, path, label (0 or 1) and score "
            "(0 to 1)."
        ) from error
    if not images:
        raise InputError(f"{file} has no images; run the test again.")
    return {
        dataset: Scores(list(scored), *(np.array(column) for column in zip(*scored.values(), strict=True)))
        for dataset, scored in images.items()
    }


def write_predictions(file: Path, predictions: dict[str, tuple[FaceImages, np.ndarray, np.ndarray]]) -> None:
    """Write predictions.csv atomically, with the columns dataset, path, label and score and one line per image.

    Args:
        file: the file to write.
        predictions: dataset -> its images, the N positions of the scored images, and their N scores. Scores are
            written in full precision, so that the file reproduces every metric exactly.
    """
    # surrogateescape: file names may contain bytes that are not valid UTF-8.
    with atomic_write(file) as part, part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as lines:
        writer = csv.writer(lines)
        writer.writerow(["dataset", "path", "label", "score"])
        for dataset, (faces, positions, scores) in predictions.items():
            for position, score in zip(positions, scores, strict=True):
                writer.writerow([dataset, faces.path(position), faces.labels[position], repr(float(score))])
