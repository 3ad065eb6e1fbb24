"""Read PyTorch files without running code from them."""

import io
import pickle
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from utils.errors import InputError
from utils.files import require_file

# torch.load and zipfile raise any of these for a damaged file.
DAMAGE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def check_archive(file: Path | io.BytesIO) -> None:
    """Check the zip archive of a PyTorch file; do nothing for an older format, which is not compressed.

    Raises:
        ValueError: a member is damaged, or the members are larger than the file: PyTorch never compresses, but
            `torch.load` would inflate a compressed member, however large.
    """
    if zipfile.is_zipfile(file):
        size = file.stat().st_size if isinstance(file, Path) else len(file.getbuffer())
        with zipfile.ZipFile(file) as parts:
            members = parts.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("a member is compressed")
            if sum(member.file_size for member in members) > size:
                raise ValueError("the members are larger than the file")
            if damaged := parts.testzip():  # torch.load does not verify the checksums
                raise ValueError(f"{damaged} is damaged")


def read_torch_file(file: Path, flag: str, member: str = "") -> Any:
    """Load a PyTorch file onto the CPU; code in it is not run.

    Args:
        file: the file.
        flag: the argument that named the file, for the message.
        member: name of a PyTorch file inside the zip archive; if it is there, the result includes its entries.

    Raises:
        InputError: the file is missing, damaged, or not a PyTorch file.
    """
    require_file(file, flag)
    try:
        check_archive(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
            if member and isinstance(content, dict) and zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as parts:
                    if member in parts.namelist():
                        inner = io.BytesIO(parts.read(member))
                        check_archive(inner)
                        inner.seek(0)
                        content |= torch.load(inner, map_location="cpu", weights_only=True)
            return content
    except DAMAGE_ERRORS as error:
        reason = "it is damaged, incomplete, or not a PyTorch file"
        if "Weights only" in str(error) and zipfile.is_zipfile(file):
            reason = "it contains Python objects, which could run code and are not loaded"
        raise InputError(f"{flag}: {file} cannot be loaded as a checkpoint: {reason}; give another file.") from error
