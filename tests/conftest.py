"""Fixtures and the order of the tests.

This file imports no large library at the top. The process that hands out the tests reads this file too, and would wait
for a library that it does not use.
"""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

# While the tests and libraries are imported, the garbage collector would take seconds and find nothing. Later, it would
# look through the imported objects for half a second each time, so pytest_collection_finish freezes them.
gc.disable()

# First, because it closes the log handlers of earlier imports, and with them the standard error of pytest.
with suppress(ImportError):
    import submitit  # noqa: F401

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores Ctrl-C
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a job under nohup ignores SIGHUP
# The files that take longest: they start first, so that no processor waits at the end. The order mixes files that
# compute with files that wait for SLURM, disks or a browser.
LONGEST = "fidelity cluster inference preprocessing interruptions fuzz world training page fast evidence faces".split()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return one process more than cores, because some tests mostly wait; at most 8, each of 1 GB or more."""
    return min((os.cpu_count() or 1) + 1, 8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def without_plots(request: pytest.FixtureRequest) -> Iterator[None]:
    """Draw neither the plots of report.html nor images for TensorBoard, except in the files that look at them.

    They are half of the work of a tiny training.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ not in ("tests.test_report", "tests.test_logs"):
            patch.setattr("utils.logs.TrainingLog.images", lambda *_: None)
            patch.setattr("evaluation.report.dataset_plots", lambda *_: [])
            patch.setattr("evaluation.report.training_curves", lambda *_: [])
        yield


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder with the dataset ``tiny``: 2 real and 2 fake videos of 3 frames in each split."""
    from tests.helpers import make_dataset

    make_dataset(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of 4 MB."""
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def command(tiny: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run ``python training.py`` on the tiny dataset, with more arguments, in a subprocess."""
    from tests.helpers import ROOT, arguments

    def run(*more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, str(ROOT / "training.py"), *arguments(tiny, "--model", "test_resnet", *more)],
            cwd=tiny,
            capture_output=True,
            text=True,
        )

    return run
