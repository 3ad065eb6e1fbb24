"""Read image files with Pillow."""

import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.errors import InputError, require_package

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif")
ANIMATED_FORMATS = ("GIF", "WEBP", "PNG", "AVIF")  # in other formats, several images are pages or thumbnails
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # ISO/IEC 23008-12
MAX_MEGAPIXELS = 200  # about 8 bytes of memory per pixel
WEBP_SHARE = 0.5  # of the limit, because Pillow takes twice the memory for WebP
STRIP = 1 << 24  # pixels that are converted at once
# What Pillow raises for a damaged file, such as SyntaxError for a PNG, EOFError for a missing frame, RuntimeError or
# ZeroDivisionError for an AVIF, and IndexError for a GIF.
BROKEN_IMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

# Pillow warns about damaged metadata. The project reads no metadata except the orientation.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None  # `open_image` has its own limit; Pillow would also warn about images below it
_max_megapixels: float = MAX_MEGAPIXELS
_stderr_lock = threading.Lock()  # two threads would redirect standard error for good


def set_max_megapixels(limit: float) -> None:
    """Set the size in megapixels above which this process refuses an image; the default is `MAX_MEGAPIXELS`."""
    global _max_megapixels
    _max_megapixels = limit


def open_image(path: Path) -> Image.Image:
    """Open an image file without decoding it.

    Raises:
        UnidentifiedImageError: the file is not an image.
        DecompressionBombError: the image has more megapixels than the limit; for WebP, than half of it.
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
    limit = _max_megapixels * (WEBP_SHARE if image.format == "WEBP" else 1)
    if image.width * image.height > 1e6 * limit:
        image.close()
        raise Image.DecompressionBombError(f"the image has more than {limit:g} megapixels")
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
    if image.mode in ("I", "F"):
        raise ValueError(f"Pillow mode {image.mode} is not supported; save it with 8 or 16 bits per channel")
    rows = max(1, STRIP // image.width)
    if image.height <= rows:
        return _convert(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, rows):  # Pillow makes two copies of the pixels that it converts
        pixels[top : top + rows] = _convert(image.crop((0, top, image.width, min(image.height, top + rows))))
    return pixels


def _convert(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips 16-bit values at 255
        return np.repeat((np.asarray(image) // 257).astype(np.uint8)[:, :, None], 3, axis=2)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


@contextmanager
def _without_messages(image: Image.Image) -> Iterator[None]:
    """Drop the messages of libtiff on standard error about a damaged TIFF; Pillow has no setting for this."""
    if image.format != "TIFF":
        yield
        return
    with _stderr_lock:
        kept = os.dup(2)
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


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
        with open_image(path) as image, _without_messages(image):
            if exif_rotation:
                ImageOps.exif_transpose(image, in_place=True)
            return to_rgb(image)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except BROKEN_IMAGE as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error) or "damaged"
        raise InputError(f"{path}: {reason}") from error
