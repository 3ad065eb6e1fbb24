"""Measure how many faces of a test set get each note of being unlike the training faces.

    python -m benchmarks.familiarity --model output/demo/model_best.pth --dataset demo [--images 500] [--jpeg 50]

On a test set like the training set, the notes are false alarms; each rate should be near 5 %. On another test set, they
are correct detections.
"""

import argparse
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from analysis.study import choose_positions
from datasets.images import FaceImages
from datasets.labels import read_split
from models.checkpoints import load_trained
from scoring.familiarity import face_side, unlike_training
from utils.images import read_image
from utils.progress import progress


def main() -> None:
    """Print the share of faces with each note."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="best checkpoint of a finished training")
    parser.add_argument("--dataset", required=True, help="name of the dataset whose test set is scored")
    parser.add_argument("--dataset_root", type=Path, default=Path("dataset"), help="folder of the label files")
    parser.add_argument("--data_root", type=Path, default=Path("."), help="base folder of paths in the label files")
    parser.add_argument("--images", type=int, default=500, help="number of images, evenly spaced (default: 500)")
    parser.add_argument(
        "--jpeg", type=int, help="JPEG quality to compress each face with first (default: no compression)"
    )
    args = parser.parse_args()
    network, checkpoint = load_trained(args.model)
    faces = FaceImages(read_split(args.dataset, "test", args.dataset_root, args.data_root), checkpoint["args"]["size"])
    notes: Counter[str] = Counter()
    chosen = choose_positions(len(faces), args.images)
    for position in progress(chosen, args.dataset, unit="faces"):
        file = faces.file(position)
        crop = read_image(file)
        if args.jpeg:
            encoded = cv2.imencode(".jpg", np.ascontiguousarray(crop[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, args.jpeg])
            crop = np.asarray(cv2.imdecode(encoded[1], cv2.IMREAD_COLOR))[..., ::-1].copy()
        notes.update(unlike_training(network, checkpoint, [crop], face_side(file)))
    for note, count in notes.most_common():
        print(f"{args.dataset}: {count / len(chosen):.1%} of {len(chosen)} faces: {note}")
    if not notes:
        print(f"{args.dataset}: no note for any of {len(chosen)} faces")


if __name__ == "__main__":
    main()
