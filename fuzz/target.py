"""What the fuzzer runs: a target reads random bytes, and must answer or refuse them in one sentence."""

import io
import os
import re
import struct
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from utils.command import run_command

SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # in memory, folders are made and removed faster
MODULES = ("texts", "media", "models")  # the modules of this package that have TARGETS: dict[str, Target]

# Pieces that break readers: controls, byte order marks, lone surrogates, numbers without a value, deep nesting.
HOSTILE = (
    b"", b"\0", b"\r", b"\r\n", b"\n", b"\t", b",", b'"', b"'", b"\\", b"/", b"..", b"\xff", b"\xc3", b"\xef\xbb\xbf",
    b"\xff\xfe", b"\xed\xb2\x80", b"\\ud800", "é\u2028\u202e".encode(), b"\x1b[2J", b"%s", b"{}", b"[]", b"null",
    b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"9" * 5000, b"\xff\xff\xff\xff", b"\x7f" * 8, b"A" * 5000,
    b"[" * 3000, b'{"a":' * 3000, b"(" * 3000, b"a{99999999999}",
)  # fmt: skip


class Target(NamedTuple):
    """A reader of input from outside.

    Attributes:
        seeds: returns a few small valid inputs.
        check: gets the bytes and an empty folder; returns True if the reader answered, and False if it refused the
            bytes in one sentence; raises anything else.
    """

    seeds: Callable[[], list[bytes]]
    check: Callable[[bytes, Path], bool]


def find_targets() -> dict[str, Target]:
    """Return the targets of all modules by name."""
    return {name: target for module in MODULES for name, target in import_module(f"fuzz.{module}").TARGETS.items()}


def answers(work: Callable[[], object]) -> bool:
    """Run a reader as the commands do; return True if it ends, and False if it is refused in one sentence.

    Raises:
        AssertionError: the exit code is neither 0 nor 2, or the message is not one printable line.
        Exception: any exception that the commands would show with its traceback.
    """

    def run() -> None:
        work()

    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()  # strict, as a terminal
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code: object = run_command("fuzz", run, "less input")
        except SystemExit as stop:  # --help
            code = stop.code
    lines = err.getvalue().split("\n")[:-1]
    if code == 0:
        return True
    assert code == 2 and lines[-1].startswith("fuzz: error: "), f"exit code {code}: {lines}"
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", "".join(lines)), f"not printable: {lines}"
    assert len([line for line in lines if not line.startswith("note: ")]) == 1, f"more than one sentence: {lines}"
    return False


EDIT = struct.Struct(">BHBB")  # kind, place, length, piece


def mutate(seeds: list[bytes], program: bytes) -> bytes:
    """Return a damaged seed.

    Args:
        seeds: the valid inputs.
        program: what to do. The first byte chooses the seed; five bytes make an edit (most values make none): cut off
            the rest, remove, flip a bit, replace, insert or repeat, with a piece from `HOSTILE` or of a seed. Zeros
            leave the first seed as it is.
    """
    content = seeds[program[0] % len(seeds)] if program else seeds[0]
    for kind, place, length, piece in EDIT.iter_unpack(program[1 : 1 + len(program[1:]) // EDIT.size * EDIT.size]):
        start, length = place * len(content) >> 16, length % 32
        before, chosen, after = content[:start], content[start : start + length], content[start + length :]
        other = seeds[piece % len(seeds)]
        new = HOSTILE[piece // 2 % len(HOSTILE)] if piece % 2 else other[place % (len(other) + 1) :][: 2 * length]
        match kind % 16:
            case 10:
                content = before
            case 11:
                content = before + after
            case 12:
                content = before + bytes(byte ^ 1 << piece % 8 for byte in chosen[:1]) + chosen[1:] + after
            case 13:
                content = before + new + after
            case 14:
                content = before + new + chosen + after
            case 15:
                content = before + chosen * (2 + piece) + after
    return content


def mutations(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Return a hypothesis strategy of damaged seeds, with up to four edits each."""
    size = 1 + 4 * EDIT.size
    return st.binary(min_size=size, max_size=size).map(lambda program: mutate(seeds, program))
