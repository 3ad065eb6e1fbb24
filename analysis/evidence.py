"""Look at what each block goes by: where it looks, how far the blocks look at the same places, and what each adds.

    python -m analysis.evidence --model output/ff/model_best.pth --dataset FF++_c23 --data_root /data/faces

Of some images of the test set a Grad-CAM heatmap for each Local Information Block; how much the hottest fifths of the
blocks' maps overlap; and what the prediction loses without each block. Written: study_evidence_<dataset>.json
and .png.
"""

import math
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure, SubFigure
from torch import Tensor, nn
from tqdm import tqdm

from analysis.study import (
    StudyArguments,
    cell,
    check_arguments,
    mean_and_deviation,
    read_out,
    read_test_set,
    spread,
    write_study,
)
from datasets.images import FaceImages
from datasets.labels import CLASSES
from engine import fake_probability
from models.checkpoints import load_trained
from models.gradcam import heatmaps
from models.lib_network import LIBNetwork
from utils import parsing as parse
from utils.command import run_command

HOT = 0.2  # share of a map's positions that count as hot
CHANCE = HOT**2 / (2 * HOT - HOT**2)  # IoU of two independent random sets of that share, of many positions
SHOWN = 6  # images in the plot


class Evidence(nn.Module):
    """The features and heatmaps of a network's blocks in place of its judgement.

    Args:
        network: whose; of convolutional backbones.
    """

    def __init__(self, network: LIBNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Map B x 3 x H x W images, normalised, to B x n x (d + h * w): z_i, then the map of block i, row by row."""
        maps, features, _ = heatmaps(self.network, images)
        return torch.cat([torch.stack(features, dim=1).detach(), maps.flatten(2)], dim=2)


# ------------------------------------------------------------------------------------------------------------- overlap


def enlarge(maps: Tensor, size: int) -> Tensor:
    """Enlarge maps, n x h x w, from 0 to 1, to n x size x size, bilinearly.

    Rounded, because what is equally hot would differ by the rounding of the weights, and be told apart by it.
    """
    return F.interpolate(maps[None].double(), (size, size), mode="bilinear", align_corners=False)[0].round(decimals=6)


def hottest(maps: Tensor, share: float = HOT) -> Tensor:
    """Mark the hottest positions of each map, fewer than `share` where no more are above zero.

    Of equally hot positions those that come first in reading order are taken.

    Args:
        maps: ... x h x w, from 0 up.
        share: of the positions, 0 to 1; their number is rounded.

    Returns:
        ... x h x w, bool.
    """
    flat = maps.flatten(-2)
    order = flat.argsort(dim=-1, descending=True, stable=True)[..., : round(share * flat.shape[-1])]
    return (torch.zeros_like(flat, dtype=torch.bool).scatter_(-1, order, True) & (flat > 0)).view(maps.shape)


def pairwise_iou(first: Tensor, second: Tensor) -> np.ndarray:
    """Return the intersection over union of every set with every other.

    Args:
        first: N x positions, bool.
        second: M x positions, bool.

    Returns:
        N x M, from 0 to 1; NaN where both sets are empty.
    """
    common = (first.float() @ second.float().T).double()
    return (common / (first.sum(1)[:, None] + second.sum(1) - common)).numpy()


class Overlap(NamedTuple):
    """How much the hot positions of the blocks' maps overlap; NaN where one of the two maps is flat.

    Attributes:
        same: N x n x n, the IoU of two blocks on the same image.
        other: n x n, the mean IoU of two blocks on two different images.
    """

    same: np.ndarray
    other: np.ndarray


def measure_overlap(hot: Tensor, flat: np.ndarray) -> Overlap:
    """Compare the hot positions of every two blocks.

    Args:
        hot: N x n x positions, bool.
        flat: N x n, whether a map is the same everywhere, and so has no hottest positions.
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
    """Score images, and measure what the prediction loses without each block.

    What is lost is a difference of the probability of the image's true class, from -1 to 1, positive where the block
    helps.

    Args:
        network: in evaluation mode, on the CPU.
        features: N x n x d, z_1 to z_n of each image.
        labels: N, int64, 0 real and 1 fake.

    Returns:
        N, float64, the scores, from 0 (real) to 1 (fake).
        N x n, of the fused prediction, ``fused``: less that with z_i replaced by its mean over the N images.
        N x n (N x 0 where n = 1), of the heads: the one on Z, ``all``, less the one on Z without z_i,
        ``leave_one_out``, which was trained in the block's absence.
    """

    def truth(logits: Tensor) -> Tensor:
        return logits.double().softmax(dim=1)[torch.arange(len(labels)), labels]

    columns = list(features.unbind(dim=1))
    outputs = network.judge(columns)
    fused = []
    for i, column in enumerate(columns):
        without = [*columns[:i], column.mean(dim=0, keepdim=True).expand_as(column), *columns[i + 1 :]]
        fused.append(truth(outputs.fused) - truth(network.judge(without).fused))
    heads = [truth(outputs.all) - truth(logits) for logits in outputs.leave_one_out]
    drops = torch.stack(fused, dim=1).numpy()
    head_drops = torch.stack(heads, dim=1).numpy() if heads else np.empty((len(labels), 0))
    return fake_probability(outputs).numpy(), drops, head_drops


# ------------------------------------------------------------------------------------------------------------- writing


def plain(value: float) -> float | None:
    """Return a number, or None for NaN, which JSON has not."""
    return None if math.isnan(value) else float(value)


def summary(values: np.ndarray) -> dict[str, float | int | None]:
    """Return the `mean_and_deviation` of a value for each image, and the number of images that have one."""
    return {**mean_and_deviation(values), "images": int((~np.isnan(values)).sum())}


def summarise(overlap: Overlap, drops: np.ndarray, head_drops: np.ndarray | None, flat: np.ndarray) -> dict[str, Any]:
    """Return the overlap over all pairs of blocks and of each, and what is lost without each block.

    Args:
        overlap: of the blocks' maps.
        drops: N x n, see `leave_one_out`.
        head_drops: N x n, likewise; None where the heads are not there or were not trained.
        flat: N x n, whether a map is the same everywhere.
    """
    n = drops.shape[1]
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    above = np.triu_indices(n, 1)
    of_image = np.array([mean_and_deviation(iou[above])["mean"] for iou in overlap.same], float)  # None becomes NaN
    return {
        "overlap": summary(of_image) if pairs else None,
        "overlap_across_images": mean_and_deviation(overlap.other[above])["mean"],
        "pairs": [
            {"blocks": [i + 1, j + 1], **summary(overlap.same[:, i, j]), "across_images": plain(overlap.other[i, j])}
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
        "overlap_of_images": [plain(value) for value in of_image],
    }


def make_table(numbers: dict[str, Any]) -> list[list[str]]:
    """Return a row a block, and a row a pair of blocks."""
    rows = [["of", "drop of the fused", "drop of the heads", "overlap", "on other images", "flat maps"]]
    for block in numbers["blocks"]:
        drops = [cell(block[name], "+") for name in ("drop", "head_drop")]
        rows.append([f"block {block['block']}", *drops, "-", "-", str(block["flat_maps"])])
    for pair in numbers["pairs"]:
        other = pair["across_images"]
        name = "blocks {} and {}".format(*pair["blocks"])
        rows.append([name, "-", "-", cell(pair), "-" if other is None else f"{other:.4f}", "-"])
    return rows


def describe(dataset: str, numbers: dict[str, Any]) -> str:
    """Say what was measured, how, and what came out."""
    side, size = numbers["map_size"], numbers["size"]
    flat = sum(block["flat_maps"] for block in numbers["blocks"])
    sentences = [
        f"What the {numbers['num_LIBs']} blocks go by on {numbers['images']:,} "
        f"image{'s' * (numbers['images'] != 1)} of the test set of {dataset}.",
        f"A block's map is Grad-CAM's, of what speaks for fake: {side} x {side}, enlarged bilinearly to the network's "
        f"{size} x {size} pixels. Its hottest {HOT:.0%} of positions, less where fewer are above zero, are compared "
        "with those of the other blocks: IoU, the positions that two maps share over those that either has.",
    ]
    overlap = numbers["overlap"]
    if overlap is None:
        sentences.append("With one block there is nothing to compare: its overlap is not defined.")
    elif overlap["mean"] is None:
        sentences.append("On no image have two blocks a map that is not flat: the overlap is not defined.")
    else:
        across = numbers["overlap_across_images"]
        sentences.append(
            f"The mean over pairs of blocks is {cell(overlap)} (mean and standard deviation over {overlap['images']:,} "
            f"images). Independent sets of random positions would have {CHANCE:.3f}; but maps are smooth, and may "
            "prefer the same places on every face: two blocks' maps of two different images have "
            f"{'none to compare' if across is None else f'{across:.4f}'}."
        )
    if side == 1:
        sentences.append(f"Maps of 1 x 1 are always flat: {size} pixels are too few for where the blocks look.")
    elif flat:
        sentences.append(
            f"{flat:,} flat maps, the same everywhere, most often zero because nothing speaks for fake, are left out "
            "of it."
        )
    sentences.append(
        "The drop of the fused prediction is the probability that it gives to an image's true class, less that with "
        "the block's feature replaced by its mean over the images (mean and standard deviation over images; positive: "
        "the block helps)."
    )
    if numbers["blocks"][0]["head_drop"] is None:
        sentences.append(
            "That of the trained leave-one-out heads is not defined: with one block there are none, and without the "
            "local or the global loss those on Z without a block, or that on Z, are not trained."
        )
    else:
        sentences.append(
            "That of the heads is the same probability from the head on all features, Z, less that from the head that "
            "was trained without the block's."
        )
    return " ".join(sentences)


def draw(pictures: list[np.ndarray], titles: list[str], maps: list[Tensor], shared: list[list[float | None]]) -> Figure:
    """Draw images with each block's map laid over them, the hot positions outlined, and the IoU of every two blocks.

    Args:
        pictures: size x size x 3 each, uint8, RGB.
        titles: of each.
        maps: of each, n x size x size, from 0 to 1.
        shared: n x n, the mean IoU of every two blocks; None where it is not defined.
    """
    n, rows = len(shared), len(pictures)
    matrix_width = 0.0 if n == 1 else 2.2 + 0.5 * n
    width = 1.4 + 1.5 * (n + 1)
    figure = Figure(figsize=(width + matrix_width, max(3.0, 0.4 + 1.6 * rows)), layout="constrained")
    parts = figure.subfigures(1, 2, width_ratios=[width, matrix_width]) if n > 1 else [figure]
    panels = parts[0].subplots(rows, n + 1, squeeze=False)
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
    if n > 1:
        draw_matrix(parts[1], shared)
    return figure


def draw_matrix(figure: SubFigure, shared: list[list[float | None]]) -> None:
    """Draw the mean IoU of every two blocks as a matrix with its numbers, the diagonal left empty."""
    n = len(shared)
    values = np.array(shared, dtype=float)
    np.fill_diagonal(values, np.nan)
    axes = figure.subplots()
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1)
    for i in range(n):
        for j in range(n):
            text = "" if i == j else "-" if math.isnan(values[i, j]) else f"{values[i, j]:.2f}"
            axes.text(
                j, i, text, ha="center", va="center", fontsize=9, color="white" if values[i, j] > 0.6 else "black"
            )
    axes.set_xticks(range(n), [str(i + 1) for i in range(n)])
    axes.set_yticks(range(n), [str(i + 1) for i in range(n)])
    axes.set_xlabel(f"block\nchance: {CHANCE:.3f}", fontsize=9)
    axes.set_ylabel("block", fontsize=9)
    axes.set_title(f"IoU of the hottest {HOT:.0%}", fontsize=9)
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)


# ------------------------------------------------------------------------------------------------------------- command


@dataclass(kw_only=True)
class EvidenceArguments(StudyArguments):
    """Every argument of the study; the fields are documented by their help texts."""

    test_bs: int = parse.argument(32, parse.count, "batch size, in images")
    max_images: int | None = parse.argument(
        200, parse.count, "use at most this many images, evenly spread over the test set"
    )


def parse_arguments(argv: list[str] | None) -> EvidenceArguments:
    """Parse the command line."""
    return parse.Parser("-m analysis.evidence", __doc__, EvidenceArguments).parse(argv)


def run(args: EvidenceArguments) -> None:
    """Do what the arguments say."""
    check_arguments(args)
    network, checkpoint = load_trained(args.model)
    trained, channels = checkpoint["args"], checkpoint["channels"]
    size = trained["size"]
    # The authors' checkpoints do not say: both losses are taken to have been on, as in the paper.
    heads_trained = network.num_LIBs > 1 and trained.get("lil_loss", True) and trained.get("gil_loss", True)
    faces = read_test_set(args, size)
    positions, found = read_out(Evidence(network), faces, args, channels, "heatmaps")
    network.cpu()
    width = network.baseline_linear.in_features // network.num_LIBs
    features, maps = torch.from_numpy(found).split([width, found.shape[2] - width], dim=2)
    side = math.isqrt(maps.shape[2])  # images are square, and so are maps
    maps = maps.unflatten(2, (side, side))

    hot = torch.empty((*maps.shape[:2], size * size), dtype=torch.bool)
    for k, of_image in enumerate(tqdm(maps, "overlap", unit=" images", leave=False)):
        hot[k] = hottest(enlarge(of_image, size)).flatten(1)
    flat = (maps.flatten(2).amax(dim=2) == maps.flatten(2).amin(dim=2)).numpy()
    overlap = measure_overlap(hot, flat)
    labels = faces.labels[positions]
    scores, drops, head_drops = leave_one_out(network, features, torch.from_numpy(labels))

    result = summarise(overlap, drops, head_drops if heads_trained else None, flat)
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
    shared: list[list[float | None]] = [[None] * network.num_LIBs for _ in range(network.num_LIBs)]
    for pair in numbers["pairs"]:
        i, j = (block - 1 for block in pair["blocks"])
        shared[i][j] = shared[j][i] = pair["mean"]
    some = spread(len(positions), SHOWN)
    figure = draw(
        [picture(faces, positions[k]) for k in some],
        [f"{CLASSES[labels[k]]}\nscore {scores[k]:.2f}" for k in some],
        [enlarge(maps[k], size) for k in some],
        shared,
    )
    title, text = f"Evidence on {args.dataset}", describe(args.dataset, numbers)
    write_study(args.folder, "evidence", args.dataset, title, text, make_table(numbers), numbers, figure)


def picture(faces: FaceImages, position: int) -> np.ndarray:
    """Return an image as the network sees it: size x size x 3, uint8, RGB."""
    return faces[position][0].permute(1, 2, 0).numpy()


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 for wrong input, 130 for an interruption."""
    less = "a smaller --test_bs or --max_images"
    return run_command("analysis.evidence", lambda: run(parse_arguments(argv)), less)


if __name__ == "__main__":
    sys.exit(main())
