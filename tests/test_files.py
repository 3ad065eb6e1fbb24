"""Atomic writes: a file is complete or absent, with several writers, full disks and killed processes."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from utils.errors import InputError
from utils.files import atomic_write, remove_stale_parts, temporary_path

ANOTHER = os.getppid()  # the ID of another running process


@pytest.fixture
def ended() -> int:
    """The ID of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def part_of(pid: int, target: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pid)
        return temporary_path(target)


def test_two_processes_write_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.json"
    with atomic_write(target) as mine:
        mine.write_text("mine")
        theirs = part_of(ANOTHER, target, monkeypatch)
        theirs.write_text("half of th")
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: ANOTHER)
            with atomic_write(target) as part:
                assert part == theirs
                part.write_text("theirs")
        assert target.read_text() == "theirs" and mine.is_file()
    assert target.read_text() == "mine" and os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("name", ["a.json", "a [1].json"])
def test_a_write_removes_the_part_of_a_killed_process(
    tmp_path: Path, ended: int, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    target = tmp_path / name
    left = part_of(ended, target, monkeypatch)
    kept = [part_of(ANOTHER, target, monkeypatch), part_of(ended, tmp_path / "b.json", monkeypatch)]
    kept.append(left.with_name(left.name.replace(str(ended), "old")))
    for file in (left, *kept):
        file.write_text("half")
    with atomic_write(target) as part:
        part.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([target, *kept])


def test_stale_parts_of_a_folder(tmp_path: Path, ended: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (part_of(ended, tmp_path / name, monkeypatch) / "0").mkdir(parents=True)
    temporary_path(tmp_path / "c").mkdir()  # left by an earlier process with the same ID, as in a container
    part_of(ended, tmp_path / "d.json", monkeypatch).write_text("half")
    kept = part_of(ANOTHER, tmp_path / "a", monkeypatch)
    kept.mkdir()
    remove_stale_parts(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]
    remove_stale_parts(tmp_path / "missing")


def full_disk(part: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def full_disk_of_a_copy(part: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "source", None, str(part))


def no_folder(part: Path) -> None:
    shutil.rmtree(part.parent)
    part.write_text("x")


@pytest.mark.parametrize("fail", [full_disk, full_disk_of_a_copy, no_folder])
def test_a_failed_write_names_the_target(tmp_path: Path, fail: Callable[[Path], None]) -> None:
    target = tmp_path / "folder/a.json"
    target.parent.mkdir()
    with pytest.raises(InputError, match=r"^\S*folder/a.json could not be written: No s"), atomic_write(target) as part:
        fail(part)
    assert not list(tmp_path.rglob("a.json")) and not list(tmp_path.rglob("*.part"))


def test_a_failure_on_another_file_does_not_name_the_target(tmp_path: Path) -> None:
    target, missing = tmp_path / "a.json", tmp_path / "missing"
    with pytest.raises(FileNotFoundError) as caught, atomic_write(target) as part:
        shutil.copyfile(missing, part)
    assert caught.value.filename == str(missing) and not list(tmp_path.iterdir())
