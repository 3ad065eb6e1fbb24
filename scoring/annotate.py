"""Draw boxes, scores and heatmaps into images and videos."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from evaluation.verdicts import Cutoffs
from faces.tracks import MAX_DISTANCE
from faces.videos import FrameReader
from scoring.detector import ScoredFace

REAL, FAKE, UNCERTAIN = (177, 114, 0), (0, 94, 213), (110, 110, 110)  # BGR: blue, vermilion, grey
FONT = cv2.FONT_HERSHEY_SIMPLEX
SMALLEST_TEXT = 0.3  # scale of the font below which it cannot be read
STRIP_HEIGHT = 64  # pixels below a video, for its scores over time
LONGEST_SIDE = 16_000  # pixels of a video; x264 takes at most 16,384
# Minimum width of the video -> pixels left of the curve, and the numbers on its axis.
AXES = {160: (34, (0.0, 0.5, 1.0)), 40: (16, (0.0, 1.0)), 0: (2, ())}
ANNOTATION_MARK = "faces scored by inference.py"  # metadata of annotated copies, which are never scored as inputs

ScoredFrame = tuple[int, list[ScoredFace]]  # position in the video, faces


def colour_of(score: float, cutoffs: Cutoffs | None) -> tuple[int, int, int]:
    """Return the colour of a score, BGR; grey without cutoffs."""
    verdict = "uncertain" if cutoffs is None else cutoffs.verdict(score)
    return {"real": REAL, "fake": FAKE, "uncertain": UNCERTAIN}[verdict]


def draw_faces(
    image: np.ndarray, faces: Sequence[ScoredFace], cutoffs: Cutoffs | None, verdicts: bool = True
) -> np.ndarray:
    """Return a copy of an image (H x W x 3, uint8, BGR) with heatmaps, boxes and scores, in the colour of the verdict.

    With several people, the number of the face precedes its score. In a small image, a label leaves out the words that
    do not fit, and moves below another label.

    Args:
        image: the image.
        faces: its faces.
        cutoffs: give the verdict of each face; None draws in grey.
        verdicts: write the verdicts; False for a frame of a video, whose verdict comes from all frames.
    """
    out = np.array(image, order="C")
    height, width = image.shape[:2]
    thickness = max(1, round(min(height, width) / 200))
    labels: list[tuple[int, int, int, int]] = []  # left, top, right, bottom
    for face in faces:
        if face.heatmap is not None:
            overlay_heatmap(out, face.heatmap, face.crop_box)
    for face in faces:
        left, top, right, bottom = (round(float(x)) for x in face.box)
        cv2.rectangle(out, (left, top), (right, bottom), colour_of(face.score, cutoffs), thickness)
    for face in faces:  # after all boxes, so that none crosses a label
        colour, (left, top) = colour_of(face.score, cutoffs), (round(float(x)) for x in face.box[:2])
        number = f"{face.track}: " if face.track > 0 or len(faces) > 1 else ""
        verdict = f"{cutoffs.verdict(face.score)} " if verdicts and cutoffs is not None else ""
        texts = [f"{number}{verdict}{face.score:.2f}", f"{number}{face.score:.2f}", f"{face.score:.2f}"]
        text, scale = _fit_text(texts, width, max(0.4, min(height, width) / 900), thickness)
        (text_width, text_height), _ = cv2.getTextSize(text, FONT, scale, thickness)
        margin = 4 if scale >= 0.4 else 2
        x = min(max(left, 0), max(width - text_width, 0))
        y = min(max(top - margin, text_height + margin), height - margin)
        for _, above, right_end, below in sorted(labels, key=lambda label: label[1]):
            if x < right_end and y + margin > above and y - text_height - margin < below:
                y = below + text_height + margin + 1
        y = min(y, height - margin)
        labels.append((x, y - text_height - margin, x + text_width, y + margin))
        cv2.rectangle(out, labels[-1][:2], labels[-1][2:], colour, cv2.FILLED)
        cv2.putText(out, text, (x, y), FONT, scale, (255, 255, 255), thickness, cv2.LINE_AA)
    return out


def _fit_text(texts: Sequence[str], width: int, scale: float, thickness: int) -> tuple[str, float]:
    """Return the first text that can be read within a width in pixels, else the last one, and its scale."""
    fitting = scale
    for text in texts:
        (text_width, _), _ = cv2.getTextSize(text, FONT, scale, thickness)
        fitting = min(scale, scale * width / text_width)
        if fitting >= SMALLEST_TEXT:
            break
    return text, fitting


def overlay_heatmap(image: np.ndarray, heatmap: np.ndarray, box: np.ndarray) -> None:
    """Blend a heatmap into a box of an image, more opaque where it is higher.

    Args:
        image: H x W x 3, uint8, BGR; changed in place.
        heatmap: h x w, 0 to 1.
        box: left, top, right, bottom in pixels; clipped to the image.
    """
    left, top, right, bottom = (round(float(x)) for x in box)
    rows = slice(max(0, top), min(image.shape[0], bottom))
    columns = slice(max(0, left), min(image.shape[1], right))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    resized = cv2.resize(heatmap.astype(np.float32), (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    visible = resized[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    colour = cv2.applyColorMap((visible * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    weight = 0.6 * visible[..., None]
    image[rows, columns] = (image[rows, columns] * (1 - weight) + colour * weight).astype(np.uint8)


def annotate_video(source: Path, target: Path, scored: Iterable[ScoredFrame], cutoffs: Cutoffs | None) -> None:
    """Write an H.264 video with boxes, scores, and a strip below that plots the scores over time.

    Boxes are interpolated between scored frames. The source is read a second time while it is scored, and the frames
    are written one by one, so memory use does not grow with the length.

    Args:
        source: the video.
        target: MP4 file to write; the name may have another extension.
        scored: position and faces of each scored frame, in order; consumed while the source is read.
        cutoffs: of single frames, to colour the scores; None for grey.

    Raises:
        VideoError: the source cannot be read.
        OSError: the target cannot be written.
    """
    import av

    reader, scored = FrameReader(source, every=1), iter(scored)
    before, after = None, next(scored, None)
    stream, last_tick = None, -1
    try:
        # An absolute path, because FFmpeg reads the text before a colon in a relative path as a protocol.
        with av.open(str(target.absolute()), "w", format="mp4", options={"movflags": "faststart"}) as container:
            container.metadata["comment"] = ANNOTATION_MARK
            for position, frame in reader:
                if stream is None:
                    height, width = (min(side, LONGEST_SIDE) for side in frame.shape[:2])
                    strip = ScoreStrip(width, (reader.length() - 1) / reader.fps, cutoffs)
                    rate = Fraction(reader.fps).limit_denominator(1001) or Fraction(1, 1001)
                    stream = container.add_stream("libx264", rate=rate)
                    # At most 1 ms, for variable rates, and a divisor of the frame interval, for constant rates.
                    tick = Fraction(1, rate.numerator * -(-1000 // rate.numerator))
                    stream.codec_context.time_base = tick
                    stream.height, stream.width = (side + side % 2 for side in (height + STRIP_HEIGHT, width))
                    stream.pix_fmt = "yuv420p"  # the format that browsers play; needs even sides
                    stream.options = {"crf": "20", "bf": "0"}  # B-frames make MP4 lengths wrong at variable rates
                while after is not None and after[0] <= position:
                    before, after = after, next(scored, None)
                    strip.add(reader.times[before[0]], before[1])
                image = draw_faces(frame, _interpolate_faces(before, after, position), cutoffs, verdicts=False)
                if image.shape[:2] != (height, width):  # too large, or the size changes within the video
                    image = cv2.resize(image, (width, height))
                image = np.concatenate([image, strip.draw(reader.times[position])])
                pad_bottom, pad_right = stream.height - height - STRIP_HEIGHT, stream.width - width
                padded = cv2.copyMakeBorder(image, 0, pad_bottom, 0, pad_right, cv2.BORDER_REPLICATE)
                drawn = av.VideoFrame.from_ndarray(np.asarray(padded, np.uint8), format="bgr24")
                last_tick = max(last_tick + 1, round(reader.times[position] / tick))  # one frame per tick
                drawn.pts, drawn.time_base = last_tick, tick
                container.mux(stream.encode(drawn))
            if stream is not None:
                container.mux(stream.encode())
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error
    for _ in scored:  # score any frames that this reader did not reach
        pass


def _interpolate_faces(before: ScoredFrame | None, after: ScoredFrame | None, position: int) -> list[ScoredFace]:
    """Return the faces of the last scored frame, moved linearly towards their boxes in the next one.

    If the next scored frame is more than `MAX_DISTANCE` frames away, the faces stay in place for `MAX_DISTANCE` frames.
    """
    if before is None or position - before[0] > MAX_DISTANCE:
        return []
    if after is None or after[0] - before[0] > MAX_DISTANCE:
        return before[1]
    next_faces = {face.track: face for face in after[1]}
    weight = (position - before[0]) / (after[0] - before[0])
    return [
        face._replace(
            box=(1 - weight) * face.box + weight * next_faces[face.track].box,
            crop_box=(1 - weight) * face.crop_box + weight * next_faces[face.track].crop_box,
        )
        if face.track in next_faces
        else face
        for face in before[1]
    ]


class ScoreStrip:
    """A plot of the highest score in each scored frame so far, with an axis from 0 to 1 and lines at the cutoffs.

    Args:
        width: width of the video in pixels.
        length: time of the last frame in seconds; later frames are drawn at the right edge.
        cutoffs: drawn as grey lines, and colour the curve; None for a grey curve.
    """

    def __init__(self, width: int, length: float, cutoffs: Cutoffs | None) -> None:
        self._length, self._cutoffs = max(1e-9, length), cutoffs
        self._picture = np.full((STRIP_HEIGHT, width, 3), 255, np.uint8)
        self._last_point: tuple[int, int] | None = None
        self._left, numbers = next(axis for smallest, axis in AXES.items() if width >= smallest)
        for number in numbers:
            y = self._y(number)
            cv2.line(self._picture, (self._left - 5, y), (self._left - 2, y), (120, 120, 120), 1)
            cv2.putText(self._picture, f"{number:g}", (1, y + 4), FONT, 0.35, (80, 80, 80), 1, cv2.LINE_AA)
        cv2.line(self._picture, (self._left - 2, self._y(1)), (self._left - 2, self._y(0)), (120, 120, 120), 1)
        for cutoff in cutoffs or ():
            cv2.line(self._picture, (self._left, self._y(cutoff)), (width, self._y(cutoff)), (200, 200, 200), 1)

    def _x(self, time: float) -> int:
        return self._left + round(min(1.0, time / self._length) * max(0, self._picture.shape[1] - 1 - self._left))

    def _y(self, score: float) -> int:
        return round((1 - score) * (STRIP_HEIGHT - 9)) + 4

    def add(self, time: float, faces: Sequence[ScoredFace]) -> None:
        """Add the frame scored at a time in seconds; a frame without faces interrupts the line."""
        if not faces:
            self._last_point = None
            return
        highest = max(face.score for face in faces)
        point = self._x(time), self._y(highest)
        colour = colour_of(highest, self._cutoffs)
        cv2.line(self._picture, self._last_point or point, point, colour, 2, cv2.LINE_AA)
        self._last_point = point

    def draw(self, time: float) -> np.ndarray:
        """Return the strip, STRIP_HEIGHT x width x 3, uint8, BGR, with a vertical line at a time in seconds."""
        picture, x = self._picture.copy(), self._x(time)
        cv2.line(picture, (x, 0), (x, STRIP_HEIGHT), (120, 120, 120), 1)
        return picture
