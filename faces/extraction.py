"""Extract face crops from videos and photos: decode in worker processes, detect in batches, write one folder per video.

The crops of a video are written to a hidden folder. When the video is finished, this folder is flushed to the disk and
renamed, so a folder is always complete. Its ``faces.json`` gives the frame and box of each image. A video without crops
leaves ``<folder>.failed.json`` with the cause.
"""

import errno
import json
import os
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
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
from faces.kinds import VideoError
from faces.recipe import Recipe
from faces.tracks import FaceTracker, FrameFaces
from faces.videos import FrameReader
from utils.files import create_part, load_json, remove_part, sync, sync_tree, write_if_changed
from utils.workers import init_worker, iterate

WRITERS = 4  # threads that encode and write images
MASKED = 64  # smallest grey level of a manipulated pixel, because compression leaves dark noise in a mask
MIN_TRACK_LENGTH = 3  # frames; with all_faces, shorter tracks are dropped as false detections


class Source(NamedTuple):
    """A video or photo, and the folder of its face crops.

    Attributes:
        file: the video or photo.
        folder: the folder of its face crops.
        mask: a video of the size of `file`, bright where `file` is manipulated; it may be missing.
    """

    file: Path
    folder: Path
    mask: Path | None = None


class Outcome(NamedTuple):
    """The result for one video.

    Attributes:
        source: the video.
        sampled_frames: number of frames that the detector saw.
        failure: why the video has no face crops; None if it has some.
    """

    source: Source
    sampled_frames: int
    failure: str | None


@dataclass
class StageTimes:
    """Seconds spent in each stage, summed over processes and threads, and the number of frames and images."""

    decode: float = 0.0
    detect: float = 0.0
    write: float = 0.0
    frames: int = 0  # sampled: decoded and passed to the detector
    images: int = 0  # written

    def speeds(self) -> dict[str, float]:
        """Return the frames per second of each stage; for ``write``, the images per second."""
        stages = {"decode": (self.frames, self.decode), "detect": (self.frames, self.detect)}
        stages["write"] = (self.images, self.write)
        return {stage: round(count / seconds, 1) for stage, (count, seconds) in stages.items() if seconds > 0}


class VideoEnd(NamedTuple):
    """How the decoding of a video ended.

    Attributes:
        frames_read: number of decoded frames.
        declared_frames: number of frames in the header if the video ends early; else 0.
        failure: why the video cannot be read, or None.
    """

    frames_read: int
    declared_frames: int
    failure: str | None


class Chunk(NamedTuple):
    """Successive sampled frames of one video.

    Attributes:
        video: index in the list of videos.
        positions: positions of the B frames in the video.
        frames: B x H x W x 3, uint8, BGR.
        small: the B frames, shrunk for detection: B x h x w x 3, uint8, BGR.
        seconds: decoding time.
        end: set in the last chunk of a video only.
    """

    video: int
    positions: list[int]
    frames: Tensor
    small: Tensor
    seconds: float
    end: VideoEnd | None


class VideoChunks(IterableDataset):
    """Iterate over chunks of up to `batch_size` frames, in order within a video; one worker decodes each video."""

    def __init__(self, files: Sequence[Path], recipe: Recipe, batch_size: int) -> None:
        self.files, self.recipe, self.batch_size = files, recipe, batch_size

    def __iter__(self) -> Iterator[Chunk]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for video in range(first, len(self.files), step):
            yield from self._read(video)

    def _read(self, video: int) -> Iterator[Chunk]:
        positions: list[int] = []
        frames: list[np.ndarray] = []
        began = time.perf_counter()

        def make_chunk(end: VideoEnd | None) -> Chunk:
            nonlocal positions, frames
            small = [shrink(frame) for frame in frames]
            seconds = time.perf_counter() - began
            chunk = Chunk(video, positions, _stack(frames), _stack(small), seconds, end)
            positions, frames = [], []
            return chunk

        try:
            reader = FrameReader(self.files[video], self.recipe.every, self.recipe.frames)
            for position, frame in reader:
                if frames and (len(frames) == self.batch_size or frame.shape != frames[0].shape):
                    yield make_chunk(None)
                    began = time.perf_counter()
                positions.append(position)
                frames.append(frame)
            end = VideoEnd(reader.frames_read, reader.declared_frames if reader.ends_early() else 0, None)
        except VideoError as error:
            end = VideoEnd(0, 0, str(error))
        except (cv2.error, OSError) as error:
            end = VideoEnd(0, 0, f"unreadable: {error}")
        yield make_chunk(end)


def _stack(frames: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(frames)) if frames else torch.empty(0, 0, 0, 3, dtype=torch.uint8)


def extract_faces(
    sources: Sequence[Source],
    recipe: Recipe,
    detector: Detector,
    batch_size: int,
    num_workers: int,
    times: StageTimes,
) -> Generator[Outcome, None, None]:
    """Extract the faces of videos, each into its own folder.

    Args:
        sources: the videos.
        recipe: how frames are sampled and faces are cropped.
        detector: from `faces.detectors.load_face_detector`.
        batch_size: number of frames per detector call.
        num_workers: number of decoding processes; 0 to decode in this process.
        times: updated in place.

    Yields:
        The outcome of each video when its folder is complete. If the generator is closed early or fails, unfinished
        folders are removed.

    Raises:
        OSError: the disk is full, or a folder cannot be written.
    """
    chunks = VideoChunks([source.file for source in sources], recipe, batch_size)
    # Without in_order, a slow video does not delay other workers. Chunks of one video stay in order, because one worker
    # sends them through a queue.
    loader = DataLoader(chunks, batch_size=None, num_workers=num_workers, worker_init_fn=init_worker, in_order=False)
    unfinished: dict[int, _FaceFolder] = {}
    with ThreadPoolExecutor(WRITERS) as pool:
        try:
            for chunk in iterate(loader):
                times.decode += chunk.seconds
                times.frames += len(chunk.positions)
                if chunk.video not in unfinished:
                    unfinished[chunk.video] = _FaceFolder(sources[chunk.video], recipe, pool, times)
                folder = unfinished[chunk.video]
                if chunk.positions:
                    began = time.perf_counter()
                    detections = detector(chunk.small.numpy())
                    times.detect += time.perf_counter() - began
                    scale = chunk.frames.shape[2] / chunk.small.shape[2]
                    for position, frame, found in zip(chunk.positions, chunk.frames.numpy(), detections, strict=True):
                        folder.add(position, frame, found.boxes * scale, found.scores)
                if chunk.end is not None:
                    outcome = folder.finish(chunk.end)
                    unfinished.pop(chunk.video).discard()  # popped first: it must close its lock once
                    yield outcome
        finally:
            pool.shutdown(cancel_futures=True)  # waits for the threads that still write into these folders
            for folder in unfinished.values():
                folder.discard()


def _write_image(file: Path, image: np.ndarray) -> float:
    """Write a PNG and return the seconds it took."""
    began = time.perf_counter()
    # cv2.imwrite does not report a full disk.
    file.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return time.perf_counter() - began


@dataclass
class _FaceFolder:
    """The folder of one video while it is written."""

    source: Source
    recipe: Recipe
    pool: ThreadPoolExecutor
    times: StageTimes
    tracker: FaceTracker = field(default_factory=FaceTracker)
    sampled_frames: int = 0
    faces: dict[int, list[dict[str, Any]]] = field(default_factory=dict)  # by track
    writes: deque[Future[float]] = field(default_factory=deque)
    mask_state: str = ""

    def __post_init__(self) -> None:
        self.part, self.lock = create_part(self.source.folder, folder=True)  # two runs at once do not mix

    def add(self, position: int, frame: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> None:
        """Add the next sampled frame with its boxes (N x 4, pixels) and scores (N)."""
        self.sampled_frames += 1
        for ready in self.tracker.push(position, frame, boxes, scores):
            self._write(ready)

    def _write(self, ready: FrameFaces) -> None:
        for face in ready.faces:
            crop, scale = crop_face(ready.frame, face.box, self.recipe.margin, self.recipe.crop_size)
            folder = self.part / str(face.track)
            if face.track not in self.faces:
                folder.mkdir(parents=True)
            image = f"{ready.position:04d}.png"
            entry = {
                "image": image,
                "frame": ready.position,
                "box": [round(float(x), 1) for x in face.raw_box],
                "score": round(face.score, 4),
                "enlarged": round(scale, 2),
            }
            self.faces.setdefault(face.track, []).append(entry)
            self.writes.append(self.pool.submit(_write_image, folder / image, crop))
        self._wait_for_writes(max_pending=64)  # bounds the memory of the crops in the queue

    def _wait_for_writes(self, max_pending: int = 0) -> None:
        while len(self.writes) > max_pending:
            self.times.write += self.writes.popleft().result()
            self.times.images += 1

    def finish(self, end: VideoEnd) -> Outcome:
        """Move the crops of the main face, or of all faces, to the final folder; without a face, write the cause."""
        for ready in self.tracker.flush():
            self._write(ready)
        self._wait_for_writes()
        kept = self._kept_tracks()
        failure = end.failure
        if failure is None and not kept:
            failure = f"no face in {self.sampled_frames} frame{'s' * (self.sampled_frames != 1)}"
        target = self.source.folder
        record: dict[str, Any] = {
            "video": self.source.file.name,
            "bytes": self.source.file.stat().st_size if self.source.file.is_file() else 0,
            "frames": end.frames_read,
            "looked_at": self.sampled_frames,
        }
        if end.declared_frames:
            record["frames_told"] = end.declared_frames
        if failure is None:
            if self.recipe.all_faces:
                complete = self.part / "all"
                complete.mkdir()
                for number, track in enumerate(kept):
                    os.rename(self.part / str(track), complete / str(number))
            else:
                complete = self.part / str(kept[0])
            record["faces"] = [self.faces[track] for track in kept]
            if self.mask_state:
                record["mask"] = self.mask_state
            (complete / "faces.json").write_text(json.dumps(record) + "\n")
            sync_tree(complete)
        if target.exists() and not is_done(self.source):  # the faces of another version of the video
            os.rename(target, self.part / "replaced")
        if failure is None:
            try:
                os.rename(complete, target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                # Another run finished this video first, with the same faces.
            sync(target.parent)
            failed_record(target).unlink(missing_ok=True)
        else:
            write_if_changed(failed_record(target), json.dumps({**record, "cause": failure}) + "\n")
        return Outcome(self.source, self.sampled_frames, failure)

    def _kept_tracks(self) -> list[int]:
        """Return the main face; with all_faces, all long tracks, the largest sum of box areas first.

        The main face is the face that overlaps the manipulation mask most. Without a mask, it is the face with the
        largest sum of box areas.
        """

        def total_area(track: int) -> float:
            boxes = np.array([face["box"] for face in self.faces[track]])
            return float(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).sum())

        tracks = sorted(self.faces, key=total_area, reverse=True)
        masked = has_mask(self.source)
        if not self.recipe.all_faces:
            if masked and len(tracks) > 1:
                tracks, self.mask_state = self._sort_by_mask(tracks)
            elif masked:
                self.mask_state = "with one face"
            return tracks[:1]
        if masked:
            self.mask_state = "not used, because all faces are cropped"
        return [t for t in tracks if len(self.faces[t]) >= min(MIN_TRACK_LENGTH, self.sampled_frames)]

    def _sort_by_mask(self, tracks: list[int]) -> tuple[list[int], str]:
        """Sort tracks by the manipulated pixels in their boxes, the most first; return them and the mask state."""
        assert self.source.mask is not None
        overlap = Counter[int]()
        boxes: dict[int, list[tuple[int, list[float]]]] = {}
        for track in tracks:
            for face in self.faces[track]:
                boxes.setdefault(face["frame"], []).append((track, face["box"]))
        try:
            for position, mask in FrameReader(self.source.mask, self.recipe.every, self.recipe.frames):
                for track, box in boxes.get(position, []):
                    left, top, right, bottom = (max(0, round(x)) for x in box)
                    overlap[track] += int((mask[top:bottom, left:right].max(axis=2, initial=0) >= MASKED).sum())
        except (VideoError, cv2.error, OSError):
            return tracks, "unreadable"
        if not any(overlap.values()):
            return tracks, "without a face"
        return sorted(tracks, key=lambda track: overlap[track], reverse=True), "chose among several faces"

    def discard(self) -> None:
        """Remove the hidden folder."""
        remove_part(self.part)
        os.close(self.lock)


def has_mask(source: Source) -> bool:
    """Return whether the manipulation mask of a video is on the disk."""
    return source.mask is not None and source.mask.is_file()


def failed_record(folder: Path) -> Path:
    """Return the file that holds the cause if a video has no folder of face crops."""
    return folder.with_name(f"{folder.name}.failed.json")


def is_done(source: Source) -> bool:
    """Return whether a video has faces, or was read and has none. An unreadable video is not done: it is retried."""
    record = read_record(source)
    return record is not None and not record.get("cause", "").startswith("unreadable")


def read_record(source: Source) -> dict[str, Any] | None:
    """Read the record of a finished video: its ``faces``, or the ``cause`` if it has none.

    Returns:
        The record. None if the video is not finished, if the record is damaged, if the size of the video has changed
        (as after a partial download), or if its faces were chosen without the mask that is now on the disk.
    """
    failed = failed_record(source.folder)
    try:
        record = load_json(source.folder / "faces.json" if source.folder.is_dir() else failed)
        size = source.file.stat().st_size if source.file.is_file() else record["bytes"]
        unmasked = "faces" in record and "mask" not in record and has_mask(source)
        return record if size == record["bytes"] and not unmasked and _is_sound(record) else None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def _is_sound(record: dict[str, Any]) -> bool:
    """Check the entries that the label files need; raise KeyError or TypeError if one is missing or of another type."""
    if "cause" in record:
        return isinstance(record["cause"], str)
    enlarged = all(face["enlarged"] >= 0 for track in record["faces"] for face in track)
    numbers = min(record["frames"], record["looked_at"]) >= 0
    return enlarged and numbers and isinstance(record.get("mask", ""), str)
