"""Measure how strongly each training augmentation changes an image: mean absolute change in grey levels.

    python -m benchmarks.augmentation_strength

With albumentations 2 it measures this project's augmentation. With 1.3.1 (and opencv-python-headless==4.8.1.78 and
numpy<2) it measures the authors' augmentation. docs/fidelity.md compares the two.
"""

import random

import albumentations as A
import cv2
import numpy as np

DRAWS = 4000


def picture() -> np.ndarray:
    """Return the test image: waves in each channel, 64 x 64 x 3, uint8."""
    y, x = np.mgrid[0:64, 0:64]
    channels = [128 + 90 * np.sin(x / 7), 128 + 90 * np.cos(y / 5), 128 + 90 * np.sin((x + y) / 9)]
    return np.stack(channels, axis=2).astype(np.uint8)


def authors_transforms() -> list[A.BasicTransform]:
    """Return the authors' transforms with the names and defaults of albumentations 1.3.1, always applied."""
    return [
        A.ImageCompression(quality_lower=60, quality_upper=100, p=1),
        A.GaussNoise(p=1),
        A.GaussianBlur(blur_limit=3, p=1),
        A.RandomBrightnessContrast(p=1),
        A.FancyPCA(p=1),
        A.HueSaturationValue(p=1),
        A.ToGray(p=1),
        A.ShiftScaleRotate(shift_limit=0.1, scale_limit=0.2, rotate_limit=10, border_mode=cv2.BORDER_CONSTANT, p=1),
    ]


def our_transforms() -> list[A.BasicTransform]:
    """Return this project's transforms, always applied, then GaussNoise and FancyPCA of version 2 to compare."""
    from datasets.augmentation import training_augmentation

    transforms = []
    for outer in training_augmentation(64).transforms:
        for transform in getattr(outer, "transforms", [outer]):
            if type(transform) not in (A.Resize, A.PadIfNeeded, A.HorizontalFlip):
                transform.p = 1.0
                transforms.append(transform)
    std_range = (10**0.5 / 255, 50**0.5 / 255)  # a variance of 10 to 50 grey levels squared
    return [*transforms, A.GaussNoise(std_range=std_range, p=1), A.FancyPCA(alpha=0.1, p=1)]


def main() -> None:
    """Print one line per transform: name, mean change and standard deviation over draws."""
    image = picture()
    is_version_1 = A.__version__.startswith("1.")
    print(f"albumentations {A.__version__}")
    for transform in authors_transforms() if is_version_1 else our_transforms():
        random.seed(0)
        np.random.seed(0)
        apply = transform if is_version_1 else A.Compose([transform], seed=0)
        changes = [np.abs(apply(image=image)["image"].astype(float) - image).mean() for _ in range(DRAWS)]
        print(f"{type(transform).__name__:26s} {np.mean(changes):7.3f} {np.std(changes):7.3f}")


if __name__ == "__main__":
    main()
