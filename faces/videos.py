"""Read the frames of videos, animations and photos."""

from array import array
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from faces.kinds import OPENING_BYTES, VideoError, check_frame_size, file_kind, open_video
from utils.errors import InputError
from utils.images import BROKEN_IMAGE, open_image, read_image, to_rgb
from utils.memory import AllocationLimit
from utils.time_limit import check_time

MIN_DECODED_SHARE = 0.9  # share of the declared frames below which a video counts as cut short
DEFAULT_DELAY = 100  # milliseconds per frame of an animation that declares 10 or less, as in browsers


def evenly_spaced(total: int, count: int) -> np.ndarray:
    """Return `count` evenly spaced positions from 0 to total - 1, or all positions if there are fewer."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))


class _PictureCapture:
    """Decode an animation, or the only frame of a photo, with the methods of `cv2.VideoCapture`.

    OpenCV reads no animated WebP, and does not rotate photos as their EXIF orientation says.
    """

    def __init__(self, path: Path, animated: bool) -> None:
        self._path, self._count = path, 1
        self._image: Image.Image | None = None
        if animated:
            try:
                self._image = open_image(path)
                check_frame_size(*self._image.size)
                self._count = self._image.n_frames  # type: ignore[attr-defined]
                self._image.load()  # WebP then has the duration of the first frame
            except BROKEN_IMAGE as error:
                raise VideoError("unreadable: no frame can be decoded") from error
        self._position, self._start, self._end = -1, 0.0, 0.0  # frame, milliseconds, milliseconds
        self._frame = np.empty(0)

    def get(self, name: int) -> float:
        if name == cv2.CAP_PROP_FRAME_COUNT:
            return self._count
        return 1000 / self._delay() if name == cv2.CAP_PROP_FPS else self._start

    def _delay(self) -> float:
        delay = self._image.info.get("duration", 0) if self._image else 0
        return delay if delay > 10 else DEFAULT_DELAY

    def grab(self) -> bool:
        self._position += 1
        if self._position == self._count:
            return False
        if self._image is None:
            try:
                self._frame = read_image(self._path, exif_rotation=True)
            except InputError as error:
                raise VideoError(f"unreadable: {str(error).removeprefix(f'{self._path}: ')}") from error
        else:
            try:
                self._image.seek(self._position)
                self._frame = to_rgb(self._image)
            except BROKEN_IMAGE:
                return False
        self._start, self._end = self._end, self._end + self._delay()
        return True

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.ascontiguousarray(self._frame[..., ::-1])

    def release(self) -> None:
        if self._image:
            self._image.close()


class FrameReader:
    """Iterate over sampled frames of a video: one in `every` from frame 0, or `count` evenly spaced frames.

    An animation is a video, and a photo is a video of one frame.

    An iteration yields (position, frame) with the frame H x W x 3, uint8, BGR. The frames in between are decoded,
    because codecs predict later frames from them, but not converted to BGR.

    Args:
        path: the video, animation or photo.
        every: sample one frame in this many.
        count: sample this many frames instead.

    Attributes:
        fps: frames per second in the header; 25 if the header has none.
        declared_frames: number of frames in the header; 0 if the header has none.
        frames_read: number of frames decoded so far.
        times: display time of each decoded frame, in seconds after the first frame.

    Raises:
        VideoError: the file is missing, empty, or not a video that OpenCV can read; or, in the iteration, no frame can
            be decoded.
    """

    def __init__(self, path: Path, every: int = 5, count: int | None = None) -> None:
        if not path.is_file():
            raise VideoError("missing")
        if path.stat().st_size == 0:
            raise VideoError("unreadable: the file is empty")
        self._path, self._kind = path, file_kind(path)
        self._capture = self._open()
        self.declared_frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1000 else 25.0  # some headers hold clock ticks instead
        if self.fps != fps:  # the declared number of frames is then computed from clock ticks
            self.declared_frames = 0
        self.frames_read = 0
        self.times = array("d")
        self._every, self._count = every, count

    def _open(self, *options: int) -> "cv2.VideoCapture | _PictureCapture":
        if self._kind in ("image", "animation"):
            return _PictureCapture(self._path, self._kind == "animation")
        if self._kind is None:
            raise VideoError("unreadable: neither an image nor a video")
        return open_video(self._path, *options)

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        wanted = None if self._count is None else set(evenly_spaced(self._available_frames(), self._count))
        try:
            while _grab(self._capture):
                check_time()
                position, self.frames_read = self.frames_read, self.frames_read + 1
                self.times.append(self._time(position))
                if position % self._every == 0 if wanted is None else position in wanted:
                    frame = self._retrieve()
                    if frame is not None:
                        yield position, frame
        finally:
            self._capture.release()
        if self.frames_read == 0:
            raise VideoError("unreadable: no frame can be decoded")

    def _retrieve(self) -> np.ndarray | None:
        try:
            decoded, frame = self._capture.retrieve()
        except cv2.error as error:
            raise VideoError("unreadable: the video cannot be decoded") from error
        return frame if decoded else None

    def _time(self, position: int) -> float:
        """Return the display time of the last decoded frame in seconds: its timestamp, or one from the frame rate."""
        stamp = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if position == 0:
            self._first = stamp
            return 0.0
        steady, time = position / self.fps, stamp - self._first
        if abs(time - steady) < 0.002:  # a constant frame rate, with timestamps that Matroska rounded
            time = steady
        return time if time > self.times[-1] else self.times[-1] + 1 / self.fps  # some frames have no timestamp

    def ends_early(self) -> bool:
        """Return, after the iteration, whether the file has fewer than 90 % of its declared frames."""
        # With a variable frame rate, the header may declare the number of frames of a constant rate.
        return max(self.frames_read, self.times[-1] * self.fps) < MIN_DECODED_SHARE * self.declared_frames

    def length(self) -> int:
        """Return the number of frames that the header declares; if it declares none, decode the video to count them.

        Raises:
            VideoError: no frame can be decoded.
        """
        if self.declared_frames:
            return self.declared_frames
        total = _count_grabs(self._open())
        if total == 0:
            raise VideoError("unreadable: no frame can be decoded")
        return total

    def _available_frames(self) -> int:
        """Return the declared number of frames, limited to the number of packets in the file.

        Matroska does not store a frame count; with a variable frame rate, `declared_frames` is then too high. Packets
        are counted without decoding, in a hundredth of the time.
        """
        if self._kind != "video":
            return self.declared_frames
        packets = _count_grabs(self._open(cv2.CAP_PROP_FORMAT, -1))
        return min(self.length(), packets) if packets else self.length()


def _grab(capture: cv2.VideoCapture | _PictureCapture) -> bool:
    with AllocationLimit(OPENING_BYTES):
        return capture.grab()


def _count_grabs(capture: cv2.VideoCapture | _PictureCapture) -> int:
    total = 0
    while _grab(capture):
        check_time()
        total += 1
    capture.release()
    return total
