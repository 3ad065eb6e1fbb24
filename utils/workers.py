"""Worker processes of data loaders."""

import signal
import time
from collections.abc import Iterator
from typing import Any

import cv2
from torch.utils.data import DataLoader


def start_worker(_: int) -> None:
    """Limit a loader's worker process to one thread; OpenCV would start one per core."""
    cv2.setNumThreads(0)


def iterate(loader: DataLoader) -> Iterator[Any]:
    """Iterate over `loader` once; its worker processes ignore Ctrl-C.

    The workers inherit the blocked signal, and no interruption falls between the forks, where Python would lose it.

    Yields:
        The batches. If a worker process dies, PyTorch's RuntimeError is raised instead.
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
        # The connection to a killed worker breaks a moment before PyTorch notices and raises its own, clearer error
        # from a signal handler. Waiting here keeps that error out of the caller's cleanup.
        time.sleep(5)
        raise
