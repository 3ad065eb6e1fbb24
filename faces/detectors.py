"""Face detectors, named as in ``--detector``: they map frames to boxes and scores."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from faces.retinaface import MEAN_BGR, MobileNet025, ResNet50, RetinaFace
from utils.errors import InputError, one_line, require_package
from utils.fast import OpenVINOLater
from utils.files import sha256
from utils.imports import without_compiler
from utils.torch_files import read_torch_file

with without_compiler():
    from torchvision.ops import batched_nms

LONGER_SIDE = 640  # pixels; larger frames are shrunk to this before detection
MIN_SCORE = 0.5
# Number of frames that PyTorch gets before the conversion to OpenVINO, which takes as long as about 50 frames
# (docs/performance.md).
PYTORCH_FRAMES = 100
NMS_IOU = 0.4  # IoU threshold of non-maximum suppression, as in RetinaFace

RELEASES = "https://github.com/xinntao/facexlib/releases/download/v0.1.0/"
# Published checkpoints: file name and SHA-256.
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
        boxes: N x 4, float32: left, top, right, bottom in pixels; may extend beyond the frame.
        scores: N, float32, `MIN_SCORE` to 1.
    """

    boxes: np.ndarray
    scores: np.ndarray


# Maps frames (B x H x W x 3, uint8, BGR) to the faces of each frame.
Detector = Callable[[np.ndarray], list[Detections]]


def shrink(frame: np.ndarray) -> np.ndarray:
    """Shrink a frame (H x W x 3) so that its longer side is `LONGER_SIDE`; return a smaller frame unchanged."""
    height, width = frame.shape[:2]
    scale = LONGER_SIDE / max(height, width)
    if scale >= 1:
        return frame
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def load_face_detector(name: str, weights: Path | None, device: torch.device) -> tuple[Detector, dict[str, Any]]:
    """Load a face detector.

    Args:
        name: one of `faces.recipe.DETECTORS`.
        weights: a RetinaFace checkpoint; its tensors determine the body (MobileNet-0.25 or ResNet-50). None for the
            published checkpoint, which is downloaded once into PyTorch's cache.
        device: where the network runs.

    Returns:
        The detector, and a dict with its name (``detector``) and the SHA-256 of its weights (``weights``).

    Raises:
        InputError: the download failed, the file is not a RetinaFace checkpoint, or facenet-pytorch is missing.
    """
    if name == "mtcnn":
        if weights is not None:
            raise InputError("--detector_weights has no effect with --detector mtcnn; leave it out.")
        return _load_mtcnn(device), {"detector": "mtcnn", "weights": None}
    file = fetch_weights(name) if weights is None else weights
    network = load_retinaface(file).to(device)
    body = "retinaface" if isinstance(network.body, MobileNet025) else "retinaface_resnet50"
    run = OpenVINOLater(network, PYTORCH_FRAMES) if device.type == "cpu" else network
    mean = torch.tensor(MEAN_BGR, device=device).reshape(3, 1, 1)

    def detect(frames: np.ndarray) -> list[Detections]:
        images = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float() - mean
        with torch.inference_mode():
            scores, boxes = run(images)
        image_index, anchor = (scores > MIN_SCORE).nonzero(as_tuple=True)
        scores, boxes = scores[image_index, anchor], boxes[image_index, anchor]
        kept = batched_nms(boxes, scores, image_index, NMS_IOU)
        image_index, scores, boxes = (x[kept].cpu().numpy() for x in (image_index, scores, boxes))
        return [Detections(boxes[image_index == i], scores[image_index == i]) for i in range(len(frames))]

    return detect, {"detector": body, "weights": sha256(file)}


def load_retinaface(file: Path) -> RetinaFace:
    """Load a checkpoint in the Pytorch_Retinaface format as a network on the CPU, in evaluation mode.

    Raises:
        InputError: the file is not such a checkpoint.
    """
    state = read_torch_file(file, "--detector_weights")
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(
            f"--detector_weights: {file} is not a RetinaFace checkpoint (not a dict of tensors); give another file."
        )
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    network = RetinaFace(ResNet50() if "body.layer1.0.conv1.weight" in state else MobileNet025())
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()[:160]
        raise InputError(
            f"--detector_weights: {file} is not a RetinaFace checkpoint with MobileNet-0.25 or ResNet-50 ({reason}); "
            "give another file."
        ) from error
    return network.eval()


def fetch_weights(name: str) -> Path:
    """Return the published checkpoint of a detector; download it into PyTorch's cache if it is not there.

    Raises:
        InputError: the download failed, or the SHA-256 of the file is wrong.
    """
    filename, digest = WEIGHTS[name]
    url = RELEASES + filename
    file = Path(torch.hub.get_dir()) / "checkpoints" / filename
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with _socket_timeout(10):
                torch.hub.download_url_to_file(url, str(file), hash_prefix=digest)
        except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: wrong SHA-256
            raise InputError(
                f"--detector {name}: the download of {url} failed ({one_line(error)}); download the file elsewhere and "
                "give it with --detector_weights FILE, or give --detector mtcnn, which needs no download."
            ) from error
    if sha256(file) != digest:
        raise InputError(
            f"--detector {name}: {file} is not the published file (its SHA-256 differs); delete it and run again."
        )
    return file


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    default = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(default)


def _load_mtcnn(device: torch.device) -> Detector:
    """Load MTCNN (Zhang et al., IEEE SPL 2016) from facenet-pytorch."""
    with require_package("facenet-pytorch", by="--detector mtcnn"):
        from facenet_pytorch import MTCNN
    mtcnn = MTCNN(keep_all=True, device=device)

    def detect(frames: np.ndarray) -> list[Detections]:
        found = []
        if min(frames.shape[1:3]) < mtcnn.min_face_size:  # MTCNN fails on such frames
            return [Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32)) for _ in frames]
        for boxes, scores in zip(*mtcnn.detect(np.ascontiguousarray(frames[..., ::-1])), strict=True):
            if boxes is None:
                boxes, scores = np.empty((0, 4)), np.empty(0)
            good = np.asarray(scores, np.float32) > MIN_SCORE
            found.append(Detections(np.asarray(boxes, np.float32)[good], np.asarray(scores, np.float32)[good]))
        return found

    return detect
