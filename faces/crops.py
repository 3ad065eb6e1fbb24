"""Square face crops."""

import cv2
import numpy as np
import torch

from utils.imports import without_compiler

with without_compiler():
    from torchvision.transforms.functional import crop as crop_or_pad


def crop_face(frame: np.ndarray, box: np.ndarray, margin: float, size: int) -> tuple[np.ndarray, float]:
    """Crop a square around a face.

    Args:
        frame: H x W x 3, uint8.
        box: left, top, right, bottom in pixels; the square has the same centre.
        margin: side of the square divided by the longer side of the box.
        size: side of the returned crop in pixels; 0 keeps the original size.

    Returns:
        The crop (size x size x 3, uint8, black outside the frame) and its scale: the side of the crop divided by the
        side of the square in the frame.
    """
    left, top, side = crop_square(box, margin)
    channels_first = torch.from_numpy(frame).permute(2, 0, 1)
    square = np.ascontiguousarray(crop_or_pad(channels_first, top, left, side, side).permute(1, 2, 0).numpy())
    if size in (0, side):
        return square, 1.0
    interpolation = cv2.INTER_AREA if size < side else cv2.INTER_CUBIC
    return cv2.resize(square, (size, size), interpolation=interpolation), size / side


def crop_square(box: np.ndarray, margin: float) -> tuple[int, int, int]:
    """Return left, top and side (pixels) of the square around a box; arguments as in `crop_face`."""
    side = max(1, round(margin * float(max(box[2] - box[0], box[3] - box[1]))))
    left, top = (round(float(low + high - side) / 2) for low, high in ((box[0], box[2]), (box[1], box[3])))
    return left, top, side
