"""The order of the training images."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

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
