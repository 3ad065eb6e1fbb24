"""Progress bars: no control characters in a log file, and never seconds per item."""

import io

import pytest

from utils import progress as module
from utils.progress import progress


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_file_gets_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    monkeypatch.setattr(module, "LINE_INTERVAL", 0)
    bar = progress(None, "epoch 1", unit="images", total=4, mininterval=0)
    for _ in range(4):
        bar.update()
    bar.close()
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue() and "\x1b" not in log.getvalue()
    assert [line.split(" [")[0] for line in lines][-1] == "epoch 1: 4/4 images"


def test_a_log_file_gets_at_most_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    now = iter([0.0, *range(1, 1000)])  # a second for each look at the clock
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    for _ in progress(range(200), "test", unit="images", mininterval=0):
        pass
    assert 1 <= len(log.getvalue().splitlines()) <= 1000 / module.LINE_INTERVAL


def test_a_terminal_gets_a_bar_that_disappears(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    for _ in progress(range(3), "test", unit="images", mininterval=0, ncols=80, dynamic_ncols=False):
        pass
    assert "3/3 images" in screen.getvalue() and "\r" in screen.getvalue()
    assert screen.getvalue().rstrip(" ").endswith("\r")


@pytest.mark.parametrize("total", [None, 10])
def test_slow_work_is_shown_in_items_per_second(total: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Screen())
    bar = progress(None, "clip", unit="frames", total=total, initial=0)
    bar.n, bar.start_t = 1, bar._time() - 4
    assert "0.25 frames/s" in str(bar) and "s/ " not in str(bar)
    bar.close()
