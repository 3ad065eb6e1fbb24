"""Write the images of a dataset at training size into one memory-mapped file, which training.py then reads.

    python -m datasets.pack FF++_c23 --data_root /data/faces

The packed images are identical to the resized files, so a training gives the same results. Run the command again after
an interruption or a change of the files: it checks the pack, and writes only missing or changed folders.
"""

import json
import os
import shutil
import sys
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from utils import parsing as parse
from utils.command import check_command_line, run_command
from utils.data_roots import DATA_ROOT_TEXT, DataRoot, parse_data_root, root_of
from utils.errors import InputError, first_ten
from utils.training_arguments import TrainingArguments


@dataclass(kw_only=True)
class PackArguments:
    """The arguments of the command; `parse.argument` has the help text of each."""

    name: str = parse.positional(str, "dataset name: a folder of label files under --dataset_root")
    size: int = parse.argument(
        TrainingArguments.size, parse.size, "side of the packed images in pixels: --size of the training"
    )
    dataset_root: Path = parse.argument(
        Path("dataset"), parse.path, "folder of the label files; the command writes the pack to the dataset's subfolder"
    )
    data_root: DataRoot = parse.argument(Path("."), parse_data_root, DATA_ROOT_TEXT)
    num_workers: int = parse.argument(12, parse.count_or_zero, "number of worker processes, at most one per core")


if __name__ == "__main__":
    # before the slow imports
    check_command_line("datasets.pack", lambda: parse.Parser("-m datasets.pack", __doc__, PackArguments).parse(None))

import numpy as np
from filelock import FileLock, Timeout
from torch.utils.data import DataLoader, Dataset

from datasets.folders import Names, fingerprint, list_images, size_and_time
from datasets.labels import CLASSES, SPLITS, read_split
from datasets.packs import (
    CHECKSUMS,
    IMAGES,
    INDEX,
    NAMES,
    VERSION,
    Entry,
    Pack,
    checksum_of,
    find_pack,
    index_line,
    pack_folder,
)
from datasets.transforms import resize
from utils.devices import worker_count
from utils.files import sync
from utils.images import read_image
from utils.progress import progress
from utils.workers import init_worker, iterate

PART = 64  # images that a worker process reads at once


class FolderState(NamedTuple):
    """A folder of images, as it was before its images were read.

    Attributes:
        path: the folder as written in the label file.
        folder: the folder on the disk.
        names: the file names of the images.
        changed: time of the last change of the folder in nanoseconds.
        first: size and time of the last change of the first file.
        fingerprint: value of `datasets.folders.fingerprint`.
    """

    path: str
    folder: Path
    names: Names
    changed: int
    first: list[int]
    fingerprint: str


class Part(NamedTuple):
    """Up to `PART` images of one folder.

    Attributes:
        images: n x size x size x 3, uint8, RGB; an unreadable image is black.
        checksums: CRC-32 of each image.
        unreadable: numbers of the images that cannot be read, counted in the part.
    """

    images: np.ndarray
    checksums: list[int]
    unreadable: list[int]


class Parts(Dataset):
    """The images of several folders, read and resized, in parts that belong to one folder each."""

    def __init__(self, folders: list[FolderState], size: int) -> None:
        self.folders, self.size = folders, size
        self.starts = [(i, start) for i, state in enumerate(folders) for start in range(0, len(state.names), PART)]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, part: int) -> Part:
        number, start = self.starts[part]
        state = self.folders[number]
        names = [state.names[i] for i in range(start, min(start + PART, len(state.names)))]
        images = np.zeros((len(names), self.size, self.size, 3), np.uint8)
        unreadable = []
        for i, name in enumerate(names):
            try:
                images[i] = resize(read_image(state.folder / name), self.size)
            except InputError:
                unreadable.append(i)
        return Part(images, [zlib.crc32(image.data) for image in images], unreadable)


def list_folders(args: PackArguments) -> list[FolderState]:
    """List the folders in the label files of the dataset, each once; a split may have no lines, as in NAME_all.

    Raises:
        InputError: see `datasets.labels.read_split`.
    """
    root = args.dataset_root / args.name
    files = {split: [root / f"{split}_{kind}.txt" for kind in CLASSES] for split in SPLITS}
    splits = [split for split in SPLITS if any(file.is_file() and file.stat().st_size for file in files[split])]
    data_root = root_of(args.name, args.data_root)
    videos = [v for split in splits or SPLITS for v in read_split(args.name, split, args.dataset_root, data_root)]
    folders = []
    for path, folder in progress({v.path: v.folder for v in videos}.items(), "files", unit="folders", delay=2):
        changed, names = os.stat(folder).st_mtime_ns, list_images(folder)
        if names:
            first = size_and_time(f"{folder}/{names[0]}")
            folders.append(FolderState(path, folder, names, changed, first, fingerprint(folder, names)))
    return folders


def is_packed(state: FolderState, pack: Pack) -> bool:
    """Return whether a folder is in the pack with its present files, and undamaged."""
    entry = pack.entries.get(state.path)
    if entry is None or entry.fingerprint != state.fingerprint or not pack.find(state.path, str(state.folder)):
        return False
    return all(pack.read(row) is not None for row in range(entry.row, entry.row + entry.images))


def append_folders(folder: Path, pack: Pack | None, folders: list[FolderState], size: int, num_workers: int) -> None:
    """Append folders to a pack.

    The images of a folder reach the disk before its line in the index, so after a power failure every folder in the
    index is complete. After an error, nothing of an unfinished folder stays.

    Args:
        folder: the folder of the pack.
        pack: the pack so far, if there is one.
        folders: the folders to append.
        size: side of the images in pixels.
        num_workers: number of worker processes.

    Raises:
        OSError: a file cannot be written.
    """
    entries = pack.entries.values() if pack else ()
    row = max((entry.row + entry.images for entry in entries), default=0)
    offset = max((entry.offset + entry.images * entry.width for entry in entries), default=0)
    index = folder / INDEX
    complete = index.read_bytes().rpartition(b"\n")[0] + b"\n" if pack else b""
    ends = {IMAGES: row * size * size * 3, CHECKSUMS: 4 * row, NAMES: offset, INDEX: len(complete)}
    line = b"" if pack else f"{json.dumps([VERSION, size])}\n".encode()
    truncate_files(folder, ends)  # what a killed command has written after its last complete folder
    with ExitStack() as stack:
        stack.callback(truncate_files, folder, ends)  # after the files are closed
        files = {name: stack.enter_context((folder / name).open("ab")) for name in ends}
        sync(folder)
        parts = Parts(folders, size)
        loader = DataLoader(parts, 1, num_workers=num_workers, collate_fn=list, worker_init_fn=init_worker)
        total = sum(len(state.names) for state in folders)
        bar = stack.enter_context(progress(None, "packing", unit="images", total=total))
        checksums: list[int] = []
        unreadable: list[int] = []
        for (number, start), (part,) in zip(parts.starts, iterate(loader), strict=True):
            files[IMAGES].write(part.images.data)
            checksums += part.checksums
            unreadable += [row + start + image for image in part.unreadable]
            bar.update(len(part.images))
            state = folders[number]
            count, width = len(state.names), state.names.encoded.itemsize
            if start + PART < count:
                continue
            encoded, of_images = state.names.encoded.view(np.uint8), np.array(checksums, np.uint32)
            stamp = (state.changed, state.first, state.fingerprint, checksum_of(encoded, of_images))
            line += index_line(Entry(state.path, row, count, offset, width, unreadable, *stamp))
            rest: tuple[bytes | memoryview, ...] = b"", of_images.data, encoded.data, line
            for file, content in zip(files.values(), rest, strict=True):  # the index last
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            row, offset = row + count, offset + count * width
            ends |= {IMAGES: row * size * size * 3, CHECKSUMS: 4 * row, NAMES: offset, INDEX: ends[INDEX] + len(line)}
            line, checksums, unreadable = b"", [], []


def truncate_files(folder: Path, ends: dict[str, int]) -> None:
    """Truncate the files of a pack after its last complete folder; `ends` has the length of each file in bytes."""
    for name, end in ends.items():
        if (folder / name).is_file() and (folder / name).stat().st_size > end:
            os.truncate(folder / name, end)


def run(args: PackArguments) -> None:
    """Write the folders that the pack does not hold yet.

    Raises:
        InputError: the label files are wrong, the disk is too small, or another command is writing the pack.
    """
    folders = list_folders(args)
    folder = pack_folder(args.dataset_root / args.name, args.size)
    workers = worker_count(args.num_workers)
    try:
        folder.mkdir(exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            pack = find_pack(folder.parent, args.size)
            checked = progress(folders, "checking", unit="folders", delay=2)
            missing = [state for state in checked if pack is None or not is_packed(state, pack)]
            image_bytes = args.size**2 * 3
            images, wanted = (sum(len(state.names) for state in some) for some in (folders, missing))
            free = shutil.disk_usage(folder).free
            print(
                f"{folder}: {images} images of {args.size} x {args.size} pixels, {format_size(images * image_bytes)}; "
                f"{wanted} to write, {format_size(wanted * image_bytes)}; {format_size(free)} are free",
                flush=True,
            )
            if wanted * image_bytes > free:
                raise InputError(f"{folder} does not fit on its disk; free disk space or give a smaller --size.")
            if missing:
                append_folders(folder, pack, missing, args.size, workers)
            pack = Pack(folder)
    except Timeout as error:
        raise InputError(f"another command is writing {folder}; wait until it ends.") from error
    except OSError as error:
        raise InputError(f"{folder} could not be written: {error.strerror or error}; run the command again.") from error
    print_notes(pack, folders)


def print_notes(pack: Pack, folders: list[FolderState]) -> None:
    """Print which images the pack lacks, and the disk space of its outdated images."""
    unreadable = [
        f"{state.path}/{state.names[row - pack.entries[state.path].row]}"
        for state in folders
        for row in pack.entries[state.path].unreadable
    ]
    if unreadable:
        print(f"note: {len(unreadable)} images cannot be read; training reads them again: {first_ten(unreadable)}")
    outdated = len(pack.images) - sum(len(state.names) for state in folders)
    if outdated:
        print(
            f"note: {outdated} images ({format_size(outdated * pack.size**2 * 3)}) in {pack.folder} are outdated; to "
            "free the space, delete it and pack again"
        )
    print(f"{pack.folder} is complete; training.py --size {pack.size} uses it")


def format_size(size: int) -> str:
    """Return a number of bytes in GB, or in MB if it is below 1 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 2 for wrong input, 130 for an interruption."""
    again = "; run the command again to continue"
    parser = parse.Parser("-m datasets.pack", __doc__, PackArguments)
    return run_command("datasets.pack", lambda: run(parser.parse(argv)), "fewer --num_workers", lambda: again)


if __name__ == "__main__":
    sys.exit(main())
