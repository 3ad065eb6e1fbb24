"""The results of a test: metrics of each dataset in results.json, image scores in predictions.csv, and the report."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from datasets.images import FaceImages
from datasets.labels import CLASSES
from evaluation.metrics import FFPP_MANIPULATION, dataset_metrics, group_metrics
from evaluation.predictions import write_predictions
from evaluation.report import write_report
from utils.data_roots import root_of
from utils.files import write_json
from utils.tables import format_rows
from utils.training_arguments import TrainingArguments

TestedImages = tuple[FaceImages, np.ndarray, np.ndarray]  # a test set, the positions of its N scored images, N scores


def write_results(
    folder: Path,
    tested: dict[str, TestedImages],
    args: TrainingArguments,
    checkpoint_file: Path | None,
    checkpoint: dict[str, Any],
) -> dict[str, Any]:
    """Compute the metrics and write results.json, predictions.csv and report.html.

    Args:
        folder: the run folder.
        tested: dataset -> its images and scores.
        args: arguments of the test.
        checkpoint_file: the tested checkpoint; None if it was not saved.
        checkpoint: its content. Without a ``threshold``, the results have no ``acc_at_threshold``.

    Returns:
        The content of results.json.
    """
    threshold = checkpoint.get("threshold")
    results = {
        dataset: measure(*images, video_score=args.video_score, threshold=threshold, group_by=args.group_by)
        for dataset, images in tested.items()
    }
    for dataset, metrics in results.items():
        if metrics["auc"] is None:
            names = ", ".join(name for name, value in metrics.items() if value is None)
            print(f"warning: the test set of {dataset} has only one class; undefined metrics: {names}", file=sys.stderr)
        if args.group_by and "groups" not in metrics:
            print(f"warning: --group_by {args.group_by} matches no fake video of {dataset}", file=sys.stderr)
    write_predictions(folder / "predictions.csv", tested)
    roots = {dataset: str(root_of(dataset, args.data_root).absolute()) for dataset in tested}
    content = {
        "checkpoint": checkpoint_file and str(checkpoint_file),
        "checkpoint_sha256": checkpoint_file and checkpoint["sha256"],
        "data_root": str(args.data_root.absolute()) if isinstance(args.data_root, Path) else roots,
        "data_sha256": {d: fingerprint(d, args.dataset_root, *images[:2]) for d, images in tested.items()},
        "left_out": {dataset: len(images[0]) - len(images[1]) for dataset, images in tested.items()},
        "threshold": threshold,
        "video_score": args.video_score,
        "group_by": args.group_by,
        "precision": args.precision,
        "trained_with": checkpoint["args"],
        "datasets": results,
        **({"average": average(results)} if len(results) > 1 else {}),
    }
    write_json(folder / "results.json", content)
    write_report(folder)
    return content


def measure(
    faces: FaceImages,
    positions: np.ndarray,
    scores: np.ndarray,
    *,
    video_score: str,
    threshold: float | None,
    group_by: str | None,
) -> dict[str, Any]:
    """Compute the metrics of one test set.

    Args:
        faces: images of the test set.
        positions: N, the positions of the scored images in `faces`.
        scores: N, from 0 (real) to 1 (fake).
        video_score: mean, max or topK, see `evaluation.metrics.score_videos`.
        threshold: the decision threshold stored in the checkpoint, or None.
        group_by: regular expression that names the group of a fake video, see `evaluation.metrics.group_of`; None for
            the manipulations of FaceForensics++.

    Returns:
        The metrics of `evaluation.metrics.dataset_metrics`, plus ``groups`` if any fake video has a group: the metrics
        of each group against all real videos.
    """
    labels, videos = faces.labels[positions], faces.video_of[positions]
    paths = [video.path for video in faces.videos]
    groups = group_metrics(labels, scores, videos, paths, group_by or FFPP_MANIPULATION, video_score, threshold)
    return dataset_metrics(labels, scores, videos, video_score, threshold) | ({"groups": groups} if groups else {})


def average(results: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Return the mean over datasets of every metric that is a number; None if it is undefined for a dataset."""
    names = [name for name, value in next(iter(results.values())).items() if not isinstance(value, list | dict)]
    means = {}
    for name in names:
        values = [result[name] for result in results.values()]
        means[name] = None if None in values else float(np.mean(values))
    return means


def fingerprint(dataset: str, dataset_root: Path, faces: FaceImages, positions: np.ndarray) -> str:
    """Return a SHA-256 that shows whether two tests used the same data.

    It covers the test label files of the dataset, and the path and size (not the content) of every scored image.

    Args:
        dataset: name of the dataset.
        dataset_root: folder of the label files.
        faces: images of the test set.
        positions: N, the positions of the scored images in `faces`.
    """
    digest = hashlib.sha256()
    for kind in CLASSES:
        digest.update((dataset_root / dataset / f"test_{kind}.txt").read_bytes())
    for position in positions:
        file = faces.file(position)
        line = f"{faces.videos[faces.video_of[position]].path}/{file.name} {file.stat().st_size}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


COLUMNS = {  # header in the printed table -> key in results.json
    "frames": "frames",
    "videos": "videos",
    "ACC": "acc",
    "AUC": "auc",
    "AP": "ap",
    "EER": "eer",
    "log loss": "log_loss",
    "video AUC": "video_auc",
}


def format_table(results: dict[str, Any]) -> str:
    """Return the table of metrics that a test prints: one row per dataset and group, and the average over datasets.

    A 95 % interval follows each AUC; a dash means undefined.

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
