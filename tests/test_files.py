"""Atomic writes: a file is complete or absent, with several writers, full disks and killed processes."""

import errno
import glob
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from utils import files
from utils.errors import InputError
from utils.files import atomic_write, create_part, remove_stale_parts


@pytest.fixture
def killed(tmp_path: Path) -> Callable[..., Path]:
    """Make a part as a process leaves it that was killed."""

    def make(target: Path, folder: bool = False) -> Path:
        child = os.fork()
        if not child:
            create_part(target, folder)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        (part,) = set(target.parent.glob(f".{glob.escape(target.name)}.*.part")) - set(made)
        made.append(part)
        return part

    made: list[Path] = []
    return make


def test_two_processes_write_the_same_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    with atomic_write(target) as mine:
        mine.write_text("mine")
        with atomic_write(target) as theirs:
            assert theirs != mine
            theirs.write_text("theirs")
        assert target.read_text() == "theirs" and mine.is_file()
    assert target.read_text() == "mine" and os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("name", ["a.json", "a [1].json"])
def test_a_write_removes_the_part_of_a_killed_process(tmp_path: Path, killed: Callable[..., Path], name: str) -> None:
    target = tmp_path / name
    left, of_another = killed(target), killed(tmp_path / "b.json")
    mine, lock = create_part(target)
    with atomic_write(target) as part:
        part.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([target, of_another, mine])
    assert not left.exists()
    os.close(lock)


def test_stale_parts_of_a_folder(tmp_path: Path, killed: Callable[..., Path]) -> None:
    for name in ("a", "b"):
        (killed(tmp_path / name, folder=True) / "0").mkdir()
    killed(tmp_path / "d.json")
    (tmp_path / ".e.0123.part").mkdir()  # killed before it could lock
    mine, lock = create_part(tmp_path / "a", folder=True)
    remove_stale_parts(tmp_path)
    assert list(tmp_path.iterdir()) == [mine]
    os.close(lock)
    remove_stale_parts(tmp_path)
    assert not list(tmp_path.iterdir())
    remove_stale_parts(tmp_path / "missing")


def test_a_part_removed_before_its_lock_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, calls = files._lock, []

    def late(descriptor: int, wait: bool) -> bool | None:
        if not calls:
            calls.append(1)
            remove_stale_parts(tmp_path)  # as another process would
        return lock(descriptor, wait)

    monkeypatch.setattr(files, "_lock", late)
    part, descriptor = create_part(tmp_path / "a.json")
    assert part.is_file() and list(tmp_path.iterdir()) == [part]
    os.close(descriptor)


def test_names_are_unique_where_containers_share_host_name_and_process_number(tmp_path: Path) -> None:
    parts = [create_part(tmp_path / "a.json") for _ in range(2)]
    assert parts[0][0] != parts[1][0]
    for _, lock in parts:
        os.close(lock)


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
