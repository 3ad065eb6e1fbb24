"""Folders of images: their file names, and whether they have changed."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.images import IMAGE_ENDINGS


class Names(Sequence[str]):
    """The file names of a folder in one array: processes share it, and no name needs an object of its own.

    Args:
        encoded: N, NumPy's dtype S, the names as the file system holds them.
    """

    __slots__ = ("encoded",)

    def __init__(self, encoded: np.ndarray) -> None:
        self.encoded = encoded

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, number: int) -> str:  # type: ignore[override]  # no slices
        return os.fsdecode(self.encoded[number])


def list_images(folder: str | Path) -> Names | None:
    """Return the sorted file names of the images in a folder; None if the folder does not exist."""
    try:
        names = sorted(filter(_is_image, os.listdir(folder)))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no folder can have such a name
        return None
    encoded = os.fsencode("\0".join(names)).split(b"\0") if names else []  # one call is faster
    return Names(np.array(encoded, dtype=np.bytes_))


def _is_image(name: str) -> bool:
    # macOS writes a hidden file ._0000.png beside 0000.png on disks with another file system.
    return (name.endswith(IMAGE_ENDINGS) or name.lower().endswith(IMAGE_ENDINGS)) and not name.startswith(".")


def real_path(folder: str, parents: dict[str, str]) -> str:
    """Return the absolute path of a folder without symbolic links, as `os.path.realpath` does, with fewer system calls.

    Args:
        folder: the folder; it may be missing.
        parents: the paths found so far, by parent; the function adds to them.
    """
    parent, name = os.path.split(folder)
    if name in ("", ".", ".."):
        return os.path.realpath(folder)
    if parent not in parents:
        parents[parent] = os.path.realpath(parent)
    path = os.path.join(parents[parent], name)
    return os.path.realpath(path) if os.path.islink(path) else path


def fingerprint(folder: str | Path, names: Names | None) -> str:
    """Return a SHA-256 of the name, the size and the time of the last change of each file.

    Args:
        folder: the folder of the files.
        names: their names; None for no file.

    Raises:
        OSError: a file is missing.
    """
    digest = hashlib.sha256()
    for name in names or ():
        size, changed = size_and_time(f"{folder}/{name}")
        digest.update(f"{name}/{size}/{changed}/".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def size_and_time(file: str) -> list[int]:
    """Return the size of a file in bytes, and the time of its last change in nanoseconds."""
    status = os.stat(file)
    return [status.st_size, status.st_mtime_ns]
