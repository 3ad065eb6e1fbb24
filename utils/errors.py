"""The one exception for what a user can mend, and how to word it: what is missing, what was meant."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class InputError(Exception):
    """Something given to the program is wrong.

    The message is one sentence that says what is wrong, where, and what to do. The command line prints
    it on standard error and exits with code 2.
    """


@contextmanager
def require_package(package: str, by: str) -> Iterator[None]:
    """Import inside a package of requirements-extra.txt, which not everybody has installed.

    Args:
        package: its name.
        by: what needs it, such as an argument of the command.

    Raises:
        InputError: an import inside fails.
    """
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"{package} is needed by {by}, and not installed: pip install --no-deps -r requirements-extra.txt"
        ) from error


def one_line(name: object) -> str:
    """Return what can be printed of a name or a sentence, which may hold line breaks and bytes that are no text."""
    return " ".join(str(name).encode("utf-8", "backslashreplace").decode().splitlines())


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return ``"; did you mean 'X'?"`` for the valid name nearest to `name`, or a full stop where none is near."""
    lower = {v.lower(): v for v in valid}
    near = get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    return f"; did you mean '{lower[near[0]]}'?" if near else "."


def first_ten(items: list[str], separator: str = ", ") -> str:
    """Join the first ten of `items` and say how many more there are."""
    more = f"{separator}and {len(items) - 10} more" if len(items) > 10 else ""
    return separator.join(items[:10]) + more
