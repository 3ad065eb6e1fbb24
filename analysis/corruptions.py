"""Image corruptions that occur in cameras, editors and on platforms, each in five strengths.

Every function maps an H x W x 3 uint8 RGB image, a strength and a random generator to the corrupted image.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import cv2
import numpy as np

from utils.errors import require_package

Corrupt = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


class Corruption(NamedTuple):
    """A corruption and its strengths.

    Attributes:
        title: name in tables and plots.
        axis_label: meaning and unit of the strength.
        strengths: the five strengths.
        apply: the function.
        neutral: the strength that changes nothing; None if there is none.
    """

    title: str
    axis_label: str
    strengths: tuple[float, ...]
    apply: Corrupt
    neutral: float | None = None


def jpeg(image: np.ndarray, quality: float, _: np.random.Generator) -> np.ndarray:
    """Compress as JPEG; quality from 1 to 100.

    This uses OpenCV because albumentations' ImageCompression swaps the weights of red and blue.
    """
    encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def blur(image: np.ndarray, sigma: float, _: np.random.Generator) -> np.ndarray:
    """Blur with a Gaussian; sigma in pixels, at least 0."""
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0 else image


def noise(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise to every pixel and channel; standard deviation in grey levels of 255, at least 0.

    This uses NumPy because albumentations' GaussNoise rounds towards zero, which weakens the weakest noise by a sixth.
    """
    return (image + rng.normal(0, deviation, image.shape)).round().clip(0, 255).astype(np.uint8)


def resample(image: np.ndarray, factor: float, _: np.random.Generator) -> np.ndarray:
    """Shrink the sides by a factor, at least 1 (area averaging), and enlarge again (bilinear)."""
    height, width = image.shape[:2]
    small = max(1, round(width / factor)), max(1, round(height / factor))
    return cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height))


def brightness(image: np.ndarray, factor: float, _: np.random.Generator) -> np.ndarray:
    """Multiply the pixel values by a factor, at least 0."""
    return cv2.addWeighted(image, factor, image, 0, 0)


def contrast(image: np.ndarray, factor: float, _: np.random.Generator) -> np.ndarray:
    """Scale the pixel values around the image's mean grey by a factor, at least 0."""
    grey = float(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean())
    return cv2.addWeighted(image, factor, image, 0, (1 - factor) * grey)


def h264(image: np.ndarray, crf: float, _: np.random.Generator) -> np.ndarray:
    """Encode with x264 as a single 4:2:0 intra frame and decode; crf is the constant rate factor, 0 to 51."""
    import av

    height, width = image.shape[:2]
    padded = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    even = np.asarray(padded, np.uint8)  # 4:2:0 needs even sides
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = even.shape[:2]
    encoder.pix_fmt, encoder.framerate, encoder.thread_count = "yuv420p", Fraction(25), 1
    encoder.options = {"crf": f"{crf:g}"}
    packets = [*encoder.encode(av.VideoFrame.from_ndarray(even, "rgb24")), *encoder.encode()]
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    (frame,) = [frame for packet in (*packets, None) for frame in decoder.decode(packet)]
    return frame.to_ndarray(format="rgb24")[:height, :width]


CORRUPTIONS = {
    "jpeg": Corruption("JPEG", "quality", (90, 75, 60, 45, 30), jpeg),
    "h264": Corruption("H.264, intra frame", "constant rate factor", (23, 28, 33, 38, 43), h264),
    "resample": Corruption("down- and upsampling", "factor", (1.5, 2, 3, 4, 6), resample, 1),
    "blur": Corruption("Gaussian blur", "sigma (pixels)", (0.5, 1, 2, 3, 4), blur, 0),
    "noise": Corruption("Gaussian noise", "standard deviation (of 255)", (4, 8, 16, 24, 32), noise, 0),
    "brightness": Corruption("brightness", "factor", (0.5, 0.75, 1.25, 1.5, 2), brightness, 1),
    "contrast": Corruption("contrast", "factor", (0.5, 0.75, 1.25, 1.5, 2), contrast, 1),
}


def check_installed(names: list[str]) -> None:
    """Raise InputError if one of the corruptions needs a package that is not installed."""
    if "h264" in names:
        with require_package("PyAV with libx264", by="--corruptions h264"):
            import av

            if "libx264" not in av.codecs_available:
                raise ImportError("PyAV was built without libx264")
