"""Learning rate schedules, as factors on the initial learning rates."""

import math

from torch.optim import Optimizer

OFFICIAL_T_MAX = 150  # steps


def cosine_factor(step: int, first_step: int, total_steps: int) -> float:
    """Return the factor of ``--lr_schedule cosine``, from 1 to 0 over the run.

    Args:
        step: the step within the epoch, from 0.
        first_step: the number of steps in earlier epochs.
        total_steps: the number of steps in the run.
    """
    return 0.5 * (1 + math.cos(math.pi * (first_step + step) / total_steps))


def official_factor(step: int) -> float:
    """Return the factor of ``--lr_schedule official`` within an epoch, as in the authors' code.

    A cosine with T_max = 150 steps starts again in every epoch. After step 150 it rises.

    Args:
        step: the step within the epoch, from 0.
    """
    return cosine_factor(step, 0, OFFICIAL_T_MAX)


def official_halving(losses: list[float], halvings: int) -> tuple[list[float], int]:
    """Count a halving of the network's learning rate if `losses_rose`, at the start of an epoch.

    As in the authors' code, a halving clears the list of losses. The rate of the learnt loss weights does not change.

    Args:
        losses: one validation loss per epoch since the last halving.
        halvings: how often the rate has been halved.

    Returns:
        Both arguments, updated.
    """
    return ([], halvings + 1) if losses_rose(losses) else (losses, halvings)


def losses_rose(losses: list[float]) -> bool:
    """Return whether the loss rises anywhere within the last five; False if there are fewer."""
    last = losses[-5:]
    return len(last) == 5 and any(later > earlier for earlier, later in zip(last, last[1:], strict=False))


def set_learning_rates(optimizer: Optimizer, factor: float) -> None:
    """Set the rate of every parameter group to its ``initial_lr`` times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
