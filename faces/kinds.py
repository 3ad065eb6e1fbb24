"""Tell images, animations and videos apart, and open videos with OpenCV."""

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Literal

# OpenCV reads this when it opens the first video. FFmpeg's messages would repeat the reports of this project.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
from PIL import UnidentifiedImageError

from utils.errors import InputError, first_ten, one_line
from utils.images import BROKEN_IMAGE, IMAGE_ENDINGS, is_animation, open_image
from utils.memory import AllocationLimit

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # OpenCV's own messages, of errors too
# FFmpeg opens these containers only: a playlist would make it open other files and addresses.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,mxf,dv,h264,hevc"
os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = f"format_whitelist;{CONTAINERS}"

VIDEO_ENDINGS = (
    ".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".wmv",
)  # fmt: skip
TEXT_ENDINGS = (".ts", ".mts")  # MPEG transport streams, but also TypeScript
ANIMATION_ENDINGS = (".gif", ".webp", ".png", ".avif")  # images, or animations
MAX_FRAME_MEGAPIXELS = 40  # of a video or an animation; 8K has 33 to 35
OPENING_BYTES = 1 << 30  # memory that opening a video, or decoding a frame, may take


class VideoError(Exception):
    """A video cannot be read; the message is the reason in a few words."""


def file_kind(file: Path) -> Literal["image", "animation", "video"] | None:
    """Return what a file is: an image, an animated image, a video, or None for anything else.

    If the file name has a clear ending, the ending decides. The content decides between an image and an animation, and
    if the ending is unknown or missing. For a file that does not exist, the name decides.
    """
    name = file.name.lower()
    known: Literal["image", "video"] | None = None
    if name.endswith((*IMAGE_ENDINGS, *VIDEO_ENDINGS)):
        known = "image" if name.endswith(IMAGE_ENDINGS) else "video"
    if not file.is_file() or (known and not name.endswith((*ANIMATION_ENDINGS, *TEXT_ENDINGS))):
        return known
    try:
        with file.open("rb") as opened:
            content = opened.read(4096)
        is_text = b"\0" not in content  # FFmpeg would read text files as videos
        if known == "video":
            return None if content and is_text else known
        if known is None and is_text:
            return None
        with open_image(file) as image:
            return "animation" if is_animation(image) else "image"
    except UnidentifiedImageError:
        pass
    except (*BROKEN_IMAGE, InputError):  # an image that cannot be read, or a file that cannot be opened
        return "image"
    try:
        return known or ("video" if open_video(file) else None)
    except VideoError:
        return None


def skip_reason(file: Path) -> str:
    """Return why the scan of a folder skips a file: ``hidden``, its ending, or ``no ending``; "" to use the file.

    A file is skipped without reading it if its ending is neither an image's nor a video's.
    """
    if file.name.startswith("."):  # macOS writes a hidden file ._a.png beside a.png on foreign disks
        return "hidden"
    ending = file.suffix.lower()
    if ending and ending not in TEXT_ENDINGS:
        return "" if ending in (*IMAGE_ENDINGS, *VIDEO_ENDINGS) else ending
    return "" if file_kind(file) else ending or "no ending"


def format_counts(counts: Counter[str]) -> str:
    """Return a text such as ``12 .txt, 3 hidden``, the most frequent first."""
    return one_line(first_ten([f"{count} {name}" for name, count in counts.most_common()]))


def open_video(file: Path, *options: int) -> cv2.VideoCapture:
    """Open a video with OpenCV.

    Args:
        file: the video.
        options: property, value, property, value and so on of `cv2.VideoCapture`.

    Raises:
        VideoError: OpenCV cannot open the video, or its frames are too large.
    """
    try:
        str(file).encode()
    except UnicodeEncodeError:  # OpenCV crashes on such a name
        raise VideoError("unreadable: the file name is not UTF-8; rename the file") from None
    with suppress(OSError), file.open("rb") as content:
        if b"\0" not in content.read(4096):  # a text
            raise VideoError("unreadable: not a video that OpenCV can open")
    # FFmpeg reads the text before a colon in a relative path as a protocol. One thread per video, because many videos
    # are decoded in parallel.
    options = (cv2.CAP_PROP_N_THREADS, 1, *options)
    with AllocationLimit(OPENING_BYTES):
        capture = cv2.VideoCapture(str(file.absolute()), cv2.CAP_FFMPEG, options)
    if not capture.isOpened():
        raise VideoError("unreadable: not a video that OpenCV can open")
    check_frame_size(int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
    return capture


def check_frame_size(width: int, height: int) -> None:
    """Raise VideoError if the frames of a video or an animation have more than `MAX_FRAME_MEGAPIXELS`."""
    if width * height > 1e6 * MAX_FRAME_MEGAPIXELS:
        raise VideoError(
            f"unreadable: the frames have more than {MAX_FRAME_MEGAPIXELS} megapixels; scale the video down"
        )
