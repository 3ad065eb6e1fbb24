"""The one exception for what a user can mend, and the search for the name that was meant."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(Exception):
    """Something given to the program is wrong.

    The message is one sentence that says what is wrong, where, and what to do. The command line prints
    it on standard error and exits with code 2.
    """


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return ``"; did you mean 'X'?"`` for the valid name nearest to `name`, or a full stop where none is near."""
    lower = {v.lower(): v for v in valid}
    near = get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    return f"; did you mean '{lower[near[0]]}'?" if near else "."


def first_ten(items: list[str], separator: str = ", ") -> str:
    """Join the first ten of `items` and say how many more there are."""
    more = f"{separator}and {len(items) - 10} more" if len(items) > 10 else ""
    return separator.join(items[:10]) + more
