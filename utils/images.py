"""Read image files with Pillow."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.errors import InputError, require_package

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif")
ANIMATED_FORMATS = ("GIF", "WEBP", "PNG", "AVIF")  # in other formats, several images are pages or thumbnails
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # ISO/IEC 23008-12
MAX_MEGAPIXELS = 300
STRIP = 2**24  # pixels converted at a time; a conversion needs the memory of its pixels several times
# What Pillow raises: SyntaxError for a broken PNG, struct.error for broken EXIF, EOFError for a missing frame.
BROKEN_IMAGE = (OSError, SyntaxError, ValueError, struct.error, EOFError, Image.DecompressionBombError)


Image.MAX_IMAGE_PIXELS = None  # `open_image` has its own limit; Pillow would also warn about images below it
_max_megapixels: float = MAX_MEGAPIXELS


def set_max_megapixels(limit: float) -> None:
    """Set the number of megapixels above which this process refuses an image; at first, it is `MAX_MEGAPIXELS`."""
    global _max_megapixels
    _max_megapixels = limit


def open_image(path: Path) -> Image.Image:
    """Open an image file without decoding it.

    Raises:
        UnidentifiedImageError: the file is not an image.
        DecompressionBombError: the image has more megapixels than the limit.
        InputError: the file is HEIC, and pillow-heif is not installed.
        OSError: the file is missing or unreadable.
    """
    try:
        image = Image.open(path)
    except UnidentifiedImageError:
        with path.open("rb") as file:
            header = file.read(12)
        if header[4:8] != b"ftyp" or header[8:] not in HEIF_BRANDS:
            raise
        with require_package("pillow-heif", by="a HEIC image"):
            from pillow_heif import register_heif_opener  # slow to import, and few images need it
        register_heif_opener()
        image = Image.open(path)
    if image.width * image.height > 1e6 * _max_megapixels:
        image.close()
        raise Image.DecompressionBombError(f"the image has more than {_max_megapixels:g} megapixels")
    return image


def is_animation(image: Image.Image) -> bool:
    """Return whether an opened image has several frames that a viewer plays."""
    return image.format in ANIMATED_FORMATS and getattr(image, "is_animated", False)


def to_rgb(image: Image.Image) -> np.ndarray:
    """Decode an opened image to H x W x 3, uint8, RGB.

    Raises:
        ValueError: the image has 32 bits per channel.
    """
    image.load()  # NumPy may hide an error
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips 16-bit values at 255
        return np.repeat((np.asarray(image) // 257).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(f"Pillow mode {image.mode} is not supported; save it with 8 or 16 bits per channel")
    rows = max(1, STRIP // image.width)
    if rows >= image.height:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb[top : top + rows] = np.asarray(strip.convert("RGB"))
    return rgb


def read_image(path: Path, exif_rotation: bool = False) -> np.ndarray:
    """Read an image as H x W x 3, uint8, RGB; of an animation, read the first frame.

    This uses Pillow because OpenCV fills the missing part of a truncated file with grey.

    Args:
        path: image file.
        exif_rotation: rotate the image as its EXIF orientation says.

    Raises:
        InputError: the file is missing, unreadable, truncated or too large, or needs a package that is missing.
    """
    try:
        with open_image(path) as image:
            if exif_rotation:
                ImageOps.exif_transpose(image, in_place=True)
            return to_rgb(image)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except BROKEN_IMAGE as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise InputError(f"{path}: {reason}") from error
