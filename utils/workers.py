"""Worker processes of data loaders."""

import signal
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import cv2
from torch.utils.data import DataLoader

from utils.process import CAUGHT_SIGNALS, STOP_SIGNALS, block_signals


def init_worker(_: int) -> None:
    """Prepare a worker process: OpenCV uses one thread, not one per core, and signals are left to the main process.

    A terminal, torchrun or SLURM signals every process of a run. A worker that obeyed would take away the batch that
    the main process still waits for. On SIGTERM, a worker gives the main process half a minute to end first.
    """
    cv2.setNumThreads(0)
    sys.excepthook = _report_unless_disconnected
    for number in (*STOP_SIGNALS, *CAUGHT_SIGNALS):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(30))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # blocked by `iterate`


def _report_unless_disconnected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error of a worker; when the main process ends, the thread that shares tensors loses its connection."""
    if not issubclass(kind, ConnectionError):
        sys.__excepthook__(kind, error, trace)


def iterate(loader: DataLoader) -> Iterator[Any]:
    """Iterate over `loader` once; its worker processes leave signals to this process.

    Signals are blocked while the workers start: they inherit the block until `init_worker`, and no signal is lost
    between two forks.

    Yields:
        The batches.

    Raises:
        RuntimeError: a worker process died.
    """
    with block_signals(signal.SIGINT, *CAUGHT_SIGNALS):
        return _batches(iter(loader))


def _batches(batches: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from batches
    except (ConnectionError, EOFError) as error:
        # The connection to a killed worker breaks a moment before PyTorch notices and raises its own, clearer error
        # from a signal handler. Waiting here keeps that error out of the caller's cleanup.
        time.sleep(5)
        raise RuntimeError("DataLoader worker is killed: its connection broke") from error  # PyTorch raised nothing
