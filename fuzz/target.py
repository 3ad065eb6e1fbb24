"""What the fuzzer runs: a target reads random bytes, and must answer or refuse them in one sentence."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from utils.errors import InputError, one_line

MODULES = ("texts",)  # the modules of this package that have TARGETS: dict[str, Target]
LONGEST_SENTENCE = 4000  # characters; a longer message repeats the input instead of naming the mistake

# Pieces that break readers: controls, byte order marks, lone surrogates, numbers without a value, deep nesting.
HOSTILE = (
    b"", b"\0", b"\r", b"\r\n", b"\n", b"\t", b",", b'"', b"'", b"\\", b"/", b"..", b"\xff", b"\xc3", b"\xef\xbb\xbf",
    b"\xff\xfe", b"\xed\xb2\x80", b"\\ud800", "é\u2028\u202e".encode(), b"\x1b[2J", b"%s", b"{}", b"[]", b"null",
    b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"9" * 5000, b"\xff\xff\xff\xff", b"\x7f" * 8, b"A" * 5000,
    b"[" * 3000, b'{"a":' * 3000,
)  # fmt: skip


class Target(NamedTuple):
    """A reader of input from outside.

    Attributes:
        seeds: returns a few small valid inputs.
        check: gets the bytes and an empty folder; returns True if the reader answered, and False if it refused the
            bytes in one sentence; raises anything else.
        examples: number of cases in the tests: 300, or fewer if a case takes more than 5 ms.
    """

    seeds: Callable[[], list[bytes]]
    check: Callable[[bytes, Path], bool]
    examples: int = 300


def find_targets() -> dict[str, Target]:
    """Return the targets of all modules by name."""
    return {name: target for module in MODULES for name, target in import_module(f"fuzz.{module}").TARGETS.items()}


def answers(work: Callable[[], object]) -> bool:
    """Run a reader; return True if it returns, and False if it raises InputError with one sentence of bearable length.

    Raises:
        AssertionError: the message is empty or too long.
    """
    try:
        work()
    except InputError as error:
        sentence = one_line(error)
        assert sentence.strip(), "an empty message"
        assert len(sentence) <= LONGEST_SENTENCE, f"a message of {len(sentence)} characters: {sentence[:200]}"
        return False
    return True


def mutate(content: bytes, kind: str, at: float, length: int, piece: bytes) -> bytes:
    """Damage bytes in one place.

    Args:
        content: the bytes.
        kind: cut (keep what is before the place), remove, flip (one bit), replace, insert, or repeat.
        at: the place as a share of the length, 0 to 1.
        length: number of bytes to remove, replace or repeat; for flip, the number of the bit.
        piece: the bytes to insert, or to put in place of others.
    """
    start = int(at * len(content))
    before, chosen, after = content[:start], content[start : start + length], content[start + length :]
    if kind == "cut":
        return before
    if kind == "remove":
        return before + after
    if kind == "flip":
        return before + bytes(byte ^ 1 << length % 8 for byte in content[start : start + 1]) + content[start + 1 :]
    if kind == "replace":
        return before + piece + after
    if kind == "insert":
        return before + piece + chosen + after
    return before + chosen * 3 + after


def mutations(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Return a hypothesis strategy of damaged seeds: up to 5 edits each, with pieces of other seeds too."""
    slices = st.builds(
        lambda seed, at, length: seed[int(at * len(seed)) :][:length],
        st.sampled_from(seeds), st.floats(0, 1), st.integers(1, 64),
    )  # fmt: skip
    edits = st.tuples(
        st.sampled_from(("cut", "remove", "flip", "replace", "insert", "repeat")),
        st.floats(0, 1),
        st.integers(0, 64),
        st.one_of(st.sampled_from(HOSTILE), st.binary(max_size=16), slices),
    )

    def apply(seed: bytes, changes: list[tuple[str, float, int, bytes]]) -> bytes:
        for change in changes:
            seed = mutate(seed, *change)
        return seed

    return st.builds(apply, st.sampled_from(seeds), st.lists(edits, max_size=5))
