"""Measure how image corruptions change a checkpoint's AUC.

    python -m analysis.robustness --model output/ff/model_best.pth --dataset FF++_c23 --data_root /data/faces

The command scores the test set without corruption and with JPEG, H.264, down- and upsampling, blur, noise, brightness
and contrast, each in five strengths, applied at the network's input size. It writes study_robustness_<dataset>.json
and .png to the run folder.
"""

from utils.process import exit_on_interrupt  # isort: skip

exit_on_interrupt(__name__, "analysis.robustness")  # before the slow imports

import sys
from dataclasses import dataclass
from typing import Any

from analysis.arguments import StudyArguments, check_study_arguments
from analysis.corruptions import CORRUPTIONS, check_installed
from utils import parsing as parse
from utils.command import check_command_line


@dataclass(kw_only=True)
class RobustnessArguments(StudyArguments):
    """All arguments of the study; the help texts document the fields."""

    test_bs: int = parse.argument(8, parse.count, "batch size, in images; each image is scored in 36 versions")
    gpu_num: str | None = parse.argument(None, str, parse.GPU_NUM_TEXT)
    corruptions: list[str] = parse.argument(
        list(CORRUPTIONS), parse.some_of("corruption", CORRUPTIONS), "comma-separated corruptions to apply"
    )
    video_score: str = parse.argument("mean", parse.video_score, parse.VIDEO_SCORE_TEXT)


def parse_arguments(argv: list[str] | None) -> RobustnessArguments:
    """Parse and check the command line.

    Raises:
        InputError: an argument is wrong or missing, or names a missing file or folder.
    """
    args = parse.Parser("-m analysis.robustness", __doc__, RobustnessArguments).parse(argv)
    check_study_arguments(args)
    return args


if __name__ == "__main__":
    check_command_line("analysis.robustness", lambda: parse_arguments(None))  # before the slow imports

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import Dataset

from analysis.study import (
    BLUE,
    GREY,
    ORANGE,
    choose_positions,
    format_change,
    prepare_folder,
    read_test_set,
    run_study,
    write_study,
)
from datasets.images import BadImage, Batch, FaceImages, collate, make_loader
from engine import BadImages, evaluate, fake_probability
from evaluation.intervals import auc_difference
from evaluation.metrics import score_videos
from evaluation.predictions import Scores, collect_scores
from losses.terms import Logits
from models.checkpoints import load_trained
from utils.devices import worker_count
from utils.errors import InputError
from utils.world import World


class CorruptedFaces(Dataset):
    """Images of the test set, each in V versions: uncorrupted, then every strength of every corruption.

    An item holds the V x 3 x size x size uint8 versions of one image, which is decoded once, its label and its
    position in the test set. Random corruptions depend only on the seed and the position, not on the number of workers
    or images, and all strengths share their draws.

    Args:
        faces: the test set, without augmentation.
        chosen: positions of the images to use.
        names: names of the corruptions.
        seed: seed of the random corruptions.
    """

    def __init__(self, faces: FaceImages, chosen: list[int], names: list[str], seed: int = 0) -> None:
        self.faces = faces
        self.chosen = chosen
        self.seed = seed
        self.corruptions = [(name, strength) for name in names for strength in CORRUPTIONS[name].strengths]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, number: int) -> tuple[Tensor, int, int] | BadImage:
        item = self.faces[self.chosen[number]]
        if isinstance(item, BadImage):
            return item
        clean, label, position = item
        image = np.ascontiguousarray(clean.permute(1, 2, 0).numpy())
        versions = [clean]
        for name, strength in self.corruptions:
            corrupted = CORRUPTIONS[name].apply(image, strength, np.random.default_rng([self.seed, position]))
            versions.append(torch.from_numpy(np.ascontiguousarray(corrupted.transpose(2, 0, 1))))
        return torch.stack(versions), label, position

    def __getitems__(self, numbers: list[int]) -> Batch:
        """Return B images as a batch of B * V images: the V versions of the first image, then of the next."""
        batch = collate((self[number] for number in numbers), len(numbers))
        return batch._replace(images=batch.images.flatten(0, 1))


def score_versions(
    network: nn.Module,
    faces: CorruptedFaces,
    world: World,
    *,
    batch_size: int,
    num_workers: int,
    channels: str,
    bad_images: BadImages,
) -> tuple[np.ndarray, np.ndarray]:
    """Score every version of every image.

    Args:
        network: on the device of `world`.
        faces: the images.
        world: the processes, which share the images.
        batch_size: number of images per batch; each passes through the network in all its versions.
        num_workers: number of processes that load and corrupt images.
        channels: RGB or BGR.
        bad_images: collects unreadable images.

    Returns:
        The positions of the N readable images in the test set, and their N x V scores.
    """
    loader = make_loader(faces, batch_size, num_workers, world)

    def version_scores(outputs: Logits) -> Tensor:
        return fake_probability(outputs).view(-1, 1 + len(faces.corruptions))

    return evaluate(
        network, loader, world, channels=channels, bad_images=bad_images, title="robustness", output_fn=version_scores
    )


# ------------------------------------------------------------------------------------------------------------- writing


def measure(clean: Scores, scores: np.ndarray, video_score: str) -> dict[str, Any]:
    """Measure one version of the images.

    Args:
        clean: the scores without corruption.
        scores: the scores of the version.
        video_score: see `evaluation.metrics.combine_frames`.

    Returns:
        The frame AUC, ``auc``, the video AUC, ``video_auc``, and the 95 % intervals ``auc_change_interval`` and
        ``video_auc_change_interval`` of the change in AUC.
    """
    result: dict[str, Any] = {}
    version = clean._replace(scores=scores)
    for prefix, one, other in (
        ("", clean, version),
        ("video_", score_videos(clean, video_score), score_videos(version, video_score)),
    ):
        aucs, interval, _ = auc_difference(one.labels, one.scores, other.scores, one.clusters)
        result |= {f"{prefix}auc": aucs[1], f"{prefix}auc_change_interval": interval}
    return result


def summarise(numbers: dict[str, Any]) -> str:
    """State the clean AUCs and the range of the worst-case AUCs."""
    clean = numbers["clean"]
    worst = [
        (
            row["auc"],
            f"{CORRUPTIONS[name].title} ({row['auc']:.4f} at {CORRUPTIONS[name].axis_label} {row['strength']:g})",
        )
        for name, rows in numbers["corruptions"].items()
        for row in [min(rows, key=lambda row: row["auc"])]
    ]
    lowest, highest = min(worst)[1], max(worst)[1]
    extremes = lowest if len(worst) == 1 else f"from {lowest} to {highest}"
    return (
        f"Without corruption, the AUC is {clean['auc']:.4f} (frames) and {clean['video_auc']:.4f} (videos). "
        f"Lowest frame AUC per corruption: {extremes}."
    )


def describe_method(dataset: str, numbers: dict[str, Any]) -> str:
    """Describe how the AUCs are measured."""
    images, videos, size = numbers["images"], numbers["videos"], numbers["size"]
    same = " Each video has one image here, so both AUCs are equal." if images == videos else ""
    return (
        f"The study scores {images:,} images of {videos:,} videos from the test set of {dataset}. "
        f"Corruptions change the image at the network's input size, {size} x {size} pixels. "
        f"The score of a face is the {numbers['video_score']} of its frame scores; the score of a video is its highest "
        f"face score.{same} "
        f"The 95 % intervals of the changes come from clusters of images: one per {numbers['cluster_unit']}."
    )


def make_table(numbers: dict[str, Any]) -> list[list[str]]:
    """Return the header, the row without corruption, and one row per corruption and strength."""
    clean = numbers["clean"]
    rows = [["clean", "", f"{clean['auc']:.4f}", "", f"{clean['video_auc']:.4f}", ""]]
    for name, results in numbers["corruptions"].items():
        corruption = CORRUPTIONS[name]
        for row in results:
            cells = [corruption.title, f"{corruption.axis_label} {row['strength']:g}"]
            for key in ("auc", "video_auc"):
                cells += [f"{row[key]:.4f}", format_change(row[key] - clean[key], row[f"{key}_change_interval"])]
            rows.append(cells)
    return [["corruption", "strength", "frame AUC", "change", "video AUC", "change"], *rows]


def draw(numbers: dict[str, Any]) -> Figure:
    """Draw AUC against strength, one panel per corruption, with the clean AUC as a dotted line."""
    results, clean = numbers["corruptions"], numbers["clean"]
    columns = min(4, len(results) + 1)  # one panel holds the legend
    lines = -(-(len(results) + 1) // columns)
    figure = Figure(figsize=(1 + 2.5 * columns, 0.7 + 2.4 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
    styles = (("auc", "frames", BLUE, "o"), ("video_auc", "videos", ORANGE, "s"))
    for axes, (name, rows) in zip(panels.flat, results.items(), strict=False):
        corruption = CORRUPTIONS[name]
        for key, label, colour, marker in styles:
            points = [(row["strength"], row[key]) for row in rows]
            if corruption.neutral is not None:
                points = sorted([*points, (corruption.neutral, clean[key])])
            axes.plot(*zip(*points, strict=True), marker + "-", color=colour, markersize=4, label=label)
            axes.axhline(clean[key], color=colour, linestyle=":", linewidth=1.2, label=f"{label}, clean")
        axes.axhline(0.5, color=GREY, linewidth=0.6, zorder=0, label="chance")
        axes.set_title(corruption.title, fontsize=10)
        axes.set_xlabel(corruption.axis_label, fontsize=9)
        ticks = sorted(x for x in {*corruption.strengths, corruption.neutral} if x is not None)
        axes.set_xticks(ticks, [f"{strength:g}" for strength in ticks])
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if name == "jpeg":
            axes.invert_xaxis()  # damage grows to the right, as in the other panels
    for axes in panels[:, 0]:
        axes.set_ylabel("AUC", fontsize=9)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    for axes in panels.flat[len(results) :]:
        axes.axis("off")
    panels.flat[len(results)].legend(handles, labels, loc="center", frameon=False)
    return figure


# ------------------------------------------------------------------------------------------------------------- command


def run(args: RobustnessArguments, world: World) -> None:
    """Score the corrupted test set and write the study.

    Raises:
        InputError: the checkpoint or the test set cannot be used, or the readable images have one class only.
    """
    check_installed(args.corruptions)
    network, checkpoint = load_trained(args.model)
    size, channels = checkpoint["args"]["size"], checkpoint["channels"]
    test_set = read_test_set(args, size)
    chosen = choose_positions(len(test_set), args.max_images)
    if len(set(test_set.labels[chosen])) < 2:
        raise InputError(
            f"--max_images {args.max_images}: the chosen images of {args.dataset} have one class only; give a larger "
            "number."
        )
    faces = CorruptedFaces(test_set, chosen, args.corruptions)
    prepare_folder(args.folder)
    bad_images = BadImages(args.skip_bad_images)
    positions, scores = score_versions(
        world.wrap_network(network),
        faces,
        world,
        batch_size=args.test_bs,
        num_workers=worker_count(args.num_workers, world.local_size),
        channels=channels,
        bad_images=bad_images,
    )
    bad_images.report(world)
    if not world.leads:
        return
    clean, unit = collect_scores(test_set, positions, scores[:, 0], args.dataset_root)
    if len(set(score_videos(clean, args.video_score).labels)) < 2:
        raise InputError(f"the readable images of {args.dataset} have one class only; replace the unreadable images.")
    measured = [measure(clean, column, args.video_score) for column in scores.T]
    corruptions: dict[str, list[dict[str, float]]] = {name: [] for name in args.corruptions}
    for (name, strength), result in zip(faces.corruptions, measured[1:], strict=True):
        corruptions[name].append({"strength": strength, **result})
    numbers = {
        "checkpoint": str(args.model),
        "checkpoint_sha256": checkpoint["sha256"],
        "dataset": args.dataset,
        "images": len(positions),
        "videos": len(clean.video_names),
        "cluster_unit": unit,
        "size": size,
        "video_score": args.video_score,
        "clean": measured[0],
        "corruptions": corruptions,
    }
    title = f"Robustness on {args.dataset}"
    summary, method = summarise(numbers), describe_method(args.dataset, numbers)
    table, figure = make_table(numbers), draw(numbers)
    write_study(args.folder, "robustness", args.dataset, title, summary, table, numbers, figure, method)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 2 for wrong input, 130 for an interruption."""
    return run_study("analysis.robustness", run, lambda: parse_arguments(argv), "a smaller --test_bs")


if __name__ == "__main__":
    sys.exit(main())
