"""The order of the training images, and the frames of a test."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from datasets.labels import Video
from utils.devices import smallest_share
from utils.errors import InputError
from utils.world import World


class TrainingBatches(Sampler[list[tuple[int, int]]]):
    """The batches of one epoch as lists of (epoch, position); with several processes, this process's share of each.

    The order depends only on (seed, epoch), so a run continues from any step, with any number of processes.

    Args:
        images: number of images.
        batch_size: number of images per batch, over all processes.
        seed: seed of the order.
        world: the processes.

    Attributes:
        epoch: number of the epoch, from 1.
        first_step: number of batches to skip at the start of the epoch.
    """

    def __init__(self, images: int, batch_size: int, seed: int, world: World) -> None:
        self.images, self.batch_size, self.seed, self.world = images, batch_size, seed, world
        self.epoch, self.first_step = 1, 0

    def __len__(self) -> int:
        """Return the number of steps in a complete epoch."""
        return -(-self.images // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.images)
        for start in range(self.first_step * self.batch_size, self.images, self.batch_size):
            batch = order[start : start + self.batch_size].tolist()
            yield [(self.epoch, position) for position in self.world.share(batch)]


def check_batch_size(batch_size: int, micro_batches: int, images: int, world: World) -> None:
    """Check the batch size, and print a note if only the last batch is too small for BatchNorm.

    Raises:
        InputError: the processes cannot share a batch equally, or BatchNorm would get a single image.
    """
    processes, gpus = world.size, len(world.devices)
    if batch_size % processes:
        near = batch_size - batch_size % processes + processes
        raise InputError(
            f"--bs {batch_size} cannot be divided among {processes} processes; give a multiple of {processes}, "
            f"such as {near}."
        )

    def smallest(batch: int) -> int:
        shares = batch // processes, -(-batch // processes)
        return min(smallest_share(share, gpus, micro_batches) for share in shares)

    if smallest(min(batch_size, images)) < 2:
        raise InputError(
            f"--bs {batch_size} with {images} training images, {processes * gpus} devices and --accumulate "
            f"{micro_batches} gives a device a single image, but BatchNorm needs two; give --bs "
            f"{2 * processes * gpus * micro_batches} or more, or fewer devices or micro-batches."
        )
    last_batch = images % batch_size or batch_size
    if smallest(last_batch) < 2:
        print(
            f"note: every epoch skips its last batch of {last_batch}: a device would get a single image, but "
            "BatchNorm needs two"
        )


def choose_frames(videos: Sequence[Video], count: int | None, choice: str, seed: int) -> list[np.ndarray] | None:
    """Choose the frames of each video in a test.

    Random frames depend only on the seed, on the path in the label file and on the number of frames, so two datasets
    that list the same folder use the same frames.

    Args:
        videos: V videos; a folder of faces counts as a video.
        count: number of frames; a video with fewer frames keeps all. None for all frames of all videos.
        choice: random (without replacement) or even (equal steps, with the first and the last frame).
        seed: seed of the random choice.

    Returns:
        V arrays of ascending positions in ``video.images``; None for all frames.
    """
    if count is None:
        return None
    frames = []
    for video in videos:
        total = len(video.images)
        if total <= count:
            chosen: np.ndarray = np.arange(total)
        elif choice == "even":
            by_number = np.argsort([len(name) for name in video.images], kind="stable")  # 9.png before 10.png
            chosen = np.sort(by_number[np.linspace(0, total - 1, count).round().astype(int)])
        else:
            digest = hashlib.sha256(video.path.encode("utf-8", "surrogateescape")).digest()
            rng = np.random.default_rng([seed, *digest])
            chosen = np.sort(rng.choice(total, count, replace=False))
        frames.append(chosen)
    return frames
