"""Compare the training speed of two checkouts, or of one and several processes, for docs/performance.md.

    git worktree add /tmp/before COMMIT
    python -m benchmarks.training_speed --before /tmp/before [--rounds 3] [--precision fp32]
    python -m benchmarks.training_speed --processes 2

Both sides train the same epoch in turns, with the Python that runs this command. train.log gives the images per second.
--precision is for this checkout alone, because older ones have no such flag.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent.parent
CASES = {
    "two MobileNets, 64 px, batch 16": ("--model mobilenet --num_LIBs 2 --size 64 --bs 16 --epoch 2", "16,2,2"),
    "four ResNet-34, 112 px, batch 16": ("--model resnet --num_LIBs 4 --size 112 --bs 16 --epoch 1", "4,2,2"),
}


def images_per_second(program: list[str], options: str, root: Path) -> float:
    """Train, and return the images per second of the last epoch."""
    where = ["--dataset_root", root / "dataset", "--data_root", root, "--save_path", root / "output"]
    argv = [*where, "--dataset", "demo", "--name", "run", "--overwrite", "True", "--pretrained", "False"]
    command = [sys.executable, *program, *argv, *options.split(), "--num_workers", "1", "--save_model", "False"]
    subprocess.run(list(map(str, command)), cwd=root, check=True, capture_output=True)
    return float(re.findall(r"([\d.]+) images/s", (root / "output/run/train.log").read_text())[-1])


def main() -> None:
    """Print the speeds of both sides in each case, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="folder of the other checkout")
    parser.add_argument("--processes", type=int, help="number of processes to compare with one")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each side and case (default: 3)")
    parser.add_argument("--precision", default="auto", help="--precision of this checkout (default: auto)")
    args = parser.parse_args()
    os.environ.pop("GOMP_SPINCOUNT", None)  # each checkout sets its own
    here = [str(HERE / "training.py"), "--precision", args.precision]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(args.processes)]
    pair = ([str(args.before / "training.py")], here) if args.before else (here, [*torchrun, *here])
    for case, (options, people) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            draw = [sys.executable, "-m", "demo", "--out", str(root / "dataset/demo"), "--people", people]
            subprocess.run(draw, cwd=HERE, check=True, capture_output=True)
            rounds = [[images_per_second(program, options, root) for program in pair] for _ in range(args.rounds)]
        first, second = (statistics.median(speeds) for speeds in zip(*rounds, strict=True))
        ratio = statistics.median(speeds[1] / speeds[0] for speeds in rounds)
        print(f"{case}: {first:.1f} and {second:.1f} images/s, ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
