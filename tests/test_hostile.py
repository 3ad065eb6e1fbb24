"""Files of strangers: they run no code, write nothing outside their folder, send no escapes and fit into memory."""

import csv
import html
import io
import json
import os
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tqdm import tqdm

from utils.command import run_command
from utils.errors import InputError, one_line
from utils.progress import progress

ROOT = Path(__file__).parent.parent
# Clear the screen, colour, ring, go back to the start of the line, C1 escape, reverse the direction of the text.
ESCAPES = "a\x1b[2J\x1b[31m\x07\r\x9b1m\u202egnp.exe"


def has_escapes(text: str) -> bool:
    return any(character in text for character in "\x1b\x07\r\x9b\u202e")


# ------------------------------------------------------------------------------------------------------- terminal


def test_a_command_prints_no_control_characters(capsys: pytest.CaptureFixture) -> None:
    def work() -> None:
        print(f"note: {ESCAPES}\n\tsecond line")
        print(f"warning: {ESCAPES} \udcff", file=sys.stderr)
        tqdm.write(ESCAPES)
        raise InputError(f"{ESCAPES}\nis wrong.")

    out, err = sys.stdout, sys.stderr
    assert run_command("program", work, "") == 2
    assert (sys.stdout, sys.stderr) == (out, err)
    printed = capsys.readouterr()
    for text in printed:
        assert not has_escapes(text) and text.count("\\x1b[2J") == 2 and "\\u202e" in text
    assert "\n\tsecond line\n" in printed.out and "\\udcff" in printed.err
    assert printed.err.endswith(" is wrong.\n")


def test_progress_bars_move_the_cursor_and_names_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)

    def work() -> None:
        with progress(None, ESCAPES, unit="frames", total=2, mininterval=0, ncols=90, dynamic_ncols=False) as bar:
            bar.update()
            with tqdm.external_write_mode():  # hides the bar, although the streams are wrapped
                assert screen.getvalue().endswith("\r")

    assert run_command("program", work, "") == 0
    shown = screen.getvalue()
    assert "\r" in shown and "a\\x1b[2J" in shown
    assert "\x1b[2J" not in shown and "\x07" not in shown and "\u202e" not in shown


def test_one_line() -> None:
    assert one_line("a\nb\x1bc\udcff \u200d\xa0\u00e9") == "a b\\x1bc\\udcff \u200d\xa0\u00e9"
