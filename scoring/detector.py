"""A trained network together with the face detector and the crop of its training data."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from datasets.augmentation import normalise, resize
from engine import fake_probability
from faces.crops import crop_face, crop_square
from faces.detectors import DETECTORS, Detections, Detector, load_face_detector, shrink
from faces.recipe import Recipe
from faces.tracks import Face, FaceTracker, FrameFaces
from faces.videos import FrameReader
from models.checkpoints import load_trained
from models.gradcam import heatmaps
from utils.devices import select_devices
from utils.errors import InputError

RECIPE_FIELDS = ("every", "frames", "margin", "crop_size")
FRAMES = 8  # that the face detector looks at together: as many as preprocessing.py shows it
CROPS = 16  # that go through the network together


class ScoredFace(NamedTuple):
    """A face of an image or a frame.

    Attributes:
        box: left, top, right, bottom in pixels, as the face detector gave it.
        found: the face detector's score, 0 to 1.
        score: 0 (real) to 1 (fake).
        track: which person of a video, from 0; in an image which face, the largest first.
        seen: left, top, right, bottom in pixels of what the network saw; it may reach beyond the frame.
        heat: h x w, 0 to 1, over `seen`: where the blocks see the forgery, their mean; None where it was not asked for.
    """

    box: np.ndarray
    found: float
    score: float
    track: int
    seen: np.ndarray
    heat: np.ndarray | None


class ForgeryDetector:
    """Scores the faces of images and videos.

    Args:
        checkpoint: of training.py, or of the authors' release.
        gpu_num: a GPU's number, or cpu; None for the first GPU there is, else the CPU.
        faces_given: images, and a video's frames, are crops of one face each already.
        face_detector: one of `faces.detectors.DETECTORS`; None for that of the training data, else retinaface.
        detector_weights: a RetinaFace checkpoint; None for the published one.
        evidence: make a heatmap of each face.

    Attributes:
        threshold: a score above it means fake; 0.5 where the checkpoint has none.
        size: side of the images that the network takes, in pixels.
        channels: RGB or BGR, the order that it was trained with.
        recipe: which frames of a video are looked at, and how faces are cropped.
        training_faces: how the faces of the training data were made, as the checkpoint tells; None where it does not.

    Raises:
        InputError: the checkpoint or the GPU is not there or wrong; an unknown face detector; `evidence` of backbones
            without feature maps.
    """

    def __init__(
        self,
        checkpoint: Path | str,
        gpu_num: int | str | None = None,
        faces_given: bool = False,
        face_detector: str | None = None,
        detector_weights: Path | None = None,
        evidence: bool = False,
    ) -> None:
        self.device = select_devices(None if gpu_num is None else str(gpu_num))[0]
        self.network, content = load_trained(Path(checkpoint))
        self.network.to(self.device)
        self.size, self.channels = content["args"]["size"], content["channels"]
        threshold = content.get("threshold")
        self.threshold = 0.5 if threshold is None else threshold
        self.training_faces = content.get("faces")
        made = self.training_faces or {}
        self.recipe = Recipe(**{name: made[name] for name in RECIPE_FIELDS if name in made})
        self.faces_given, self.evidence = faces_given, evidence
        self.face_detector = face_detector or made.get("detector", "retinaface")
        if self.face_detector not in DETECTORS:
            raise InputError(f"there is no face detector '{self.face_detector}'; give one of {', '.join(DETECTORS)}.")
        self._weights = detector_weights
        self._trained_with = made.get("weights") if self.face_detector == made.get("detector") else None
        self._find: Detector | None = None
        if evidence:  # which not every backbone gives: better said now than after hours
            heatmaps(self.network, torch.zeros(1, 3, self.size, self.size, device=self.device))

    def find_faces(self, frames: np.ndarray) -> list[Detections]:
        """Find the faces of B frames, B x H x W x 3, uint8, BGR."""
        height, width = frames.shape[1:3]
        if self.faces_given:
            whole = Detections(np.array([[0, 0, width, height]], np.float32), np.ones(1, np.float32))
            return [whole] * len(frames)
        if self._find is None:  # only now: whoever has crops needs no weights
            self._find, about = load_face_detector(self.face_detector, self._weights, self.device)
            if self._trained_with not in (None, about["weights"]):
                print(
                    "note: the faces of the training data were found with other weights of the face detector; "
                    "give those with --detector_weights",
                    file=sys.stderr,
                )
        small = np.stack([shrink(frame) for frame in frames])
        scale = width / small.shape[2]
        return [Detections(boxes * scale, scores) for boxes, scores in self._find(small)]

    def score(self, crops: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray | None]]:
        """Score crops of faces, each H x W x 3, uint8, RGB.

        Returns:
            The scores, N, float64, 0 (real) to 1 (fake); and each crop's heatmap, h x w, or None.

        Raises:
            InputError: the scores are no numbers.
        """
        scores, heats = [np.empty(0)], []
        for start in range(0, len(crops), CROPS):
            batch = np.stack([resize(crop, self.size) for crop in crops[start : start + CROPS]])
            images = normalise(torch.from_numpy(batch).permute(0, 3, 1, 2).to(self.device), self.channels)
            if self.evidence:
                maps, _, outputs = heatmaps(self.network, images)
                heats += list(maps.mean(dim=1).cpu().numpy())
            else:
                with torch.inference_mode():
                    outputs = self.network(images)
            scores.append(fake_probability(outputs).cpu().numpy())
        score = np.concatenate(scores)
        if not np.isfinite(score).all():
            raise InputError("--model: the network's scores are not finite numbers; its weights are broken.")
        return score, heats if self.evidence else [None] * len(crops)

    def __call__(self, images: Sequence[np.ndarray]) -> list[list[ScoredFace]]:
        """Score the faces of images.

        Args:
            images: each H x W x 3, uint8, RGB, of any size.

        Returns:
            The faces of each image, the largest first; none where no face was found.

        Raises:
            ValueError: an image is something else.
        """
        found = []
        for number, image in enumerate(images):
            pixels = np.asarray(image)
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
                what = f"a {type(image).__name__} of {pixels.dtype} and shape {pixels.shape}"
                raise ValueError(f"image {number} is {what}; give a list of H x W x 3 arrays of uint8, RGB.")
            frame = np.ascontiguousarray(pixels[..., ::-1])
            ((boxes, scores),) = self.find_faces(frame[None])
            largest = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")
            faces = [Face(track, boxes[i], boxes[i], float(scores[i])) for track, i in enumerate(largest)]
            found += [scored for _, scored in self._score_frames([FrameFaces(0, frame, faces)])]
        return found

    def video(self, video: Path | str | FrameReader) -> Iterator[tuple[int, list[ScoredFace]]]:
        """Score a video frame by frame, in memory that does not grow with its length.

        Args:
            video: the file; or its reader, which then tells more of it.

        Yields:
            The position of each frame that was looked at, in order, and its faces.

        Raises:
            VideoError: it cannot be read.
        """
        if not isinstance(video, FrameReader):
            video = FrameReader(Path(video), self.recipe.every, self.recipe.frames)
        tracker, waiting = FaceTracker(), []
        for position, frame in video:
            if waiting and (len(waiting) == FRAMES or frame.shape != waiting[0][1].shape):
                yield from self._score_frames(self._follow(tracker, waiting))
                waiting = []
            waiting.append((position, frame))
        yield from self._score_frames(self._follow(tracker, waiting) + tracker.flush())

    def _follow(self, tracker: FaceTracker, frames: list[tuple[int, np.ndarray]]) -> list[FrameFaces]:
        """Find the faces of frames of one size, and return the frames that the tracker is done with."""
        ready = []
        if frames:
            found = self.find_faces(np.stack([frame for _, frame in frames]))
            for (position, frame), (boxes, scores) in zip(frames, found, strict=True):
                ready += tracker.push(position, frame, boxes, scores)
        return ready

    def _score_frames(self, frames: Sequence[FrameFaces]) -> Iterator[tuple[int, list[ScoredFace]]]:
        faces = [face for ready in frames for face in ready.faces]
        crops = [self._crop(ready.frame, face.box) for ready in frames for face in ready.faces]
        scored = (
            ScoredFace(face.found, face.score, float(score), face.track, seen, heat)
            for face, (_, seen), score, heat in zip(faces, crops, *self.score([crop for crop, _ in crops]), strict=True)
        )
        for ready in frames:
            yield ready.position, [next(scored) for _ in ready.faces]

    def _crop(self, frame: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what the network is shown of a face, RGB, and where in the frame that is; see `ScoredFace.seen`."""
        if self.faces_given:
            return frame[..., ::-1].copy(), box
        left, top, side = crop_square(box, self.recipe.margin)
        crop, _ = crop_face(frame, box, self.recipe.margin, self.recipe.crop_size)
        return crop[..., ::-1].copy(), np.array([left, top, left + side, top + side], np.float32)


def load_detector(checkpoint: Path | str, **options: Any) -> ForgeryDetector:
    """Load a checkpoint to score images and videos with; `options` are those of `ForgeryDetector`."""
    return ForgeryDetector(checkpoint, **options)
