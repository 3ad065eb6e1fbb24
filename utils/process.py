"""This process of a run: its rank, and the signals that stop it."""

import os
import signal

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


def current_rank() -> int:
    """Return the rank of this process, from 0."""
    return int(os.environ.get("RANK", 0))


class Stopped(Exception):
    """A signal asked the run to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
