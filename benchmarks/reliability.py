"""Kill a training with SIGKILL at random moments, and compare it with an uninterrupted one, for docs/reliability.md.

    python -m benchmarks.reliability [--kills 200] [--seed 0]

It runs the small training of tests/test_interruptions.py, which writes a checkpoint after every step.
"""

import argparse
import tempfile
from pathlib import Path

import torch

import training
from models.checkpoints import load_checkpoint
from tests.helpers import arguments, make_dataset
from tests.test_interruptions import CONTINUE, EVERY_STEP, assert_same_run, killed_at_random


def main() -> None:
    """Print how often the training was killed, and how often in the middle of a write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="number of kills (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the times of the kills (default: 0)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_dataset(root)
        epochs = args.kills
        training.main(arguments(root, "--name", "complete", "--epoch", str(epochs)))
        writing = killed_at_random(root, args.kills, epochs, args.seed)
        killed_after = load_checkpoint(root / "output/run/model_last.pth")["epoch"]
        training.main(arguments(root, "--name", "run", "--epoch", str(epochs), *EVERY_STEP, *CONTINUE))
        assert_same_run(root / "output/run", root / "output/complete")
    print(
        f"{args.kills} kills, the last one after {killed_after} of {epochs} epochs of three steps; "
        f"{writing} left a half-written checkpoint: no difference"
    )


if __name__ == "__main__":
    main()
