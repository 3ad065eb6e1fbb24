"""Atomic writes, JSON files and checksums."""

import glob
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from utils.errors import InputError


def temporary_path(target: Path) -> Path:
    """Return the hidden temporary path beside `target` that only this process writes to."""
    return target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.part")


def remove_stale_parts(folder: Path, name: str = "*") -> None:
    """Remove temporary files (see `temporary_path`) that killed processes of this machine left in a folder.

    Call it before this process writes there: it also removes files with the ID of this process.

    Args:
        folder: the folder; it may be missing.
        name: the name of the target; ``*`` for every target.
    """
    name = name if name == "*" else glob.escape(name)
    for part in folder.glob(f".{name}.{glob.escape(socket.gethostname())}.*.part"):
        pid = part.name.split(".")[-2]
        if not pid.isdecimal() or (int(pid) != os.getpid() and _is_running(int(pid))):
            continue
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            with suppress(OSError):  # another process removed it, or another user owns it
                part.unlink()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yield a temporary file beside `target` that replaces `target` when the block ends without an error.

    An interruption or a full disk leaves `target` unchanged. A symbolic link is kept, and its target replaced. A
    device or a pipe, such as /dev/null, is written directly. If two processes write one target, the later one wins.

    Raises:
        InputError: the target cannot be written.
        OSError: the block failed on another file.
    """
    if target.is_dir():
        raise InputError(f"{target} is a folder; give a file.")
    replaced = None if target.exists() and not target.is_file() else target.resolve()
    part = temporary_path(replaced) if replaced else target
    try:
        if replaced:
            remove_stale_parts(replaced.parent, replaced.name)
        yield part
        if replaced:
            os.replace(part, replaced)
    except OSError as error:
        # A failed write names no file; a failed copy names both.
        named = {str(name) for name in (error.filename, error.filename2) if name is not None}
        if named and not named & {str(part), str(target), str(replaced)}:
            raise
        reason = error.strerror or str(error)
        raise InputError(f"{target} could not be written: {reason}; free disk space or choose another path.") from error
    finally:
        if replaced:
            part.unlink(missing_ok=True)


def write_if_changed(file: Path, text: str) -> None:
    """Write a text file atomically, unless it already holds the text."""
    content = text.encode()
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


def copy_file(source: Path, target: Path) -> None:
    """Copy a file atomically."""
    with atomic_write(target) as part:
        shutil.copyfile(source, part)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    with atomic_write(file) as part:
        part.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def read_json(file: Path) -> dict[str, Any]:
    """Read a file written by `write_json`.

    Raises:
        InputError: the file cannot be read, or does not hold a JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); delete it and run the command again.") from error
    return content
