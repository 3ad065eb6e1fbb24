"""This process of a run: its rank, the signals that stop it, and how its threads wait."""

import os
import signal

SPINS = 3_000
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


def current_rank() -> int:
    """Return the rank of this process, from 0."""
    return int(os.environ.get("RANK", 0))


def wait_briefly() -> None:
    """Let the threads of PyTorch sleep after a short wait; call it before PyTorch is imported.

    By default GNU's OpenMP tests 300,000 times whether there is work, and so takes the cores from another training on
    this machine (docs/performance.md). Settings of the user stay.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


class Stopped(Exception):
    """A signal asked the run to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
