"""Worker processes of loaders."""

import signal
import time
from collections.abc import Iterator
from typing import Any

import cv2
from torch.utils.data import DataLoader


def start_worker(_: int) -> None:
    """Keep a loader's worker process to one thread; OpenCV would start as many as there are cores."""
    cv2.setNumThreads(0)


def iterate(loader: DataLoader) -> Iterator[Any]:
    """Start a pass over `loader`, whose worker processes leave Ctrl-C to this one.

    They inherit the blocked signal; and no interruption falls between the forks, where Python would lose it.

    Returns:
        Its batches. Where a worker process dies, PyTorch's RuntimeError is raised in their place.
    """
    if not hasattr(signal, "pthread_sigmask"):
        return _batches(iter(loader))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return _batches(iter(loader))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _batches(loading: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from loading
    except (ConnectionError, EOFError):
        # The connection to a killed process breaks a moment before PyTorch learns of its death and raises its error,
        # by a signal, wherever this process then is. That shall be here, and not where somebody is clearing up.
        time.sleep(5)
        raise
