"""Resizing and normalisation of images."""

from functools import cache

import cv2
import numpy as np
import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resize an image, uint8, from H x W x 3 to size x size x 3 with bilinear interpolation."""
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def normalise(images: Tensor, channels: str = "RGB") -> Tensor:
    """Normalise images with the ImageNet mean and standard deviation: (images / 255 - mean) / std.

    Args:
        images: B x 3 x H x W, uint8, RGB.
        channels: channel order that the network was trained with, RGB or BGR. The authors trained with BGR images
            and the RGB mean, so BGR flips the images but not the mean.

    Returns:
        B x 3 x H x W, float32.
    """
    if channels == "BGR":
        images = images.flip(1)
    mean, std = _mean_and_std(images.device)
    return (images.float() / 255 - mean) / std


@cache  # a copy to the GPU in each batch would make the CPU wait
def _mean_and_std(device: torch.device) -> Tensor:
    """Return the ImageNet mean and standard deviation, 2 x 3 x 1 x 1."""
    return torch.tensor([IMAGENET_MEAN, IMAGENET_STD], device=device)[:, :, None, None]
