"""Score image and video files one by one; write their annotated copies."""

import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from evaluation.verdicts import ERROR, Cutoffs
from faces.kinds import VIDEO_ENDINGS, VideoError, file_kind, format_counts, skip_reason
from faces.videos import FrameReader
from scoring.annotate import ANNOTATION_MARK, annotate_video, draw_faces
from scoring.detector import ForgeryDetector, ScoredFace
from scoring.scores import FileScore, format_frame_count
from utils.command import show_traceback
from utils.errors import InputError
from utils.files import atomic_write
from utils.images import IMAGE_ENDINGS, read_image
from utils.progress import progress

MAX_STEM_BYTES = 150  # leaves room for endings, because most file systems allow 255 bytes per name
OnFrame = Callable[[int, float, Sequence[ScoredFace]], None]  # position in the video, time in seconds, faces


class NotScored(Exception):
    """A file gets no score; the message is the cause, in a few words."""


def is_video(file: Path) -> bool:
    """Return whether a file is a video or an animation; see `faces.kinds.file_kind`."""
    return file_kind(file) in ("video", "animation")


def find_files(paths: Sequence[Path]) -> list[Path]:
    """List the given images and videos, and all images and videos in the given folders and subfolders, each file once.

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
            if kind := "annotated" if is_annotated(file) else skip_reason(file):
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


def score_file(
    detector: ForgeryDetector,
    file: Path,
    on_frame: OnFrame | None = None,
    target: Path | None = None,
    error: float = ERROR,
) -> FileScore:
    """Score an image or a video. A file that cannot be read or has no face gets a cause instead of a score.

    Args:
        detector: the detector.
        file: image or video.
        on_frame: called with the position of each scored frame, its time in seconds, and its faces; for an image with
            0, 0 and its faces.
        target: annotated copy to write, an image as PNG and a video as MP4; None writes none.
        error: see `evaluation.verdicts.choose_cutoffs`.

    Raises:
        InputError: the annotated copy cannot be written.
    """
    video = is_video(file)
    calibration = detector.calibration
    result = FileScore(file, video, calibration["video_score"] if calibration else "mean")

    def frames() -> Iterator[tuple[int, list[ScoredFace]]]:
        with progress(None, file.name[:40], unit="frames", delay=1, disable=not video) as bar:
            for position, time, faces in _score_frames(detector, result):
                result.add(time, faces)
                if on_frame is not None:
                    on_frame(position, time, faces)
                yield position, faces
                bar.update()
        if not result.tracks:
            raise NotScored(f"no face in {format_frame_count(result.frames)}" if video else "no face")

    try:
        if target is None or not video:
            last = deque(frames(), maxlen=1)
        else:
            with _open_copy(target) as part:
                annotate_video(file, part, frames(), detector.cutoffs(error))
        result.decide(detector, error)
        if target is not None and not video:
            _annotate_image(file, target, last[0][1], result.drawn_cutoffs())
    except (NotScored, VideoError) as cause:
        show_traceback(cause)
        result.cause = str(cause)
    return result


def _score_frames(detector: ForgeryDetector, result: FileScore) -> Iterator[tuple[int, float, list[ScoredFace]]]:
    """Yield the position of each scored frame, its time in seconds, and its faces."""
    if not result.is_video:
        yield 0, 0.0, detector([load_image(result.file)])[0]
        return
    reader = FrameReader(result.file, detector.recipe.every, detector.recipe.frames)
    try:
        for position, faces in detector.video(reader):
            yield position, reader.times[position], faces
    except cv2.error as error:
        raise NotScored("unreadable: the video cannot be decoded") from error
    if reader.ends_early():
        result.notes.append(f"the video ends after {reader.frames_read} of {reader.declared_frames} frames")


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
            reason += " (--max_megapixels)"
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


@contextmanager
def _open_copy(target: Path) -> Iterator[Path]:
    """Yield the temporary file of an annotated copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as part:
        yield part


def _annotate_image(file: Path, target: Path, faces: Sequence[ScoredFace], cutoffs: Cutoffs | None) -> None:
    image = draw_faces(load_image(file)[..., ::-1], faces, cutoffs)
    metadata = PngInfo()
    metadata.add_text("Comment", ANNOTATION_MARK)
    with _open_copy(target) as part:
        Image.fromarray(image[..., ::-1]).save(part, "png", pnginfo=metadata)
