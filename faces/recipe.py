"""How the faces in a folder were made: written beside them by preprocessing.py, stored in checkpoints."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.files import atomic_write

RECIPE_FILE = "preprocessing.json"  # in a dataset's folder of faces: how they were made


@dataclass(frozen=True)
class Recipe:
    """How frames become face images.

    Attributes:
        every: one frame in so many, from frame 0 on.
        frames: so many frames evenly spaced, in place of `every`; None for `every`.
        margin: the crop's side over the longer side of the face's box.
        crop_size: pixels; 0 keeps the size found.
        all_faces: a folder for each face of a video, in place of its main face alone.
    """

    every: int = 5
    frames: int | None = None
    margin: float = 1.3
    crop_size: int = 256
    all_faces: bool = False


def read_recipe(folder: Path) -> dict[str, Any] | None:
    """Return how the faces in a dataset's folder were made (`Recipe` and detector); None where nothing tells it."""
    try:
        return json.loads((folder / RECIPE_FILE).read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


def common_recipe(datasets: list[str], data_root: Path) -> dict[str, Any] | None:
    """Return how the faces of all of the datasets under ``--data_root`` were made, where that is one and known."""
    recipes = [read_recipe(data_root / dataset.partition("/")[0]) for dataset in datasets]
    return recipes[0] if all(recipe == recipes[0] for recipe in recipes) else None


def claim_folder(folder: Path, recipe: dict[str, Any]) -> None:
    """Write down how the faces in `folder` are made, so that another run does not mix in others.

    Raises:
        InputError: they were made otherwise, or not by this command.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give another --faces or --name.")
    # Another shard may be writing its recipe just now, under a hidden name; before its first face it is there.
    empty = not folder.exists() or all(file.name.lstrip(".").startswith(RECIPE_FILE) for file in folder.iterdir())
    before = read_recipe(folder)
    if before is None and not empty:
        raise InputError(f"{folder} is there, but not made by this command; give another --faces or --name.")
    if empty and before != recipe:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / RECIPE_FILE) as part:
            part.write_text(json.dumps(recipe, indent=1) + "\n")
    elif before != recipe:
        other = [f"{key} {before.get(key)}, not {recipe.get(key)}" for key in recipe if before.get(key) != recipe[key]]
        raise InputError(
            f"the faces in {folder} were made with {'; '.join(other)}; give the same, or another --faces or --name."
        )
