"""The scores of tested images, and predictions.csv, which holds them."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.images import FaceImages
from datasets.sources import SOURCES_FILE, group_folders
from utils.errors import InputError
from utils.files import atomic_write
from utils.tables import TableReader, safe_cell


class Scores(NamedTuple):
    """The scores of N images, and which images belong together.

    Attributes:
        paths: N, the image paths: the folder as in the label files, then the file name.
        labels: N, 0 real and 1 fake.
        scores: N, from 0 to 1.
        folders: N, the number of each image's folder; a folder holds one person's face in one video.
        videos: N, the index in `video_names`.
        clusters: N, the index in `cluster_names`; videos of different clusters are independent.
        video_names: V names.
        cluster_names: C names.
    """

    paths: list[str]
    labels: np.ndarray
    scores: np.ndarray
    folders: np.ndarray
    videos: np.ndarray
    clusters: np.ndarray
    video_names: list[str]
    cluster_names: list[str]

    def select(self, kept: np.ndarray) -> "Scores":
        """Return the images where `kept`, N booleans, is True."""
        paths = [self.paths[i] for i in np.flatnonzero(kept)]
        labels, scores, folders, videos, clusters = (values[kept] for values in self[1:6])
        return Scores(paths, labels, scores, folders, videos, clusters, self.video_names, self.cluster_names)


def make_scores(
    paths: list[str],
    labels: np.ndarray,
    scores: np.ndarray,
    videos: Sequence[str],
    clusters: Sequence[str],
    folders: Sequence[str] | None = None,
) -> Scores:
    """Make `Scores` from names of videos and clusters instead of their numbers.

    Args:
        paths: N image paths.
        labels: N, 0 real and 1 fake.
        scores: N, from 0 to 1.
        videos: the name of each image's video.
        clusters: the name of each image's cluster.
        folders: the name of each image's folder; None for the folder in its path.
    """
    folder, _ = _numbers([path.rpartition("/")[0] for path in paths] if folders is None else folders)
    (video, video_names), (cluster, cluster_names) = _numbers(videos), _numbers(clusters)
    return Scores(paths, labels, scores, folder, video, cluster, video_names, cluster_names)


def _numbers(names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Number the names in the order of their first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], int), list(numbers)


def collect_scores(
    faces: FaceImages, positions: np.ndarray, scores: np.ndarray, dataset_root: Path
) -> tuple[Scores, str]:
    """Group scored images into videos and clusters.

    Args:
        faces: the images, of one or more datasets.
        positions: N, the positions of the scored images in `faces`.
        scores: N, their scores.
        dataset_root: folder of the datasets' label files.

    Returns:
        The scores, and the unit of the clusters, see `datasets.sources.Groups`.

    Raises:
        InputError: sources.csv of a dataset is malformed.
    """
    video_of, cluster_of, units = [""] * len(faces.videos), [""] * len(faces.videos), set()
    datasets = {video.dataset for video in faces.videos}
    for dataset in datasets:
        members = [i for i, video in enumerate(faces.videos) if video.dataset == dataset]
        groups = group_folders([faces.videos[i].path for i in members], dataset_root / dataset / SOURCES_FILE)
        units.add(groups.unit)
        for i, video, cluster in zip(members, groups.videos, groups.clusters, strict=True):
            video_of[i], cluster_of[i] = video, cluster
            if len(datasets) > 1:  # they may use the same names, or share folders
                alone = video == faces.videos[i].path
                video_of[i] = str(faces.videos[i].folder) if alone else f"{dataset}: {video}"
                cluster_of[i] = f"{dataset}: {cluster}"
    folder_of = faces.video_of[positions]
    paths = [faces.path(position) for position in positions]
    folders = [str(video.folder) for video in faces.videos]
    names = ([of[i] for i in folder_of] for of in (video_of, cluster_of, folders))
    return make_scores(paths, faces.labels[positions], scores, *names), " or ".join(sorted(units))


COLUMNS = ("dataset", "path", "label", "score", "video", "cluster")


def read_predictions(file: Path) -> dict[str, Scores]:
    """Read predictions.csv into the scores of each dataset.

    Without the columns video and cluster, each folder is a video, and the clusters come from the paths where these name
    the source video.

    Raises:
        InputError: the file is missing, malformed or empty, or lists an image twice.
    """
    if not file.is_file():
        raise InputError(f"there is no {file}; give the folder of a tested run.")
    images: dict[str, dict[str, tuple[int, float, str, str]]] = {}
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
            reader = TableReader(lines)
            for row in reader:
                label, score = int(row["label"]), float(row["score"])
                if label not in (0, 1) or not 0 <= score <= 1:
                    raise ValueError(f"label {label}, score {score}")
                if None in (row["dataset"], row["path"]):
                    raise ValueError("a field is missing")
                dataset = images.setdefault(row["dataset"], {})
                if row["path"] in dataset:
                    raise InputError(f"{file}: line {reader.line_num}: the file lists the image {row['path']} twice.")
                folder = row["path"].rpartition("/")[0]
                dataset[row["path"]] = label, score, row.get("video") or folder, row.get("cluster") or ""
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"{file}: line {reader.line_num} is malformed ({error}); it needs dataset, path, label (0 or 1) and score "
            "(0 to 1)."
        ) from error
    if not images:
        raise InputError(f"{file} has no images; run the test again.")
    predictions = {}
    for name, scored in images.items():
        labels, scores, videos, clusters = zip(*scored.values(), strict=True)
        if not all(clusters):
            clusters = tuple(group_folders(videos, file.parent / SOURCES_FILE).clusters)
        predictions[name] = make_scores(list(scored), np.array(labels), np.array(scores), videos, clusters)
    return predictions


def write_predictions(file: Path, predictions: dict[str, Scores]) -> None:
    """Write predictions.csv atomically, one line per image.

    Args:
        file: the file to write.
        predictions: dataset -> its scores. They are written in full precision, so that the file reproduces every metric
            exactly.
    """
    # surrogateescape: file names may contain bytes that are not valid UTF-8.
    with atomic_write(file) as part, part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as lines:
        writer = csv.writer(lines)
        writer.writerow(COLUMNS)
        for dataset, scored in predictions.items():
            for path, label, score, _, video, cluster in zip(*scored[:6], strict=True):
                names = scored.video_names[video], scored.cluster_names[cluster]
                writer.writerow(map(safe_cell, [dataset, path, label, repr(float(score)), *names]))
