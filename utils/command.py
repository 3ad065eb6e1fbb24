"""How a command ends: its exit code, and one sentence for what went wrong."""

import sys
import traceback
from collections.abc import Callable

from utils.devices import is_out_of_memory
from utils.errors import InputError, one_line


def run_command(
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
        caught: Exception = error
        sentence = one_line(error)
    except OSError as error:
        caught = error
        where = f"{one_line(error.filename)}: " if error.filename else ""
        sentence = f"{where}{error.strerror or error}."
    except RuntimeError as error:
        caught = error
        if "DataLoader worker" in str(error):  # PyTorch has no exception class for it
            sentence = (
                "a loading process was killed, most often because the memory ran out (in a container, the shared "
                f"memory: --shm-size); try fewer --num_workers or {less_memory}{how_to_go_on()}."
            )
        elif is_out_of_memory(error):
            sentence = f"the memory is too small; try {less_memory}."
        else:
            raise
    except KeyboardInterrupt:
        print(f"{program}: interrupted{how_to_go_on()}", file=sys.stderr)
        return 130
    if "--traceback" in sys.argv:
        traceback.print_exception(caught)
    print(f"{program}: error: {sentence}", file=sys.stderr)
    return 2
