"""Progress bars: live on a terminal, a line a minute in a log file."""

import sys
import time
from collections.abc import Iterable
from typing import Any, TypeVar, overload

from tqdm import tqdm

from utils.errors import printable

Item = TypeVar("Item")
LINE_INTERVAL = 60  # in seconds, in a log file


class _Lines(tqdm):
    """A progress bar that prints complete lines, without the control characters that redraw a bar."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._printed = time.monotonic()
        super().__init__(*args, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print a line if the last one is a minute old."""
        if time.monotonic() - self._printed >= LINE_INTERVAL:
            self._printed = time.monotonic()
            print(self, file=self.fp, flush=True)

    def clear(self, nolock: bool = False) -> None:
        """Do nothing: there is no bar to clear."""

    def close(self) -> None:
        """End the bar without a last line."""
        self.leave, self.sp = False, None  # tqdm then writes nothing
        super().close()


@overload
def progress(items: None, description: str | None = ..., *, unit: str, **options: Any) -> "tqdm[Any]": ...
@overload
def progress(items: Iterable[Item], description: str | None = ..., *, unit: str, **options: Any) -> "tqdm[Item]": ...
def progress(items: Iterable[Any] | None, description: str | None = None, *, unit: str, **options: Any) -> "tqdm[Any]":
    """Make a progress bar on standard error.

    Args:
        items: what to iterate over; None for a bar that the caller moves with ``update``.
        description: printed before the bar, without control characters.
        unit: what is counted, in the plural, such as ``images``.
        options: passed to tqdm, such as ``total``; ``leave`` defaults to False.
    """
    live = sys.stderr.isatty()
    endless = options.get("total") is None and not hasattr(items, "__len__")
    counted, times = (
        ("{n_fmt}{unit}", "{elapsed}") if endless else ("{n_fmt}/{total_fmt}{unit}", "{elapsed}<{remaining}")
    )
    bar = "{l_bar}{bar}| " if live and not endless else "{desc}: "
    return (tqdm if live else _Lines)(
        items,
        desc=description and printable(description),
        file=getattr(sys.stderr, "_wrapped", sys.stderr),  # `utils.command.SafeOutput` would escape what moves the bar
        unit=f" {unit}",
        bar_format=f"{bar}{counted} [{times}, {{rate_noinv_fmt}}{{postfix}}]",  # never seconds per item
        **{"leave": False, "mininterval": 0.5, "dynamic_ncols": True, **options},
    )
