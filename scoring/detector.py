"""Score the faces in images and videos with a trained network."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from datasets.transforms import normalise, resize
from engine import fake_probability
from evaluation.verdicts import ERROR, Cutoffs, choose_cutoffs
from faces.crops import crop_face, crop_square
from faces.detectors import Detections, Detector, load_face_detector, shrink
from faces.recipe import DETECTORS, Recipe
from faces.tracks import Face, FaceTracker, FrameFaces
from faces.videos import FrameReader
from losses.terms import Logits
from models.checkpoints import load_trained
from models.fast import fast_scorer
from models.gradcam import heatmaps
from models.lib_network import LIBNetwork
from utils.devices import PRECISIONS, choose_precision, select_devices, to_device
from utils.errors import InputError
from utils.time_limit import check_time

RECIPE_FIELDS = ("every", "frames", "margin", "crop_size")
DETECTION_BATCH = 8  # frames; the default batch size of preprocessing.py
SCORING_BATCH = 16  # face crops


class ScoredFace(NamedTuple):
    """A face in an image or a video frame.

    Attributes:
        box: left, top, right, bottom in pixels, from the face detector.
        confidence: the face detector's score, 0 to 1.
        score: 0 (real) to 1 (fake).
        track: number of the person in a video, from 0; in an image, rank of the face by size, 0 for the largest.
        crop_box: left, top, right, bottom in pixels of the crop that was scored; it may extend beyond the frame.
        heatmap: h x w, 0 to 1, over `crop_box`: mean Grad-CAM heatmap of the LIBs for fake; None if not requested.
        crop: the crop, h x w x 3, uint8, RGB.
    """

    box: np.ndarray
    confidence: float
    score: float
    track: int
    crop_box: np.ndarray
    heatmap: np.ndarray | None
    crop: np.ndarray


class ForgeryDetector:
    """Detect faces, crop them as the training data was cropped, and score them. See `load_detector`.

    Attributes:
        checkpoint: the checkpoint without its weights.
        calibration: what verdicts need, see `evaluation.verdicts.calibrate`; None if the checkpoint has none.
        precision: number format of the backbones.
        size: side of the network's input images in pixels.
        channels: RGB or BGR, the channel order of the network's input.
        recipe: which frames of a video are scored, and how faces are cropped.
        training_faces: how the training faces were detected and cropped; None if the checkpoint does not say.
        face_detector: name of the face detector.
        detector_description: ``detector`` and ``weights``, the SHA-256 of its weights; None before it is loaded.
    """

    def __init__(
        self,
        network: LIBNetwork,
        checkpoint: dict[str, Any],
        device: torch.device,
        faces_given: bool,
        detector: str | None,
        detector_weights: Path | None,
        evidence: bool,
        precision: str,
        every: int | None,
        frames: int | None,
    ) -> None:
        self.network, self.device = to_device(network, device), device
        model = checkpoint["args"]["model"]
        self.precision = "fp32" if evidence else choose_precision(precision, device, model)  # as heatmaps
        network.precision = PRECISIONS[self.precision]
        self._scorer = fast_scorer(network)
        self.size, self.channels = checkpoint["args"]["size"], checkpoint["channels"]
        self.checkpoint, self.calibration = checkpoint, checkpoint.get("calibration")
        self.training_faces = checkpoint.get("faces")
        training_faces = self.training_faces or {}
        self.recipe = Recipe(**{name: training_faces[name] for name in RECIPE_FIELDS if name in training_faces})
        if every is not None or frames is not None:
            self.recipe = replace(self.recipe, every=every or self.recipe.every, frames=frames)
        self.faces_given, self.evidence = faces_given, evidence
        training_detector = training_faces.get("detector")
        self.face_detector = detector or training_detector or "retinaface"
        if self.face_detector not in DETECTORS:
            raise InputError(f"--detector {self.face_detector}: unknown face detector; give {' or '.join(DETECTORS)}.")
        self._detector_weights = detector_weights
        self._training_weights = training_faces.get("weights") if self.face_detector == training_detector else None
        self._detect: Detector | None = None
        self.detector_description: dict[str, Any] | None = None
        if evidence:  # fail now, not after hours, if the backbones have no feature maps
            heatmaps(network, torch.zeros(1, 3, self.size, self.size, device=device))

    def cutoffs(self, error: float = ERROR) -> Cutoffs | None:
        """Return the cutoffs of a single face in a single image; None if the checkpoint has no calibration."""
        return self.calibration and choose_cutoffs(self.calibration, "frame", error)

    def find_faces(self, frames: np.ndarray) -> list[Detections]:
        """Find the faces in B frames, B x H x W x 3, uint8, BGR.

        Raises:
            InputError: the weights of the face detector cannot be downloaded or read.
        """
        height, width = frames.shape[1:3]
        if self.faces_given:
            full_frame = Detections(np.array([[0, 0, width, height]], np.float32), np.ones(1, np.float32))
            return [full_frame] * len(frames)
        detect = self.load_face_detector()
        small = np.stack([shrink(frame) for frame in frames])
        scale = width / small.shape[2]
        return [Detections(boxes * scale, scores) for boxes, scores in detect(small)]

    def load_face_detector(self) -> Detector:
        """Load the face detector, unless it is loaded already; face crops need none.

        Raises:
            InputError: the weights of the face detector cannot be downloaded or read.
        """
        if self._detect is None:
            self._detect, description = load_face_detector(self.face_detector, self._detector_weights, self.device)
            self.detector_description = description
            if self._training_weights not in (None, description["weights"]):
                print(
                    "note: the training faces were detected with other weights of the face detector; give these "
                    "weights with --detector_weights",
                    file=sys.stderr,
                )
        return self._detect

    def score(self, crops: Sequence[np.ndarray], evidence: bool = False) -> tuple[np.ndarray, list[np.ndarray | None]]:
        """Score N face crops, each H x W x 3, uint8, RGB; with `evidence`, make heatmaps too.

        Returns:
            The scores, N, float64, 0 (real) to 1 (fake), and the heatmap of each crop, h x w, 0 to 1, or None.

        Raises:
            InputError: a score is not finite.
        """
        scores, maps = [np.empty(0)], []
        for start in range(0, len(crops), SCORING_BATCH):
            check_time()
            batch = np.stack([resize(crop, self.size) for crop in crops[start : start + SCORING_BATCH]])
            images = normalise(torch.from_numpy(batch).permute(0, 3, 1, 2).to(self.device), self.channels)
            outputs: Logits | torch.Tensor
            if evidence:
                lib_maps, _, outputs = heatmaps(self.network, images)
                maps += list(lib_maps.mean(dim=1).cpu().numpy())
            else:
                with torch.inference_mode():
                    outputs = self._scorer(images)
            scores.append(fake_probability(outputs).cpu().numpy())
        all_scores = np.concatenate(scores)
        if not np.isfinite(all_scores).all():
            raise InputError("--model: the scores of the network are NaN or infinite; give another checkpoint.")
        return all_scores, maps if evidence else [None] * len(crops)

    def __call__(self, images: Sequence[np.ndarray]) -> list[list[ScoredFace]]:
        """Score the faces in images.

        Args:
            images: arrays of any size, each H x W x 3, uint8, RGB.

        Returns:
            The faces of each image, largest first; an empty list for an image without faces.

        Raises:
            ValueError: an image has another shape or dtype.
            InputError: the weights of the face detector cannot be downloaded or read, or a score is not finite.
        """
        results = []
        for number, image in enumerate(images):
            pixels = np.asarray(image)
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
                found = f"a {type(image).__name__} of {pixels.dtype} and shape {pixels.shape}"
                raise ValueError(f"image {number} is {found}; give a list of H x W x 3 arrays of uint8, RGB.")
            frame = np.ascontiguousarray(pixels[..., ::-1])
            ((boxes, scores),) = self.find_faces(frame[None])
            by_size = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")
            faces = [Face(track, boxes[i], boxes[i], float(scores[i])) for track, i in enumerate(by_size)]
            results += [scored for _, scored in self._score_frames([FrameFaces(0, frame, faces)])]
        return results

    def video(self, video: Path | str | FrameReader) -> Iterator[tuple[int, list[ScoredFace]]]:
        """Score a video frame by frame, in constant memory.

        Args:
            video: a file, or a reader of the frames to score.

        Yields:
            The position of each scored frame, in order, and its faces.

        Raises:
            VideoError: the video cannot be read.
            InputError: the weights of the face detector cannot be downloaded or read, or a score is not finite.
        """
        if not isinstance(video, FrameReader):
            video = FrameReader(Path(video), self.recipe.every, self.recipe.frames)
        tracker = FaceTracker()
        batch: list[tuple[int, np.ndarray]] = []
        for position, frame in video:
            if batch and (len(batch) == DETECTION_BATCH or frame.shape != batch[0][1].shape):
                yield from self._score_frames(self._track_faces(tracker, batch))
                batch = []
            batch.append((position, frame))
        yield from self._score_frames(self._track_faces(tracker, batch) + tracker.flush())

    def _track_faces(self, tracker: FaceTracker, batch: list[tuple[int, np.ndarray]]) -> list[FrameFaces]:
        """Find the faces in frames of one size, and return the frames that the tracker has finished."""
        finished = []
        if batch:
            detections = self.find_faces(np.stack([frame for _, frame in batch]))
            for (position, frame), (boxes, scores) in zip(batch, detections, strict=True):
                finished += tracker.push(position, frame, boxes, scores)
        return finished

    def _score_frames(self, frames: Sequence[FrameFaces]) -> Iterator[tuple[int, list[ScoredFace]]]:
        faces = [face for frame in frames for face in frame.faces]
        crops = [self._crop(frame.frame, face.box) for frame in frames for face in frame.faces]
        scores, maps = self.score([crop for crop, _ in crops], self.evidence)
        scored = (
            ScoredFace(face.raw_box, face.score, float(score), face.track, crop_box, heatmap, crop)
            for face, (crop, crop_box), score, heatmap in zip(faces, crops, scores, maps, strict=True)
        )
        for frame in frames:
            yield frame.position, [next(scored) for _ in frame.faces]

    def _crop(self, frame: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the crop of a face, H x W x 3, RGB, and `ScoredFace.crop_box`."""
        if self.faces_given:
            return frame[..., ::-1].copy(), box
        left, top, side = crop_square(box, self.recipe.margin)
        crop, _ = crop_face(frame, box, self.recipe.margin, self.recipe.crop_size)
        return crop[..., ::-1].copy(), np.array([left, top, left + side, top + side], np.float32)


def load_detector(
    checkpoint: Path | str,
    gpu_num: int | str | None = None,
    faces_given: bool = False,
    detector: str | None = None,
    detector_weights: Path | str | None = None,
    evidence: bool = False,
    precision: str = "auto",
    every: int | None = None,
    frames: int | None = None,
) -> ForgeryDetector:
    """Load a checkpoint to score images and videos.

    Args:
        checkpoint: checkpoint of training.py or of the authors' release, folder of a shared model, or its name on the
            hub: user/model or user/model@revision.
        gpu_num: GPU number, or cpu; None selects the first GPU, or the CPU if there is none.
        faces_given: treat every image and frame as one face crop, without face detection.
        detector: face detector, one of `faces.recipe.DETECTORS`; None selects the detector of the training data,
            or retinaface if the checkpoint does not name it.
        detector_weights: RetinaFace checkpoint; None downloads the published one once, when the first image is scored.
        evidence: compute a heatmap for each face; scores are then in fp32.
        precision: number format of the backbones: fp32, bf16, or auto (bf16 if the device computes in it, else fp32).
        every: score one frame of a video in this many; None to sample as the training data was sampled.
        frames: score this many evenly spaced frames of a video instead.

    Raises:
        InputError: the checkpoint cannot be used, the GPU or the face detector does not exist, or `evidence` is True
            and the backbones have no feature maps.
    """
    device = select_devices(None if gpu_num is None else str(gpu_num))[0]
    network, content = load_trained(Path(checkpoint))
    weights = None if detector_weights is None else Path(detector_weights)
    return ForgeryDetector(network, content, device, faces_given, detector, weights, evidence, precision, every, frames)
