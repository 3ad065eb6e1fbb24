"""The recipe of a dataset's face crops: written beside them by preprocessing.py and stored in checkpoints."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.data_roots import DataRoot, base_name, root_of
from utils.errors import InputError
from utils.files import load_json, write_if_changed

DETECTORS = ("retinaface", "retinaface_resnet50", "mtcnn")  # the values of --detector
RECIPE_FILE = "preprocessing.json"  # in the dataset's folder of face crops


@dataclass(frozen=True)
class Recipe:
    """How frames are sampled and faces are cropped.

    Attributes:
        every: sample one frame in this many, starting at frame 0.
        frames: sample this many evenly spaced frames instead; None to use `every`.
        margin: side of the crop divided by the longer side of the face box.
        crop_size: side of the saved crops in pixels; 0 keeps the original size.
        all_faces: save every face of a video, each in its own folder, instead of the main face only.
    """

    every: int = 5
    frames: int | None = None
    margin: float = 1.3
    crop_size: int = 256
    all_faces: bool = False


def read_recipe(folder: Path) -> dict[str, Any] | None:
    """Read the recipe (`Recipe`, detector, source folder) of a dataset's face crops; None if there is none."""
    try:
        recipe = load_json(folder / RECIPE_FILE)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return recipe if isinstance(recipe, dict) else None


def common_recipe(datasets: list[str], data_root: DataRoot) -> dict[str, Any] | None:
    """Return the recipe shared by all datasets under ``--data_root``; None if they differ or one is unknown.

    NAME_all uses the faces of NAME, unless preprocessing.py has written faces for it with ``--name NAME_all``.
    """

    def recipe_of(dataset: str) -> dict[str, Any] | None:
        found = (
            read_recipe(root_of(dataset, data_root) / name.partition("/")[0]) for name in (dataset, base_name(dataset))
        )
        return next(filter(None, found), None)

    recipes = [recipe_of(dataset) for dataset in datasets]
    return recipes[0] if all(recipe == recipes[0] for recipe in recipes) else None


def claim_folder(folder: Path, recipe: dict[str, Any]) -> None:
    """Store the recipe in a folder of face crops, so that a run with another recipe cannot write there.

    Raises:
        InputError: the folder has another recipe, or files of another origin.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give another --faces or --name.")
    # Another shard may be writing the recipe right now, under a hidden name, before its first face.
    empty = not folder.exists() or all(file.name.lstrip(".").startswith(RECIPE_FILE) for file in folder.iterdir())
    existing = read_recipe(folder)
    if existing == recipe:
        return
    if empty:
        write_if_changed(folder / RECIPE_FILE, json.dumps(recipe, indent=1) + "\n")
    elif existing is None:
        raise InputError(
            f"{folder} contains files but no {RECIPE_FILE} of preprocessing.py; give another --faces or --name."
        )
    else:
        different = [key for key in recipe | existing if existing.get(key) != recipe.get(key)]
        values = "; ".join(f"{key} {existing.get(key)}, not {recipe.get(key)}" for key in different)
        raise InputError(
            f"the faces in {folder} were made with {values}; give the same values, or another --faces or --name."
        )
