"""Atomic writes, JSON files and checksums."""

import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from utils.errors import InputError

LOCK_NAME = ".lock"
MAX_TEXT = 64 * 2**20  # bytes; parsed, a JSON file takes up to 25 times its size


def create_part(target: Path, folder: bool = False) -> tuple[Path, int]:
    """Create a hidden temporary file or folder beside `target`, and lock it for as long as this process lives.

    The name is random, because containers can share host name and process number. The lock holds on all hosts and in
    all containers that share the disk.

    Args:
        target: what the temporary file or folder will replace.
        folder: create a folder, and lock a file in it.

    Returns:
        The path, and the file descriptor that holds the lock; closing it ends the lock.

    Raises:
        OSError: it cannot be created, such as on a full disk.
    """
    while True:
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        locked = part / LOCK_NAME if folder else part
        try:
            if folder:
                part.mkdir(parents=True)
            descriptor = os.open(locked, os.O_CREAT | os.O_RDWR, 0o666)
        except OSError as error:
            if folder and isinstance(error, FileNotFoundError) and error.filename == str(locked):
                continue  # removed by another process before the lock
            raise OSError(error.errno, error.strerror, str(target)) from error
        if _lock(descriptor, wait=True) is None or locked.exists():
            return part, descriptor
        os.close(descriptor)  # removed by another process before the lock


def remove_stale_parts(folder: Path, name: str = "*") -> None:
    """Remove temporary files and folders (see `create_part`) whose processes have ended.

    Args:
        folder: the folder; it may be missing.
        name: the name of the target; ``*`` for every target.
    """
    name = name if name == "*" else glob.escape(name)
    for part in folder.glob(f".{name}.*.part"):
        with suppress(OSError):  # another process removed it, or another user owns it
            if part.is_dir() and not (part / LOCK_NAME).exists():
                part.rmdir()  # fails unless it is empty
                continue
            descriptor = os.open(part / LOCK_NAME if part.is_dir() else part, os.O_RDWR)
            try:
                if _lock(descriptor, wait=False):
                    remove_part(part) if part.is_dir() else part.unlink()
            finally:
                os.close(descriptor)


def remove_part(part: Path) -> None:
    """Remove a folder of `create_part`, its lock last: without it, `remove_stale_parts` removes only empty folders."""
    for path in part.glob("*"):  # none if the folder is missing
        if path.name != LOCK_NAME:
            shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(part, ignore_errors=True)


def _lock(descriptor: int, wait: bool) -> bool | None:
    """Lock an open file; return whether this process holds the lock, or None where files cannot be locked."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def sync(path: Path) -> None:
    """Write a file or folder through to the disk, so that a power failure does not undo it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yield a temporary file beside `target` that replaces `target` when the block ends without an error.

    An interruption, a power failure or a full disk leaves `target` unchanged. A symbolic link is kept, and its target
    replaced. A device or a pipe, such as /dev/null, is written directly. If two processes write one target, the later
    one wins.

    Raises:
        InputError: the target cannot be written.
        OSError: the block failed on another file.
    """
    if target.is_dir():
        raise InputError(f"{target} is a folder; give a file.")
    special = target.exists() and not target.is_file()
    replaced, part, lock = target.resolve(), target, None
    try:
        if not special:
            remove_stale_parts(replaced.parent, replaced.name)
            part, lock = create_part(replaced)
        yield part
        if not special:
            sync(part)
            os.replace(part, replaced)
            sync(replaced.parent)
    except OSError as error:
        # A failed write names no file; a failed copy names both.
        named = {str(name) for name in (error.filename, error.filename2) if name is not None}
        if named and not named & {str(part), str(target), str(replaced)}:
            raise
        raise _not_written(target, error) from error
    finally:
        if lock is not None:
            part.unlink(missing_ok=True)
            os.close(lock)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder that replaces the folder `target` when the block ends without an error.

    An interruption, a power failure or a full disk leaves `target` unchanged; only a kill between two renames leaves
    no folder.

    Raises:
        InputError: a folder or a file in it cannot be written.
    """
    try:
        remove_stale_parts(target.parent, target.name)
        part, lock = create_part(target, folder=True)
        new, old = part / "new", part / "old"
        try:
            new.mkdir()
            yield new
            sync_tree(new)
            if target.exists():
                os.rename(target, old)
            os.rename(new, target)
            sync(target.parent)
        finally:
            if old.exists() and not target.exists():
                os.rename(old, target)
            remove_part(part)
            os.close(lock)
    except (OSError, InputError) as error:
        cause = error.__cause__ if isinstance(error, InputError) else error  # of `atomic_write` in the folder
        if not isinstance(cause, OSError):
            raise
        raise _not_written(target, cause) from error


def sync_tree(folder: Path) -> None:
    """Write a folder and everything in it through to the disk; symbolic links are part of their folder."""
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink():
            sync(path)


def _not_written(target: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(f"{target} could not be written: {reason}; free disk space or choose another path.")


def write_if_changed(file: Path, text: str) -> None:
    """Write a text file atomically, unless it already holds the text."""
    content = text.encode("utf-8", "surrogateescape")  # names may contain bytes that are not valid UTF-8
    if file.is_file() and file.read_bytes() == content:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        part.write_bytes(content)


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as content:
        digest = hashlib.sha256()
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def require_file(file: Path, flag: str) -> None:
    """Raise InputError if the file that the argument `flag` names does not exist."""
    if file.is_dir():
        checkpoints = ", ".join(path.name for path in sorted(file.glob("*.pth"))) or "none"
        raise InputError(f"{flag}: {file} is a folder; give one of its checkpoints ({checkpoints}).")
    if not file.is_file():
        raise InputError(f"{flag}: {file} does not exist; check the path.")


def copy_file(source: Path, target: Path) -> None:
    """Copy a file atomically."""
    with atomic_write(target) as part:
        shutil.copyfile(source, part)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    with atomic_write(file) as part:
        part.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def read_text(file: Path, encoding: str = "utf-8", limit: int = MAX_TEXT) -> str:
    """Read a text file of at most `limit` bytes.

    Raises:
        ValueError: the file is larger, or has another encoding.
        OSError: the file is missing or unreadable.
    """
    with file.open("rb") as content:
        text = content.read(limit + 1)
    if len(text) > limit:
        raise ValueError(f"it has more than {limit // 2**20} MB")
    return text.decode(encoding)


def load_json(file: Path, encoding: str = "utf-8", limit: int = MAX_TEXT) -> Any:
    """Parse a JSON file of at most `limit` bytes.

    Raises:
        ValueError: the file is larger, damaged or nested too deeply.
        OSError: the file is missing or unreadable.
    """
    try:
        return json.loads(read_text(file, encoding, limit))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(file: Path) -> dict[str, Any]:
    """Read a file written by `write_json`.

    Raises:
        InputError: the file cannot be read, or does not hold a JSON object.
    """
    try:
        content = load_json(file)
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); delete it and run the command again.") from error
    return content


@contextmanager
def report_invalid_entries(file: Path, advice: str) -> Iterator[None]:
    """Turn an error inside the block about a missing or invalid entry of a JSON file into InputError.

    Args:
        file: the file.
        advice: what to do, for the message.

    Raises:
        InputError: the block failed with such an error.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else "an invalid entry"
        raise InputError(f"{file} has {reason}: another version of this project wrote it; {advice}.") from error
