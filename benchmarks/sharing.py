"""Time a training alone and beside a second one, with several settings of PyTorch's threads, in turns.

    python -m benchmarks.sharing [--settings default free 300000] [--rounds 2] [--size 64]

GOMP_SPINCOUNT says how long a thread of PyTorch on a CPU tests again and again whether there is work, before it sleeps.
``default`` leaves this number to the command, and so does ``free``, but with threads that are not bound to cores. The
trainings are two MobileNets on the demo faces, with one loader process.
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
    """Print for each setting the speed alone, both speeds of two at once, and their sum in % of the speed alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--settings", nargs="+", default=["default", "free"], help="default, free, or values of GOMP_SPINCOUNT"
    )
    parser.add_argument("--rounds", type=int, default=2, help="trainings of each kind (default: 2)")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels (default: 64)")
    args = parser.parse_args()
    options = f"--model mobilenet --num_LIBs 2 --size {args.size} --bs 16 --epoch 2"
    found: dict[str, list[list[float]]] = {setting: [] for setting in args.settings}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw = [sys.executable, "-m", "demo", "--out", str(root / "dataset/demo"), "--people", "16,2,2"]
        subprocess.run(draw, cwd=HERE, check=True, capture_output=True)
        for _ in range(args.rounds):
            for setting in args.settings:
                for name in ("GOMP_SPINCOUNT", "OMP_PROC_BIND"):
                    os.environ.pop(name, None)
                if setting == "free":
                    os.environ["OMP_PROC_BIND"] = "false"
                elif setting != "default":
                    os.environ["GOMP_SPINCOUNT"] = setting
                found[setting].append([*speeds(root, options, 1), *speeds(root, options, 2)])
    first = [alone for alone, *_ in found[args.settings[0]]]
    for setting, rounds in found.items():
        alone, one, other = (statistics.median(values) for values in zip(*rounds, strict=True))
        ratio = statistics.median(speed / start for (speed, *_), start in zip(rounds, first, strict=True))
        print(
            f"{setting}: alone {alone:.1f} images/s ({ratio:.2f} times {args.settings[0]}), "
            f"two at once {one:.1f} and {other:.1f}, {(one + other) / alone:.0%}"
        )


if __name__ == "__main__":
    main()
