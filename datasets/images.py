"""Datasets and loaders of face images."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from datasets.augmentation import augment
from datasets.labels import Video
from datasets.samplers import TrainingBatches
from datasets.transforms import resize
from utils.errors import InputError
from utils.images import read_image
from utils.workers import init_worker
from utils.world import World


class BadImage(NamedTuple):
    """An image that cannot be read, with the reason."""

    path: str
    reason: str


class Batch(NamedTuple):
    """A batch of images.

    Attributes:
        images: B x 3 x size x size, uint8, RGB.
        labels: B, int64, 0 real and 1 fake.
        positions: B, int64, index of each image in its `FaceImages`.
        bad: images of the batch that cannot be read; they are not in the tensors.
    """

    images: Tensor
    labels: Tensor
    positions: Tensor
    bad: list[BadImage]


class FaceImages(Dataset):
    """The face images of a list of videos; an item is (3 x size x size uint8 RGB, label, position) or `BadImage`.

    An index is a position, or (epoch, position) to augment the image. The augmentation depends only on (seed, epoch,
    position), not on the number of workers or the reading order.

    Args:
        videos: videos from `datasets.labels.read_split`. A video listed four times is read four times per epoch,
            with a different augmentation each time.
        size: side of the resized images in pixels.
        seed: seed of the augmentation; None for no augmentation (validation and test).
        frames: the chosen frames of each video, from `datasets.samplers.choose_frames`; None for all frames.
    """

    def __init__(
        self, videos: list[Video], size: int, seed: int | None = None, frames: list[np.ndarray] | None = None
    ) -> None:
        self.videos = videos
        self.size = size
        self.seed = seed
        # Worker processes share arrays, but each worker copies the list items that it reads.
        counts = [len(chosen) for chosen in frames] if frames else [len(video.images) for video in videos]
        self.video_of = np.repeat(np.arange(len(videos)), counts)
        self.frame_of = np.arange(len(self.video_of)) - np.repeat(np.cumsum(counts) - counts, counts)
        if frames:
            self.frame_of = np.concatenate(frames)
        self.labels = np.repeat([video.label for video in videos], counts)

    def __len__(self) -> int:
        return len(self.video_of)

    def path(self, position: int) -> str:
        """Return the path of an image: the folder as written in the label file, then the file name."""
        video = self.videos[self.video_of[position]]
        return f"{video.path.rstrip('/')}/{video.images[self.frame_of[position]]}"

    def file(self, position: int) -> Path:
        """Return the file of an image."""
        video = self.videos[self.video_of[position]]
        return video.folder / video.images[self.frame_of[position]]

    def _read(self, position: int) -> np.ndarray:
        """Return an image without augmentation, size x size x 3, uint8, RGB: from the pack, or else from its file."""
        video = self.videos[self.video_of[position]]
        pack, row = video.pack, video.row + int(self.frame_of[position])
        if pack is None or pack.size != self.size or row in pack.unreadable:
            return resize(read_image(self.file(position)), self.size)
        image = pack.read(row)
        if image is None:
            raise InputError(
                f"{self.file(position)}: its copy in {pack.folder} is damaged; run python -m datasets.pack"
            )
        return image

    def __getitem__(self, index: int | tuple[int, int]) -> tuple[Tensor, int, int] | BadImage:
        epoch, position = index if isinstance(index, tuple) else (0, index)
        try:
            image = self._read(position)
        except InputError as error:
            path = str(self.file(position))
            return BadImage(path, str(error).removeprefix(f"{path}: "))
        if self.seed is not None:
            image = augment(image, np.random.default_rng([self.seed, epoch, position]))
        return torch.from_numpy(image.transpose(2, 0, 1)), int(self.labels[position]), position

    def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> Batch:
        """Return a batch; loaders call this instead of `__getitem__`, so that no list holds the images of a batch."""
        return collate((self[index] for index in indices), len(indices))


def collate(items: Iterable[tuple[Tensor, int, int] | BadImage], count: int) -> Batch:
    """Collate at most `count` items; images may be 3 x H x W in any memory order, or versions, V x 3 x H x W."""
    images = np.empty((0, 3, 0, 0), np.uint8)
    labels: list[int] = []
    positions: list[int] = []
    bad: list[BadImage] = []
    for item in items:
        if isinstance(item, BadImage):
            bad.append(item)
            continue
        image, label, position = item
        if not labels:
            images = np.empty((count, *image.shape), np.uint8)  # NumPy asks for huge pages, PyTorch does not
        if image.ndim == 3:
            planes = cv2.split(image.permute(1, 2, 0).numpy())  # much faster than a transposing copy
            np.stack(planes, out=images[len(labels)])
        else:
            images[len(labels)] = image.numpy()
        labels.append(label)
        positions.append(position)
    return Batch(
        torch.from_numpy(images[: len(labels)]),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(positions, dtype=torch.int64),
        bad,
    )


def _is_packed(images: Dataset) -> bool:
    """Return whether all images come from packs, and are not augmented."""
    faces = images.dataset if isinstance(images, Subset) else images
    if not isinstance(faces, FaceImages) or faces.seed is not None:
        return False
    return all(video.pack is not None and video.pack.size == faces.size for video in faces.videos)


class ThreadLoader(DataLoader):
    """A loader that reads batches in threads of this process.

    Images from a pack need no decoding, and processes would spend most of their time on sending them.

    Args:
        images: a `FaceImages`, or a subset of one.
        batch_size: number of images per batch.
        threads: number of threads; each reads a batch.
        pin_memory: whether to copy the images to page-locked memory.
    """

    def __init__(self, images: Dataset, batch_size: int, threads: int, pin_memory: bool) -> None:
        super().__init__(images, batch_size)
        self.threads, self.pins = threads, pin_memory

    def _load(self, positions: list[int]) -> Batch:
        batch = self.dataset.__getitems__(positions)  # type: ignore[attr-defined]
        return batch._replace(images=batch.images.pin_memory()) if self.pins else batch

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # an iterator without the methods for processes
        pool, waiting = ThreadPoolExecutor(self.threads), deque[Future[Batch]]()
        try:
            for positions in self.batch_sampler:  # type: ignore[union-attr]  # never None here
                waiting.append(pool.submit(self._load, positions))
                if len(waiting) > 2 * self.threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def make_loader(
    faces: Dataset,
    batch_size: int,
    num_workers: int,
    world: World,
    batches: TrainingBatches | None = None,
) -> DataLoader:
    """Return a loader of `Batch`: of this process's share of the images in order, or of the training `batches`.

    Args:
        faces: the images; its ``__getitems__`` returns a `Batch`.
        batch_size: number of images per batch, over all processes; ignored with `batches`.
        num_workers: number of worker processes; number of threads if all images come from packs, unaugmented.
        world: the processes.
        batches: the order of a training.
    """
    order: dict[str, Any] = {"batch_sampler": batches}
    if batches is None:
        order = {"batch_size": max(1, batch_size // world.size)}
        if world.size > 1:
            faces = Subset(faces, world.share(range(len(faces))))  # type: ignore[arg-type]  # Dataset has no length
        if num_workers and _is_packed(faces):
            return ThreadLoader(faces, order["batch_size"], num_workers, world.device.type == "cuda")
    return DataLoader(
        faces,
        **order,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=Batch._make,  # leaves a batch as it is
        pin_memory=world.device.type == "cuda",
        worker_init_fn=init_worker,
    )
