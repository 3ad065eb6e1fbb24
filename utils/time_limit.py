"""A limit on the time that a block of code may take, checked in loops over frames and batches."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from utils.errors import InputError

_LIMIT: ContextVar[tuple[float, float]] = ContextVar("limit", default=(math.inf, math.inf))  # minutes, end in seconds


@contextmanager
def time_limit(minutes: float) -> Iterator[None]:
    """Let `check_time` raise InputError in the block, in this thread, after `minutes` minutes.

    Python cannot end a thread from outside, so the decoding of one image or one batch of a network runs to its end.
    """
    token = _LIMIT.set((minutes, time.monotonic() + 60 * minutes))
    try:
        yield
    finally:
        _LIMIT.reset(token)


def check_time() -> None:
    """Raise InputError if the time limit of the block has passed; without a limit, do nothing."""
    minutes, end = _LIMIT.get()
    if time.monotonic() > end:
        raise InputError(f"scoring takes longer than {minutes:g} minutes; give a shorter or smaller file.")
