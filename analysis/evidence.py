"""Measure where each block looks, how much the regions of the blocks overlap, and how much each block adds.

    python -m analysis.evidence --model output/ff/model_best.pth --dataset FF++_c23 --data_root /data/faces

On images of the test set, the command computes a Grad-CAM heatmap for each Local Information Block, the overlap of the
blocks' hottest regions, and the drop of the prediction without each block. It writes study_evidence_<dataset>.json and
.png to the run folder.
"""

from utils.process import exit_on_interrupt  # isort: skip

exit_on_interrupt(__name__, "analysis.evidence")  # before the slow imports

import math
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

from analysis.arguments import StudyArguments, check_study_arguments
from utils import parsing as parse
from utils.command import check_command_line


@dataclass(kw_only=True)
class EvidenceArguments(StudyArguments):
    """All arguments of the study; the help texts document the fields."""

    max_images: int | None = parse.argument(
        200, parse.count, "maximum number of images, evenly spaced over the test set"
    )


def parse_arguments(argv: list[str] | None) -> EvidenceArguments:
    """Parse and check the command line.

    Raises:
        InputError: an argument is wrong or missing, or names a missing file or folder.
    """
    args = parse.Parser("-m analysis.evidence", __doc__, EvidenceArguments).parse(argv)
    check_study_arguments(args)
    return args


if __name__ == "__main__":
    check_command_line("analysis.evidence", lambda: parse_arguments(None))  # before the slow imports

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure, FigureBase, SubFigure
from torch import Tensor, nn

from analysis.study import (
    choose_positions,
    format_mean,
    mean_and_deviation,
    read_test_set,
    run_on_test_set,
    run_study,
    write_study,
)
from datasets.images import BadImage, FaceImages
from datasets.labels import CLASSES
from engine import fake_probability
from models.checkpoints import load_trained
from models.gradcam import heatmaps
from models.lib_network import LIBNetwork
from utils.errors import InputError
from utils.progress import progress
from utils.world import World

HOT = 0.2  # share of a map's pixels that count as hot
CHANCE = HOT**2 / (2 * HOT - HOT**2)  # expected IoU of two independent random sets of this share of many pixels
SHOWN = 6  # images in the plot


class Evidence(nn.Module):
    """Return the features and heatmaps of a network's blocks instead of its logits.

    Args:
        network: a network of convolutional backbones.
    """

    def __init__(self, network: LIBNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Map B x 3 x H x W normalised images to B x n x (d + h * w): z_i, then the map of block i, row by row."""
        maps, features, _ = heatmaps(self.network, images)
        return torch.cat([torch.stack(features, dim=1).detach(), maps.flatten(2)], dim=2)


# ------------------------------------------------------------------------------------------------------------- overlap


def enlarge(maps: Tensor, size: int) -> Tensor:
    """Enlarge n x h x w maps, 0 to 1, bilinearly to n x size x size.

    The values are rounded: otherwise rounding errors of the interpolation would break ties.
    """
    return F.interpolate(maps[None].double(), (size, size), mode="bilinear", align_corners=False)[0].round(decimals=6)


def hottest(maps: Tensor, share: float = HOT) -> Tensor:
    """Mark the hottest pixels of each map; ties go to the first in reading order.

    Args:
        maps: ... x h x w, >= 0.
        share: share of the pixels to mark, 0 to 1; zeros are never marked.

    Returns:
        ... x h x w, bool.
    """
    flat = maps.flatten(-2)
    order = flat.argsort(dim=-1, descending=True, stable=True)[..., : round(share * flat.shape[-1])]
    return (torch.zeros_like(flat, dtype=torch.bool).scatter_(-1, order, True) & (flat > 0)).view(maps.shape)


def pairwise_iou(first: Tensor, second: Tensor) -> np.ndarray:
    """Return the intersection over union (IoU) of each set in `first` with each set in `second`.

    Args:
        first: N x pixels, bool.
        second: M x pixels, bool.

    Returns:
        N x M, 0 to 1; NaN if both sets are empty.
    """
    common = (first.float() @ second.float().T).double()
    return (common / (first.sum(1)[:, None] + second.sum(1) - common)).numpy()


class Overlap(NamedTuple):
    """IoU of the hot pixels of two blocks' maps; NaN if one of the two maps is flat.

    Attributes:
        same: N x n x n, IoU of two blocks on the same image.
        other: n x n, mean IoU of two blocks over all pairs of different images.
    """

    same: np.ndarray
    other: np.ndarray


def measure_overlap(hot: Tensor, flat: np.ndarray) -> Overlap:
    """Measure the IoU of every two blocks.

    Args:
        hot: N x n x pixels, bool.
        flat: N x n, True for maps with one value everywhere, which have no hottest pixels.
    """
    images, blocks = flat.shape
    same, other = np.full((images, blocks, blocks), np.nan), np.full((blocks, blocks), np.nan)
    for i in range(blocks):
        for j in range(i, blocks):
            iou = pairwise_iou(hot[:, i], hot[:, j])
            iou[flat[:, i], :] = iou[:, flat[:, j]] = np.nan
            same[:, i, j] = same[:, j, i] = np.diagonal(iou)
            np.fill_diagonal(iou, np.nan)
            other[i, j] = other[j, i] = mean_and_deviation(iou)["mean"]  # None becomes NaN
    return Overlap(same, other)


# ------------------------------------------------------------------------------------------------------- leave one out


@torch.no_grad()
def leave_one_out(network: LIBNetwork, features: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score images and measure the drop of the prediction without each block.

    A drop is a difference in the probability of the true class, -1 to 1; it is positive if the block helps.

    Args:
        network: in evaluation mode, on the CPU.
        features: N x n x d, z_1 to z_n of each image.
        labels: N, int64, 0 real and 1 fake.

    Returns:
        N scores, float64, from 0 (real) to 1 (fake).
        N x n drops of the fused prediction when z_i is replaced by its mean over the images.
        N x n drops (N x 0 if n = 1) from the head on Z, ``all``, to the head trained without z_i, ``leave_one_out``.
    """

    def true_probability(logits: Tensor) -> Tensor:
        return logits.double().softmax(dim=1)[torch.arange(len(labels)), labels]

    columns = list(features.unbind(dim=1))
    outputs = network.forward_heads(columns)
    fused = []
    for i, column in enumerate(columns):
        without = [*columns[:i], column.mean(dim=0, keepdim=True).expand_as(column), *columns[i + 1 :]]
        fused.append(true_probability(outputs.fused) - true_probability(network.forward_heads(without).fused))
    heads = [true_probability(outputs.all) - true_probability(logits) for logits in outputs.leave_one_out]
    drops = torch.stack(fused, dim=1).numpy()
    head_drops = torch.stack(heads, dim=1).numpy() if heads else np.empty((len(labels), 0))
    return fake_probability(outputs).numpy(), drops, head_drops


# ------------------------------------------------------------------------------------------------------------- writing


def nan_to_none(value: float) -> float | None:
    """Replace NaN, which JSON does not have, by None."""
    return None if math.isnan(value) else float(value)


def summary(values: np.ndarray) -> dict[str, float | int | None]:
    """Return the `mean_and_deviation` of one value per image, and the number of images with a value."""
    return {**mean_and_deviation(values), "images": int((~np.isnan(values)).sum())}


def make_numbers(
    overlap: Overlap, drops: np.ndarray, head_drops: np.ndarray | None, flat: np.ndarray
) -> dict[str, Any]:
    """Return the overlap over all pairs of blocks and per pair, and the drops per block.

    Args:
        overlap: overlap of the blocks' maps.
        drops: N x n; see `leave_one_out`.
        head_drops: N x n; None if the heads do not exist or were not trained.
        flat: N x n, True for maps with one value everywhere.
    """
    n = drops.shape[1]
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    above = np.triu_indices(n, 1)
    per_image = np.array([mean_and_deviation(iou[above])["mean"] for iou in overlap.same], float)  # None becomes NaN
    return {
        "overlap": summary(per_image) if pairs else None,
        "overlap_across_images": mean_and_deviation(overlap.other[above])["mean"],
        "pairs": [
            {
                "blocks": [i + 1, j + 1],
                **summary(overlap.same[:, i, j]),
                "across_images": nan_to_none(overlap.other[i, j]),
            }
            for i, j in pairs
        ],
        "blocks": [
            {
                "block": i + 1,
                "drop": summary(drops[:, i]),
                "head_drop": None if head_drops is None else summary(head_drops[:, i]),
                "flat_maps": int(flat[:, i].sum()),
            }
            for i in range(n)
        ],
        "overlap_of_images": [nan_to_none(value) for value in per_image],
    }


def make_table(numbers: dict[str, Any]) -> list[list[str]]:
    """Return the header, one row per block and one row per pair of blocks."""
    rows = [["blocks", "fused drop", "head drop", "overlap", "across images", "flat maps"]]
    for block in numbers["blocks"]:
        drops = [format_mean(block[name], "+") for name in ("drop", "head_drop")]
        rows.append([f"block {block['block']}", *drops, "-", "-", str(block["flat_maps"])])
    for pair in numbers["pairs"]:
        other = pair["across_images"]
        name = "blocks {} and {}".format(*pair["blocks"])
        rows.append([name, "-", "-", format_mean(pair), "-" if other is None else f"{other:.4f}", "-"])
    return rows


def summarise(numbers: dict[str, Any]) -> str:
    """State the overlap, or why it is not defined, and the number of flat maps."""
    overlap, across = numbers["overlap"], numbers["overlap_across_images"]
    if overlap is None:
        return "With one block, the overlap is not defined."
    flat = sum(block["flat_maps"] for block in numbers["blocks"])
    left_out = f" The overlap leaves out {flat:,} flat map{'s' * (flat != 1)}." if flat else ""
    if overlap["mean"] is None:
        return f"No image has two maps that are not flat, so the overlap is not defined.{left_out}"
    return (
        f"The blocks' maps overlap by {format_mean(overlap)} (IoU, mean ± std over {overlap['images']:,} images). "
        f"Maps of different images overlap by {'-' if across is None else f'{across:.4f}'}, "
        f"random pixels by {numbers['chance']:.3f}.{left_out}"
    )


def describe_method(dataset: str, numbers: dict[str, Any]) -> str:
    """Describe how overlaps and drops are measured."""
    side, size, images = numbers["map_size"], numbers["size"], numbers["images"]
    sentences = [
        f"The study uses {images:,} image{'s' * (images != 1)} of the test set of {dataset}.",
        f"A block's map is its Grad-CAM heatmap for fake: {side} x {side}, enlarged to {size} x {size} pixels.",
        f"The overlap of two maps is the IoU of their hottest {HOT:.0%} of pixels; pixels with value 0 never count.",
        "Compare it with the overlap across different images: smooth maps may peak at one place on every face.",
        "A flat map has one value everywhere, usually zero because no pixel is evidence for fake.",
    ]
    if side == 1:
        sentences.append(f"Maps of 1 x 1 are always flat: {size} pixels are too few to show where a block looks.")
    sentences += [
        "A drop is the loss in probability of the true class without a block; positive means that the block helps.",
        "For the fused drop, the mean over the images replaces the block's feature.",
        "The head drop compares the head on all features with the head trained without the block.",
    ]
    if numbers["blocks"][0]["head_drop"] is None:
        sentences.append(
            "The head drop is not defined here. The heads need more than one block, and training with the local and "
            "the global loss."
        )
    return " ".join(sentences)


def draw(pictures: list[np.ndarray], titles: list[str], maps: list[Tensor], shared: np.ndarray) -> Figure:
    """Draw images with each block's map, its hot pixels outlined, beside the matrix of the blocks' IoU.

    Args:
        pictures: the images, size x size x 3 each, uint8, RGB.
        titles: title of each image.
        maps: n x size x size for each image, 0 to 1.
        shared: n x n, mean IoU of two blocks; NaN if it is not defined.
    """
    n, rows = len(shared), len(pictures)
    matrix_width = 0.0 if n == 1 else 2.2 + 0.5 * n
    width = 1.4 + 1.5 * (n + 1)
    figure = Figure(figsize=(width + matrix_width, max(3.0, 0.4 + 1.6 * rows)), layout="constrained")
    left: FigureBase = figure
    if n > 1:
        grid = figure.add_gridspec(1, 2, width_ratios=[width, matrix_width])
        left = figure.add_subfigure(grid[0])
        draw_matrix(figure.add_subfigure(grid[1]), shared)
    panels = left.subplots(rows, n + 1, squeeze=False)
    for line, picture, title, heat in zip(panels, pictures, titles, maps, strict=True):
        for axes in line:
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)
        for axes, values in zip(line[1:], heat.numpy(), strict=True):
            axes.imshow(values, cmap="inferno", alpha=0.6 * values, vmin=0, vmax=1)
            if values.min() < values.max():
                axes.contour(hottest(torch.from_numpy(values)).numpy(), [0.5], colors="white", linewidths=0.8)
            else:
                axes.text(0.5, 0.04, "flat", color="white", ha="center", fontsize=8, transform=axes.transAxes)
    for axes, name in zip(panels[0], ["image", *(f"block {i}" for i in range(1, n + 1))], strict=True):
        axes.set_title(name, fontsize=9)
    return figure


def draw_matrix(figure: SubFigure, shared: np.ndarray) -> None:
    """Draw the mean IoU of every two blocks as a matrix of numbers with an empty diagonal."""
    n = len(shared)
    axes = figure.subplots()
    axes.imshow(shared, cmap="Blues", vmin=0, vmax=1)
    for i in range(n):
        for j in range(n):
            text = "" if i == j else "-" if math.isnan(shared[i, j]) else f"{shared[i, j]:.2f}"
            axes.text(
                j, i, text, ha="center", va="center", fontsize=9, color="white" if shared[i, j] > 0.6 else "black"
            )
    axes.set_xticks(range(n), [str(i + 1) for i in range(n)])
    axes.set_yticks(range(n), [str(i + 1) for i in range(n)])
    axes.set_xlabel(f"block\nchance: {CHANCE:.3f}", fontsize=9)
    axes.set_ylabel("block", fontsize=9)
    axes.set_title(f"IoU of the hottest {HOT:.0%}", fontsize=9)
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)


# ------------------------------------------------------------------------------------------------------------- command


def run(args: EvidenceArguments, world: World) -> None:
    """Measure overlaps and drops, and write the study.

    Raises:
        InputError: the checkpoint or the test set cannot be used, or the backbones have no feature maps.
    """
    network, checkpoint = load_trained(args.model)
    trained, channels = checkpoint["args"], checkpoint["channels"]
    size = trained["size"]
    # The authors' checkpoints do not store the losses; the paper uses both.
    heads_trained = network.num_LIBs > 1 and trained.get("lil_loss", True) and trained.get("gil_loss", True)
    faces = read_test_set(args, size)
    positions, found = run_on_test_set(Evidence(network), faces, args, channels, "heatmaps", world)
    if not world.leads:
        return
    network.cpu()
    width = network.baseline_linear.in_features // network.num_LIBs
    features, maps = torch.from_numpy(found).split([width, found.shape[2] - width], dim=2)
    side = math.isqrt(maps.shape[2])  # square, like the images
    maps = maps.unflatten(2, (side, side))

    hot = torch.empty((*maps.shape[:2], size * size), dtype=torch.bool)
    for k, map_ in enumerate(progress(maps, "overlap", unit="images")):
        hot[k] = hottest(enlarge(map_, size)).flatten(1)
    flat = (maps.flatten(2).amax(dim=2) == maps.flatten(2).amin(dim=2)).numpy()
    overlap = measure_overlap(hot, flat)
    labels = faces.labels[positions]
    scores, drops, head_drops = leave_one_out(network, features, torch.from_numpy(labels))

    result = make_numbers(overlap, drops, head_drops if heads_trained else None, flat)
    paths = [faces.path(position) for position in positions]
    overlaps = result.pop("overlap_of_images")
    of_images = zip(paths, labels.tolist(), scores.tolist(), overlaps, drops.tolist(), strict=True)
    numbers = {
        "checkpoint": str(args.model),
        "checkpoint_sha256": checkpoint["sha256"],
        "dataset": args.dataset,
        "images": len(positions),
        "size": size,
        "map_size": side,
        "num_LIBs": network.num_LIBs,
        "hot": HOT,
        "chance": CHANCE,
        **result,
        "of_images": [dict(zip(("path", "label", "score", "overlap", "drops"), row, strict=True)) for row in of_images],
    }
    shared = np.full((network.num_LIBs, network.num_LIBs), np.nan)
    for pair in numbers["pairs"]:
        i, j = (block - 1 for block in pair["blocks"])
        shared[i, j] = shared[j, i] = pair["mean"]  # None becomes NaN
    some = choose_positions(len(positions), SHOWN)
    figure = draw(
        [picture(faces, positions[k]) for k in some],
        [f"{CLASSES[labels[k]]}\nscore {scores[k]:.2f}" for k in some],
        [enlarge(maps[k], size) for k in some],
        shared,
    )
    title, summary = f"Evidence on {args.dataset}", summarise(numbers)
    table, method = make_table(numbers), describe_method(args.dataset, numbers)
    write_study(args.folder, "evidence", args.dataset, title, summary, table, numbers, figure, method)


def picture(faces: FaceImages, position: int) -> np.ndarray:
    """Return an image as the network sees it: size x size x 3, uint8, RGB.

    Raises:
        InputError: the image can no longer be read.
    """
    item = faces[position]
    if isinstance(item, BadImage):
        raise InputError(f"the image {item.path} can no longer be read: {item.reason}; run the study again.")
    return item[0].permute(1, 2, 0).numpy()


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 2 for wrong input, 130 for an interruption."""
    less = "a smaller --test_bs or --max_images"
    return run_study("analysis.evidence", run, lambda: parse_arguments(argv), less)


if __name__ == "__main__":
    sys.exit(main())
