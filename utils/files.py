"""Files: written whole or not at all, and known by their content."""

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


def own_part(target: Path) -> Path:
    """Return the hidden name beside `target` under which this process writes it; every other process has its own."""
    return target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.part")


def remove_stale_parts(folder: Path, name: str = "*") -> None:
    """Remove what killed processes of this machine left of `own_part` in a folder.

    To be called before this process has parts there: what bears its number is left of an earlier one.

    Args:
        folder: may be missing.
        name: of the target; ``*`` for every one.
    """
    name = name if name == "*" else glob.escape(name)
    for part in folder.glob(f".{name}.{glob.escape(socket.gethostname())}.*.part"):
        number = part.name.split(".")[-2]
        if not number.isdecimal() or (int(number) != os.getpid() and _is_running(int(number))):
            continue
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            with suppress(OSError):  # another has removed it, or it is another user's
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
    """Give a file to write to beside `target`, which takes its place once it is whole.

    Whatever ends the writing early, an interruption or a full disk, leaves `target` as it was. A link stays one. A
    device or a pipe, such as /dev/null, is given itself: it takes what comes. Of two processes that write the same
    target at once, the later one's file stays.

    Raises:
        InputError: it cannot be written.
        OSError: another file, which is read or written meanwhile, makes trouble.
    """
    if target.is_dir():
        raise InputError(f"{target} is a folder; give a file.")
    replaced = None if target.exists() and not target.is_file() else target.resolve()
    part = own_part(replaced) if replaced else target
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
        raise InputError(f"{target} could not be written: {reason}; free the disk, or write elsewhere.") from error
    finally:
        if replaced:
            part.unlink(missing_ok=True)


def write_if_changed(file: Path, text: str) -> None:
    """Write a text file whole or not at all, and not again where it holds the text already."""
    content = text.encode()
    if file.is_file() and file.read_bytes() == content:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        part.write_bytes(content)


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with file.open("rb") as content:
        digest = hashlib.sha256()
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all."""
    with atomic_write(target) as part:
        shutil.copyfile(source, part)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    with atomic_write(file) as part:
        part.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def read_json(file: Path) -> dict[str, Any]:
    """Read a file of `write_json`.

    Raises:
        InputError: it cannot be read, or is not whole.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); remove it, and make it anew.") from error
    return content
