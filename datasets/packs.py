"""Packs: the images of a dataset at training size in one memory-mapped file. `datasets.pack` writes them.

``<dataset_root>/<dataset>/pack_<size>/`` holds four files:

- ``images.bin``: N x size x size x 3, uint8, RGB: the images as `datasets.transforms.resize` returns them;
- ``checksums.bin``: N, uint32: the CRC-32 of each image, which every reading checks;
- ``names.bin``: the file names of each folder, padded with zeros to one width;
- ``index.jsonl``: a line with version and size, then for each folder a line with its `Entry`, after its CRC-32.

The files only grow. A folder is in the pack when its line in the index is complete; its last line counts. So a killed
command loses only the folder in progress, and a folder that is packed again does not disturb a running training.
"""

import json
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.folders import Names, fingerprint, list_images, size_and_time
from utils.errors import InputError

VERSION = 1
INDEX, IMAGES, CHECKSUMS, NAMES = "index.jsonl", "images.bin", "checksums.bin", "names.bin"


class Entry(NamedTuple):
    """The line of one folder in the index.

    Attributes:
        path: the folder as written in the label file.
        row: row of the first image.
        images: number of images.
        offset: position of the first file name in names.bin, in bytes.
        width: width of the file names in bytes.
        unreadable: rows of the images that could not be read.
        changed: time of the last change of the folder in nanoseconds.
        first: size and time of the last change of the first file.
        fingerprint: value of `datasets.folders.fingerprint`.
        checksum: CRC-32 of the file names and of the checksums of the images.
    """

    path: str
    row: int
    images: int
    offset: int
    width: int
    unreadable: list[int]
    changed: int
    first: list[int]
    fingerprint: str
    checksum: int


class Pack:
    """A pack, open for reading.

    Args:
        folder: the folder ``pack_<size>``, with an index.

    Attributes:
        folder: as given.
        size: side of the images in pixels.
        entries: the entry of each folder, by its path in the label files.
        images: N x size x size x 3, uint8, RGB, mapped into memory.
        unreadable: rows of the images that could not be read.

    Raises:
        InputError: another version of this project wrote the pack, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = map_file(folder / NAMES, np.uint8)
        self._checksums = map_file(folder / CHECKSUMS, np.uint32)
        header, *lines = (folder / INDEX).read_bytes().split(b"\n")[:-1]  # a killed command leaves half a line
        try:
            version, self.size = json.loads(header)
            pixels = self.size * self.size * 3
            images = map_file(folder / IMAGES, np.uint8)
            self.images = images[: len(images) // pixels * pixels].reshape(-1, self.size, self.size, 3)
            if version != VERSION:
                raise ValueError(f"version {version} instead of {VERSION}")
            split = [line.split(b" ", 1) for line in lines]
            if any(int(checksum) != zlib.crc32(text) for checksum, text in split):
                raise ValueError(f"wrong checksum in {INDEX}")
            entries = [Entry(*fields) for fields in json.loads(b"[%s]" % b",".join(text for _, text in split))]
            if any(entry.row + entry.images > min(len(self.images), len(self._checksums)) for entry in entries):
                raise ValueError(f"{IMAGES} or {CHECKSUMS} is too short")
            if not all(map(self._is_valid, entries)):
                raise ValueError(f"an invalid entry in {INDEX}")
        except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
            raise self._damaged(error) from error
        self.entries = {entry.path: entry for entry in entries}
        self.unreadable = {row for entry in entries for row in entry.unreadable}

    def _is_valid(self, entry: Entry) -> bool:
        rows = range(entry.row, entry.row + entry.images)
        names = range(entry.offset, entry.offset + entry.images * entry.width)
        within = (
            min(entry.row, entry.offset) >= 0 and min(len(rows), entry.width) > 0 and names.stop <= len(self._names)
        )
        return isinstance(entry.path, str) and within and all(row in rows for row in entry.unreadable)

    def _damaged(self, reason: object) -> InputError:
        return InputError(
            f"the pack {self.folder} is damaged or of another version ({reason}); delete it and pack again."
        )

    def _encoded(self, entry: Entry) -> np.ndarray:
        return self._names[entry.offset : entry.offset + entry.images * entry.width]

    def __reduce__(self) -> tuple[type["Pack"], tuple[Path]]:
        return Pack, (self.folder,)  # a spawned process maps the files itself

    def names(self, entry: Entry) -> Names:
        """Return the file names of a folder."""
        return Names(self._encoded(entry).view(f"S{entry.width}"))

    def find(self, path: str, folder: str) -> Entry | None:
        """Return the entry of a folder; None if the folder is not in the pack, or has changed.

        The check is fast: it looks at the folder and at its first file, and at all files only if the folder has another
        time of change. It misses a file that was overwritten in place, unless this is the first one. `datasets.pack`
        compares all files.

        Args:
            path: the folder as written in the label file.
            folder: the folder on the disk.

        Raises:
            InputError: the file names or the checksums of the images are damaged.
        """
        entry = self.entries.get(path)
        if entry is None:
            return None
        checksums = self._checksums[entry.row : entry.row + entry.images]
        if entry.checksum != checksum_of(self._encoded(entry), checksums):
            raise self._damaged(f"wrong checksum of {path} in {NAMES} or {CHECKSUMS}")
        if ord("/") in self._encoded(entry):
            raise self._damaged(f"a file name of {path} has a slash")
        try:
            if entry.first != size_and_time(f"{folder}/{self.names(entry)[0]}"):
                return None
            unchanged = os.stat(folder).st_mtime_ns == entry.changed
            return entry if unchanged or fingerprint(folder, list_images(folder)) == entry.fingerprint else None
        except OSError:
            return None

    def read(self, row: int) -> np.ndarray | None:
        """Return an image, size x size x 3, uint8, RGB, in the mapped file; None if it does not match its checksum."""
        image = self.images[row]
        return image if zlib.crc32(image.data) == self._checksums[row] else None


def pack_folder(label_folder: Path, size: int) -> Path:
    """Return the folder of the pack of one size beside the label files of a dataset."""
    return label_folder / f"pack_{size}"


def find_pack(label_folder: Path, size: int) -> Pack | None:
    """Open the pack of one size beside the label files of a dataset; None if there is none.

    Raises:
        InputError: see `Pack`.
    """
    folder = pack_folder(label_folder, size)
    index = folder / INDEX
    return Pack(folder) if index.is_file() and b"\n" in index.open("rb").readline() else None


def map_file(file: Path, dtype: type[np.generic]) -> np.ndarray:
    """Map a file into memory, so that writing to the array does not change the file.

    A missing or empty file gives an empty array.
    """
    count = file.stat().st_size // np.dtype(dtype).itemsize if file.is_file() else 0
    return np.asarray(np.memmap(file, dtype, "c", shape=(count,))) if count else np.empty(0, dtype)


def checksum_of(names: np.ndarray, checksums: np.ndarray) -> int:
    """Return the CRC-32 of the encoded file names and the checksums of the images of a folder."""
    return zlib.crc32(checksums.data, zlib.crc32(names.data))


def index_line(entry: Entry) -> bytes:
    """Return the line of a folder in the index."""
    text = json.dumps(entry).encode()
    return b"%d %s\n" % (zlib.crc32(text), text)
