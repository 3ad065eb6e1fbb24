"""Find copies of images: equal pixels, and perceptual hashes that differ in few bits."""

import itertools
from collections.abc import Iterator

import numpy as np
from PIL import Image

from utils.progress import progress

WORDS = 16  # 16-bit words of a perceptual hash
NEAR = WORDS - 1  # largest distance of near-duplicates, in bits of 256: they share a word, which `near_pairs` needs


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """Return the 256-bit pHash of an image (H x W x 3, uint8, RGB) as `WORDS` words of 16 bits."""
    import imagehash  # an optional package, slow to import

    bits = imagehash.phash(Image.fromarray(image), hash_size=16).hash
    return np.packbits(bits.ravel()).view(np.uint16)


def near_pairs(hashes: np.ndarray, splits: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Find all pairs of images of different splits whose hashes differ in at most `NEAR` bits, each pair once.

    Two hashes that differ in fewer bits than they have words agree in a word. So only images that agree in a word are
    compared (Norouzi et al., Fast search in Hamming space with multi-index hashing, CVPR 2012).

    Args:
        hashes: N x WORDS, uint16.
        splits: N, number of the split of each image.

    Yields:
        The numbers of the first and of the second image of P >= 1 pairs, P each.
    """
    for word in progress(range(WORDS), "near-duplicates", unit="words", delay=2):
        order = np.argsort(hashes[:, word], kind="stable")
        values = hashes[order, word]
        starts: np.ndarray = np.arange(len(values))
        for step in itertools.count(1):
            starts = starts[: np.searchsorted(starts, len(values) - step)]
            starts = starts[values[starts] == values[starts + step]]
            if not len(starts):
                break
            first, second = order[starts], order[starts + step]
            across = splits[first] != splits[second]
            first, second = first[across], second[across]
            differing = hashes[first] ^ hashes[second]
            near = np.bitwise_count(differing.view(np.uint64)).sum(1) <= NEAR
            near &= differing[:, :word].all(1)  # an earlier word has not found the pair
            if near.any():
                yield first[near], second[near]


def equal_pairs(pixels: np.ndarray, videos: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield pairs of images with equal pixels in different videos: the first image, and one image of each other video.

    Args:
        pixels: N, digest of each image.
        videos: N, number of the video of each image.
    """
    _, first_of = np.unique(np.stack([pixels, videos.astype(np.uint64)], 1), axis=0, return_index=True)
    order = np.sort(first_of)
    _, inverse, counts = np.unique(pixels[order], return_inverse=True, return_counts=True)
    seen: dict[int, int] = {}
    for image, value in zip(order[counts[inverse] > 1].tolist(), inverse[counts[inverse] > 1].tolist(), strict=True):
        if value in seen:
            yield seen[value], image
        seen.setdefault(value, image)
