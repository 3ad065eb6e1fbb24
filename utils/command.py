"""Run a command: its exit code, and one sentence for an error."""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout

from tqdm.utils import ObjectWrapper

from utils.errors import InputError, one_line, printable
from utils.imports import pause_garbage_collection, resume_garbage_collection
from utils.process import Stopped, current_rank, exit_on_interrupt, stop_on_signals, wait_briefly

traceback_flag: list[str] = []  # --traceback, if this command has it; its child commands get it too


def remember_traceback(argv: Sequence[str]) -> None:
    """Remember until the end of the command whether its command line has ``--traceback``."""
    if "--traceback" in argv:
        traceback_flag[:] = ["--traceback"]


def show_traceback(error: Exception) -> None:
    """Print the traceback of an error that becomes one sentence, if the command line has ``--traceback``."""
    if traceback_flag:
        traceback.print_exception(error)


class SafeOutput(ObjectWrapper):
    """A stream that escapes control characters, because file names and checkpoints may come from strangers.

    tqdm compares the streams inside such wrappers, so it still hides its bars while a line is printed.
    """

    def write(self, text: str) -> int:
        """Write a text, escaped."""
        return self._wrapped.write(printable(text))

    def close(self) -> None:
        """Keep the stream open: absl's log handler closes what was standard error when absl was imported."""


def run_command(
    program: str, work: Callable[[], int | None], less_memory: str, how_to_continue: Callable[[], str] = lambda: ""
) -> int:
    """Run a command, and turn errors that the user can fix into one sentence on standard error.

    With ``--traceback`` on the command line, the traceback of such an error is printed first. Control characters in
    printed text are escaped, except in progress bars. Only rank 0 prints to standard output.

    Args:
        program: the command's name, printed before each sentence.
        work: the command; may return an exit code.
        less_memory: what to try if the memory runs out.
        how_to_continue: returns the text to append after an interruption or a killed worker process.

    Returns:
        0, or the value of `work`; 2 for an error that the user can fix; 130 for Ctrl-C; 128 + N for a signal N.
    """
    resume_garbage_collection()
    hook, threading.excepthook = threading.excepthook, _report_thread
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(SafeOutput(nowhere if current_rank() else sys.stdout)):
            with redirect_stderr(SafeOutput(sys.stderr)), stop_on_signals() as end:
                return _run(program, work, end, less_memory, how_to_continue)
    finally:
        threading.excepthook = hook
        traceback_flag.clear()


def _report_thread(failed: threading.ExceptHookArgs) -> None:
    if isinstance(failed.exc_value, OSError):  # such as a full disk in TensorBoard's thread
        print(f"warning: {_describe(failed.exc_value)}", file=sys.stderr, flush=True)
    else:
        threading.__excepthook__(failed)


def _describe(error: OSError) -> str:
    where = f"{one_line(error.filename)}: " if error.filename else ""
    return f"{where}{error.strerror or error}."


def _run(
    program: str,
    work: Callable[[], int | None],
    ignore_signals: Callable[[], None],
    less_memory: str,
    how_to_continue: Callable[[], str],
) -> int:
    rank = current_rank()
    try:
        try:
            return work() or 0
        finally:
            ignore_signals()  # after one process died, torchrun sends SIGTERM to the others, which print errors too
    except InputError as error:
        caught: Exception = error
        sentence = one_line(error)
    except OSError as error:
        caught = error
        sentence = _describe(error)
    except (MemoryError, RuntimeError) as error:
        from utils.devices import is_out_of_memory  # imports PyTorch
        from utils.world import is_lost_connection

        caught = error
        if "DataLoader worker" in str(error):  # PyTorch has no exception class for it
            sentence = (
                "a data loading process was killed, usually because memory ran out (in a container, shared "
                f"memory: --shm-size); try fewer --num_workers or {less_memory}{how_to_continue()}."
            )
        elif isinstance(error, MemoryError) or is_out_of_memory(error):
            sentence = f"out of memory; try {less_memory}."
        elif is_lost_connection(error):
            sentence = (
                f"another process of this run has ended; the messages above and below say which{how_to_continue()}."
            )
        else:
            raise
    except Stopped as stop:
        if rank == 0:
            print(f"{program}: stopped by {stop}{how_to_continue()}", file=sys.stderr)
        return 128 + stop.number
    except KeyboardInterrupt:
        print(f"{program}: interrupted{how_to_continue()}", file=sys.stderr)
        return 130
    if rank:
        # If rank 0 fails for the same reason, it says so, and torchrun ends this process within these seconds.
        time.sleep(3)
        program = f"{program}: rank {rank}"
    show_traceback(caught)
    del caught  # its traceback holds this frame: the cycle would keep the memory of `work`
    print(f"{program}: error: {sentence}", file=sys.stderr)
    return 2


def check_command_line(program: str, parse: Callable[[], object]) -> None:
    """Print the help or an error and exit; return if the command line is right.

    A command calls this before its slow imports, and parses again when it runs. This function also sets how threads
    wait. During the imports, Ctrl-C prints one sentence and ends the process, and the garbage collector is paused.

    Args:
        program: the command's name.
        parse: parses and checks the command line.
    """
    wait_briefly()

    def work() -> None:
        parse()

    if code := run_command(program, work, less_memory=""):
        sys.exit(code)
    exit_on_interrupt("__main__", program)
    pause_garbage_collection()
