"""Compare the scores of a dataset in PyTorch and OpenVINO, in fp32 and bf16, on a CPU.

    python -m benchmarks.agreement output/demo/model_best.pth [--dataset demo]

The last line is JSON: for each way, the AUC of the frames, and the largest difference of a score from PyTorch in fp32.
Without bf16 instructions, PyTorch emulates bf16, and OpenVINO computes in fp32 on most CPUs: its two rows are then
equal.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.scorers import CPU, PRECISIONS, WAYS, make_scorer
from benchmarks.turns import processor
from datasets.images import FaceImages, make_loader
from datasets.labels import read_split
from engine import BadImages, evaluate
from evaluation.metrics import binary_metrics
from models.checkpoints import load_trained
from utils.devices import to_device
from utils.world import World


def main(argv: list[str] | None = None) -> None:
    """Print a line for each way, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="checkpoint to score with")
    parser.add_argument("--dataset", default="demo", help="dataset to score (default: demo)")
    parser.add_argument("--splits", nargs="+", default=["test"], help="splits of the dataset to score (default: test)")
    parser.add_argument("--dataset_root", type=Path, default=Path("dataset"), help="folder of the label files")
    parser.add_argument("--data_root", type=Path, default=Path("."), help="base folder of paths in the label files")
    args = parser.parse_args(argv)
    network, checkpoint = load_trained(args.checkpoint)
    size, channels = checkpoint["args"]["size"], checkpoint["channels"]
    where = args.dataset_root, args.data_root, size
    faces = FaceImages([video for split in args.splits for video in read_split(args.dataset, split, *where)], size)
    world = World("cpu")
    loader, bad_images = make_loader(faces, 32, 0, world), BadImages(False)
    print(f"{args.dataset}: {len(faces)} images, {processor(CPU)}")
    found, first = {}, None
    for precision, way in product(PRECISIONS, WAYS[:2]):
        name, scorer = f"{way} {precision}", make_scorer(to_device(network, CPU), way, precision, size)
        positions, scores = evaluate(scorer, loader, world, channels=channels, bad_images=bad_images, title=name)
        first = scores if first is None else first
        auc = binary_metrics(faces.labels[positions], scores)["auc"]
        found[name] = {"auc": auc, "largest difference": float(np.abs(scores - first).max())}
        print(f"{name}: AUC {auc:.4f}, largest difference {found[name]['largest difference']:.1e}", flush=True)
    print(json.dumps({**found, "images": len(faces), "processor": processor(CPU)}))


if __name__ == "__main__":
    main()
