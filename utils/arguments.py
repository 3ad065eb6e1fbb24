"""How the text of an argument becomes a value; every mistake is one sentence."""

import argparse
import json
import math
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from utils.errors import InputError, did_you_mean


class Parser(argparse.ArgumentParser):
    """argparse, with one sentence for an error and the nearest valid name for an unknown flag."""

    def __init__(self, prog: str, description: str) -> None:
        layout = partial(argparse.RawTextHelpFormatter, max_help_position=34)
        super().__init__(prog=prog, description=description, allow_abbrev=False, formatter_class=layout)

    def error(self, message: str) -> NoReturn:
        """Raise InputError in place of printing the usage."""
        raise InputError(f"{message} (python {self.prog.removeprefix('python ')} --help shows all arguments)")

    def parse_args(self, *args: Any, **kwargs: Any) -> argparse.Namespace:
        """Parse, and name what was probably meant by an unknown flag."""
        namespace, unknown = self.parse_known_args(*args, **kwargs)
        if unknown:
            flag = unknown[0].split("=")[0]
            self.error(f"unknown argument {flag}{did_you_mean(flag, self._option_string_actions)}")
        return namespace


def add(group: Any, flag: str, default: Any, kind: Callable[[str], Any], text: str) -> None:
    """Add an argument whose help shows its default."""
    shown = ",".join(map(str, default)) if isinstance(default, list) else default
    text += "" if default is None else f" (default: {shown})"
    metavar = "True|False" if kind is boolean else flag.lstrip("-").upper()
    group.add_argument(flag, default=default, type=kind, metavar=metavar, help=text)


def boolean(text: str) -> bool:
    """Parse True or False, and nothing else."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{text}' is neither True nor False")
    return text.lower() == "true"


def number(kind: type, low: float, exclusive: bool = False, high: float = 1e9) -> Callable[[str], Any]:
    """Return a parser of numbers from `low` (above it where exclusive) to `high`."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (exclusive and value == low):
            what = "a whole number" if kind is int else "a number"
            limit = "1e9" if high == 1e9 else f"{high:g}"
            raise argparse.ArgumentTypeError(
                f"'{text[:40]}' is not {what} {'above' if exclusive else 'from'} {low:g} (and up to {limit})"
            )
        return value

    return parse


def one_of(*valid: str) -> Callable[[str], str]:
    """Return a parser of one of the names."""

    def parse(text: str) -> str:
        if text not in valid:
            raise argparse.ArgumentTypeError(
                f"unknown value '{text}'{did_you_mean(text, valid)} Give {' or '.join(valid)}"
            )
        return text

    return parse


def path(text: str) -> Path:
    """Parse a path; nothing at all, as of a shell's variable that is not set, is not the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path; give . for the current folder")
    return Path(text)


def pretrained(text: str) -> bool | Path:
    """Parse True, False or a file."""
    return text.lower() == "true" if text.lower() in ("true", "false") else Path(text)


def oversample(text: str) -> str:
    """Parse paper, auto or a whole number from 1 up."""
    if text not in ("paper", "auto") and not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is not paper, auto or a whole number from 1 up")
    return text


def video_score(text: str) -> str:
    """Parse mean, max, or top with a number behind."""
    if not re.fullmatch("mean|max|top[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not mean, max, or top with a number such as top5")
    return text


def pattern(text: str) -> str:
    """Parse a regular expression that is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("an empty regular expression; leave it out")
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no regular expression: {error}") from None
    return text


def scales(text: str) -> list[float]:
    """Parse three positive numbers, with or without brackets."""
    try:
        values = [number(float, 0, exclusive=True)(part) for part in text.strip().strip("[]()").split(",")]
    except argparse.ArgumentTypeError:
        values = []
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"'{text}' is not three positive numbers such as [1,2,10]")
    return values


def names(text: str) -> list[str]:
    """Parse a comma list of different names."""
    found = [part.strip() for part in text.split(",")]
    if "" in found or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"'{text}' is not a comma list of different names")
    return found


def some_of(what: str, valid: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a parser of a comma list of different names out of `valid`; `what` says what one of them is."""

    def parse(text: str) -> list[str]:
        found = names(text)
        if unknown := [name for name in found if name not in valid]:
            raise argparse.ArgumentTypeError(
                f"unknown {what} '{unknown[0]}'{did_you_mean(unknown[0], valid)} Give some of {','.join(valid)}"
            )
        return found

    return parse


def folder_name(text: str) -> str:
    """Parse the name of one folder."""
    if text != Path(text).name or text in ("", ".", ".."):
        raise argparse.ArgumentTypeError(f"'{text}' is not a plain folder name")
    return text


def plain_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments as plain values, for args.json and for checkpoints."""
    return json.loads(json.dumps(vars(args), default=str))
