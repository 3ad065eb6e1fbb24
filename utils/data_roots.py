"""The value of ``--data_root``: one folder for all datasets, or one for each."""

from argparse import ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path

from utils import parsing as parse
from utils.errors import InputError

DATA_ROOT_TEXT = "base folder of relative paths in the label files; or one per dataset, such as demo=.,mine=/data/faces"


@dataclass(frozen=True)
class DataRoots:
    """A base folder for each of several datasets; ``str`` returns a text that `parse_data_root` accepts."""

    folders: dict[str, Path]

    def __str__(self) -> str:
        return ",".join(f"{dataset}={folder}" for dataset, folder in self.folders.items())


DataRoot = Path | DataRoots


def parse_data_root(text: str) -> DataRoot:
    """Parse a folder, or comma-separated DATASET=FOLDER pairs; an existing folder with = in its name is a folder.

    Raises:
        ArgumentTypeError: a dataset has no name or occurs twice, or a folder is empty or a URL.
    """
    parts = [part.strip().partition("=") for part in text.split(",")]
    if not all(equals for _, equals, _ in parts) or Path(text).is_dir():
        return parse.path(text)
    folders = {dataset: parse.path(folder) for dataset, _, folder in parts}
    if "" in folders or len(folders) < len(parts):
        raise ArgumentTypeError(f"'{text}' is not a list of DATASET=FOLDER pairs with different datasets")
    return DataRoots(folders)


def base_name(dataset: str) -> str:
    """Return the name of a dataset without the split of its label files (``preprocessing.py --split``)."""
    return dataset.removesuffix("_all").removesuffix("_published")


def has_root(dataset: str, data_root: DataRoot) -> bool:
    """Return whether `root_of` finds a folder."""
    return isinstance(data_root, Path) or any(name in data_root.folders for name in _names(dataset))


def root_of(dataset: str, data_root: DataRoot) -> Path:
    """Return the base folder of a dataset.

    FF++_c23/Deepfakes and FF++_c23_all use the folder of FF++_c23 unless they have their own.

    Raises:
        InputError: ``--data_root`` has folders for other datasets only.
    """
    if isinstance(data_root, Path):
        return data_root
    for name in _names(dataset):
        if name in data_root.folders:
            return data_root.folders[name]
    raise InputError(f"--data_root {data_root} has no folder for the dataset {dataset}; add {dataset}=FOLDER.")


def _names(dataset: str) -> list[str]:
    """List the names under which the folder of a dataset may be given, the own name first."""
    return [dataset, base_name(dataset), base_name(dataset).partition("/")[0]]
