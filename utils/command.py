"""How a command ends: its exit code, and one sentence for what went wrong."""

import sys
from collections.abc import Callable

from utils.devices import is_out_of_memory
from utils.errors import InputError, one_line


def exit_code(
    program: str, work: Callable[[], int | None], less_memory: str, how_to_go_on: Callable[[], str] = lambda: ""
) -> int:
    """Do the work of a command line.

    Args:
        program: its name, which stands before every sentence.
        work: what it does; may return another exit code than 0.
        less_memory: what to try where the memory is too small.
        how_to_go_on: after an interruption or a killed process, what to add to the sentence.

    Returns:
        0, or what `work` returns; 2 for what the user can mend, said in one sentence on standard error; 130 for an
        interruption.
    """
    try:
        return work() or 0
    except InputError as error:
        print(f"{program}: error: {one_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{one_line(error.filename)}: " if error.filename else ""
        print(f"{program}: error: {where}{error.strerror or error}.", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if "DataLoader worker" in str(error):  # PyTorch has no class of its own for it
            cause = "a loading process was killed, most often for want of memory (in a container: of shared memory, "
            advice = f"--shm-size); try fewer --num_workers or {less_memory}{how_to_go_on()}"
            print(f"{program}: error: {cause}{advice}.", file=sys.stderr)
            return 2
        if not is_out_of_memory(error):
            raise
        print(f"{program}: error: the memory is too small; try {less_memory}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted{how_to_go_on()}", file=sys.stderr)
        return 130
