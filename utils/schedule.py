"""Learning rate schedules."""

import math
from itertools import pairwise
from typing import Any

from torch.optim import Optimizer

OFFICIAL_PERIOD = 150  # steps


class Schedule:
    """The learning rates of a training, as factors on each parameter group's ``initial_lr``.

    ``cosine`` falls from 1 to 0 over the run. ``official`` is the authors' schedule: a cosine of 150 steps that starts
    again in every epoch and rises after step 150. At the start of each epoch their code makes a new Adam, and halves
    the network's rate if `losses_rose`.

    Args:
        name: cosine or official.
        epochs: number of epochs of the run.
        steps: number of steps of an epoch.
        saved: the checkpoint to continue, which may hold the attributes below.

    Attributes:
        val_losses: one validation loss per epoch since the last halving.
        halvings: how often the network's rate has been halved.
    """

    def __init__(self, name: str, epochs: int, steps: int, saved: dict[str, Any]) -> None:
        self.name, self.epochs, self.steps = name, epochs, steps
        self.val_losses: list[float] = saved.get("val_losses", [])
        self.halvings: int = saved.get("halvings", 0)

    def start_epoch(self, optimizer: Optimizer) -> None:
        """Prepare the optimizer for an epoch; ``official`` drops Adam's moments and may halve the network's rate."""
        if self.name == "official":
            if losses_rose(self.val_losses):
                self.val_losses, self.halvings = [], self.halvings + 1  # the authors' code clears the list too
            optimizer.state.clear()

    def set_rates(self, optimizer: Optimizer, epoch: int, step: int) -> None:
        """Set the rate of every parameter group.

        Args:
            optimizer: each of its groups has an ``initial_lr``; the first group is the network.
            epoch: number of the epoch, from 1.
            step: step within the epoch, from 0.
        """
        if self.name == "official":
            factor = cosine_factor(step, OFFICIAL_PERIOD)
        else:
            factor = cosine_factor((epoch - 1) * self.steps + step, self.epochs * self.steps)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        optimizer.param_groups[0]["lr"] *= 0.5**self.halvings


def cosine_factor(step: int, period: int) -> float:
    """Return a factor that falls from 1 at step 0 to 0 at step `period`, along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / period))


def losses_rose(losses: list[float]) -> bool:
    """Return whether the loss rises anywhere within the last five; False if there are fewer."""
    last = losses[-5:]
    return len(last) == 5 and any(later > earlier for earlier, later in pairwise(last))
