"""Score image and video files one by one; write their tables and annotated copies."""

import csv
import json
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from faces.extraction import MIN_TRACK_LENGTH
from faces.kinds import VIDEO_ENDINGS, VideoError, file_kind, format_counts, kind_to_skip
from faces.videos import FrameReader
from scoring.annotate import ANNOTATION_MARK, annotate_video, draw_faces
from scoring.detector import ForgeryDetector, ScoredFace
from utils.errors import InputError, one_line
from utils.files import atomic_write
from utils.images import IMAGE_ENDINGS, read_image
from utils.progress import progress

MAX_STEM_BYTES = 150  # leaves room for endings, because most file systems allow 255 bytes per name
ScoredFrames = Iterable[tuple[int, list[ScoredFace]]]  # position in the video, faces
OnFrame = Callable[[int, float, Sequence[ScoredFace]], None]  # position in the video, time in seconds, faces


class NotScored(Exception):
    """A file gets no score; the message is the cause, in a few words."""


def is_video(file: Path) -> bool:
    """Return whether a file is a video or an animation; see `faces.videos.file_kind`."""
    return file_kind(file) in ("video", "animation")


def format_frame_count(number: int) -> str:
    """Return ``1 frame``, ``2 frames`` and so on."""
    return f"{number} frame{'s' * (number != 1)}"


def find_files(paths: Sequence[Path]) -> list[Path]:
    """List the given images and videos, and those in the given folders and their subfolders, each file once.

    Print how many files in the folders are skipped, by kind: hidden files, annotated copies, and other endings. A file
    without an ending is skipped if its content is neither an image nor a video.

    Raises:
        InputError: there is no file to score.
    """
    files = []
    skipped: Counter[str] = Counter()
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        for file in sorted(path.rglob("*")):
            if not file.is_file():
                continue
            if kind := "annotated" if is_annotated(file) else kind_to_skip(file):
                skipped[kind] += 1
            else:
                files.append(file)
    found = f"skipped in folders: {format_counts(skipped)}"
    if not files:
        kinds = f"image ({', '.join(IMAGE_ENDINGS)}) or video ({', '.join(VIDEO_ENDINGS)})"
        found = f"; {found}" if skipped else ""
        raise InputError(f"no {kinds} in {', '.join(map(str, paths))}{found}; give other paths.")
    if skipped:
        print(f"note: {found}", file=sys.stderr)
    unique: dict[Path, Path] = {}
    for file in files:
        unique.setdefault(file.resolve(), file)  # two paths may lead to one file
    return list(unique.values())


# ----------------------------------------------------------------------------------------------------------- scores


@dataclass
class FileScore:
    """The score of an image or a video.

    Attributes:
        score: highest face score; in a video, each face scores the mean of its frames. None without a face.
        verdict: fake or real; empty without a score.
        face: track of the face with the highest score; None without a face.
        faces: number of faces, without ignored tracks.
        frames: number of scored frames.
        cause: why there is no score; empty with a score.
        note: a warning about the video, or empty.
        tracks: for each track, the number of its frames and the sum of its scores.
    """

    file: Path
    score: float | None = None
    verdict: str = ""
    face: int | None = None
    faces: int = 0
    frames: int = 0
    cause: str = ""
    note: str = ""
    tracks: dict[int, tuple[int, float]] = field(default_factory=dict, repr=False)

    def add(self, faces: Sequence[ScoredFace]) -> None:
        """Add the faces of the next frame."""
        self.frames += 1
        for face in faces:
            count, total = self.tracks.get(face.track, (0, 0.0))
            self.tracks[face.track] = (count + 1, total + face.score)

    def decide(self, threshold: float) -> None:
        """Compute score and verdict from the frames added so far.

        A track is ignored as a false detection if it is shorter than `MIN_TRACK_LENGTH` frames or a tenth of the scored
        frames, unless all tracks are that short.
        """
        shortest = max(min(MIN_TRACK_LENGTH, self.frames), self.frames / 10)
        means = {track: total / count for track, (count, total) in self.tracks.items()}
        kept = [track for track in means if self.tracks[track][0] >= shortest] or list(means)
        self.faces = len(kept)
        self.face = max(kept, key=means.__getitem__)
        self.score = means[self.face]
        self.verdict = "fake" if self.score > threshold else "real"

    def __str__(self) -> str:
        name = one_line(self.file)
        note = f"; {self.note}" if self.note else ""
        if self.score is None:
            return f"{name}: not scored: {self.cause}{note}"
        faces = "1 face" if self.faces == 1 else f"{self.faces} faces, face {self.face} scores highest"
        frames = f", {format_frame_count(self.frames)}" if is_video(self.file) else ""
        return f"{name}: {self.verdict} {self.score:.3f} ({faces}{frames}{note})"


def score_file(
    detector: ForgeryDetector, file: Path, on_frame: OnFrame | None = None, target: Path | None = None
) -> FileScore:
    """Score an image or a video. A file that cannot be read or has no face gets a cause instead of a score.

    Args:
        detector: the detector.
        file: image or video.
        on_frame: called with the position of each scored frame, its time in seconds, and its faces; for an image with
            0, 0 and its faces.
        target: annotated copy to write, an image as PNG and a video as MP4; None writes none.

    Raises:
        InputError: the annotated copy cannot be written.
    """
    result = FileScore(file)
    video = is_video(file)

    def frames() -> Iterator[tuple[int, list[ScoredFace]]]:
        with progress(None, file.name[:40], unit="frames", delay=1, disable=not video) as bar:
            for position, time, faces in _score_frames(detector, file, result):
                result.add(faces)
                if on_frame is not None:
                    on_frame(position, time, faces)
                yield position, faces
                bar.update()
        if not result.tracks:
            raise NotScored(f"no face in {format_frame_count(result.frames)}" if video else "no face")

    try:
        if target is None:
            deque(frames(), maxlen=0)
        else:
            _annotate(file, target, frames(), detector.threshold)
        result.decide(detector.threshold)
    except (NotScored, VideoError) as error:
        result.cause = str(error)
    return result


def _score_frames(
    detector: ForgeryDetector, file: Path, result: FileScore
) -> Iterator[tuple[int, float, list[ScoredFace]]]:
    """Yield the position of each scored frame, its time in seconds, and its faces."""
    if not is_video(file):
        yield 0, 0.0, detector([load_image(file)])[0]
        return
    reader = FrameReader(file, detector.recipe.every, detector.recipe.frames)
    try:
        for position, faces in detector.video(reader):
            yield position, reader.times[position], faces
    except cv2.error as error:
        raise NotScored("unreadable: the video cannot be decoded") from error
    if reader.ends_early():
        result.note = f"the video ends after {reader.frames_read} of {reader.declared_frames} frames"


def load_image(file: Path) -> np.ndarray:
    """Read an image as H x W x 3, uint8, RGB, rotated by its EXIF orientation.

    Raises:
        NotScored: the image cannot be read.
    """
    try:
        return read_image(file, exif_rotation=True)
    except InputError as error:
        reason = str(error).removeprefix(f"{file}: ")
        if isinstance(error.__cause__, UnidentifiedImageError) and not file.name.lower().endswith(IMAGE_ENDINGS):
            reason = "neither an image nor a video"
        elif isinstance(error.__cause__, Image.DecompressionBombError):
            reason += "; raise --max_megapixels to score it"
        raise NotScored(f"unreadable: {reason}") from error


# -------------------------------------------------------------------------------------------------- annotated copies


def annotation_targets(files: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Choose the annotated copy of each file.

    The copies keep the folder tree below the files' common folder. A copy replaces only an earlier annotated copy.
    Long names are cut.
    """
    # Without abspath, a path with ".." would lead out of the folder.
    absolute = {file: Path(os.path.abspath(file)) for file in files}
    common = os.path.commonpath([file.parent for file in absolute.values()])
    targets: dict[Path, Path] = {}
    taken = {file.resolve() for file in files}
    for file, source in absolute.items():
        parent, ending, number = folder / source.parent.relative_to(common), ".mp4" if is_video(file) else ".png", 1
        encoded = os.fsencode(file.stem)
        stem = file.stem if len(encoded) <= MAX_STEM_BYTES else encoded[:MAX_STEM_BYTES].decode(errors="ignore")
        target = parent / f"{stem}_annotated{ending}"
        while target.resolve() in taken or (target.exists() and not is_annotated(target)):  # a.png beside a.jpg
            number += 1
            target = parent / f"{stem}_annotated_{number}{ending}"
        taken.add(target.resolve())
        targets[file] = target
    return targets


def is_annotated(file: Path) -> bool:
    """Return whether a file is an annotated copy, by its name and by the metadata at its beginning."""
    if "_annotated" not in file.name or not file.is_file():
        return False
    try:
        with file.open("rb") as content:
            return ANNOTATION_MARK.encode() in content.read(2**24)
    except OSError:
        return False


def _annotate(file: Path, target: Path, frames: ScoredFrames, threshold: float) -> None:
    """Write the annotated copy of an image or a video atomically."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as part:
        if is_video(file):
            annotate_video(file, part, frames, threshold)
        else:
            ((_, faces),) = frames
            image = draw_faces(load_image(file)[..., ::-1], faces, threshold)
            metadata = PngInfo()
            metadata.add_text("Comment", ANNOTATION_MARK)
            Image.fromarray(np.ascontiguousarray(image[..., ::-1])).save(part, "png", pnginfo=metadata)


# ----------------------------------------------------------------------------------------------------------- tables


class Tables:
    """Write every face of every frame to a JSON and a CSV file, without keeping any in memory.

    Args:
        json_file: open for writing, or None.
        csv_file: open for writing, or None.
    """

    COLUMNS = ("frame", "time", "face", "left", "top", "right", "bottom", "found", "score")

    def __init__(self, json_file: TextIO | None, csv_file: TextIO | None) -> None:
        self._json, self._csv = json_file, csv_file and csv.writer(csv_file)
        self._file: Path | None = None
        self._comma = False  # whether the open list has an entry
        if self._csv:
            self._csv.writerow(["file", *self.COLUMNS])
        if self._json:
            self._json.write("[")

    def begin(self, file: Path) -> None:
        """Start the entry of a file."""
        if self._json:
            comma = "" if self._file is None else ","
            self._json.write(f'{comma}\n {{"file": {json.dumps(str(file))}, "detections": [')
        self._file, self._comma = file, False

    def add(self, position: int, time: float, faces: Sequence[ScoredFace]) -> None:
        """Write the faces of the frame at a position and a time in seconds."""
        for face in faces:
            box = [round(float(x), 1) for x in face.box]
            row = [position, round(time, 3), face.track, *box, round(face.confidence, 4), face.score]
            if self._csv:
                self._csv.writerow([self._file, *row])
            if self._json:
                entry = json.dumps(dict(zip(self.COLUMNS, row, strict=True)))
                self._json.write(f"{',' if self._comma else ''}\n  {entry}")
                self._comma = True

    def end(self, result: FileScore, threshold: float) -> None:
        """Write the score of the file and end its entry."""
        if self._json:
            names = ("score", "verdict", "face", "faces", "frames", "cause", "note")
            rest = {name: getattr(result, name) for name in names} | {"threshold": threshold}
            self._json.write(f"],\n  {json.dumps(rest)[1:]}")

    def close(self) -> None:
        """End the JSON list."""
        if self._json:
            self._json.write("\n]\n")


@contextmanager
def open_tables(json_path: Path | None, csv_path: Path | None) -> Iterator[Tables]:
    """Open `Tables`. The files appear when the block ends without an error."""
    with _open_table(json_path) as json_file, _open_table(csv_path) as csv_file:
        tables = Tables(json_file, csv_file)
        yield tables
        tables.close()


@contextmanager
def _open_table(target: Path | None) -> Iterator[TextIO | None]:
    if target is None:
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as part, part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        yield file
