"""Worker processes of loaders."""

import signal
from collections.abc import Iterator
from typing import Any

import cv2
from torch.utils.data import DataLoader


def start_worker(_: int) -> None:
    """Keep a loader's worker process to one thread; OpenCV would start as many as there are cores."""
    cv2.setNumThreads(0)


def start(loader: DataLoader) -> Iterator[Any]:
    """Start a pass over `loader`, whose worker processes leave Ctrl-C to this one.

    They inherit the blocked signal; and no interruption falls between the forks, where Python would lose it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        return iter(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
