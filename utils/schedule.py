"""Learning-rate schedules, as factors on the initial rates."""

import math

OFFICIAL_PERIOD = 150  # iterations


def cosine_factor(step: int, first: int, total: int) -> float:
    """``--lr_schedule cosine``: from 1 to 0 over the whole run.

    Args:
        step: the step within the epoch, from 0.
        first: the steps of the epochs before.
        total: the steps of the whole run.
    """
    return 0.5 * (1 + math.cos(math.pi * (first + step) / total))


def official_factor(step: int, halvings: int) -> float:
    """``--lr_schedule official``: the authors' rate within an epoch.

    A cosine of T_max = 150 iterations, begun anew with every epoch (and rising again beyond the 150th), on a
    rate that `losses_rose` has halved so many times.

    Args:
        step: the step within the epoch, from 0.
        halvings: how often the rate was halved so far.
    """
    return 0.5**halvings * cosine_factor(step, 0, OFFICIAL_PERIOD)


def losses_rose(losses: list[float]) -> bool:
    """Tell whether the last five losses, one an epoch, rose anywhere; with fewer than five they did not."""
    last = losses[-5:]
    return len(last) == 5 and any(later > earlier for earlier, later in zip(last, last[1:], strict=False))
