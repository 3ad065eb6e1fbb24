"""Compare features for the note that the network sees a face as unlike its training faces, for docs/statistics.md.

    python -m benchmarks.familiar_features --model output/demo/model_best.pth --train demo --test demo [--images 500]

The features are the fused feature, the fused feature divided by its length, and the features of all blocks. For each,
the benchmark finds the limit of the distance as training does (`scoring.familiarity.remember_training`), and measures
the share of test faces beyond it. On a test set like the training set, this share should be near 5 %.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.images import BadImage, FaceImages
from datasets.labels import read_split
from datasets.transforms import normalise
from faces.videos import evenly_spaced
from models.checkpoints import load_trained
from models.lib_network import LIBNetwork
from scoring.familiarity import FACES, SHARE, FusedFeature, distances
from utils.progress import progress
from utils.tables import format_rows


@torch.inference_mode()
def compute_features(network: LIBNetwork, channels: str, faces: FaceImages, count: int) -> dict[str, Tensor]:
    """Return each kind of feature of `count` evenly spaced faces, N x d; the fused feature is rounded to float16.

    Raises:
        SystemExit: an image cannot be read.
    """
    fused, blocks = [], []
    for position in progress(evenly_spaced(len(faces), count), "features", unit="faces"):
        item = faces[position]
        if isinstance(item, BadImage):
            raise SystemExit(f"{item.path}: {item.reason}")
        images = normalise(item[0][None], channels)
        fused.append(FusedFeature(network)(images).half().float())
        blocks.append(torch.cat(network.features(images), dim=1))
    found = torch.cat(fused)
    return {
        "fused feature": found,
        "fused feature divided by its length": found / found.norm(dim=1, keepdim=True),
        "features of all blocks": torch.cat(blocks),
    }


def main() -> None:
    """Print the share of faces beyond the limit, for each feature."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint of a training")
    parser.add_argument("--train", required=True, help="its training dataset, in dataset/ of this folder")
    parser.add_argument("--test", required=True, help="dataset whose test faces are measured")
    parser.add_argument("--dataset_root", type=Path, default=Path("dataset"), help="label files of the test dataset")
    parser.add_argument("--data_root", type=Path, default=Path("."), help="base folder of paths in these label files")
    parser.add_argument("--images", type=int, default=500, help="number of test faces, evenly spaced (default: 500)")
    args = parser.parse_args()
    network, checkpoint = load_trained(args.model)
    own, other = (Path("dataset"), Path(".")), (args.dataset_root, args.data_root)
    features = []
    for dataset, split, roots, count in (
        (args.train, "train", own, FACES),
        (args.train, "val", own, FACES),
        (args.test, "test", other, args.images),
    ):
        faces = FaceImages(read_split(dataset, split, *roots), checkpoint["args"]["size"])
        features.append(compute_features(network, checkpoint["channels"], faces, count))
    train, val, test = features
    rows = [["feature", f"share of {len(test['fused feature'])} faces"]]
    for name in train:
        limit = np.quantile(distances(val[name], train[name]), 1 - SHARE)
        rows.append([name, f"{np.mean(distances(test[name], train[name]) > limit):.1%}"])
    print(format_rows(rows))


if __name__ == "__main__":
    main()
