"""Command lines declared by a dataclass."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from utils import parsing as parse
from utils.errors import InputError


@dataclass(kw_only=True)
class Example:
    paths: list[Path] = parse.positional(parse.path, "files", "*")
    model: Path = parse.required(parse.path, "a checkpoint")
    json: Path | None = parse.argument(None, parse.path, "a file")
    evidence: bool = parse.argument(False, parse.boolean, "draw heatmaps")
    scales: list[float] = parse.argument([1.0, 2.0], parse.scales, "weights", "loss")


def read(line: str) -> Example:
    return parse.Parser("example.py", "An example.", Example).parse(line.split())


def test_values_and_defaults() -> None:
    args = read("--model m --scales [3,4,5]")
    assert args == Example(paths=[], model=Path("m"), json=None, evidence=False, scales=[3, 4, 5])
    assert read("--model m").scales is not read("--model m").scales


@pytest.mark.parametrize(
    ("line", "evidence"),
    [
        ("--evidence", True),
        ("--evidence a b", True),
        ("a --evidence b", True),
        ("--evidence True a b", True),
        ("--evidence=False a b", False),
        ("--evidence False a b", False),
        ("a --json x b", False),
    ],
)
def test_paths_may_follow_any_flag(line: str, evidence: bool) -> None:
    args = read(f"--model m {line}")
    assert args.evidence is evidence
    assert args.paths in ([], [Path("a"), Path("b")]) and (args.json is None or args.json == Path("x"))


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "--model"),
        ("--model m --evidense", "--evidence"),
        ("--model m --scales 1,2", "--scales"),
        ("--model https://example.org/a.pth", "https://example.org/a.pth"),
        ("--model=", "--model"),
    ],
)
def test_wrong_input_names_the_flag(line: str, named: str) -> None:
    with pytest.raises(InputError) as caught:
        read(line)
    assert named in str(caught.value) and "example.py --help" in str(caught.value)


def test_help_shows_groups_defaults_and_traceback(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        read("--help")
    text = capsys.readouterr().out
    assert "(default: 1.0,2.0)" in text and "\nloss:\n" in text and "--traceback" in text and "True|False" in text
