"""Measure how a checkpoint stands corruptions: AUC against the strength of each.

    python -m analysis.robustness --model output/ff/model_best.pth --dataset FF++_c23 --data_root /data/faces

The test set goes through the network as it is, and in five strengths each of JPEG, H.264, down- and upsampling, blur,
noise, brightness and contrast, made at the network's size. Written:
study_robustness_<dataset>.json and .png.
"""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from analysis.corruptions import CORRUPTIONS, check_installed
from analysis.study import (
    BLUE,
    GREY,
    ORANGE,
    StudyArguments,
    check_arguments,
    make_folder,
    read_test_set,
    spread,
    write_study,
)
from datasets.images import BadImage, Batch, FaceImages, collate
from engine import BadImages, evaluate, fake_probability
from evaluation.metrics import dataset_metrics
from losses.terms import Logits
from models.checkpoints import load_trained
from utils import parsing as parse
from utils.command import run_command
from utils.devices import select_devices, worker_count
from utils.errors import InputError
from utils.workers import start_worker

Version = tuple[str, float]  # the name of a corruption, and its strength


class CorruptedFaces(Dataset):
    """Images, each in several versions: as it is, and corrupted.

    An item is all V versions of an image, V x 3 x size x size, so that each image is decoded once, its label, and its
    position in the test set. What is random in a corruption is drawn from that position alone: neither the number of
    workers nor that of images changes it, and strengths differ in nothing else.

    Args:
        faces: the test set, without augmentation.
        chosen: the positions of the images to take.
        names: of the corruptions.
        seed: of what is random.
    """

    def __init__(self, faces: FaceImages, chosen: list[int], names: list[str], seed: int = 0) -> None:
        self.faces = faces
        self.chosen = chosen
        self.seed = seed
        self.versions: list[Version | None] = [None]
        self.versions += [(name, strength) for name in names for strength in CORRUPTIONS[name].strengths]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, number: int) -> tuple[Tensor, int, int] | BadImage:
        item = self.faces[self.chosen[number]]
        if isinstance(item, BadImage):
            return item
        clean, label, position = item
        image = np.ascontiguousarray(clean.permute(1, 2, 0).numpy())
        versions = [clean]
        for name, strength in filter(None, self.versions):
            corrupted = CORRUPTIONS[name].apply(image, strength, np.random.default_rng([self.seed, position]))
            versions.append(torch.from_numpy(np.ascontiguousarray(corrupted.transpose(2, 0, 1))))
        return torch.stack(versions), label, position


def collate_versions(items: list[tuple[Tensor, int, int] | BadImage]) -> Batch:
    """Make a batch of B images with all V versions of each: B * V images, one image's after the other's."""
    batch = collate(items)
    return batch._replace(images=batch.images.flatten(0, 1))


def score_versions(
    network: nn.Module,
    faces: CorruptedFaces,
    device: torch.device,
    *,
    batch_size: int,
    num_workers: int,
    channels: str,
    bad_images: BadImages,
) -> tuple[np.ndarray, np.ndarray]:
    """Score every version of every image.

    Args:
        network: on `device`.
        faces: the images.
        device: where they go.
        batch_size: how many images, each in all its versions, go through the network together.
        num_workers: processes that load and corrupt.
        channels: RGB or BGR.
        bad_images: gathers what cannot be read.

    Returns:
        The positions in the test set of the images that could be read, N, and their scores, N x versions.
    """
    loader = DataLoader(
        faces,
        batch_size,
        num_workers=num_workers,
        collate_fn=collate_versions,
        pin_memory=device.type == "cuda",
        worker_init_fn=start_worker,
    )

    def read(outputs: Logits) -> Tensor:
        return fake_probability(outputs).view(-1, len(faces.versions))

    options = {"channels": channels, "bad_images": bad_images, "title": "robustness", "read": read}
    return evaluate(network, loader, device, **options)


# ------------------------------------------------------------------------------------------------------------- writing


def measure(faces: FaceImages, positions: np.ndarray, scores: np.ndarray, video_score: str) -> dict[str, float]:
    """Return the AUC of frames and of videos."""
    metrics = dataset_metrics(faces.labels[positions], scores, faces.video_of[positions], video_score, resamples=0)
    return {"auc": metrics["auc"], "video_auc": metrics["video_auc"]}


def describe(dataset: str, numbers: dict[str, Any]) -> str:
    """Say what was measured, how, and what came out."""
    clean = numbers["clean"]
    worst = {
        name: min(rows, key=lambda row: row["auc"]) | {"title": CORRUPTIONS[name].title}
        for name, rows in numbers["corruptions"].items()
    }
    hardest = min(worst.values(), key=lambda row: row["auc"])
    mildest = max(worst.values(), key=lambda row: row["auc"])
    frames, videos, size = numbers["images"], numbers["videos"], numbers["size"]
    return (
        f"{frames:,} images of {videos:,} videos of the test set of {dataset} were scored as they are, and again with "
        f"each corruption in five strengths, made from the decoded image at the network's size, {size} x {size} "
        f"pixels. A video's score is the {numbers['video_score']} of its frames'"
        f"{', here of one alone: both AUCs are the same' if frames == videos else ''}. Clean, the AUC is "
        f"{clean['auc']:.4f} of frames and {clean['video_auc']:.4f} of videos. Of the corruptions at their worst, "
        f"{hardest['title']} leaves the lowest AUC of frames ({hardest['auc']:.4f}, at {hardest['strength']:g}) and "
        f"{mildest['title']} the highest ({mildest['auc']:.4f}, at {mildest['strength']:g})."
    )


def make_table(numbers: dict[str, Any]) -> list[list[str]]:
    """Return a row a corruption and strength, below the header and the clean row."""
    clean = numbers["clean"]
    rows = [["clean", "", f"{clean['auc']:.4f}", "", f"{clean['video_auc']:.4f}", ""]]
    for name, results in numbers["corruptions"].items():
        corruption = CORRUPTIONS[name]
        for row in results:
            changes = [[f"{row[key]:.4f}", f"{row[key] - clean[key]:+.4f}"] for key in ("auc", "video_auc")]
            rows.append([corruption.title, f"{corruption.axis} {row['strength']:g}", *changes[0], *changes[1]])
    return [["corruption", "strength", "frame AUC", "change", "video AUC", "change"], *rows]


def draw(numbers: dict[str, Any]) -> Figure:
    """Draw a small panel a corruption: AUC against strength, the clean AUC beside."""
    results, clean = numbers["corruptions"], numbers["clean"]
    columns = min(4, len(results) + 1)  # one panel is the legend's
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
        axes.set_xlabel(corruption.axis, fontsize=9)
        ticks = {*corruption.strengths, corruption.neutral} - {None}
        axes.set_xticks(sorted(ticks), [f"{strength:g}" for strength in sorted(ticks)])
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if name == "jpeg":
            axes.invert_xaxis()  # the damage grows to the right, as it does in the others
    for axes in panels[:, 0]:
        axes.set_ylabel("AUC", fontsize=9)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    for axes in panels.flat[len(results) :]:
        axes.axis("off")
    panels.flat[len(results)].legend(handles, labels, loc="center", frameon=False)
    return figure


# ------------------------------------------------------------------------------------------------------------- command


@dataclass(kw_only=True)
class RobustnessArguments(StudyArguments):
    """Every argument of the study; the fields are documented by their help texts."""

    test_bs: int = parse.argument(8, parse.count, "batch size, in images; each image is scored in 36 versions")
    corruptions: list[str] = parse.argument(
        list(CORRUPTIONS), parse.some_of("corruption", CORRUPTIONS), "comma-separated corruptions to apply"
    )
    video_score: str = parse.argument(
        "mean",
        parse.video_score,
        "how frame scores combine into the video score: mean, max, or topK such as top5 (mean of the K highest)",
    )


def parse_arguments(argv: list[str] | None) -> RobustnessArguments:
    """Parse the command line."""
    return parse.Parser("-m analysis.robustness", __doc__, RobustnessArguments).parse(argv)


def run(args: RobustnessArguments) -> None:
    """Do what the arguments say."""
    check_arguments(args)
    check_installed(args.corruptions)
    devices = select_devices(args.gpu_num)
    network, checkpoint = load_trained(args.model)
    size, channels = checkpoint["args"]["size"], checkpoint["channels"]
    test_set = read_test_set(args, size)
    chosen = spread(len(test_set), args.max_images)
    if len(set(test_set.labels[chosen])) < 2:
        fewer = "" if args.max_images is None else f" of --max_images {args.max_images}"
        raise InputError(f"the images of {args.dataset}{fewer} are of one class alone, of which no AUC is defined.")
    faces = CorruptedFaces(test_set, chosen, args.corruptions)
    make_folder(args.folder)
    network.to(devices[0])
    bad_images = BadImages(args.skip_bad_images)
    positions, scores = score_versions(
        nn.DataParallel(network, devices) if len(devices) > 1 else network,
        faces,
        devices[0],
        batch_size=args.test_bs,
        num_workers=worker_count(args.num_workers),
        channels=channels,
        bad_images=bad_images,
    )
    bad_images.report()
    if len(set(test_set.labels[positions])) < 2:
        raise InputError("the images that could be read are of one class alone, of which no AUC is defined.")

    measured = [measure(test_set, positions, column, args.video_score) for column in scores.T]
    corruptions: dict[str, list[dict[str, float]]] = {name: [] for name in args.corruptions}
    for version, result in zip(faces.versions, measured, strict=True):
        if version is not None:
            corruptions[version[0]].append({"strength": version[1], **result})
    numbers = {
        "checkpoint": str(args.model),
        "checkpoint_sha256": checkpoint["sha256"],
        "dataset": args.dataset,
        "images": len(positions),
        "videos": len(set(test_set.video_of[positions])),
        "size": size,
        "video_score": args.video_score,
        "clean": measured[0],
        "corruptions": corruptions,
    }
    title = f"Robustness on {args.dataset}"
    text = describe(args.dataset, numbers)
    write_study(args.folder, "robustness", args.dataset, title, text, make_table(numbers), numbers, draw(numbers))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 for wrong input, 130 for an interruption."""
    return run_command("analysis.robustness", lambda: run(parse_arguments(argv)), "a smaller --test_bs")


if __name__ == "__main__":
    sys.exit(main())
