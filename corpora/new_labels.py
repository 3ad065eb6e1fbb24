"""Write the label files of a dataset whose images are on the disk already."""

from collections.abc import Iterable
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
        origin: what `datasets.sources` stores of it.
    """

    split: str
    label: int
    path: str
    images: int
    origin: Origin


def write_label_files(label_folder: Path, folders: Iterable[Folder]) -> None:
    """Write the six label files and sources.csv, and print the number of folders and images of each.

    Raises:
        InputError: the folder has label files with other content, or a path has a comma.
    """
    folders = list(folders)
    if commas := [folder.path for folder in folders if "," in folder.path]:
        raise InputError(f"paths in label files cannot contain commas; rename {first_ten(commas)}.")
    files = {(split, label): label_folder / f"{split}_{CLASSES[label]}.txt" for split in SPLITS for label in (0, 1)}
    parts = {key: [folder for folder in folders if (folder.split, folder.label) == key] for key in files}
    texts = {key: "".join(f"{f.label},{f.path},{f.images}\n" for f in part) for key, part in parts.items()}
    changed = [
        file.name
        for key, file in files.items()
        if file.is_file() and file.read_bytes() != texts[key].encode("utf-8", "surrogateescape")
    ]
    if changed:
        raise InputError(
            f"{label_folder} has other label files ({first_ten(changed)}); delete them, or give another --name."
        )
    for key, file in files.items():
        write_if_changed(file, texts[key])
        print(f"{file}: {len(parts[key])} folders, {sum(folder.images for folder in parts[key])} images")
    write_sources(label_folder / SOURCES_FILE, {folder.path: folder.origin for folder in folders})
