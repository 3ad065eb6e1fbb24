"""Augmentation of the training images.

It has the strengths of albumentations 1.3.1, the version that the authors trained with. Version 2 renamed parameters
and changed defaults, so every strength is given explicitly. It also changed the algorithm of two transforms; this
module keeps the old ones.
"""

import os
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations looks for updates on the internet

import albumentations as A
import cv2
import numpy as np


class GaussianNoise(A.ImageOnlyTransform):
    """Add N(0, v) noise to each pixel and channel, with v ~ U(10, 50) in squared grey levels.

    GaussNoise of albumentations 2 rounds the noise towards zero and so loses a sixth of its strength.
    """

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Return the image, H x W x 3 uint8, with noise."""
        sigma = self.py_random.uniform(10, 50) ** 0.5
        noisy = img + self.random_generator.normal(0, sigma, img.shape)
        return noisy.clip(0, 255).astype(np.uint8)


class FancyPCA(A.ImageOnlyTransform):
    """Shift the colours along the principal components of the image (Krizhevsky et al. 2012).

    Adds alpha * (sum of eigenvalue * eigenvector) of the colour covariance to each pixel, for colours from 0 to 1.
    Each image draws one alpha ~ N(0, 0.1). FancyPCA of albumentations 2 multiplies each pixel by the covariance
    instead and has a seventh of the strength.
    """

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Return the image, H x W x 3 uint8, with shifted colours."""
        values, vectors = np.linalg.eigh(np.cov(img.reshape(-1, 3) / 255, rowvar=False))
        shift = vectors @ (self.py_random.gauss(0, 0.1) * values)
        return (img + 255 * shift).clip(0, 255).astype(np.uint8)


def training_augmentation(size: int) -> A.Compose:
    """Build the training augmentation: H x W x 3 uint8 RGB to size x size x 3 uint8 RGB."""
    return A.Compose(
        [
            A.Resize(size, size, interpolation=cv2.INTER_LINEAR),
            A.ImageCompression(quality_range=(60, 100), compression_type="jpeg", p=0.5),
            GaussianNoise(p=0.1),
            # sigma = sqrt(1 / (2 ln 2)) gives OpenCV's default kernel, (1/4, 1/2, 1/4).
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
