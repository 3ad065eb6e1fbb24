"""Compare the strength of each training augmentation with albumentations 1.3.1, the version of the authors.

    python -m benchmarks.augmentation_strength

The strength is the mean absolute change of an image in grey levels. The command prints it for this project and for
albumentations 1.3.1, and fails if two differ by more than 3 %. With albumentations 1.3.1 installed (and
opencv-python-headless==4.8.1.78 and numpy<2), it measures the values of `AUTHORS` instead.
"""

import random
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import cv2
import numpy as np

DRAWS = 40_000
AUTHORS = {  # with albumentations 1.3.1, by this command
    "compress": 1.956,
    "add_noise": 4.291,
    "blur": 0.457,
    "change_brightness": 27.829,
    "shift_pca": 1.216,
    "shift_hsv": 19.075,
    "to_grey": 44.202,
    "shift_scale_rotate": 47.874,
}


def picture() -> np.ndarray:
    """Return the test image: waves in each channel, 64 x 64 x 3, uint8."""
    y, x = np.mgrid[0:64, 0:64]
    channels = [128 + 90 * np.sin(x / 7), 128 + 90 * np.cos(y / 5), 128 + 90 * np.sin((x + y) / 9)]
    return np.stack(channels, axis=2).astype(np.uint8)


def authors_transforms() -> list[Callable[[np.ndarray], np.ndarray]]:
    """Return the authors' transforms in the order of `AUTHORS`, always applied."""
    import albumentations as A

    transforms = [
        A.ImageCompression(quality_lower=60, quality_upper=100, p=1),
        A.GaussNoise(p=1),
        A.GaussianBlur(blur_limit=3, p=1),
        A.RandomBrightnessContrast(p=1),
        A.FancyPCA(p=1),
        A.HueSaturationValue(p=1),
        A.ToGray(p=1),
        A.ShiftScaleRotate(shift_limit=0.1, scale_limit=0.2, rotate_limit=10, border_mode=cv2.BORDER_CONSTANT, p=1),
    ]
    return [lambda image, transform=transform: transform(image=image)["image"] for transform in transforms]  # type: ignore[misc]


def our_transforms() -> list[Callable[[np.ndarray], np.ndarray]]:
    """Return this project's transforms in the order of `AUTHORS`, always applied."""
    from datasets import augmentation

    rng = np.random.default_rng(0)
    return [lambda image, name=name: getattr(augmentation, name)(image, rng) for name in AUTHORS]  # type: ignore[misc]


def strength(transform: Callable[[np.ndarray], np.ndarray], draws: int) -> float:
    """Return the mean absolute change of the test image in grey levels."""
    image = picture()
    return float(np.mean([np.abs(transform(image).astype(float) - image).mean() for _ in range(draws)]))


def main() -> int:
    """Print one line per transform; return 1 if a strength differs by more than 3 %."""
    random.seed(0)
    np.random.seed(0)
    try:
        transforms = authors_transforms() if version("albumentations") == "1.3.1" else our_transforms()
    except PackageNotFoundError:
        transforms = our_transforms()
    worst = 0.0
    for (name, expected), transform in zip(AUTHORS.items(), transforms, strict=True):
        measured = strength(transform, DRAWS)
        worst = max(worst, abs(measured / expected - 1))
        print(f"{name:20s} {measured:7.3f}   albumentations 1.3.1: {expected:7.3f}   ratio {measured / expected:.3f}")
    print(f"largest difference: {worst:.1%}")
    return int(worst > 0.03)


if __name__ == "__main__":
    sys.exit(main())
