"""Read the frames of a video file."""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

# OpenCV reads this when it opens the first video. FFmpeg's messages would repeat the reports of this project.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV's own warnings

MIN_DECODED_SHARE = 0.9  # share of the declared frames below which a video counts as cut short
VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


class VideoError(Exception):
    """A video cannot be read; the message is the reason in a few words."""


def evenly_spaced(total: int, count: int) -> np.ndarray:
    """Return `count` evenly spaced positions from 0 to total - 1, or all positions if there are fewer."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))


class FrameReader:
    """Iterate over sampled frames of a video: one in `every` from frame 0, or `count` evenly spaced frames.

    Yields (position, frame) with the frame H x W x 3, uint8, BGR. Frames in between are decoded, because codecs
    predict later frames from them, but are not converted to BGR.

    Args:
        path: the video file.
        every: sample one frame in this many.
        count: sample this many frames instead.

    Attributes:
        fps: frames per second in the header; 25 if the header has none.
        declared_frames: number of frames in the header; 0 if the header has none.
        frames_read: number of frames decoded so far.
        times: display time of each decoded frame, in seconds after the first frame.

    Raises:
        VideoError: the file is missing, empty, or not a video that OpenCV can read.
    """

    def __init__(self, path: Path, every: int = 5, count: int | None = None) -> None:
        if not path.is_file():
            raise VideoError("missing")
        if path.stat().st_size == 0:
            raise VideoError("unreadable: the file is empty")
        try:
            str(path).encode()
        except UnicodeEncodeError:  # OpenCV crashes on such a name
            raise VideoError("unreadable: the file name is not UTF-8; rename the file") from None
        self._path = str(path.absolute())  # FFmpeg reads the text before a colon in a relative path as a protocol
        self._capture = self._open()
        self.declared_frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1000 else 25.0  # some headers hold clock ticks instead
        if self.fps != fps:  # the declared number of frames is then computed from clock ticks
            self.declared_frames = 0
        self.frames_read = 0
        self.times = array("d")
        self._every, self._count = every, count

    def _open(self, *options: int) -> cv2.VideoCapture:
        # One thread per video, because many videos are decoded in parallel.
        capture = cv2.VideoCapture(self._path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1, *options])
        if not capture.isOpened():
            raise VideoError("unreadable: not a video that OpenCV can open")
        return capture

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        wanted = None if self._count is None else set(evenly_spaced(self._available_frames(), self._count))
        try:
            while self._capture.grab():
                position, self.frames_read = self.frames_read, self.frames_read + 1
                self.times.append(self._time(position))
                if position % self._every == 0 if wanted is None else position in wanted:
                    decoded, frame = self._capture.retrieve()
                    if decoded:
                        yield position, frame
        finally:
            self._capture.release()
        if self.frames_read == 0:
            raise VideoError("unreadable: no frame can be decoded")

    def _time(self, position: int) -> float:
        """Return the display time of the last decoded frame: its timestamp if plausible, else from the frame rate."""
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
        """Return the declared number of frames; without one, decode the video once to count them."""
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
        packets = _count_grabs(self._open(cv2.CAP_PROP_FORMAT, -1))
        return min(self.length(), packets) if packets else self.length()


def _count_grabs(capture: cv2.VideoCapture) -> int:
    total = 0
    while capture.grab():
        total += 1
    capture.release()
    return total
