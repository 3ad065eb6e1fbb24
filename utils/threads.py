"""PyTorch's threads on a CPU: each on a core of its own."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch


@cache
def compute_threads(process: int) -> list[int]:
    """Start PyTorch's threads on the CPU. Call it before PyTorch computes.

    Args:
        process: the number of this process; a fork does not have the threads of its parent.

    Returns:
        The numbers that Linux gives to the main thread and to these threads; empty on other systems.
    """
    threads = Path("/proc/self/task")
    if not threads.is_dir():
        return []
    before = set(os.listdir(threads))
    torch.ones(1 << 20).add_(1)  # the first work for several threads starts them
    return [process, *sorted(map(int, set(os.listdir(threads)) - before))]


@contextmanager
def bound_threads() -> Iterator[None]:
    """Inside the block, bind each thread of PyTorch on the CPU to a core of its own.

    Without this, two trainings on one machine wait for each other (docs/performance.md). The block binds threads only
    on Linux, and only if there are as many threads as cores: with fewer threads, two trainings could take the same
    cores. Processes that start inside the block stay on the core of the main thread.
    """
    threads = compute_threads(os.getpid())
    cores = sorted(os.sched_getaffinity(0)) if threads else []
    if "OMP_PROC_BIND" in os.environ or not len(threads) == len(cores) == torch.get_num_threads():
        yield
        return
    start = secrets.randbelow(len(cores))  # the main threads of two trainings should not meet on one core
    places = dict(zip(threads, cores[start:] + cores[:start], strict=True))
    for thread, core in places.items():
        _move(thread, set(cores), {core})
    try:
        yield
    finally:
        for thread, core in places.items():
            _move(thread, {core}, set(cores))


def _move(thread: int, expected: set[int], cores: set[int]) -> None:
    """Bind a thread to `cores`. Leave it where it is if it is not on the expected cores: then the user has moved it."""
    with suppress(OSError):  # the system forbids it, or the core or the thread is gone
        if os.sched_getaffinity(thread) == expected:
            os.sched_setaffinity(thread, cores)
