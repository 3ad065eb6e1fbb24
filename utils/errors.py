"""The exception for wrong input, and the wording of its messages."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class InputError(Exception):
    """An argument, a file or a setting is wrong, and the user can fix it.

    The message is one sentence: what is wrong, where, and what to do. The command line prints it on standard error and
    exits with code 2.
    """


@contextmanager
def require_package(package: str, by: str) -> Iterator[None]:
    """Turn a failed import inside the block into a sentence that says how to install the package.

    Args:
        package: the name of an optional package.
        by: what needs the package, such as a flag.

    Raises:
        InputError: an import inside the block fails.
    """
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"{by} needs {package}, which is not installed: pip install --no-deps -r requirements-extra.txt"
        ) from error


def one_line(text: object) -> str:
    """Return a name or message as one printable line, with control characters and invalid bytes escaped.

    Control characters in the name of a file could move the cursor, turn the text around, or hide a part of it.
    """
    line = " ".join(str(text).splitlines())
    return re.sub(
        r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", lambda match: ascii(match[0])[1:-1], line
    )


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return ``"; did you mean 'X'?"`` with the valid name nearest to `name`, or a full stop if none is near."""
    lower = {v.lower(): v for v in valid}
    near = get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    return f"; did you mean '{lower[near[0]]}'?" if near else "."


def first_ten(items: list[str], separator: str = ", ") -> str:
    """Join the first ten items, and say how many more there are."""
    more = f"{separator}and {len(items) - 10} more" if len(items) > 10 else ""
    return separator.join(items[:10]) + more
