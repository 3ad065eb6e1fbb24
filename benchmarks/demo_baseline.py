"""Measure how far colour alone separates the demo data: AUC of a logistic regression on colour histograms.

    python -m benchmarks.demo_baseline --data dataset/demo

An AUC near 0.5 means that this model cannot find the forgeries in these histograms.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from utils import parsing as parse
from utils.command import run_command
from utils.errors import InputError


def channel_histogram(image: np.ndarray) -> np.ndarray:
    """Return 8 bins per channel of an H x W x 3 uint8 image: 24 shares that sum to 1 per channel."""
    counts = [np.bincount(image[..., c].ravel() >> 5, minlength=8) for c in range(3)]
    return np.concatenate(counts) / image[..., 0].size


def joint_histogram(image: np.ndarray) -> np.ndarray:
    """Return 8 x 8 x 8 joint bins of an H x W x 3 uint8 image: 512 shares that sum to 1."""
    bins = (image >> 5).astype(np.int64) @ np.array([64, 8, 1])
    return np.bincount(bins.ravel(), minlength=512) / bins.size


HISTOGRAMS = {"8 bins per channel": channel_histogram, "8 x 8 x 8 joint bins": joint_histogram}


def read_split(data: Path, split: str) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return N frames (H x W x 3, uint8, BGR), N labels (0 real, 1 fake) and N video indices of a split.

    Raises:
        InputError: a frame cannot be read.
    """
    images, labels, videos, number = [], [], [], 0
    for word in ("real", "fake"):
        for line in (data / f"{split}_{word}.txt").read_text().splitlines():
            label, path, count = line.split(",")
            # The paths in the label file are relative to the folder in which python -m demo ran.
            for i in range(int(count)):
                file = data / "videos" / Path(path).name / f"{i:04d}.png"
                image = cv2.imread(str(file))
                if image is None:
                    raise InputError(f"{file} cannot be read; delete the dataset folder and run python -m demo.")
                images.append(image)
                labels.append(int(label))
                videos.append(number)
            number += 1
    return images, np.array(labels), np.array(videos)


def histogram_auc(data: Path) -> dict[str, tuple[float, float]]:
    """Return the frame AUC and the video AUC (mean of the frame scores) for each kind of histogram."""
    train, train_labels, _ = read_split(data, "train")
    test, labels, videos = read_split(data, "test")
    result = {}
    for name, histogram in HISTOGRAMS.items():
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        model.fit([histogram(i) for i in train], train_labels)
        scores = model.predict_proba([histogram(i) for i in test])[:, 1]
        truth, mean = np.bincount(videos, labels) > 0, np.bincount(videos, scores) / np.bincount(videos)
        result[name] = float(roc_auc_score(labels, scores)), float(roc_auc_score(truth, mean))
    return result


@dataclass(kw_only=True)
class BaselineArguments:
    """All arguments of the benchmark."""

    data: Path = parse.argument(Path("dataset/demo"), parse.path, "folder of the demo dataset")


def run(args: BaselineArguments) -> None:
    """Print the AUCs on the demo dataset."""
    if not (args.data / "train_real.txt").is_file():
        raise InputError(f"--data {args.data} has no demo dataset; generate it with python -m demo.")
    for name, (frame, video) in histogram_auc(args.data).items():
        print(f"{name}: frame AUC {frame:.3f}, video AUC {video:.3f}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 2 for wrong input, 130 for an interruption."""

    def work() -> None:
        run(parse.Parser("-m benchmarks.demo_baseline", __doc__, BaselineArguments).parse(argv))

    return run_command("benchmarks.demo_baseline", work, "a smaller dataset")


if __name__ == "__main__":
    sys.exit(main())
