"""This process of a run: its rank, the signals that stop it, and how its threads wait."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SPINS = 3_000  # tests for work before a thread of PyTorch sleeps
CAUGHT_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
STOP_SIGNALS = [signal.SIGINT, *CAUGHT_SIGNALS]
STOP_SIGNALS += [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


def current_rank() -> int:
    """Return the rank of this process, from 0."""
    return int(os.environ.get("RANK", 0))


def launcher() -> str:
    """Return the start of a command line for as many processes as this run has: python, or torchrun with options."""
    size, local_size = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    return "python" if size == 1 else f"torchrun --nnodes {size // local_size} --nproc_per_node {local_size}"


def wait_briefly() -> None:
    """Let the threads of PyTorch sleep after a short wait; call it before PyTorch is imported.

    By default GNU's OpenMP tests 300,000 times whether there is work, and so takes the cores from another training on
    this machine (docs/performance.md). Environment variables of the user have priority.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


class Stopped(BaseException):
    """A signal asked the run to stop. Like KeyboardInterrupt, it passes through ``except Exception``."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], None]]:
    """Raise `Stopped` on SIGTERM and on SIGHUP inside the block, so that temporary files are removed.

    A second signal is ignored: it must not interrupt the removal. Handlers of the caller, such as submitit's, stay.
    Inside the block, Ctrl-C raises KeyboardInterrupt, even after `exit_on_interrupt`.

    Yields:
        A function that ignores the signals until the end of the block.
    """

    def ignore() -> None:
        for caught in before:
            signal.signal(caught, lambda *_: None)

    def stop(number: int, _: object) -> None:
        ignore()
        raise Stopped(number)

    before: list[int] = []
    if threading.current_thread() is threading.main_thread():
        before = [n for n in CAUGHT_SIGNALS if signal.getsignal(n) is signal.SIG_DFL]
        for number in before:
            signal.signal(number, stop)
        if isinstance(signal.getsignal(signal.SIGINT), _Exit):
            signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield ignore
    finally:
        for number in before:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def block_signals(*numbers: int) -> Iterator[None]:
    """Let signals wait until the end of the block; processes that start inside inherit the block for good."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Exit:
    """End the process with one sentence: an exception in an import becomes a traceback, or gets lost."""

    def __init__(self, program: str) -> None:
        self.program = program

    def __call__(self, *_: object) -> None:
        if current_rank() == 0:
            print(f"{self.program}: interrupted", file=sys.stderr, flush=True)
        os._exit(130)


def exit_on_interrupt(module: str, program: str) -> None:
    """Let Ctrl-C print one sentence and end the process with exit code 130, until `stop_on_signals`.

    A command calls this before its imports.

    Args:
        module: the caller's ``__name__``; if it is not the program that was started, nothing happens.
        program: the command's name.
    """
    if module == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _Exit(program))
