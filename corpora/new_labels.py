"""Write the label files of a dataset whose images are on the disk already."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.labels import CLASSES, SPLITS
from datasets.sources import SOURCES_FILE, Origin, write_sources
from utils.errors import InputError, first_ten
from utils.files import write_if_changed


class Folder(NamedTuple):
    """One line of a label file.

    Attributes:
        split: train, val or test.
        label: 0 real, 1 fake.
        path: the folder as in the label file, relative to ``--data_root`` or absolute.
        images: number of images.
        origin: its video, sources and people, for sources.csv.
    """

    split: str
    label: int
    path: str
    images: int
    origin: Origin


def check_label_files(label_folder: Path, folders: Sequence[Folder]) -> dict[Path, list[Folder]]:
    """Sort folders into the six label files, and check that no other label files are there.

    Returns:
        The folders of each label file.

    Raises:
        InputError: the folder has label files with other content, or a path has a comma.
    """
    if commas := [folder.path for folder in folders if "," in folder.path]:
        raise InputError(f"paths in label files cannot contain commas; rename {first_ten(commas)}.")
    parts = {
        label_folder / f"{split}_{CLASSES[label]}.txt": [f for f in folders if (f.split, f.label) == (split, label)]
        for split in SPLITS
        for label in (0, 1)
    }
    changed = [
        file.name
        for file, part in parts.items()
        if file.is_file() and file.read_bytes() != _text(part).encode("utf-8", "surrogateescape")
    ]
    if changed:
        raise InputError(
            f"{label_folder} has other label files ({first_ten(changed)}); delete them, or give another --name."
        )
    return parts


def _text(folders: list[Folder]) -> str:
    return "".join(f"{folder.label},{folder.path},{folder.images}\n" for folder in folders)


def write_label_files(label_folder: Path, folders: Iterable[Folder]) -> None:
    """Write the six label files and sources.csv, and print the number of folders and images of each.

    Raises:
        InputError: see `check_label_files`.
    """
    folders = list(folders)
    for file, part in check_label_files(label_folder, folders).items():
        write_if_changed(file, _text(part))
        print(f"{file}: {len(part)} folders, {sum(folder.images for folder in part)} images")
    write_sources(label_folder / SOURCES_FILE, {folder.path: folder.origin for folder in folders})
