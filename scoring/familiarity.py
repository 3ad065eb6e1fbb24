"""Recognise faces that are unlike the training faces of the network.

A training stores two things in its best checkpoint: the 5 % quantiles of simple measures of the training faces, and the
fused features of some of them. A face whose feature is far from all of these is unlike the training data (deep nearest
neighbours: Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022). The paper normalises each
feature to unit length. This module does not, because it then finds more of the unlike faces (docs/statistics.md).
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from datasets.images import FaceImages, make_loader
from datasets.transforms import normalise, resize
from engine import BadImages, evaluate
from faces.videos import evenly_spaced
from models.lib_network import LIBNetwork
from utils.errors import InputError
from utils.files import load_json
from utils.images import read_image
from utils.world import World

FACES = 500  # largest number of faces of the training set, and of the validation set
NEIGHBOUR = 10  # the distance to the 10th nearest training face counts
LARGEST = 65504.0  # the largest float16
SHARE = 0.05  # share of training faces below each quantile, and of validation faces beyond the distance
JPEG_QUALITY = 95  # for `measure_detail`
SAME_SIZE = 0.1  # largest abs(log2(ratio of the sides)) of crops whose detail is compared
WORDS = {
    "brightness": "is darker",
    "sharpness": "is more blurred",
    "detail": "has less fine detail, as after strong compression,",
    "side": "is smaller",
}


class FusedFeature(nn.Module):
    """The fused feature G of a network, limited to the range of float16: B x 3 x H x W, normalised, to B x d."""

    def __init__(self, network: LIBNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features."""
        fused = self.network.bottleneck(torch.cat(self.network.features(images), dim=1))
        return fused.float().clamp(-LARGEST, LARGEST)


def measure_face(image: np.ndarray) -> dict[str, float]:
    """Return the brightness (mean grey value, 0 to 255) and the sharpness (variance of the Laplacian) of a face.

    Args:
        image: size x size x 3, uint8, RGB, at the size of the network's input.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return {"brightness": float(grey.mean()), "sharpness": float(cv2.Laplacian(grey, cv2.CV_32F).var())}


def measure_detail(crop: np.ndarray) -> float:
    """Return the bytes per pixel that a crop needs as a JPEG.

    Compression removes fine detail, so a compressed crop needs less. Resizing hides this: the crop must have the size
    that it was cut with.

    Args:
        crop: H x W x 3, uint8, RGB.
    """
    pixels = np.ascontiguousarray(crop[..., ::-1])
    return len(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]) / (crop.size / 3)


def remember_training(
    network: LIBNetwork, train_faces: FaceImages, val_faces: FaceImages, channels: str, batch_size: int, world: World
) -> dict[str, Any]:
    """Compute the checkpoint entries that recognise faces unlike the training faces.

    Args:
        network: trained, on the device of `world`.
        train_faces: the training images, without augmentation.
        val_faces: the validation images.
        channels: RGB or BGR.
        batch_size: number of images per batch, over all processes.
        world: the processes, which share the images.

    Returns:
        ``familiar``: ``quantiles``, the 5 % quantile of each measure of the training faces (``brightness`` and
        ``sharpness`` as in `measure_face`; ``detail`` as in `measure_detail`; ``side``, the shorter side of the face
        box in pixels, if preprocessing.py wrote the boxes), ``crop_side``, the median side of the crops in pixels, and
        ``distance``, which 5 % of the validation faces exceed.
        ``familiar_features``: N x d, float16. Both classes are represented as in the training set.
    """
    chosen = [evenly_spaced(len(faces), FACES).tolist() for faces in (train_faces, val_faces)]
    features = []
    for faces, positions in zip((train_faces, val_faces), chosen, strict=True):
        loader = make_loader(Subset(faces, positions), batch_size, 0, world)
        _, found = evaluate(
            FusedFeature(network),
            loader,
            world,
            channels=channels,
            bad_images=BadImages(skip=True),
            title="training faces",
            output_fn=Tensor.half,
        )
        features.append(torch.from_numpy(found))
    measured: dict[str, list[float]] = {name: [] for name in WORDS}
    crop_sides: list[int] = []
    for position in chosen[0]:
        item = train_faces[position]
        if len(item) == 3:  # else a BadImage
            for name, value in measure_face(np.ascontiguousarray(item[0].permute(1, 2, 0).numpy())).items():
                measured[name].append(value)
            with suppress(InputError):  # the file may be gone, and its pixels in a pack
                crop = read_image(train_faces.file(position))
                measured["detail"].append(measure_detail(crop))
                crop_sides.append(max(crop.shape[:2]))
        side = face_side(train_faces.file(position))
        measured["side"] += [] if side is None else [side]
    quantiles = {name: float(np.quantile(values, SHARE)) for name, values in measured.items() if values}
    limit = float(np.quantile(distances(features[1], features[0]), 1 - SHARE))
    crop_side = float(np.median(crop_sides)) if crop_sides else None
    familiar = {"quantiles": quantiles, "crop_side": crop_side, "distance": limit}
    return {"familiar": familiar, "familiar_features": features[0]}


def face_side(image: Path) -> float | None:
    """Return the shorter side of the box of a face crop in its video, in pixels; None if faces.json is missing."""
    for folder in (image.parent, image.parent.parent):  # the second with --all_faces
        if (folder / "faces.json").is_file():
            return _sides(folder / "faces.json").get((image.parent.name if folder != image.parent else "", image.name))
    return None


@cache
def _sides(file: Path) -> dict[tuple[str, str], float]:
    """Return the sides by (track, image); the track is empty where all images are of one person."""
    try:
        tracks = load_json(file).get("faces", [])
        found = {}
        for number, track in enumerate(tracks):
            for face in track:
                left, top, right, bottom = face["box"]
                for name in ("", str(number)):
                    found[name, face["image"]] = float(min(right - left, bottom - top))
        return found
    except (ValueError, LookupError, TypeError, AttributeError, OSError, ArithmeticError):
        return {}  # another program wrote the file


def distances(features: Tensor, familiar_features: Tensor) -> np.ndarray:
    """Return the distance of each feature to its `NEIGHBOUR`-th nearest training feature.

    Args:
        features: M x d.
        familiar_features: N x d.

    Returns:
        M distances, 0 or more.
    """
    all_distances = torch.cdist(features.float(), familiar_features.float())
    return all_distances.kthvalue(min(NEIGHBOUR, len(familiar_features)), dim=1).values.numpy()


def unlike_training(
    network: LIBNetwork, checkpoint: dict[str, Any], crops: Sequence[np.ndarray], side: float | None
) -> list[str]:
    """Return a note for each way in which a face is unlike the training faces.

    Args:
        network: on its device, in evaluation mode.
        checkpoint: without ``familiar`` there are no notes; without ``familiar_features`` the distance is left out.
        crops: N >= 1 crops of the face, each H x W x 3, uint8, RGB; their median counts.
        side: shorter side of the face box in pixels, the median over the frames; None for a face without a box.
    """
    familiar = checkpoint.get("familiar")
    if familiar is None:
        return []
    size, device = checkpoint["args"]["size"], next(network.parameters()).device
    images = [resize(crop, size) for crop in crops]
    measures = [measure_face(image) for image in images]
    found = {name: float(np.median([m[name] for m in measures])) for name in measures[0]}
    found |= {"detail": np.inf, "side": np.inf if side is None else side}
    crop_side = np.median([max(crop.shape[:2]) for crop in crops])
    # Larger crops have less detail per pixel, so only equal sizes compare.
    if familiar["crop_side"] and abs(np.log2(crop_side / familiar["crop_side"])) <= SAME_SIZE:
        found["detail"] = float(np.median([measure_detail(crop) for crop in crops]))
    notes = [
        f"the face {words} than 95 % of the training faces"
        for name, words in WORDS.items()
        if found[name] < familiar["quantiles"].get(name, -np.inf)
    ]
    if (familiar_features := checkpoint.get("familiar_features")) is not None:
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(device)
        with torch.inference_mode():
            features = FusedFeature(network)(normalise(batch, checkpoint["channels"])).cpu()
        if np.median(distances(features, familiar_features)) > familiar["distance"]:
            notes.append("the network sees the face as unlike its training faces")
    return notes
