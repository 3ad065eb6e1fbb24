"""Face detectors, by the names of ``--detector``: frames in, boxes and scores out."""

import socket
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from faces.retinaface import MEAN_BGR, MobileNet025, ResNet50, RetinaFace
from utils.errors import InputError, require_package
from utils.files import sha256
from utils.torch_files import read_torch_file

DETECTORS = ("retinaface", "retinaface_resnet50", "mtcnn")
LONGER_SIDE = 640  # pixels: larger frames are shrunk to it before detection
MIN_SCORE = 0.5
MAX_OVERLAP = 0.4  # intersection over union above which the weaker of two boxes goes; RetinaFace's own value

RELEASES = "https://github.com/xinntao/facexlib/releases/download/v0.1.0/"
# The published checkpoints: file and SHA-256.
WEIGHTS = {
    "retinaface": (
        "detection_mobilenet0.25_Final.pth",
        "2979b33ffafda5d74b6948cd7a5b9a7a62f62b949cef24e95fd15d2883a65220",
    ),
    "retinaface_resnet50": (
        "detection_Resnet50_Final.pth",
        "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
    ),
}


class Detections(NamedTuple):
    """The faces of one frame.

    Attributes:
        boxes: N x 4, float32: left, top, right, bottom in pixels; they may reach beyond the frame.
        scores: N, float32, `MIN_SCORE` to 1.
    """

    boxes: np.ndarray
    scores: np.ndarray


# B x H x W x 3, uint8, BGR, to the faces of each frame.
Detector = Callable[[np.ndarray], list[Detections]]


def shrink(frame: np.ndarray) -> np.ndarray:
    """Shrink a frame (H x W x 3) for detection to `LONGER_SIDE`; a smaller one stays as it is."""
    height, width = frame.shape[:2]
    scale = LONGER_SIDE / max(height, width)
    if scale >= 1:
        return frame
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def load_face_detector(name: str, weights: Path | None, device: torch.device) -> tuple[Detector, dict[str, Any]]:
    """Make a detector, and say which it is.

    Args:
        name: one of `DETECTORS`.
        weights: a RetinaFace checkpoint, whose body (MobileNet-0.25 or ResNet-50) is recognised by its tensors; None
            for the published one, which is fetched once into PyTorch's cache.
        device: where the network runs.

    Returns:
        The detector, and its name and its weights' SHA-256.

    Raises:
        InputError: the weights cannot be fetched or are no RetinaFace checkpoint; facenet-pytorch is not installed.
    """
    if name == "mtcnn":
        if weights is not None:
            raise InputError("--detector_weights belongs to retinaface; mtcnn's weights come with facenet-pytorch.")
        return _load_mtcnn(device), {"detector": "mtcnn", "weights": None}
    file = fetch_weights(name) if weights is None else weights
    network = load_retinaface(file).to(device)
    body = "retinaface" if isinstance(network.body, MobileNet025) else "retinaface_resnet50"
    mean = torch.tensor(MEAN_BGR, device=device).reshape(3, 1, 1)

    def detect(frames: np.ndarray) -> list[Detections]:
        images = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float() - mean
        with torch.inference_mode():
            scores, boxes = network(images)
        image_of, anchor = (scores > MIN_SCORE).nonzero(as_tuple=True)
        scores, boxes = scores[image_of, anchor], boxes[image_of, anchor]
        kept = batched_nms(boxes, scores, image_of, MAX_OVERLAP)
        image_of, scores, boxes = (x[kept].cpu().numpy() for x in (image_of, scores, boxes))
        return [Detections(boxes[image_of == i], scores[image_of == i]) for i in range(len(frames))]

    return detect, {"detector": body, "weights": sha256(file)}


def load_retinaface(file: Path) -> RetinaFace:
    """Load a checkpoint in the Pytorch_Retinaface format.

    Raises:
        InputError: it is none.
    """
    state = read_torch_file(file, "--detector_weights")
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"--detector_weights: {file} is no RetinaFace checkpoint: it holds no plain tensors by name.")
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    network = RetinaFace(ResNet50() if "body.layer1.0.conv1.weight" in state else MobileNet025())
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()[:160]
        raise InputError(
            f"--detector_weights: {file} is no RetinaFace checkpoint with MobileNet-0.25 or ResNet-50: {reason}"
        ) from error
    return network.eval()


def fetch_weights(name: str) -> Path:
    """Return the published checkpoint of `name`, fetched where the cache has none, its SHA-256 checked.

    Raises:
        InputError: it cannot be fetched, or is another file than the published one.
    """
    filename, digest = WEIGHTS[name]
    file = Path(torch.hub.get_dir()) / "checkpoints" / filename
    choices = "give --detector_weights FILE, or --detector mtcnn, whose weights come with facenet-pytorch"
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with _timeout(10):
                torch.hub.download_url_to_file(RELEASES + filename, str(file), hash_prefix=digest)
        except (OSError, RuntimeError) as error:  # RuntimeError: another SHA-256
            raise InputError(
                f"--detector {name}: its weights could not be fetched from {RELEASES}{filename} ({error}); {choices}."
            ) from error
    if sha256(file) != digest:
        raise InputError(f"--detector {name}: {file} is not the published file (its SHA-256 differs); delete it.")
    return file


@contextmanager
def _timeout(seconds: float) -> Any:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _load_mtcnn(device: torch.device) -> Detector:
    """Make facenet-pytorch's MTCNN (Zhang et al., IEEE SPL 2016)."""
    with require_package("facenet-pytorch", by="--detector mtcnn"):
        from facenet_pytorch import MTCNN
    mtcnn = MTCNN(keep_all=True, device=device)

    def detect(frames: np.ndarray) -> list[Detections]:
        found = []
        if min(frames.shape[1:3]) < mtcnn.min_face_size:  # at which it breaks
            return [Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32)) for _ in frames]
        for boxes, scores in zip(*mtcnn.detect(np.ascontiguousarray(frames[..., ::-1])), strict=True):
            if boxes is None:
                boxes, scores = np.empty((0, 4)), np.empty(0)
            good = np.asarray(scores, np.float32) > MIN_SCORE
            found.append(Detections(np.asarray(boxes, np.float32)[good], np.asarray(scores, np.float32)[good]))
        return found

    return detect
