"""Image and video files, one by one: their faces scored, judged, tabled and drawn."""

import csv
import json
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from datasets.images import read_image
from datasets.labels import IMAGE_ENDINGS
from faces.extraction import MIN_TRACK
from faces.videos import VIDEO_ENDINGS, FrameReader, VideoError
from scoring.annotate import DRAWN, annotate_video, draw_faces
from scoring.detector import ForgeryDetector, ScoredFace
from utils.errors import InputError, one_line
from utils.files import atomic_write

ScoredFrames = Iterable[tuple[int, list[ScoredFace]]]  # position in the video, and the faces there
STEM = 150  # bytes at most of a name that gets more words; most file systems take 255
OnFrame = Callable[[int, float, Sequence[ScoredFace]], None]  # position, time in seconds, and the faces there


class NotScored(Exception):
    """A file gets no score; the message says why, in a few words."""


def is_video(file: Path) -> bool:
    """Tell a video from an image by its name."""
    return file.name.lower().endswith(VIDEO_ENDINGS)


def find_files(paths: Sequence[Path]) -> list[Path]:
    """List the images and videos that are named, or lie in and below named folders, each once.

    Of a folder's files those that are hidden, or that annotating has drawn, are left out.

    Raises:
        InputError: a path that is not there; nothing at all.
    """
    files = []
    for path in paths:
        if path.is_dir():
            inside = (file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith("."))
            inside = (file for file in inside if file.name.lower().endswith((*IMAGE_ENDINGS, *VIDEO_ENDINGS)))
            files += [file for file in inside if not is_drawing(file)]
        elif not path.exists():
            raise InputError(f"there is no {path}; give images, videos or folders of them.")
        else:
            files.append(path)
    if not files:
        kinds = f"image ({', '.join(IMAGE_ENDINGS)}) or video ({', '.join(VIDEO_ENDINGS)})"
        raise InputError(f"no {kinds} in {', '.join(map(str, paths))}.")
    once: dict[Path, Path] = {}
    for file in files:
        once.setdefault(file.resolve(), file)  # a file may be named in more ways than one
    return list(once.values())


# --------------------------------------------------------------------------------------------------------- verdicts


@dataclass
class FileScore:
    """What is known of a file.

    Attributes:
        score: of its most suspicious face: the mean over a video's frames of that face; None where there is none.
        verdict: fake or real; empty where there is no score.
        face: the track of that face; None where there is none.
        faces: people in it.
        frames: frames looked at.
        cause: why there is no score.
        note: that a video breaks off, or empty.
        tracks: for each person, in how many frames they are, and the sum of their scores.
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
        """Take the faces of the next frame."""
        self.frames += 1
        for face in faces:
            count, total = self.tracks.get(face.track, (0, 0.0))
            self.tracks[face.track] = (count + 1, total + face.score)

    def judge(self, threshold: float) -> None:
        """Find score and verdict.

        A person seen in fewer frames than a tenth of those looked at, or than `MIN_TRACK`, is taken for a mistake of
        the face detector, where there is another one.
        """
        shortest = max(min(MIN_TRACK, self.frames), self.frames / 10)
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
        faces = "1 face" if self.faces == 1 else f"{self.faces} faces, judged by face {self.face}"
        frames = f", {self.frames} frame{'s' * (self.frames != 1)}" if is_video(self.file) else ""
        return f"{name}: {self.verdict} {self.score:.3f} ({faces}{frames}{note})"


def score_file(
    detector: ForgeryDetector, file: Path, on_frame: OnFrame | None = None, target: Path | None = None
) -> FileScore:
    """Score an image or a video; what cannot be read or has no face gets a cause in place of a score.

    Args:
        detector: the network.
        file: the image or video.
        on_frame: is told the position of each frame that is scored, its time in seconds, and its faces; of an image
            0, 0 and its faces.
        target: where to write the annotated image (.png) or video (.mp4); None for nowhere.

    Raises:
        InputError: the annotated file cannot be written.
    """
    result = FileScore(file)

    def frames() -> Iterator[tuple[int, list[ScoredFace]]]:
        with tqdm(desc=file.name[:40], unit=" frames", leave=False, delay=1, disable=not is_video(file)) as bar:
            for position, time, faces in _frames(detector, file, result):
                result.add(faces)
                if on_frame is not None:
                    on_frame(position, time, faces)
                yield position, faces
                bar.update()
        if not result.tracks:
            raise NotScored(f"no face in {result.frames} frames" if is_video(file) else "no face")

    try:
        if target is None:
            deque(frames(), maxlen=0)
        else:
            _annotate(file, target, frames(), detector.threshold)
        result.judge(detector.threshold)
    except (NotScored, VideoError) as error:
        result.cause = str(error)
    return result


def _frames(detector: ForgeryDetector, file: Path, result: FileScore) -> Iterator[tuple[int, float, list[ScoredFace]]]:
    """Give the position of each frame, its time in seconds, and its faces."""
    if not is_video(file):
        yield 0, 0.0, detector([load_image(file)])[0]
        return
    reader = FrameReader(file, detector.recipe.every, detector.recipe.frames)
    try:
        for position, faces in detector.video(reader):
            yield position, reader.times[position], faces
    except cv2.error as error:
        raise NotScored("unreadable: no video that can be decoded") from error
    if reader.breaks_off():
        result.note = f"the video breaks off after {reader.read} of {reader.told} frames"


def load_image(file: Path) -> np.ndarray:
    """Read an image as H x W x 3, uint8, RGB, turned as its camera says.

    Raises:
        NotScored: it cannot be read.
    """
    try:
        with warnings.catch_warnings():
            # Twice as large an image is an error; up to there a photograph may well be large.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return read_image(file, exif_rotation=True)
    except InputError as error:
        raise NotScored(f"unreadable: {str(error).removeprefix(f'{file}: ')}") from error


# ----------------------------------------------------------------------------------------------------------- drawings


def annotation_targets(files: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Say where in `folder` each file is drawn to: as the files lie below the folder that they have in common.

    Nothing but an earlier drawing is ever replaced. A long name is cut.
    """
    # Without ".." and links, by which a file would leave the folder.
    absolute = {file: Path(os.path.abspath(file)) for file in files}
    common = os.path.commonpath([file.parent for file in absolute.values()])
    targets: dict[Path, Path] = {}
    taken = {file.resolve() for file in files}
    for file, there in absolute.items():
        below, ending, number = folder / there.parent.relative_to(common), ".mp4" if is_video(file) else ".png", 1
        stem = os.fsencode(file.stem)
        stem = file.stem if len(stem) <= STEM else stem[:STEM].decode(errors="ignore")
        target = below / f"{stem}_annotated{ending}"
        while target.resolve() in taken or (target.exists() and not is_drawing(target)):  # a.png beside a.jpg
            number += 1
            target = below / f"{stem}_annotated_{number}{ending}"
        taken.add(target.resolve())
        targets[file] = target
    return targets


def is_drawing(file: Path) -> bool:
    """Tell whether annotating has drawn a file: its name and its metadata, which are at its beginning, say so."""
    if "_annotated" not in file.name or not file.is_file():
        return False
    try:
        with file.open("rb") as content:
            return DRAWN.encode() in content.read(2**24)
    except OSError:
        return False


def _annotate(file: Path, target: Path, frames: ScoredFrames, threshold: float) -> None:
    """Write the image or the video with boxes, scores and heatmaps, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as part:
        if is_video(file):
            annotate_video(file, part, frames, threshold)
        else:
            ((_, faces),) = frames
            image = draw_faces(load_image(file)[..., ::-1], faces, threshold)
            about = PngInfo()
            about.add_text("Comment", DRAWN)
            Image.fromarray(np.ascontiguousarray(image[..., ::-1])).save(part, "png", pnginfo=about)


# ------------------------------------------------------------------------------------------------------------- tables


class Tables:
    """Every face of every frame as JSON and as CSV, written as they come: nothing is kept.

    Args:
        as_json: the open file, or None.
        as_csv: likewise.
    """

    COLUMNS = ("frame", "time", "face", "left", "top", "right", "bottom", "found", "score")

    def __init__(self, as_json: TextIO | None, as_csv: TextIO | None) -> None:
        self._json, self._csv = as_json, as_csv and csv.writer(as_csv)
        self._file: Path | None = None
        self._comma = False  # whether the list that is open has an entry
        if self._csv:
            self._csv.writerow(["file", *self.COLUMNS])
        if self._json:
            self._json.write("[")

    def begin(self, file: Path) -> None:
        """Begin a file."""
        if self._json:
            comma = "" if self._file is None else ","
            self._json.write(f'{comma}\n {{"file": {json.dumps(str(file))}, "detections": [')
        self._file, self._comma = file, False

    def add(self, position: int, time: float, faces: Sequence[ScoredFace]) -> None:
        """Write the faces of a frame, which is shown at a time in seconds."""
        for face in faces:
            box = [round(float(x), 1) for x in face.box]
            row = [position, round(time, 3), face.track, *box, round(face.found, 4), face.score]
            if self._csv:
                self._csv.writerow([self._file, *row])
            if self._json:
                entry = json.dumps(dict(zip(self.COLUMNS, row, strict=True)))
                self._json.write(f"{',' if self._comma else ''}\n  {entry}")
                self._comma = True

    def end(self, result: FileScore, threshold: float) -> None:
        """Write what became of the file."""
        if self._json:
            names = ("score", "verdict", "face", "faces", "frames", "cause", "note")
            rest = {name: getattr(result, name) for name in names} | {"threshold": threshold}
            self._json.write(f"],\n  {json.dumps(rest)[1:]}")

    def close(self) -> None:
        """Write what stands at the end."""
        if self._json:
            self._json.write("\n]\n")


@contextmanager
def open_tables(as_json: Path | None, as_csv: Path | None) -> Iterator[Tables]:
    """Open the files of `Tables`, each of which appears whole, when all is done, or not at all."""
    with _open_table(as_json) as json_file, _open_table(as_csv) as csv_file:
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
