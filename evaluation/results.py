"""What a test leaves: the metrics of each dataset, and the score of every image."""

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
from utils.files import write_json
from utils.tables import format_rows
from utils.training_arguments import TrainingArguments

Tested = tuple[FaceImages, np.ndarray, np.ndarray]  # a test set, the positions of the images scored, their scores


def write_results(
    folder: Path,
    tested: dict[str, Tested],
    args: TrainingArguments,
    file: Path | None,
    checkpoint: dict[str, Any],
) -> dict[str, Any]:
    """Measure, and write results.json, predictions.csv and report.html.

    Args:
        folder: the run's.
        tested: each dataset's images and scores.
        args: the command's.
        file: the checkpoint that was tested; None where it was not kept.
        checkpoint: its content. Without a ``threshold`` in it there is no ``acc_at_threshold``.

    Returns:
        The content of results.json.
    """
    threshold = checkpoint.get("threshold")
    options = {"video_score": args.video_score, "threshold": threshold, "group_by": args.group_by}
    results = {dataset: measure(*test, **options) for dataset, test in tested.items()}
    for dataset, metrics in results.items():
        if metrics["auc"] is None:
            names = ", ".join(name for name, value in metrics.items() if value is None)
            print(f"warning: the test set of {dataset} holds one class alone: {names} not defined", file=sys.stderr)
        if args.group_by and "groups" not in metrics:
            print(f"warning: --group_by {args.group_by} names no group of {dataset}'s fake videos", file=sys.stderr)
    write_predictions(folder / "predictions.csv", tested)
    content = {
        "checkpoint": file and str(file),
        "checkpoint_sha256": file and checkpoint["sha256"],
        "data_root": str(args.data_root.absolute()),
        "data_sha256": {d: fingerprint(d, args.dataset_root, *test[:2]) for d, test in tested.items()},
        "left_out": {dataset: len(test[0]) - len(test[1]) for dataset, test in tested.items()},
        "threshold": threshold,
        "video_score": args.video_score,
        "group_by": args.group_by,
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
    """Measure one test set.

    Args:
        faces: its images.
        positions: N, the images that were scored.
        scores: N, from 0 (real) to 1 (fake).
        video_score: mean, max or top5, see `evaluation.metrics.score_videos`.
        threshold: the one chosen on the validation set, or None.
        group_by: a regular expression whose match in a fake video's path names its group; None for the manipulations
            of FaceForensics++, where the paths tell them.

    Returns:
        The metrics of `evaluation.metrics.dataset_metrics`, and, where there are groups, those of each group of fakes
        against all real videos under ``groups``.
    """
    labels, videos = faces.labels[positions], faces.video_of[positions]
    options = {"video_score": video_score, "threshold": threshold}
    paths = [video.path for video in faces.videos]
    groups = group_metrics(labels, scores, videos, paths, group_by or FFPP_MANIPULATION, **options)
    return dataset_metrics(labels, scores, videos, **options) | ({"groups": groups} if groups else {})


def average(results: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Return the mean over datasets of every metric that is a number; None where a dataset has none."""
    names = [name for name, value in next(iter(results.values())).items() if not isinstance(value, list | dict)]
    means = {}
    for name in names:
        values = [result[name] for result in results.values()]
        means[name] = None if None in values else float(np.mean(values))
    return means


def fingerprint(dataset: str, dataset_root: Path, faces: FaceImages, positions: np.ndarray) -> str:
    """Return a SHA-256 of the test label files of a dataset, and of the path and size of each image that was scored.

    It tells whether two tests saw the same data without reading every image. `positions` are those of `faces`, N.
    """
    digest = hashlib.sha256()
    for kind in CLASSES:
        digest.update((dataset_root / dataset / f"test_{kind}.txt").read_bytes())
    images = [(video, image) for video in faces.videos for image in video.images]
    for position in positions:
        video, image = images[position]
        size = (video.folder / image).stat().st_size
        digest.update(f"{video.path}/{image} {size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


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
