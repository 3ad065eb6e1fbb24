"""Boxes, scores and heatmaps drawn into images and videos."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from faces.tracks import MAX_REACH
from faces.videos import FrameReader
from scoring.detector import ScoredFace

REAL, FAKE = (177, 114, 0), (0, 94, 213)  # BGR: blue and vermilion, which colour-blind eyes tell apart
STRIP = 64  # pixels below a video, for its scores over time
DRAWN = "faces scored by inference.py"  # in the metadata of what is drawn here, which is never taken for an input


def draw_faces(image: np.ndarray, faces: Sequence[ScoredFace], threshold: float) -> np.ndarray:
    """Return a copy of an image (H x W x 3, BGR) with heatmaps, boxes and scores.

    Where there are more people than one, a face's number stands before its score.
    """
    out = np.ascontiguousarray(image).copy()
    height, width = image.shape[:2]
    thickness = max(1, round(min(height, width) / 200))
    for face in faces:
        if face.heat is not None:
            lay_heat(out, face.heat, face.seen)
    for face in faces:
        colour = FAKE if face.score > threshold else REAL
        left, top, right, bottom = (round(float(x)) for x in face.box)
        cv2.rectangle(out, (left, top), (right, bottom), colour, thickness)
        number = f"{face.track}: " if face.track > 0 or len(faces) > 1 else ""
        text = f"{number}{'fake' if face.score > threshold else 'real'} {face.score:.2f}"
        scale = max(0.4, min(height, width) / 900)
        (wide, high), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
        x, y = min(max(left, 0), max(width - wide, 0)), min(max(top - 4, high + 4), height - 4)
        cv2.rectangle(out, (x, y - high - 4), (x + wide, y + 4), colour, cv2.FILLED)
        cv2.putText(out, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), thickness, cv2.LINE_AA)
    return out


def lay_heat(image: np.ndarray, heat: np.ndarray, place: np.ndarray) -> None:
    """Lay a heatmap, h x w, 0 to 1, over a place (left, top, right, bottom) of an image, stronger where it is hotter.

    Args:
        image: H x W x 3, uint8, BGR; changed.
        heat: the map.
        place: in pixels; what of it is beyond the image is left out.
    """
    left, top, right, bottom = (round(float(x)) for x in place)
    rows = slice(max(0, top), min(image.shape[0], bottom))
    columns = slice(max(0, left), min(image.shape[1], right))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    whole = cv2.resize(heat.astype(np.float32), (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    part = whole[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    colour = cv2.applyColorMap((part * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    weight = 0.6 * part[..., None]
    image[rows, columns] = (image[rows, columns] * (1 - weight) + colour * weight).astype(np.uint8)


def annotate_video(
    source: Path, target: Path, scored: Iterable[tuple[int, list[ScoredFace]]], threshold: float
) -> None:
    """Write an H.264 video with the faces drawn in, and their scores over time in a strip below.

    Between the frames that were scored a face's box is interpolated. The video is read anew, beside the scoring, and
    written frame by frame: nothing is kept.

    Args:
        source: the video.
        target: the file to write, an MP4 whatever its name.
        scored: the position of each scored frame, in order, and its faces; taken as far as the frames are read.
        threshold: a score above it means fake.

    Raises:
        VideoError: the video cannot be read.
        OSError: the target cannot be written.
    """
    import av

    reader, scored = FrameReader(source, every=1), iter(scored)
    before, after = None, next(scored, None)
    stream, last = None, -1
    try:
        # An absolute path, since FFmpeg takes what stands before a colon for a protocol.
        with av.open(str(target.absolute()), "w", format="mp4", options={"movflags": "faststart"}) as container:
            container.metadata["comment"] = DRAWN
            for position, frame in reader:
                if stream is None:
                    height, width = frame.shape[:2]
                    strip = ScoreStrip(width, (reader.length() - 1) / reader.fps, threshold)
                    rate = Fraction(reader.fps).limit_denominator(1001)
                    stream = container.add_stream("libx264", rate=rate)
                    # A millisecond or less, for frames that come unevenly; and a whole share of an even one.
                    tick = Fraction(1, rate.numerator * -(-1000 // rate.numerator))
                    stream.codec_context.time_base = tick
                    stream.height, stream.width = _even(height + STRIP), _even(width)
                    stream.pix_fmt = "yuv420p"  # which browsers play, and which has even sides
                    stream.options = {"crf": "20", "bf": "0"}  # with B-frames MP4 tells a wrong length of uneven ones
                while after is not None and after[0] <= position:
                    before, after = after, next(scored, None)
                    strip.add(reader.times[before[0]], before[1])
                image = draw_faces(frame, _between(before, after, position), threshold)
                if image.shape[:2] != (height, width):  # which may change within a video
                    image = cv2.resize(image, (width, height))
                image = np.concatenate([image, strip.at(reader.times[position])])
                below, beside = stream.height - height - STRIP, stream.width - width
                image = cv2.copyMakeBorder(image, 0, below, 0, beside, cv2.BORDER_REPLICATE)
                drawn = av.VideoFrame.from_ndarray(image, format="bgr24")
                last = max(last + 1, round(reader.times[position] / tick))  # never two at the same tick
                drawn.pts, drawn.time_base = last, tick
                container.mux(stream.encode(drawn))
            if stream is not None:
                container.mux(stream.encode())
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error
    for _ in scored:  # its last frames, should this reader have had fewer
        pass


def _even(side: int) -> int:
    return side + side % 2


Scored = tuple[int, list[ScoredFace]] | None


def _between(before: Scored, after: Scored, position: int) -> list[ScoredFace]:
    """Return the faces of a frame: those of the scored frame before it, moved towards their next place.

    Where the scored frames are far apart, nobody knows where a face is between them: it stays for `MAX_REACH` frames.
    """
    if before is None or position - before[0] > MAX_REACH:
        return []
    if after is None or after[0] - before[0] > MAX_REACH:
        return before[1]
    there = {face.track: face for face in after[1]}
    share = (position - before[0]) / (after[0] - before[0])
    return [
        face._replace(
            box=(1 - share) * face.box + share * there[face.track].box,
            seen=(1 - share) * face.seen + share * there[face.track].seen,
        )
        if face.track in there
        else face
        for face in before[1]
    ]


class ScoreStrip:
    """The highest score of each scored frame so far, 0 at the bottom and 1 at the top.

    Args:
        width: in pixels, for the whole video.
        length: when the video's last frame is shown, in seconds; later ones are drawn at the right edge.
        threshold: a grey line; what is above it is drawn as fake.
    """

    def __init__(self, width: int, length: float, threshold: float) -> None:
        self._last, self._threshold = max(1e-9, length), threshold
        self._picture = np.full((STRIP, width, 3), 255, np.uint8)
        self._point: tuple[int, int] | None = None
        cv2.line(self._picture, (0, self._y(threshold)), (width, self._y(threshold)), (200, 200, 200), 1)

    def _x(self, time: float) -> int:
        return round(min(1.0, time / self._last) * (self._picture.shape[1] - 1))

    def _y(self, score: float) -> int:
        return round((1 - score) * (STRIP - 9)) + 4

    def add(self, time: float, faces: Sequence[ScoredFace]) -> None:
        """Draw the frame that was scored at a time in seconds; one without faces interrupts the line."""
        if not faces:
            self._point = None
            return
        highest = max(face.score for face in faces)
        point = self._x(time), self._y(highest)
        colour = FAKE if highest > self._threshold else REAL
        cv2.line(self._picture, self._point or point, point, colour, 2, cv2.LINE_AA)
        self._point = point

    def at(self, time: float) -> np.ndarray:
        """Return the strip at a time, STRIP x width x 3, BGR, with a line where the video is."""
        picture, x = self._picture.copy(), self._x(time)
        cv2.line(picture, (x, 0), (x, STRIP), (120, 120, 120), 1)
        return picture
