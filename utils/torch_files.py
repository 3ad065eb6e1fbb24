"""PyTorch files, read without running what is in them."""

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from utils.errors import InputError


def read_torch_file(file: Path, flag: str) -> Any:
    """Read what a PyTorch file holds, onto the CPU; nothing in it is executed.

    Raises:
        InputError: there is no such file, or it is no PyTorch file; `flag` is the argument that named it.
    """
    if not file.is_file():
        inside = f", but a folder; its checkpoints are {', '.join(p.name for p in file.glob('*.pth')) or 'none'}"
        raise InputError(f"{flag}: there is no file {file}{inside if file.is_dir() else ''}.")
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as parts:
                if damaged := parts.testzip():  # PyTorch itself does not look
                    raise ValueError(f"{damaged} is damaged")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what a broken file raises depends on where it is broken
        reason = "it is no PyTorch file, or cut off or damaged"
        if "Weights only" in str(error) and zipfile.is_zipfile(file):
            reason = "it holds Python objects, which could run code and are not loaded"
        raise InputError(f"{flag}: {file} is no checkpoint: {reason}.") from error
