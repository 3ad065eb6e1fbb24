"""Read PyTorch files without running code from them."""

import hashlib
import io
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from utils.errors import InputError
from utils.files import require_file

# torch.load and zipfile raise any of these for a damaged file.
DAMAGE_ERRORS = (
    ArithmeticError,
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


def read_torch_file(file: Path, flag: str, member: str = "") -> tuple[Any, str]:
    """Load a PyTorch file onto the CPU; code in it is not run.

    Args:
        file: the file.
        flag: the argument that named the file, for the message.
        member: name of a PyTorch file inside the zip archive; if it is there, the content includes its entries.

    Returns:
        The content, and the SHA-256 of the file, in hexadecimal digits.

    Raises:
        InputError: the file is missing, damaged, or not a PyTorch file.
    """
    require_file(file, flag)
    try:
        digest = verified_sha256(file)
        is_zip = zipfile.is_zipfile(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
            if member and isinstance(content, dict) and is_zip:
                with zipfile.ZipFile(file) as parts:
                    if member in parts.namelist():
                        content |= torch.load(io.BytesIO(parts.read(member)), map_location="cpu", weights_only=True)
            return content, digest
    except DAMAGE_ERRORS as error:
        reason = "it is damaged, incomplete, or not a PyTorch file"
        if "Weights only" in str(error) and zipfile.is_zipfile(file):
            reason = "it contains Python objects, which could run code and are not loaded"
        raise InputError(f"{flag}: {file} cannot be loaded as a checkpoint: {reason}.") from error


def verified_sha256(file: Path) -> str:
    """Return the SHA-256 of a file, and verify the checksums in a zip archive, which torch.load does not, in one pass.

    Raises:
        ValueError: a member of the archive is damaged.
        zipfile.BadZipFile: the archive has no valid directory.
    """
    digest, members = hashlib.sha256(), []
    with file.open("rb") as content:
        if zipfile.is_zipfile(content):
            with zipfile.ZipFile(content) as parts:
                members = sorted(parts.infolist(), key=lambda member: member.header_offset)
        content.seek(0)

        def read(size: int) -> Iterator[bytes]:
            while block := content.read(min(size, 1 << 20)):
                digest.update(block)
                size -= len(block)
                yield block

        for member in members:
            b"".join(read(member.header_offset - content.tell()))
            header = b"".join(read(30))
            name_and_extra = b"".join(read(sum(struct.unpack("<HH", header[26:]))))
            unpack = zlib.decompressobj(-15).decompress if member.compress_type == zipfile.ZIP_DEFLATED else bytes
            checksum = 0
            for block in read(member.compress_size):
                checksum = zlib.crc32(unpack(block), checksum)
            name = member.orig_filename.encode("utf-8" if member.flag_bits & 0x800 else "cp437")
            if not (header[:4] == b"PK\3\4" and name_and_extra.startswith(name) and checksum == member.CRC):
                raise ValueError(f"{member.filename} is damaged")
        for _ in read(file.stat().st_size):
            pass
    return digest.hexdigest()
