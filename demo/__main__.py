"""Draw the synthetic faces, a small dataset to try training and testing without real data.

python -m demo
"""

from utils.process import exit_on_interrupt  # isort: skip

exit_on_interrupt(__name__, "demo")  # before the slow imports

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from datasets.labels import SPLITS
from demo.dataset import make_demo
from utils import parsing as parse
from utils.command import run_command


def three_counts(text: str) -> list[int]:
    """Parse three integers."""
    try:
        people = [int(part) for part in text.split(",")]
    except ValueError:
        people = []
    if len(people) != 3:
        raise argparse.ArgumentTypeError(f"'{text}' is not three integers such as 48,12,20")
    return people


@dataclass(kw_only=True)
class DemoArguments:
    """The arguments of the command; `parse.argument` has the help text of each."""

    out: Path = parse.argument(
        Path("dataset/demo"), parse.path, "output folder; an older synthetic dataset in it is replaced"
    )
    seed: int = parse.argument(0, parse.count_or_zero, "seed of all random numbers")
    size: int = parse.argument(64, parse.number(int, 32, high=parse.MAX_SIZE), "side of a frame in pixels")
    people: list[int] = parse.argument([48, 12, 20], three_counts, "number of people in train, val and test")
    videos_per_person: int = parse.argument(4, parse.count, "videos per person, an even number; half of them are fake")
    frames: int = parse.argument(6, parse.count, "frames per video")


def run(args: DemoArguments) -> None:
    """Draw the dataset unless the folder already has it, and print its contents."""
    written = make_demo(**vars(args), processes=min(8, os.cpu_count() or 1), quiet=False)
    if not written:
        print(f"{args.out} already has this dataset")
        return
    for split, people in zip(SPLITS, args.people, strict=True):
        each = people * args.videos_per_person // 2
        print(
            f"{args.out / split}_{{real,fake}}.txt: {people} people, "
            f"{each} real and {each} fake videos of {args.frames} frames"
        )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 2 for wrong input, 130 for an interruption."""

    def work() -> None:
        run(parse.Parser("-m demo", __doc__, DemoArguments).parse(argv))

    return run_command("demo", work, "a smaller --size")


if __name__ == "__main__":
    sys.exit(main())
