"""Measure how fast a training set of a million images opens, and the memory that its index takes.

    python -m benchmarks.image_index [--folders 10000] [--images 100]

Each case runs in a new process, twice: the second run counts, so the names of the files are in the system's cache. The
memory of a worker process is what it copies of the index when it looks up every image. Linux only.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from datasets import pack
from datasets.images import FaceImages
from datasets.labels import read_split

SIZE = 4  # pixels: the index does not depend on it


def make_dataset(root: Path, folders: int, images: int) -> None:
    """Write a training set whose folders hold many links to one small image."""
    lines: tuple[list[str], list[str]] = ([], [])
    for number in range(folders):
        folder = root / f"faces/method{number % 5}/c23/videos/{number:05d}"
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "0000.png"), np.zeros((SIZE, SIZE, 3), np.uint8))
        for image in range(1, images):
            os.link(folder / "0000.png", folder / f"{image:04d}.png")
        lines[number % 2].append(f"{number % 2},{folder.relative_to(root / 'faces')},{images}\n")
    (root / "dataset/many").mkdir(parents=True)
    for label, kind in enumerate(("real", "fake")):
        (root / f"dataset/many/train_{kind}.txt").write_text("".join(lines[label]))


def read_nothing(path: Path, exif_rotation: bool = False) -> np.ndarray:
    """Return a black image; reading a million links would take minutes."""
    return np.zeros((SIZE, SIZE, 3), np.uint8)


def memory(kind: str) -> float:
    """Return a line of the memory statistics of this process in MB."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) / 1000
    raise ValueError(kind)


def measure(root: Path, size: int | None) -> None:
    """Open the training set, and print the time, and the memory here and in a worker process."""
    before, start, cpu_start = memory("Rss"), time.perf_counter(), time.process_time()
    faces = FaceImages(read_split("many", "train", root / "dataset", root / "faces", size), SIZE, seed=0)
    seconds, cpu, taken = time.perf_counter() - start, time.process_time() - cpu_start, memory("Rss") - before
    sys.stdout.flush()
    if os.fork() == 0:
        copied = memory("Private_Dirty")
        for position in range(len(faces)):
            faces.path(position)
        copied = memory("Private_Dirty") - copied
        times = f"{seconds:.2f} s ({cpu:.2f} s of CPU)"
        print(f"{len(faces)} images: {times}, {taken:.0f} MB; each worker process copies {copied:.0f} MB")
        sys.stdout.flush()
        os._exit(0)
    os.wait()


def main() -> None:
    """Measure opening from the folders, then from a pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=int, default=10_000, help="number of folders (default: 10000)")
    parser.add_argument("--images", type=int, default=100, help="images in each folder")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pack", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(args.measure, SIZE if args.pack else None)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_dataset(root, args.folders, args.images)
        command = [sys.executable, "-m", "benchmarks.image_index", "--measure", folder]
        for source in ("folders", "pack"):
            if source == "pack":
                pack.read_image = read_nothing
                where = ["--dataset_root", str(root / "dataset"), "--data_root", str(root / "faces")]
                pack.main(["many", "--size", str(SIZE), *where])
                command.append("--pack")
            for _ in range(2):
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            print(f"{source}: {output.splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    main()
