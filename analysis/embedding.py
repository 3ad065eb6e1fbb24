"""Project a checkpoint's features to two dimensions: the fused feature G and the feature of each block.

    python -m analysis.embedding --model output/ff/model_best.pth --dataset FF++_c23 --data_root /data/faces
    tensorboard --logdir output/ff/study_embedding_FF++_c23

The command uses images of the test set. It writes study_embedding_<dataset>.json and .png to the run folder, and the
features for TensorBoard's projector to the folder study_embedding_<dataset>.
"""

from utils.process import exit_on_interrupt  # isort: skip

exit_on_interrupt(__name__, "analysis.embedding")  # before the slow imports

import sys
from dataclasses import dataclass
from pathlib import Path

from analysis.arguments import StudyArguments, check_study_arguments
from utils import parsing as parse
from utils.command import check_command_line

METHODS = {"tsne": "t-SNE", "pca": "PCA"}


@dataclass(kw_only=True)
class EmbeddingArguments(StudyArguments):
    """All arguments of the study; the help texts document the fields."""

    test_bs: int = parse.argument(256, parse.count, "batch size, in images")
    max_images: int | None = parse.argument(
        2000, parse.number(int, 4), "maximum number of images, evenly spaced over the test set"
    )
    method: str = parse.argument(
        "tsne", parse.one_of(*METHODS), "projection to two dimensions: tsne (keeps neighbours together) or pca (linear)"
    )
    group_by: str | None = parse.argument(None, parse.pattern, parse.GROUP_BY_TEXT)


def parse_arguments(argv: list[str] | None) -> EmbeddingArguments:
    """Parse and check the command line.

    Raises:
        InputError: an argument is wrong or missing, or names a missing file or folder.
    """
    args = parse.Parser("-m analysis.embedding", __doc__, EmbeddingArguments).parse(argv)
    check_study_arguments(args)
    return args


if __name__ == "__main__":
    check_command_line("analysis.embedding", lambda: parse_arguments(None))  # before the slow imports

import numpy as np
import torch
from matplotlib.artist import setp
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from analysis.study import (
    BLUE,
    ORANGE,
    plot_text,
    read_test_set,
    run_on_test_set,
    run_study,
    study_name,
    write_study,
)
from datasets.images import FaceImages
from datasets.labels import CLASSES
from evaluation.metrics import FFPP_MANIPULATION, group_of
from models.checkpoints import load_trained
from models.lib_network import LIBNetwork
from utils.errors import InputError, one_line
from utils.files import atomic_folder
from utils.progress import progress
from utils.world import World

PERPLEXITY = 30.0  # of t-SNE; lower for fewer than 91 images
# Manipulations take warm colours in turn; real images are blue.
MARKERS, WARM = "^sDvP*Xpd<>", (ORANGE, "#E69F00", "#CC79A7", "#7A3B00")


class Features(nn.Module):
    """Return a network's features instead of its logits.

    Args:
        network: the network.
    """

    def __init__(self, network: LIBNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Map B x 3 x H x W normalised images to B x (1 + n) x d features: G, then z_1 to z_n."""
        features = [block(images) for block in self.network.backbones()]
        fused = self.network.bottleneck(torch.cat(features, dim=1))
        return torch.stack([fused, *features], dim=1)


def project(features: np.ndarray, method: str, seed: int = 0) -> np.ndarray:
    """Project features to two dimensions.

    Args:
        features: N x d, N >= 4.
        method: ``tsne`` (van der Maaten and Hinton, JMLR 2008; starts from PCA to keep the global structure) or
            ``pca``.
        seed: seed of both methods.

    Returns:
        N x 2, without a unit; zeros if the features of all images are equal.
    """
    if (features == features[0]).all():  # as for a dead block; t-SNE would end the process
        return np.zeros((len(features), 2))
    from sklearn.decomposition import PCA  # takes a second to import
    from sklearn.manifold import TSNE

    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(features)
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)


def silhouette(features: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean silhouette score (Rousseeuw 1987) of real against fake: -1 to 1, 0 if the classes mix."""
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(features, labels))


def image_groups(faces: FaceImages, positions: np.ndarray, pattern: str) -> list[str]:
    """Return each image's group: real, the manipulation that `pattern` finds in the video's path, or fake."""
    names = [(video.label and group_of(video.path, pattern)) or CLASSES[video.label] for video in faces.videos]
    return [names[video] for video in faces.video_of[positions]]


# ------------------------------------------------------------------------------------------------------------- writing


def draw(planes: list[np.ndarray], titles: list[str], labels: np.ndarray, groups: list[str], method: str) -> Figure:
    """Draw one panel per feature: classes by colour, manipulations by marker."""
    columns = min(3, len(planes))
    lines = -(-len(planes) // columns)
    figure = Figure(figsize=(3.6 * columns, 0.7 + 3.5 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False)
    group = np.array(groups)
    kinds = [(CLASSES[0], labels == 0, BLUE, "o")]
    for i, name in enumerate(sorted(set(group[labels == 1]))):
        inside = (labels == 1) & (group == name)
        kinds.append((plot_text(name), inside, WARM[i % len(WARM)], MARKERS[i % len(MARKERS)]))
    size = float(np.clip(12000 / len(labels), 9, 25))  # square points
    for axes, title, plane in zip(panels.flat, titles, planes, strict=False):
        # Random layers, so that no group hides another.
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
        if method == "tsne":  # its coordinates have no meaning
            axes.set(xticks=[], yticks=[])
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels.flat[len(planes) :]:
        axes.axis("off")
    handles, names = panels.flat[0].get_legend_handles_labels()
    legend = figure.legend(handles, names, loc="outside upper center", ncols=min(6, len(names)), frameon=False)
    for handle in filter(None, legend.legend_handles):
        setp(handle, sizes=[30], alpha=1)
    return figure


def write_projector(folder: Path, features: dict[str, np.ndarray], metadata: list[list[str]]) -> None:
    """Write features for TensorBoard's projector; replace the folder.

    Args:
        folder: folder to write to.
        features: N x d by name.
        metadata: N rows of label, group and path.
    """
    rows = [[one_line(cell) for cell in row] for row in metadata]  # a tab or line break in a path would end the cell
    with atomic_folder(folder) as new, SummaryWriter(new) as writer:
        for name, values in features.items():
            writer.add_embedding(values, rows, tag=name, metadata_header=["label", "group", "path"])


def summarise(scores: dict[str, float]) -> str:
    """State the silhouette score of G and the highest one."""
    best = max(scores, key=scores.__getitem__)
    return f"Silhouette score of real against fake: {scores['G']:.3f} for G; highest for {best} ({scores[best]:.3f})."


def describe_method(dataset: str, images: int, method: str) -> str:
    """Describe how the features are measured and drawn."""
    caution = {
        "tsne": "t-SNE keeps neighbours together; distances in the plot have no meaning.",
        "pca": "PCA keeps the two directions of largest variance.",
    }
    return (
        f"The features come from {images:,} images of the test set of {dataset}. "
        "G is the fused feature; z_i is the feature of block i. "
        "The silhouette score is measured in the feature space, not in the plot: "
        "1 if the classes are far apart, 0 if they overlap. "
        f"The plot shows each feature in two dimensions by {METHODS[method]}. {caution[method]}"
    )


# ------------------------------------------------------------------------------------------------------------- command


def run(args: EmbeddingArguments, world: World) -> None:
    """Compute and project the features, and write the study.

    Raises:
        InputError: the checkpoint or the test set cannot be used, or fewer than four images or one class are readable.
    """
    network, checkpoint = load_trained(args.model)
    size, channels = checkpoint["args"]["size"], checkpoint["channels"]
    faces = read_test_set(args, size)
    positions, stacked = run_on_test_set(Features(network), faces, args, channels, "features", world)
    if not world.leads:
        return
    labels = faces.labels[positions]
    if len(labels) < 4 or len(set(labels)) < 2:
        raise InputError(
            f"--dataset {args.dataset}: the study needs four readable images and both classes, and has {len(labels)} "
            f"readable images of {' and '.join(CLASSES[label] for label in sorted(set(labels))) or 'no class'}; give "
            "a larger --max_images or another --dataset."
        )
    names = ["G", *(f"z_{i}" for i in range(1, network.num_LIBs + 1))]
    features = dict(zip(names, stacked.transpose(1, 0, 2), strict=True))
    bar = progress(features.items(), METHODS[args.method], unit="features")
    planes = {name: project(values, args.method) for name, values in bar}
    scores = {name: silhouette(values, labels) for name, values in features.items()}
    groups = image_groups(faces, positions, args.group_by or FFPP_MANIPULATION)

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
    title, method = f"Features on {args.dataset}", describe_method(args.dataset, len(labels), args.method)
    titles = [f"{name} (silhouette {score:.3f})" for name, score in scores.items()]
    figure = draw(list(planes.values()), titles, labels, groups, args.method)
    write_study(args.folder, "embedding", args.dataset, title, summarise(scores), table, numbers, figure, method)
    print(f"projector: tensorboard --logdir {projector}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 2 for wrong input, 130 for an interruption."""
    less = "a smaller --test_bs or --max_images"
    return run_study("analysis.embedding", run, lambda: parse_arguments(argv), less)


if __name__ == "__main__":
    sys.exit(main())
