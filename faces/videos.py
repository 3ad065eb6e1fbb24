"""Frames of a video file, read from its beginning to its end."""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

# Read when the first video is opened: a damaged file is told of once, by this project.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV itself would warn beside FFmpeg

ENDS_EARLY = 0.9  # of the frames that the header tells of
VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


class VideoError(Exception):
    """A video cannot be used; the message says why, in a few words."""


def evenly_spaced(total: int, count: int) -> np.ndarray:
    """Return `count` positions from 0 to total - 1, the first and the last among them; all, where there are fewer."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))


class FrameReader:
    """The wanted frames of a video: one in `every` from frame 0 on, or `count` of them evenly spaced.

    Iterating gives (position, frame), the frame H x W x 3, uint8, BGR. Frames between the wanted ones are decoded,
    since video codecs build each frame upon others, but not converted.

    Attributes:
        fps: frames per second, as the header tells; 25 where it tells nothing.
        told: the number of frames that the file's header tells of; 0 where it tells nothing.
        read: the number of frames read so far; after the iteration, what the file really holds.
        times: when each of them is shown, in seconds after the first.

    Raises:
        VideoError: the file is missing, empty, or no video that OpenCV can read.
    """

    def __init__(self, path: Path, every: int = 5, count: int | None = None) -> None:
        if not path.is_file():
            raise VideoError("missing")
        if path.stat().st_size == 0:
            raise VideoError("unreadable: the file is empty")
        try:
            str(path).encode()
        except UnicodeEncodeError:  # at which OpenCV crashes
            raise VideoError("unreadable: the file's name is not UTF-8; rename it") from None
        # An absolute path, since FFmpeg takes what stands before a colon for a protocol.
        self._path = str(path.absolute())
        self._capture = self._open()
        self.told = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1000 else 25.0  # some headers hold a clock's ticks in its place
        if self.fps != fps:  # and then the number of frames is made from them
            self.told = 0
        self.read = 0
        self.times = array("d")
        self._every, self._count = every, count

    def _open(self, *options: int) -> cv2.VideoCapture:
        # One thread a video: many videos are decoded side by side.
        capture = cv2.VideoCapture(self._path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1, *options])
        if not capture.isOpened():
            raise VideoError("unreadable: no video that can be opened")
        return capture

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        wanted = None if self._count is None else set(evenly_spaced(self._frames_there(), self._count))
        try:
            while self._capture.grab():
                position, self.read = self.read, self.read + 1
                self.times.append(self._time(position))
                if position % self._every == 0 if wanted is None else position in wanted:
                    good, frame = self._capture.retrieve()
                    if good:
                        yield position, frame
        finally:
            self._capture.release()
        if self.read == 0:
            raise VideoError("unreadable: no frame can be decoded")

    def _time(self, position: int) -> float:
        """Return when the frame that was just read is shown: by its own timestamp, where that makes sense."""
        stamp = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if position == 0:
            self._first = stamp
            return 0.0
        steady, time = position / self.fps, stamp - self._first
        if abs(time - steady) < 0.002:  # a constant rate, whose timestamps Matroska rounds
            time = steady
        return time if time > self.times[-1] else self.times[-1] + 1 / self.fps  # some frames have no timestamp

    def breaks_off(self) -> bool:
        """Tell, after the iteration, whether the file holds notably less than its header tells of."""
        # Of a varying rate, what a header tells may be the number of frames that a constant one would have.
        return max(self.read, self.times[-1] * self.fps) < ENDS_EARLY * self.told

    def length(self) -> int:
        """Return the number of frames, as the header tells; where it does not, decode the whole video once."""
        if self.told:
            return self.told
        total = _count_grabs(self._open())
        if total == 0:
            raise VideoError("unreadable: no frame can be decoded")
        return total

    def _frames_there(self) -> int:
        """Return the number of frames, but no more than the file has packets for.

        Of a varying rate in Matroska, which counts no frames, `told` is the number that a constant rate would make.
        Packets are not decoded: counting them takes a hundredth of the time.
        """
        packets = _count_grabs(self._open(cv2.CAP_PROP_FORMAT, -1))
        return min(self.length(), packets) if packets else self.length()


def _count_grabs(capture: cv2.VideoCapture) -> int:
    total = 0
    while capture.grab():
        total += 1
    capture.release()
    return total
