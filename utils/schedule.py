"""Learning rate schedules, as factors on the initial learning rates."""

import math

from torch.optim import Optimizer

OFFICIAL_PERIOD = 150  # steps


def cosine_factor(step: int, first: int, total: int) -> float:
    """``--lr_schedule cosine``: fall from 1 to 0 over the whole run.

    Args:
        step: the step within the epoch, from 0.
        first: the number of steps in the epochs before.
        total: the number of steps in the whole run.
    """
    return 0.5 * (1 + math.cos(math.pi * (first + step) / total))


def official_factor(step: int) -> float:
    """``--lr_schedule official``: the schedule of the authors' code within an epoch.

    A cosine with T_max = 150 steps that starts again in every epoch. Beyond step 150 it rises again.

    Args:
        step: the step within the epoch, from 0.
    """
    return cosine_factor(step, 0, OFFICIAL_PERIOD)


def official_halving(losses: list[float], halvings: int) -> tuple[list[float], int]:
    """``--lr_schedule official``: decide at the start of an epoch whether the network's rate is halved.

    The authors' code halves the rate, and clears its list of losses, if the last five losses rose anywhere. The rate
    of the learnt loss weights stays.

    Args:
        losses: one validation loss per epoch since the last halving.
        halvings: how often the rate has been halved.

    Returns:
        Both arguments, updated.
    """
    return ([], halvings + 1) if losses_rose(losses) else (losses, halvings)


def losses_rose(losses: list[float]) -> bool:
    """Return whether the last five losses rose anywhere; False if there are fewer than five."""
    last = losses[-5:]
    return len(last) == 5 and any(later > earlier for earlier, later in zip(last, last[1:], strict=False))


def set_learning_rates(optimizer: Optimizer, factor: float) -> None:
    """Set the rate of every parameter group to its ``initial_lr`` times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
