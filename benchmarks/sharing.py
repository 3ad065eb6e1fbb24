"""Time a training alone and beside a second one, for several waiting times of PyTorch's threads.

    python -m benchmarks.sharing [--spins default 300000 10000] [--rounds 2] [--size 64]

GOMP_SPINCOUNT says how long a thread of PyTorch on a CPU tests again and again whether there is work, before it sleeps.
``default`` leaves it to the command. The trainings are two MobileNets on the demo faces, with one loader process.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.training_speed import HERE, images_per_second


def speeds(root: Path, options: str, number: int) -> list[float]:
    """Return the images per second of `number` trainings at once, each in its own folder."""
    folders = [root / str(i) for i in range(number)]
    for folder in folders:
        folder.mkdir(exist_ok=True)
        if not (folder / "dataset").exists():
            (folder / "dataset").symlink_to(root / "dataset")
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(lambda folder: images_per_second([str(HERE / "training.py")], options, folder), folders))


def main() -> None:
    """Print a line for each waiting time: the speed alone, both speeds of two at once, and their sum as a share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spins", nargs="+", default=["default", "300000"], help="values of GOMP_SPINCOUNT")
    parser.add_argument("--rounds", type=int, default=2, help="trainings of each kind (default: 2)")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels (default: 64)")
    args = parser.parse_args()
    options = f"--model mobilenet --num_LIBs 2 --size {args.size} --bs 16 --epoch 2"
    found: dict[str, list[list[float]]] = {spin: [] for spin in args.spins}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw = [sys.executable, "-m", "demo", "--out", str(root / "dataset/demo"), "--people", "16,2,2"]
        subprocess.run(draw, cwd=HERE, check=True, capture_output=True)
        for _ in range(args.rounds):
            for spin in args.spins:
                os.environ.pop("GOMP_SPINCOUNT", None)
                if spin != "default":
                    os.environ["GOMP_SPINCOUNT"] = spin
                found[spin].append([*speeds(root, options, 1), *speeds(root, options, 2)])
    for spin, rounds in found.items():
        alone, one, other = (statistics.median(values) for values in zip(*rounds, strict=True))
        print(f"{spin}: alone {alone:.1f} images/s, two at once {one:.1f} and {other:.1f}, {(one + other) / alone:.0%}")


if __name__ == "__main__":
    main()
