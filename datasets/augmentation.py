"""What happens to an image before the network sees it.

The strengths are those of albumentations 1.3.1, with which the authors trained. Version 2 has other names and
other defaults, so every strength is spelled out; two of its transforms are other ones behind the same name, and
stand here as they were.
"""

import os
from functools import cache
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version

import albumentations as A
import cv2
import numpy as np
import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class GaussianNoise(A.ImageOnlyTransform):
    """Add noise to every pixel and channel, N(0, variance), the variance drawn from 10 to 50 (grey levels squared).

    Version 2's GaussNoise rounds the noise towards zero, which takes a sixth of its strength.
    """

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Return the H x W x 3 uint8 image with noise."""
        sigma = self.py_random.uniform(10, 50) ** 0.5
        noisy = img + self.random_generator.normal(0, sigma, img.shape)
        return noisy.clip(0, 255).astype(np.uint8)


class FancyPCA(A.ImageOnlyTransform):
    """Shift the colours along the principal components of the image (Krizhevsky et al. 2012).

    Every pixel gets the sum over components of alpha * eigenvalue * eigenvector, on colours from 0 to 1, with one
    alpha ~ N(0, 0.1) an image. Version 2's stretches each pixel by the covariance instead, at a seventh of the
    strength.
    """

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Return the H x W x 3 uint8 image with shifted colours."""
        values, vectors = np.linalg.eigh(np.cov(img.reshape(-1, 3) / 255, rowvar=False))
        shift = vectors @ (self.py_random.gauss(0, 0.1) * values)
        return (img + 255 * shift).clip(0, 255).astype(np.uint8)


def training_augmentation(size: int) -> A.Compose:
    """Make the augmentation of training images: H x W x 3 uint8 RGB in, size x size x 3 uint8 RGB out."""
    return A.Compose(
        [
            A.Resize(size, size, interpolation=cv2.INTER_LINEAR),
            A.ImageCompression(quality_range=(60, 100), compression_type="jpeg", p=0.5),
            GaussianNoise(p=0.1),
            # OpenCV's own kernel of three, (1/4, 1/2, 1/4), is a Gaussian of sigma sqrt(1 / (2 ln 2)).
            A.GaussianBlur(blur_limit=(3, 3), sigma_limit=(0.8493, 0.8493), p=0.05),
            A.HorizontalFlip(p=0.5),
            A.PadIfNeeded(size, size, border_mode=cv2.BORDER_CONSTANT, fill=0),
            A.OneOf(
                [
                    A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, brightness_by_max=True),
                    FancyPCA(),
                    A.HueSaturationValue(hue_shift_limit=20, sat_shift_limit=30, val_shift_limit=20),
                ],
                p=0.7,
            ),
            A.ToGray(method="weighted_average", p=0.2),
            A.Affine(
                translate_percent=(-0.1, 0.1),
                scale=(0.8, 1.2),
                rotate=(-10, 10),
                interpolation=cv2.INTER_LINEAR,
                border_mode=cv2.BORDER_CONSTANT,
                fill=0,
                keep_ratio=True,
                p=0.5,
            ),
        ]
    )


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resize an H x W x 3 image to size x size x 3, bilinear: all that validation and test do."""
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def normalise(images: Tensor, channels: str = "RGB") -> Tensor:
    """Turn uint8 images into what the backbones were trained on.

    Args:
        images: B x 3 x H x W, uint8, RGB.
        channels: the order that the network was trained with. The authors' was BGR, with the means of RGB.

    Returns:
        B x 3 x H x W, float32, less ImageNet's mean and over its standard deviation.
    """
    if channels == "BGR":
        images = images.flip(1)
    mean, std = _imagenet(images.device)
    return (images.float() / 255 - mean) / std


@cache  # bringing them to a GPU makes the processor wait for it
def _imagenet(device: torch.device) -> Tensor:
    """Return ImageNet's mean and standard deviation, 2 x 3 x 1 x 1."""
    return torch.tensor([IMAGENET_MEAN, IMAGENET_STD], device=device)[:, :, None, None]
