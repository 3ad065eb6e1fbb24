"""Augmentation of the training images.

The augmentation has the transforms and strengths of albumentations 1.3.1, the version that the authors trained with,
in plain OpenCV and NumPy. Every transform maps H x W x 3 uint8 RGB to H x W x 3 uint8 RGB and draws its random numbers
from the generator that it is given.
"""

from collections.abc import Callable

import cv2
import numpy as np

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def compress(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Compress as JPEG with a quality of 60 to 100.

    As in albumentations, OpenCV reads the channels as BGR, so red and blue swap their weights in the luminance.
    """
    _, encoded = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 101))))
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))


def add_noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add N(0, v) noise to each pixel and channel, with v ~ U(10, 50) in squared grey levels."""
    noise = np.empty((image.shape[0], 3 * image.shape[1]), np.float32)
    cv2.setRNGSeed(int(rng.integers(1, 2**31)))  # OpenCV draws four times as fast as NumPy
    mean = np.array([-0.5])  # because OpenCV rounds the sum, and albumentations rounds it down
    cv2.randn(noise, mean, rng.uniform(10, 50, 1) ** 0.5)
    return cv2.add(image, noise.reshape(image.shape), dtype=cv2.CV_8U)


def blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur with the kernel (1/4, 1/2, 1/4) in both directions."""
    return cv2.GaussianBlur(image, (3, 3), 0)


def flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exchange left and right."""
    return cv2.flip(image, 1)


def change_brightness(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scale the contrast by 0.8 to 1.2 and shift the brightness by up to a fifth of the range."""
    return cv2.LUT(image, _table(np.arange(256) * rng.uniform(0.8, 1.2) + 255 * rng.uniform(-0.2, 0.2)))


def shift_pca(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift the colours along the principal components of the image (Krizhevsky et al. 2012).

    The shift is alpha * (sum of eigenvalue * eigenvector) of the colour covariance, for colours from 0 to 1. Each image
    draws one alpha from a normal distribution with mean 0 and standard deviation 0.1.
    """
    # a * b = (a * a + b * b - (a - b) * (a - b)) / 2. OpenCV sums these integers fast, exactly and in one thread.
    planes, sums, count = cv2.split(image), cv2.sumElems(image)[:3], image.shape[0] * image.shape[1]
    squares = np.array([cv2.norm(plane, cv2.NORM_L2SQR) for plane in planes])
    differences = np.array([[cv2.norm(a, b, cv2.NORM_L2SQR) for a in planes] for b in planes])
    products = (squares + squares[:, None] - differences) / 2
    covariance = (products - np.outer(sums, sums) / count) / (count - 1)
    values, vectors = np.linalg.eigh(covariance / 255**2)
    vectors *= np.where(vectors.sum(axis=0) < 0, -1, 1)  # the signs are arbitrary, and differ between processors
    shift = 255 * vectors @ (rng.normal(0, 0.1) * values)
    return cv2.LUT(image, _table(np.arange(256)[:, None, None] + shift))


def shift_hsv(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift the hue by up to 20 (of 180), the saturation by up to 30 and the value by up to 20 (of 255)."""
    shifted = np.arange(256)[:, None, None] + rng.uniform((-20, -30, -20), (20, 30, 20))
    shifted[..., 0] %= 180
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), _table(shifted))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def to_grey(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Set the three channels to the luminance."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def shift_scale_rotate(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotate by up to 10 degrees, scale by 0.8 to 1.2 and shift by up to a tenth of the side; the border is black."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), rng.uniform(-10, 10), rng.uniform(0.8, 1.2))
    matrix[0, 2] += rng.uniform(-0.1, 0.1) * width
    matrix[1, 2] += rng.uniform(-0.1, 0.1) * height
    four_channels = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)  # which OpenCV warps twice as fast as three
    return cv2.cvtColor(cv2.warpAffine(four_channels, matrix, (width, height)), cv2.COLOR_RGBA2RGB)


def _table(values: np.ndarray) -> np.ndarray:
    """Return the table of `cv2.LUT` for the values of the 256 grey levels: clipped, and rounded down."""
    return values.clip(0, 255).astype(np.uint8)


# The probability of each step, and the transforms, of which it applies one at random.
AUGMENTATION: tuple[tuple[float, tuple[Transform, ...]], ...] = (
    (0.5, (compress,)),
    (0.1, (add_noise,)),
    (0.05, (blur,)),
    (0.5, (flip,)),
    (0.7, (change_brightness, shift_pca, shift_hsv)),
    (0.2, (to_grey,)),
    (0.5, (shift_scale_rotate,)),
)


def augment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Augment a training image that has been resized.

    Args:
        image: H x W x 3, uint8, RGB.
        rng: the source of all draws.

    Returns:
        H x W x 3, uint8, RGB; `image` itself if no step is drawn.
    """
    for probability, transforms in AUGMENTATION:
        if rng.random() < probability:
            image = transforms[rng.integers(len(transforms))](image, rng)
    return image
