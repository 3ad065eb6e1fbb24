"""Files: written whole or not at all, and known by their content."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import InputError


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Give a file to write to beside `target`, which takes its place once it is whole.

    Whatever ends the writing early, an interruption or a full disk, leaves `target` as it was. A link stays one. A
    device or a pipe, such as /dev/null, is given itself: it takes what comes.

    Raises:
        InputError: it cannot be written.
    """
    if target.is_dir():
        raise InputError(f"{target} is a folder; give a file.")
    replaced = None if target.exists() and not target.is_file() else target.resolve()
    part = replaced.with_name(replaced.name + ".part") if replaced else target
    try:
        yield part
        if replaced:
            os.replace(part, replaced)
    except OSError as error:
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
    with whole_file(file) as part:
        part.write_bytes(content)


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with file.open("rb") as content:
        digest = hashlib.sha256()
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
