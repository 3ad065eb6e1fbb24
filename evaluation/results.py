"""The results of a test: metrics of each dataset in results.json, image scores in predictions.csv, and the report."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.images import FaceImages
from datasets.labels import CLASSES
from evaluation.metrics import FFPP_MANIPULATION, dataset_metrics, group_metrics
from evaluation.predictions import collect_scores, write_predictions
from evaluation.verdicts import measure_verdicts, thresholds_of
from utils.data_roots import root_of
from utils.files import write_json
from utils.machine import describe_run
from utils.training_arguments import TrainingArguments

TestedImages = tuple[FaceImages, np.ndarray, np.ndarray]  # a test set, the positions of its N scored images, N scores


def write_results(
    folder: Path,
    tested: dict[str, TestedImages],
    args: TrainingArguments,
    checkpoint_file: Path | None,
    checkpoint: dict[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    """Compute the metrics and write results.json and predictions.csv.

    Args:
        folder: the run folder.
        tested: dataset -> its images and scores.
        args: arguments of the test.
        checkpoint_file: the tested checkpoint; None if it was not saved.
        checkpoint: its content. Without a ``calibration``, the results have no ``acc_at_threshold`` and no verdicts.
        device: where the images were scored.

    Returns:
        The content of results.json.
    """
    calibration = checkpoint.get("calibration")
    thresholds = thresholds_of(calibration)
    if calibration and calibration["video_score"] != args.video_score:
        thresholds["video"] = None  # it belongs to another way of combining frames
    frame_threshold, video_threshold = (chosen["threshold"] if chosen else None for chosen in thresholds.values())
    limits = frame_threshold, video_threshold
    predictions, units, results = {}, {}, {}
    for dataset, images in tested.items():
        scored, units[dataset] = collect_scores(*images, args.dataset_root)
        predictions[dataset] = scored
        results[dataset] = metrics = dataset_metrics(scored, args.video_score, limits)
        if groups := group_metrics(scored, args.group_by or FFPP_MANIPULATION, args.video_score, limits):
            metrics["groups"] = groups  # each against all real videos
        if calibration is not None:
            metrics["verdicts"] = measure_verdicts(calibration, scored, args.error)
        if metrics["auc"] is None:
            names = ", ".join(name for name, value in metrics.items() if value is None)
            print(f"warning: the test set of {dataset} has only one class; undefined metrics: {names}", file=sys.stderr)
        if args.group_by and not groups:
            print(f"warning: --group_by {args.group_by} matches no fake video of {dataset}", file=sys.stderr)
    roots = {dataset: str(root_of(dataset, args.data_root).absolute()) for dataset in tested}
    content = {
        "checkpoint": checkpoint_file and str(checkpoint_file),
        "checkpoint_sha256": checkpoint_file and checkpoint["sha256"],
        "data_root": str(args.data_root.absolute()) if isinstance(args.data_root, Path) else roots,
        "file_list_sha256": {d: fingerprint(d, args.dataset_root, *images[:2]) for d, images in tested.items()},
        "left_out": {dataset: len(images[0]) - len(images[1]) for dataset, images in tested.items()},
        "cluster_unit": units,
        "thresholds": thresholds,
        "protocol": args.protocol,
        "frames_per_video": args.frames_per_video,
        "frame_choice": args.frames_per_video and args.frame_choice,
        "seed": args.seed,
        "video_score": args.video_score,
        "group_by": args.group_by,
        "precision": args.precision,
        "run": describe_run(device),
        "trained_with": checkpoint["args"],
        "history": checkpoint.get("history", []),
        "datasets": results,
        **({"average": average(results)} if len(results) > 1 else {}),
    }
    write_predictions(folder / "predictions.csv", predictions)
    write_json(folder / "results.json", content)
    return content


def average(results: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Return the mean over datasets of each metric; None if the metric is undefined for a dataset."""
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
    "clusters": "clusters",
    "ACC": "acc",
    "AUC": "auc",
    "AP": "ap",
    "EER": "eer",
    "log loss": "log_loss",
    "video AUC": "video_auc",
}


def table_rows(results: dict[str, Any]) -> list[list[str]]:
    """Return a header, one row per dataset and group, and the average over datasets, as cells of a table.

    A 95 % interval follows each AUC; a dash means undefined.

    Args:
        results: the content of results.json.
    """

    def cell(metrics: dict[str, Any], name: str) -> str:
        value, interval = metrics[name], metrics.get(f"{name}_interval")
        if value is None:
            return "-"
        text = f"{value:.1f}".removesuffix(".0") if name in ("frames", "videos", "clusters") else f"{value:.4f}"
        return f"{text} [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else text

    parts = []
    for dataset, metrics in results["datasets"].items():
        parts += [(dataset, metrics), *((f"  {name}", group) for name, group in metrics.get("groups", {}).items())]
    if "average" in results:
        parts.append(("average", results["average"]))
    return [["dataset", *COLUMNS], *([name, *(cell(part, key) for key in COLUMNS.values())] for name, part in parts)]
