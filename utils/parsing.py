"""Command lines: a dataclass declares the arguments, and a parser fills it; each error is one sentence."""

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from utils.command import remember_traceback
from utils.errors import InputError, did_you_mean

Arguments = TypeVar("Arguments")  # a dataclass whose fields are made by `argument` and `positional`

# What other projects call these flags, where the spelling alone would suggest another flag; without - and _.
USUAL_NAMES = {
    "batchsize": "--bs",
    "testbatchsize": "--test_bs",
    "learningrate": "--lr",
    "device": "--gpu_num",
    "resume": "--resume_model",
    "checkpoint": "--resume_model",
}

# Help texts of flags that several commands have.
GPU_NUM_TEXT = "GPU numbers such as 0,1, or cpu (default: all GPUs, or the CPU if there are none)"
ERROR_TEXT = (
    "maximum false positive rate and false negative rate of the verdicts (0 to 1); a score between the two cutoffs is "
    "uncertain"
)
MODEL_TEXT = (
    "checkpoint of training.py or of the authors' release, folder of a shared model, or its name on the Hugging Face "
    "hub: user/model or user/model@revision"
)
VIDEO_SCORE_TEXT = (
    "how frame scores combine into the video score: mean, max, or topK such as top5 (mean of the K highest)"
)
GROUP_BY_TEXT = (
    "regular expression on a fake video's path; its first capture group, or else the match, names the manipulation"
)


def argument(default: Any, parse: Callable[[str], Any], text: str, group: str = "") -> Any:
    """Declare a field of a dataclass as the command-line flag of the same name.

    Args:
        default: the value when the flag is absent.
        parse: turns the flag's text into the value; raises `argparse.ArgumentTypeError` for invalid text.
        text: the help text, without the default.
        group: the heading of ``--help`` that the flag is listed under.
    """
    metadata = {"parse": parse, "text": text, "group": group}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def required(parse: Callable[[str], Any], text: str, group: str = "") -> Any:
    """Declare a field of a dataclass as a command-line flag that must be given."""
    return field(metadata={"parse": parse, "text": text, "group": group})


def positional(parse: Callable[[str], Any], text: str, count: str | None = None) -> Any:
    """Declare a field of a dataclass as a positional argument; `count` is argparse's ``nargs``."""
    return field(metadata={"parse": parse, "text": text, "group": "", "count": count, "positional": True})


def default_of(item: Field[Any]) -> Any:
    """Return the default of a field; `dataclasses.MISSING` if the argument is required."""
    return item.default if item.default_factory is MISSING else item.default_factory()


def show_default(value: Any) -> str:
    """Format a default as a user types it; return an empty string if there is nothing to show."""
    if value is MISSING or value is None or value == {}:
        return ""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


class Parser(argparse.ArgumentParser, Generic[Arguments]):
    """An argparse parser whose flags are the fields of a dataclass.

    Args:
        program: the command as the user types it after ``python``, such as ``training.py``.
        description: the text above the flags in ``--help``.
        arguments: the dataclass, with fields made by `argument` and `positional`.
    """

    def __init__(self, program: str, description: str | None, arguments: type[Arguments]) -> None:
        super().__init__(
            prog=f"python {program}",
            description=description,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=110),
        )
        self.arguments = arguments
        self.add_argument("--traceback", action="store_true", help="show the Python traceback of an error")
        self.items = fields(arguments)  # type: ignore[arg-type]  # mypy has no bound for "a dataclass"
        groups: dict[str, Any] = {"": self}
        for item in self.items:
            metadata = item.metadata
            if metadata.get("positional"):
                name = item.name.upper()
                self.add_argument(
                    item.name, type=metadata["parse"], nargs=metadata["count"], metavar=name, help=metadata["text"]
                )
                continue
            if metadata["group"] not in groups:
                groups[metadata["group"]] = self.add_argument_group(metadata["group"])
            options: dict[str, Any] = {"metavar": item.name.upper()}
            if metadata["parse"] is boolean:
                options = {"metavar": "True|False", "nargs": "?", "const": True}
            default = default_of(item)
            shown = show_default(default)
            groups[metadata["group"]].add_argument(
                f"--{item.name}",
                default=default,
                required=default is MISSING,
                type=metadata["parse"],
                help=metadata["text"] + (f" (default: {shown})" if shown else ""),
                **options,
            )

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage."""
        raise InputError(f"{message} ({self.prog} --help lists all arguments)")

    def parse(self, argv: Sequence[str] | None, defaults: Mapping[str, Any] | None = None) -> Arguments:
        """Parse a command line.

        Args:
            argv: the arguments; None for ``sys.argv[1:]``.
            defaults: replace the dataclass's defaults.

        Raises:
            InputError: an unknown argument or a value that cannot be parsed.
        """
        self.set_defaults(**(defaults or {}))
        parts = list(sys.argv[1:] if argv is None else argv)
        remember_traceback(parts)
        if any(item.metadata.get("positional") for item in self.items):
            # The word after a boolean flag may be a positional argument instead of its value.
            flags = {f"--{item.name}" for item in self.items if item.metadata["parse"] is boolean}
            for i, part in enumerate(parts):
                if part in flags and "".join(parts[i + 1 : i + 2]).lower() not in ("true", "false"):
                    parts[i] = f"{part}=True"
            namespace, unknown = self.parse_known_intermixed_args(parts)
        else:
            namespace, unknown = self.parse_known_args(parts)
        if unknown:
            flag = unknown[0].split("=")[0]
            meant = USUAL_NAMES.get(re.sub("[-_]", "", flag).lower(), flag)
            self.error(f"unknown argument {flag}{did_you_mean(meant, self._option_string_actions)}")
        values = vars(namespace)
        del values["traceback"]  # see `remember_traceback`
        return self.arguments(**values)


# -------------------------------------------------------------------------------------------------- text to values


def boolean(text: str) -> bool:
    """Parse True or False."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{text}' is neither True nor False")
    return text.lower() == "true"


def number(kind: type, low: float, exclusive: bool = False, high: float = 1e9) -> Callable[[str], Any]:
    """Return a parser of numbers.

    Args:
        kind: int or float.
        low: smallest valid number.
        exclusive: whether `low` itself is invalid.
        high: largest valid number.
    """

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (exclusive and value == low):
            what = "an integer" if kind is int else "a number"
            limit = "1e9" if high == 1e9 else f"{high:g}"
            limits = f"above {low:g}, up to {limit}" if exclusive else f"from {low:g} to {limit}"
            raise argparse.ArgumentTypeError(f"'{text[:40]}' is not {what} {limits}")
        return value

    return parse


count = number(int, 1)
count_or_zero = number(int, 0)
positive = number(float, 0, exclusive=True)
share = number(float, 0, high=1)

# Checkpoints must keep these limits too, so that the networks and crops of a stranger's checkpoint fit into memory.
MAX_SIZE = 2048  # pixels, side of the network's input and of face crops
MAX_MARGIN = 10  # side of a face crop divided by the side of the face box
size = number(int, 2, high=MAX_SIZE)
crop_size = number(int, 0, high=MAX_SIZE)
margin = number(float, 0, exclusive=True, high=MAX_MARGIN)


def one_of(*valid: str) -> Callable[[str], str]:
    """Return a parser that accepts one of the names."""

    def parse(text: str) -> str:
        if text not in valid:
            raise argparse.ArgumentTypeError(
                f"unknown value '{text}'{did_you_mean(text, valid)} Give {' or '.join(valid)}"
            )
        return text

    return parse


def path(text: str) -> Path:
    """Parse a path; reject an empty one (an unset shell variable) and a URL."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path; give . for the current folder")
    if re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE):
        raise argparse.ArgumentTypeError(f"'{text}' is a URL; give the path of a file or folder on this machine")
    return Path(text)


def pretrained(text: str) -> bool | Path:
    """Parse True, False or a file."""
    return text.lower() == "true" if text.lower() in ("true", "false") else path(text)


def oversample(text: str) -> str:
    """Parse paper, auto or a positive integer."""
    if text not in ("paper", "auto") and not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is not paper, auto or a positive integer")
    return text


def video_score(text: str) -> str:
    """Parse mean, max, or topK with K >= 1."""
    if not re.fullmatch("mean|max|top[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not mean, max, or topK such as top5")
    return text


def pattern(text: str) -> str:
    """Parse a regular expression that is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("an empty regular expression; leave the flag out")
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a regular expression: {error}") from None
    return text


def scales(text: str) -> list[float]:
    """Parse three positive numbers, with or without brackets."""
    try:
        values = [positive(part) for part in text.strip().strip("[]()").split(",")]
    except argparse.ArgumentTypeError:
        values = []
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"'{text}' is not three positive numbers such as 1,2,10")
    return values


def names(text: str) -> list[str]:
    """Parse a comma-separated list of different names."""
    found = [part.strip() for part in text.split(",")]
    if "" in found or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"'{text}' is not a comma-separated list of different names")
    return found


def some_of(kind: str, valid: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a parser of a comma-separated list of different names from `valid`; `kind` is the noun for messages."""
    known = list(valid)

    def parse(text: str) -> list[str]:
        found = names(text)
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(
                f"unknown {kind} '{unknown[0]}'{did_you_mean(unknown[0], known)} Choose from {','.join(known)}"
            )
        return found

    return parse


def folder_name(text: str) -> str:
    """Parse the name of one folder."""
    if text != Path(text).name or text in ("", ".", ".."):
        raise argparse.ArgumentTypeError(f"'{text}' is not a plain folder name (no / in it)")
    return text


def plain_arguments(args: Any) -> dict[str, Any]:
    """Return the fields of a dataclass of arguments as JSON values, for args.json and for checkpoints."""
    return json.loads(json.dumps(vars(args), default=str))
