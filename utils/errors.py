"""The exception for wrong input, and the wording of its messages."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

# What moves the cursor, rings, hides text or changes its direction (Unicode's control and bidirectional characters),
# and bytes of file names that are not UTF-8. Line breaks and tabs stay.
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


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


def printable(text: str) -> str:
    """Return a text whose control characters are escaped, such as ``\\x1b``; a terminal would obey them."""
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: object) -> str:
    """Return a name or message as one printable line, with control characters and invalid bytes escaped."""
    return " ".join(printable(str(text)).splitlines()).replace("\t", "\\t")


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return ``"; did you mean 'X'?"`` with the valid name nearest to `name`, or a full stop if none is near."""
    lower = {v.lower(): v for v in valid}
    near = get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    return f"; did you mean '{lower[near[0]]}'?" if near else "."


def first_ten(items: list[str], separator: str = ", ") -> str:
    """Join the first ten items, and say how many more there are."""
    more = f"{separator}and {len(items) - 10} more" if len(items) > 10 else ""
    return separator.join(items[:10]) + more
