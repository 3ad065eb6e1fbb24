"""Boxes, scores and heatmaps drawn into images and videos."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from faces.videos import FrameReader
from utils.errors import InputError

REAL, FAKE = (177, 114, 0), (0, 94, 213)  # BGR: blue and vermilion, which colour-blind eyes tell apart
STRIP = 64  # pixels below a video, for its scores over time


class Drawn(NamedTuple):
    """A face to draw.

    Attributes:
        box: left, top, right, bottom in pixels.
        score: 0 (real) to 1 (fake).
        heat: h x w, 0 to 1, over the square that the network saw; or None.
        square: left, top and side of that square, in pixels.
    """

    box: np.ndarray
    score: float
    heat: np.ndarray | None = None
    square: tuple[int, int, int] | None = None


def draw_faces(image: np.ndarray, faces: Sequence[Drawn], threshold: float) -> np.ndarray:
    """Return a copy of an image (H x W x 3, BGR) with heatmaps, boxes and scores."""
    out = image.copy()
    height, width = image.shape[:2]
    thickness = max(1, round(min(height, width) / 300))
    for face in faces:
        if face.heat is not None and face.square is not None:
            _blend(out, face.heat, *face.square)
    for face in faces:
        colour = FAKE if face.score > threshold else REAL
        left, top, right, bottom = (round(float(x)) for x in face.box)
        cv2.rectangle(out, (left, top), (right, bottom), colour, thickness)
        text = f"{'fake' if face.score > threshold else 'real'} {face.score:.2f}"
        scale = max(0.4, min(height, width) / 900)
        (wide, high), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
        x, y = int(np.clip(left, 0, max(0, width - wide))), int(np.clip(top - 4, high + 4, height - 4))
        cv2.rectangle(out, (x, y - high - 4), (x + wide, y + 4), colour, cv2.FILLED)
        cv2.putText(out, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), thickness, cv2.LINE_AA)
    return out


def _blend(image: np.ndarray, heat: np.ndarray, left: int, top: int, side: int) -> None:
    """Lay a heatmap over a square of an image, stronger where it is hotter."""
    height, width = image.shape[:2]
    rows, columns = slice(max(0, top), min(height, top + side)), slice(max(0, left), min(width, left + side))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    whole = cv2.resize(heat.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    part = whole[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    colour = cv2.applyColorMap((part * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    weight = 0.6 * part[..., None]
    image[rows, columns] = (image[rows, columns] * (1 - weight) + colour * weight).astype(np.uint8)


def annotate_video(
    source: Path, target: Path, faces_at: Sequence[tuple[int, dict[int, Drawn]]], threshold: float
) -> None:
    """Write an H.264 video with the faces drawn in, and their scores over time in a strip below.

    Between the frames that were scored a face's box is interpolated; the video is read and written frame by frame.

    Args:
        source: the video.
        target: the file to write, .mp4.
        faces_at: positions of the scored frames, in order, each with the faces by track.
        threshold: a score above it means fake.

    Raises:
        InputError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise InputError("--annotate needs PyAV for videos: pip install --no-deps -r requirements-extra.txt") from error
    positions = [position for position, _ in faces_at]
    last = max(positions, default=0)
    reader = FrameReader(source, every=1)
    with av.open(str(target), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream, scored = None, 0
        for position, frame in reader:
            while scored + 1 < len(positions) and positions[scored + 1] <= position:
                scored += 1
            image = draw_faces(frame, _between(faces_at, scored, position), threshold)
            image = np.concatenate([image, _strip(faces_at, position, last, image.shape[1], threshold)])
            image = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]  # as yuv420p wants it
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(reader.fps).limit_denominator(1001))
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = "yuv420p"  # which browsers play
                stream.options = {"crf": "20"}
            drawn = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
            container.mux(stream.encode(drawn))
        if stream is not None:
            container.mux(stream.encode())


def _between(faces_at: Sequence[tuple[int, dict[int, Drawn]]], scored: int, position: int) -> list[Drawn]:
    """Return the faces of a frame: those of the scored frame before it, moved towards their next place."""
    if not faces_at or position < faces_at[0][0]:
        return []
    before, here = faces_at[scored]
    if scored + 1 == len(faces_at):
        return list(here.values())
    after, there = faces_at[scored + 1]
    share = (position - before) / (after - before)
    return [
        face._replace(box=(1 - share) * face.box + share * there[track].box) if track in there else face
        for track, face in here.items()
    ]


def _strip(
    faces_at: Sequence[tuple[int, dict[int, Drawn]]], position: int, last: int, width: int, threshold: float
) -> np.ndarray:
    """Draw the highest score of each scored frame so far, 0 at the bottom and 1 at the top: STRIP x width x 3."""
    strip = np.full((STRIP, width, 3), 255, np.uint8)

    def height(score: float) -> int:
        return round((1 - score) * (STRIP - 9)) + 4

    cv2.line(strip, (0, height(threshold)), (width, height(threshold)), (200, 200, 200), 1)
    points = [
        (round(p / max(1, last) * (width - 1)), max(face.score for face in faces.values()))
        for p, faces in faces_at
        if faces and p <= position
    ]
    for (x0, first), (x1, second) in zip(points, points[1:], strict=False):
        colour = FAKE if second > threshold else REAL
        cv2.line(strip, (x0, height(first)), (x1, height(second)), colour, 2, cv2.LINE_AA)
    x = round(min(position, last) / max(1, last) * (width - 1))
    cv2.line(strip, (x, 0), (x, STRIP), (120, 120, 120), 1)
    return strip
