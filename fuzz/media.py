"""Targets for images and videos: each is read as preprocessing, training and scoring read it."""

import io
import struct
import tempfile
import zlib
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, features

from datasets.transforms import resize
from faces.kinds import VideoError, file_kind
from faces.videos import FrameReader
from fuzz.target import Target, answers
from utils.errors import InputError
from utils.images import read_image

FRAMES = 40  # that a check reads of a video; the seeds have fewer
WIDTH, HEIGHT = 24, 16


def _pixels(number: int = 0) -> np.ndarray:
    """Return a picture, HEIGHT x WIDTH x 3, uint8."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([10 * x, 15 * y, 20 * np.ones_like(x) * number], axis=2).astype(np.uint8)


def _encode(image: Image.Image, form: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def with_png_size(png: bytes, width: int, height: int) -> bytes:
    """Return a PNG whose header declares another size, with its checksum."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def image_seeds() -> list[bytes]:
    """Return small images of each format, depth and colour model, and animations."""
    first, *others = (Image.fromarray(_pixels(i)) for i in range(3))
    rotated = Image.Exif()
    rotated[0x0112] = 6  # orientation
    deep = Image.fromarray(257 * _pixels()[..., 0].astype(np.uint16))
    forms = ["PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", *(["AVIF"] if features.check("avif") else [])]
    seeds = [_encode(first, form) for form in forms]
    seeds += [
        _encode(first, "JPEG", exif=rotated, progressive=True),
        _encode(first.convert("CMYK"), "JPEG"),
        _encode(first.convert("CMYK"), "TIFF", compression="tiff_lzw"),
        _encode(first.convert("RGBA"), "WEBP", lossless=True),
        _encode(first.convert("P"), "PNG", transparency=3),
        _encode(deep, "PNG"),
        _encode(deep, "TIFF", compression="tiff_adobe_deflate"),
        _encode(Image.fromarray(_pixels()[..., 0].astype(np.float32)), "TIFF"),
        _encode(first, "TIFF", save_all=True, append_images=others),
        with_png_size(_encode(first, "PNG"), 14_000, 14_000),
        *(
            _encode(first, form, save_all=True, append_images=others, duration=40)
            for form in ("GIF", "WEBP", "PNG", *forms[6:])
        ),
    ]
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return seeds
    register_heif_opener()
    return [*seeds, _encode(first, "HEIF")]


def video_seeds() -> list[bytes]:
    """Return small videos of several containers and codecs."""
    kinds = [(".mp4", "mp4v"), (".avi", "MJPG")]
    streams = []
    with tempfile.TemporaryDirectory() as folder:
        for ending, codec in kinds:
            file = Path(folder, f"a{ending}")
            video = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*codec), 25, (WIDTH, HEIGHT))
            for number in range(3):
                video.write(_pixels(number))
            video.release()
            streams.append(file.read_bytes())
    try:
        import av
    except ImportError:
        return streams
    choices = (("mp4", "libx264"), ("matroska", "libx264"), ("mpegts", "libx264"), ("webm", "libvpx-vp9"))
    for container, codec in (*choices, ("asf", "wmv2"), ("mov", "prores_ks")):
        if codec in av.codecs_available:
            streams.append(write_stream(container, codec))
    # A transport stream may change the size of its frames.
    return [*streams, streams[4] + write_stream("mpegts", "libx264", 2 * WIDTH, 3 * HEIGHT)]


def write_stream(container: str, codec: str, width: int = WIDTH, height: int = HEIGHT, frames: int = 12) -> bytes:
    """Return a video that PyAV writes."""
    import av

    pixels = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
    content = io.BytesIO()
    with av.open(content, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=25, width=width, height=height, pix_fmt=pixels)
        for number in range(frames):
            picture = cv2.resize(_pixels(number), (width, height)).astype(np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        output.mux(stream.encode())
    return content.getvalue()


def _check_frame(frame: np.ndarray) -> None:
    assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3 and frame.size > 0, frame.shape


def _read_frames(file: Path, **sampled: int) -> None:
    """Read a video's sampled frames; raise InputError, as the commands do, where the reader raises VideoError."""
    try:
        reader = FrameReader(file, **sampled)
        assert 0 < reader.fps < 1000 and reader.declared_frames >= 0
        positions = []
        for position, frame in islice(reader, FRAMES):
            _check_frame(frame)
            positions.append(position)
        assert positions == sorted(set(positions)) and all(np.diff(reader.times) > 0), (positions, reader.times)
        assert isinstance(reader.ends_early(), bool)
        if not positions:
            raise InputError("no frame")
    except VideoError as error:
        raise InputError(str(error)) from error


def check_image(content: bytes, folder: Path) -> bool:
    """Read an image as training and scoring do, and as a video of one or more frames."""
    file = folder / "a.png"  # the content decides whether it is an animation
    file.write_bytes(content)

    def read() -> None:
        image = read_image(file, exif_rotation=True)
        _check_frame(image)
        _check_frame(resize(image, 8))

    answered = answers(read)
    if answered:
        assert file_kind(file) in ("image", "animation")
    return answers(lambda: _read_frames(file, every=2)) or answered


def check_video(content: bytes, folder: Path) -> bool:
    """Read one frame in two, and then two evenly spaced frames."""
    file = folder / "a.mp4"  # FFmpeg looks at the content
    file.write_bytes(content)
    answered = answers(lambda: _read_frames(file, every=2))
    return answers(lambda: _read_frames(file, count=2)) and answered


TARGETS = {"images": Target(image_seeds, check_image), "videos": Target(video_seeds, check_video)}
