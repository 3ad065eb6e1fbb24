"""Train with training.py, but with changes that have no flag, for docs/results.md.

    python -m benchmarks.single_changes drop_state --name drop_state-seed_0 --dataset realorfake ...
    python -m benchmarks.single_changes keep_state --name keep_state-seed_0 --lr_schedule official ...
    python -m benchmarks.single_changes torchvision_init --name init-seed_0 --pretrained False --dataset realorfake ...
    python -m benchmarks.single_changes torchvision_init,drop_state --name both-seed_0 --pretrained False ...

drop_state: Adam loses its moments at the start of each epoch, as in the authors' schedule. keep_state: it keeps them
in that schedule. torchvision_init: the last batch norm of a residual block starts with the scale 1, as in torchvision,
and not with 0, as in timm; all other initial weights are equal. All arguments after the first one go to training.py.
"""

import sys
from typing import Any

from torch import nn
from torch.optim import Optimizer

import training
from models import backbones
from utils.schedule import Schedule

start_epoch = Schedule.start_epoch
create_model = backbones.timm.create_model


def start_and_keep(schedule: Schedule, optimizer: Optimizer) -> None:
    """Start an epoch; the optimizer keeps its state."""
    state = dict(optimizer.state)
    start_epoch(schedule, optimizer)
    optimizer.state.update(state)


def start_and_drop(schedule: Schedule, optimizer: Optimizer) -> None:
    """Start an epoch; the optimizer loses its state."""
    start_epoch(schedule, optimizer)
    optimizer.state.clear()


def create_as_torchvision(name: str, **options: Any) -> nn.Module:
    """Create one of timm's ResNets with torchvision's initial weights."""
    return create_model(name, zero_init_last=False, **options)


CHANGES: dict[str, tuple[object, str, object]] = {
    "drop_state": (Schedule, "start_epoch", start_and_drop),
    "keep_state": (Schedule, "start_epoch", start_and_keep),
    "torchvision_init": (backbones.timm, "create_model", create_as_torchvision),
}


def main(argv: list[str]) -> int:
    """Train; return the exit code of training.py."""
    changes = argv[0].split(",") if argv else [""]
    if not set(changes) <= set(CHANGES):
        print(__doc__)
        return 2
    for change in changes:
        setattr(*CHANGES[change])
    return training.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
