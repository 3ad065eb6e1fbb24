"""Train with training.py, but keep or drop Adam's moments at the start of each epoch.

    python -m benchmarks.optimizer_state dropped --name cosine_dropped --dataset realorfake ...
    python -m benchmarks.optimizer_state kept --name official_kept --lr_schedule official --dataset realorfake ...

The cosine schedule keeps the moments and the authors' schedule drops them. So the first run has the cosine and a new
Adam in each epoch; the second has the authors' learning rates and one Adam. docs/results.md separates the effects of
the two. All arguments after the first one go to training.py.
"""

import sys

from torch.optim import Optimizer

import training
from utils.schedule import Schedule

start_epoch = Schedule.start_epoch


def start_and_keep(schedule: Schedule, optimizer: Optimizer) -> None:
    """Start an epoch; the optimizer keeps its state."""
    state = dict(optimizer.state)
    start_epoch(schedule, optimizer)
    optimizer.state.update(state)


def start_and_drop(schedule: Schedule, optimizer: Optimizer) -> None:
    """Start an epoch; the optimizer loses its state."""
    start_epoch(schedule, optimizer)
    optimizer.state.clear()


CHOICES = {"kept": start_and_keep, "dropped": start_and_drop}


def main(argv: list[str]) -> int:
    """Train; return the exit code of training.py."""
    if not argv or argv[0] not in CHOICES:
        print(__doc__)
        return 2
    Schedule.start_epoch = CHOICES[argv[0]]  # type: ignore[assignment, method-assign]
    return training.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
