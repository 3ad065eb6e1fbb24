"""From video files to folders of face images: decoding in worker processes, detection in batches, whole folders.

A video's folder appears only when it is whole: its images are written to a hidden folder beside it, which is then
renamed. The folder's ``faces.json`` says which frame and which box each image is. A video that gives none leaves
``<folder>.failed.json`` with the cause in its place.
"""

import errno
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from faces.crops import crop_face
from faces.detectors import Detector, shrink
from faces.recipe import Recipe
from faces.tracks import FaceTracker, FrameFaces
from faces.videos import FrameReader, VideoError
from utils.files import own_part, remove_stale_parts, write_if_changed
from utils.workers import iterate, start_worker

WRITERS = 4  # threads that write images
MIN_TRACK = 3  # frames: with all faces, a shorter track is taken for a mistake of the detector


class Source(NamedTuple):
    """A video file, and the folder for its faces."""

    file: Path
    folder: Path


class Outcome(NamedTuple):
    """What became of a video: the frames looked at, and why it gave no face, or None."""

    source: Source
    frames: int
    failure: str | None


@dataclass
class Seconds:
    """Time spent in each stage, summed over all processes and threads, and the frames that went through it."""

    decode: float = 0.0
    detect: float = 0.0
    write: float = 0.0
    frames: int = 0  # decoded and converted, then looked at
    images: int = 0  # written

    def speeds(self) -> dict[str, float]:
        """Return frames per second of each stage; of `write`, images per second."""
        stages = {"decode": (self.frames, self.decode), "detect": (self.frames, self.detect)}
        stages["write"] = (self.images, self.write)
        return {stage: round(count / seconds, 1) for stage, (count, seconds) in stages.items() if seconds > 0}


class Chunk(NamedTuple):
    """Successive wanted frames of one video.

    Attributes:
        video: the number of the video.
        positions: of the B frames in the video.
        frames: B x H x W x 3, uint8, BGR.
        small: the same frames, shrunk for detection.
        seconds: what decoding them took.
        end: None but in a video's last chunk: the video's length in frames as read and as its header tells, and
            why it cannot be used, or None.
    """

    video: int
    positions: list[int]
    frames: Tensor
    small: Tensor
    seconds: float
    end: tuple[int, int, str | None] | None


class VideoChunks(IterableDataset):
    """Chunks of up to `batch_size` frames of some videos, in order within a video; each worker reads whole videos."""

    def __init__(self, files: Sequence[Path], recipe: Recipe, batch_size: int) -> None:
        self.files, self.recipe, self.batch_size = files, recipe, batch_size

    def __iter__(self) -> Iterator[Chunk]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for video in range(first, len(self.files), step):
            yield from self._read(video)

    def _read(self, video: int) -> Iterator[Chunk]:
        positions, frames, began = [], [], time.perf_counter()
        length, told, failure = 0, 0, None

        def chunk(end: tuple[int, int, str | None] | None) -> Chunk:
            nonlocal positions, frames, began
            small = [shrink(frame) for frame in frames]
            now = time.perf_counter()
            made = Chunk(video, positions, _stack(frames), _stack(small), now - began, end)
            positions, frames, began = [], [], now
            return made

        try:
            reader = FrameReader(self.files[video], self.recipe.every, self.recipe.frames)
            for position, frame in reader:
                if frames and (len(frames) == self.batch_size or frame.shape != frames[0].shape):
                    yield chunk(None)
                    began = time.perf_counter()
                positions.append(position)
                frames.append(frame)
            length, told = reader.read, reader.told if reader.breaks_off() else 0
        except (VideoError, cv2.error, OSError) as error:
            failure = str(error) if isinstance(error, VideoError) else f"unreadable: {error}"
        yield chunk((length, told, failure))


def _stack(frames: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(frames)) if frames else torch.empty(0, 0, 0, 3, dtype=torch.uint8)


def extract_faces(
    sources: Sequence[Source],
    recipe: Recipe,
    detector: Detector,
    batch_size: int,
    num_workers: int,
    seconds: Seconds,
) -> Iterator[Outcome]:
    """Write the faces of some videos, each into its folder.

    Args:
        sources: the videos; their folders are not there yet.
        recipe: how frames become images.
        detector: as `faces.detectors.load_face_detector` makes it.
        batch_size: frames that the detector looks at together.
        num_workers: processes that decode; 0 for this one.
        seconds: is added to.

    Yields:
        An outcome for each video, as soon as its folder is whole. What is unfinished when the iteration is given
        up, by an interruption or an error, is removed.

    Raises:
        OSError: the disk is full, or a folder cannot be written.
    """
    for folder in {source.folder.parent for source in sources}:
        remove_stale_parts(folder)
    chunks = VideoChunks([source.file for source in sources], recipe, batch_size)
    # Chunks are taken as they come, so that none waits for another worker's slow video; those of one video come from
    # one worker, through a queue, and so in their order.
    loader = DataLoader(chunks, batch_size=None, num_workers=num_workers, worker_init_fn=start_worker, in_order=False)
    open_folders: dict[int, _FaceFolder] = {}
    with ThreadPoolExecutor(WRITERS) as pool:
        try:
            for chunk in iterate(loader):
                seconds.decode += chunk.seconds
                seconds.frames += len(chunk.positions)
                if chunk.video not in open_folders:
                    open_folders[chunk.video] = _FaceFolder(sources[chunk.video], recipe, pool, seconds)
                folder = open_folders[chunk.video]
                if chunk.positions:
                    began = time.perf_counter()
                    detections = detector(chunk.small.numpy())
                    seconds.detect += time.perf_counter() - began
                    scale = chunk.frames.shape[2] / chunk.small.shape[2]
                    for position, frame, found in zip(chunk.positions, chunk.frames.numpy(), detections, strict=True):
                        folder.add(position, frame, found.boxes * scale, found.scores)
                if chunk.end is not None:
                    yield folder.finish(*chunk.end)
                    del open_folders[chunk.video]
        finally:
            pool.shutdown(cancel_futures=True)  # waits for images that are being written into these folders
            for folder in open_folders.values():
                folder.discard()


def _write_image(file: Path, image: np.ndarray) -> float:
    """Write a PNG; return the seconds that it took. Not by imwrite, which does not tell of a full disk."""
    began = time.perf_counter()
    file.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return time.perf_counter() - began


@dataclass
class _FaceFolder:
    """The folder of one video while it is being written."""

    source: Source
    recipe: Recipe
    pool: ThreadPoolExecutor
    seconds: Seconds
    tracker: FaceTracker = field(default_factory=FaceTracker)
    looked_at: int = 0
    faces: dict[int, list[dict[str, Any]]] = field(default_factory=dict)  # by track
    writes: deque[Future] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.part = own_part(self.source.folder)  # two runs at once do the same work, but not in each other's folders

    def add(self, position: int, frame: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> None:
        """Take the next frame with its faces."""
        self.looked_at += 1
        for ready in self.tracker.push(position, frame, boxes, scores):
            self._write(ready)

    def _write(self, ready: FrameFaces) -> None:
        for face in ready.faces:
            crop, enlarged = crop_face(ready.frame, face.box, self.recipe.margin, self.recipe.crop_size)
            folder = self.part / str(face.track)
            if face.track not in self.faces:
                folder.mkdir(parents=True)
            entry = {
                "image": f"{ready.position:04d}.png",
                "frame": ready.position,
                "box": [round(float(x), 1) for x in face.found],
                "score": round(face.score, 4),
                "enlarged": round(enlarged, 2),
            }
            self.faces.setdefault(face.track, []).append(entry)
            self.writes.append(self.pool.submit(_write_image, folder / entry["image"], crop))
        self._wait_for_writes(all_but=64)  # the crops that wait take memory

    def _wait_for_writes(self, all_but: int = 0) -> None:
        while len(self.writes) > all_but:
            self.seconds.write += self.writes.popleft().result()
            self.seconds.images += 1

    def finish(self, length: int, told: int, failure: str | None) -> Outcome:
        """Put the main face, or all faces, in their place; or say why there is none.

        Args:
            length: how many frames could be read.
            told: how many the header tells of, where the video breaks off before; else 0.
            failure: why it could not be read.
        """
        for ready in self.tracker.flush():
            self._write(ready)
        self._wait_for_writes()
        kept = self._kept_tracks()
        if failure is None and not kept:
            failure = f"no face in {self.looked_at} frames"
        target, record = self.source.folder, {
            "video": self.source.file.name,
            "bytes": self.source.file.stat().st_size if self.source.file.is_file() else 0,
            "frames": length,
            "looked_at": self.looked_at,
        }  # fmt: skip
        if told:
            record["frames_told"] = told
        if failure is None:
            if self.recipe.all_faces:
                whole = self.part / "all"
                whole.mkdir()
                for number, track in enumerate(kept):
                    os.rename(self.part / str(track), whole / str(number))
            else:
                whole = self.part / str(kept[0])
            record["faces"] = [self.faces[track] for track in kept]
            (whole / "faces.json").write_text(json.dumps(record) + "\n")
            if target.exists() and not is_done(self.source):
                os.rename(target, self.part / "of the file before")
            try:
                os.rename(whole, target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                # Another run was faster, with the same faces.
            failed_record(target).unlink(missing_ok=True)
        else:
            write_if_changed(failed_record(target), json.dumps({**record, "cause": failure}) + "\n")
        self.discard()
        return Outcome(self.source, self.looked_at, failure)

    def _kept_tracks(self) -> list[int]:
        """Return the track with the most frames times area; or all that are no mistakes, in that order."""

        def frames_times_area(track: int) -> float:
            boxes = np.array([face["box"] for face in self.faces[track]])
            return float(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).sum())

        tracks = sorted(self.faces, key=frames_times_area, reverse=True)
        if not self.recipe.all_faces:
            return tracks[:1]
        return [t for t in tracks if len(self.faces[t]) >= min(MIN_TRACK, self.looked_at)]

    def discard(self) -> None:
        """Remove what is not in its place."""
        shutil.rmtree(self.part, ignore_errors=True)


def failed_record(folder: Path) -> Path:
    """Return where it is written why a video has no folder."""
    return folder.with_name(f"{folder.name}.failed.json")


def is_done(source: Source) -> bool:
    """Tell whether a video has its faces, or none can be found in it. What was unreadable is tried again."""
    record = read_record(source)
    return record is not None and not record.get("cause", "").startswith("unreadable")


def read_record(source: Source) -> dict[str, Any] | None:
    """Read what became of a video in this run or an earlier one: its ``faces``, or the ``cause`` that there are none.

    None where it was not looked at, or where the file has another size now: it was half a download, or is another.
    """
    failed = failed_record(source.folder)
    try:
        record = json.loads((source.folder / "faces.json" if source.folder.is_dir() else failed).read_text())
        size = source.file.stat().st_size if source.file.is_file() else record["bytes"]
        return record if size == record["bytes"] else None
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, KeyError, TypeError):
        return None
