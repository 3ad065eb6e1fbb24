"""Look at what a checkpoint makes of faces: the fused feature G and each block's own, in two dimensions.

    python -m analysis.embedding --model output/ff/model_best.pth --dataset FF++_c23 --data_root /data/faces
    tensorboard --logdir output/ff/study_embedding_FF++_c23

The images are those of the test set. Written: study_embedding_<dataset>.json and .png, and the features themselves
for TensorBoard's projector in the folder study_embedding_<dataset>.
"""

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from analysis.study import (
    BLUE,
    ORANGE,
    StudyArguments,
    check_arguments,
    read_out,
    read_test_set,
    study_name,
    write_study,
)
from datasets.images import FaceImages
from datasets.labels import CLASSES
from evaluation.metrics import FFPP_MANIPULATION, group_of
from models.checkpoints import load_trained
from models.lib_network import LIBNetwork
from utils import parsing as parse
from utils.command import run_command
from utils.errors import InputError

PERPLEXITY = 30.0  # t-SNE's, where there are images enough for it
# Of the groups of fakes, one after the other: warm colours, where that of real is cold.
MARKERS, WARM = "^sDvP*Xpd<>", (ORANGE, "#E69F00", "#CC79A7", "#7A3B00")
METHODS = {"tsne": "t-SNE", "pca": "PCA"}


class Features(nn.Module):
    """The features of a network in place of its judgement.

    Args:
        network: whose features.
    """

    def __init__(self, network: LIBNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Map B x 3 x H x W images, normalised, to B x (1 + n) x d features: G, then z_1 to z_n."""
        features = [block(images) for block in self.network.blocks()]
        fused = self.network.bottleneck(torch.cat(features, dim=1))
        return torch.stack([fused, *features], dim=1)


def flatten(features: np.ndarray, method: str, seed: int = 0) -> np.ndarray:
    """Map features to the plane.

    Args:
        features: N x d, N >= 4.
        method: ``tsne`` (van der Maaten and Hinton, JMLR 2008; from PCA's plane, so that it keeps something of the
            whole) or ``pca``.
        seed: of both.

    Returns:
        N x 2, without a unit.
    """
    from sklearn.decomposition import PCA  # a second to import
    from sklearn.manifold import TSNE

    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(features)
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)


def silhouette(features: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean silhouette (Rousseeuw 1987) of real and fake, in the feature space: -1 to 1, 0 where they mix."""
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(features, labels))


def name_groups(faces: FaceImages, positions: np.ndarray, pattern: str) -> list[str]:
    """Return each image's group: real, or what `pattern` finds in a fake video's path, else fake."""
    names = [(video.label and group_of(video.path, pattern)) or CLASSES[video.label] for video in faces.videos]
    return [names[video] for video in faces.video_of[positions]]


# ------------------------------------------------------------------------------------------------------------- writing


def draw(planes: list[np.ndarray], titles: list[str], labels: np.ndarray, groups: list[str], method: str) -> Figure:
    """Draw a panel a feature: real and fake by colour, groups of fakes by shape."""
    columns = min(3, len(planes))
    lines = -(-len(planes) // columns)
    figure = Figure(figsize=(3.6 * columns, 0.7 + 3.5 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False)
    group = np.array(groups)
    kinds = [(CLASSES[0], labels == 0, BLUE, "o")]
    for i, name in enumerate(sorted(set(group[labels == 1]))):
        inside = (labels == 1) & (group == name)
        kinds.append((name, inside, WARM[i % len(WARM)], MARKERS[i % len(MARKERS)]))
    size = float(np.clip(12000 / len(labels), 9, 25))  # square points
    for axes, title, plane in zip(panels.flat, titles, planes, strict=False):
        # In a drawn order, so that the kind that comes last does not hide the others.
        layer = np.random.default_rng(0).permutation(len(labels)) // max(1, len(labels) // 20)
        for part in range(layer.max() + 1):
            for name, inside, colour, marker in kinds:
                x, y = plane[inside & (layer == part)].T
                label = name if part == 0 else None
                axes.scatter(x, y, size, colour, marker=marker, alpha=0.6, linewidths=0, label=label)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(f"{METHODS[method]} 1 (no unit)", fontsize=9)
        axes.set_ylabel(f"{METHODS[method]} 2 (no unit)", fontsize=9)
        axes.tick_params(labelsize=7)
        if method == "tsne":  # whose numbers mean nothing
            axes.set(xticks=[], yticks=[])
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels.flat[len(planes) :]:
        axes.axis("off")
    handles, names = panels.flat[0].get_legend_handles_labels()
    legend = figure.legend(handles, names, loc="outside upper center", ncols=min(6, len(names)), frameon=False)
    for handle in legend.legend_handles:
        handle.set_sizes([30])
        handle.set_alpha(1)
    return figure


def write_projector(folder: Path, features: dict[str, np.ndarray], metadata: list[list[str]]) -> None:
    """Write features for TensorBoard's projector, in place of those that the folder holds.

    Args:
        folder: where to.
        features: N x d each.
        metadata: N rows of label, group and path.
    """
    shutil.rmtree(folder, ignore_errors=True)
    # A path may hold what ends a cell there.
    rows = [[re.sub(r"\s", " ", cell) for cell in row] for row in metadata]
    with SummaryWriter(folder) as writer:
        for name, values in features.items():
            writer.add_embedding(values, rows, tag=name, metadata_header=["label", "group", "path"])


def describe(dataset: str, numbers: dict[str, Any]) -> str:
    """Say what was measured, how, and what came out."""
    scores = numbers["silhouette"]
    best = max(scores, key=scores.__getitem__)
    method = METHODS[numbers["method"]]
    how = "keeps neighbours together, and no distances" if method == "t-SNE" else "keeps the directions of most spread"
    return (
        f"The features of {numbers['images']:,} images of the test set of {dataset}: G, the fused one, and z_i, that "
        f"of block i. The plot shows each in two dimensions by {method}, which {how}. The silhouette score says, in "
        "the feature space itself, how much nearer an image is to its own class, real or fake, than to the other: 1 "
        f"where the two are far apart, 0 where they mix. It is {scores['G']:.3f} for G, and highest for {best} "
        f"({scores[best]:.3f})."
    )


# ------------------------------------------------------------------------------------------------------------- command


@dataclass(kw_only=True)
class EmbeddingArguments(StudyArguments):
    """Every argument of the study; the fields are documented by their help texts."""

    test_bs: int = parse.argument(256, parse.count, "batch size, in images")
    max_images: int | None = parse.argument(
        2000, parse.number(int, 4), "use at most this many images, evenly spread over the test set"
    )
    method: str = parse.argument(
        "tsne", parse.one_of(*METHODS), "projection to two dimensions: tsne (preserves neighbours) or pca (linear)"
    )
    group_by: str | None = parse.argument(
        None, parse.pattern, "regular expression on a fake video's path; its first capture group names the manipulation"
    )


def parse_arguments(argv: list[str] | None) -> EmbeddingArguments:
    """Parse the command line."""
    return parse.Parser("-m analysis.embedding", __doc__, EmbeddingArguments).parse(argv)


def run(args: EmbeddingArguments) -> None:
    """Do what the arguments say."""
    check_arguments(args)
    network, checkpoint = load_trained(args.model)
    size, channels = checkpoint["args"]["size"], checkpoint["channels"]
    faces = read_test_set(args, size)
    positions, stacked = read_out(Features(network), faces, args, channels, "features")
    labels = faces.labels[positions]
    if len(labels) < 4 or len(set(labels)) < 2:
        raise InputError(
            f"{len(labels)} images, of {len(set(labels))} classes, are too few: four, and both, are needed."
        )
    names = ["G", *(f"z_{i}" for i in range(1, network.num_LIBs + 1))]
    features = dict(zip(names, stacked.transpose(1, 0, 2), strict=True))
    bar = tqdm(features.items(), METHODS[args.method], unit=" features", leave=False)
    planes = {name: flatten(values, args.method) for name, values in bar}
    scores = {name: silhouette(values, labels) for name, values in features.items()}
    groups = name_groups(faces, positions, args.group_by or FFPP_MANIPULATION)

    paths = [faces.path(position) for position in positions]
    metadata = [[CLASSES[label], *rest] for label, *rest in zip(labels, groups, paths, strict=True)]
    projector = args.folder / study_name("embedding", args.dataset)
    write_projector(projector, features, metadata)
    numbers = {
        "checkpoint": str(args.model),
        "checkpoint_sha256": checkpoint["sha256"],
        "dataset": args.dataset,
        "method": args.method,
        "images": len(labels),
        "silhouette": scores,
        "groups": groups,
        "paths": paths,
        "planes": {name: plane.round(4).tolist() for name, plane in planes.items()},
    }
    table = [["feature", "dimensions", "silhouette real/fake"]]
    table += [[name, str(features[name].shape[1]), f"{score:.4f}"] for name, score in scores.items()]
    title, text = f"Features on {args.dataset}", describe(args.dataset, numbers)
    titles = [f"{name} (silhouette {score:.3f})" for name, score in scores.items()]
    figure = draw(list(planes.values()), titles, labels, groups, args.method)
    write_study(args.folder, "embedding", args.dataset, title, text, table, numbers, figure)
    print(f"projector: tensorboard --logdir {projector}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 for wrong input, 130 for an interruption."""
    less = "a smaller --test_bs or --max_images"
    return run_command("analysis.embedding", lambda: run(parse_arguments(argv)), less)


if __name__ == "__main__":
    sys.exit(main())
