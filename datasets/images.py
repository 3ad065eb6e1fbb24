"""Face images from disk to batches."""

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datasets.augmentation import resize, training_augmentation
from datasets.labels import Video
from utils.errors import InputError
from utils.workers import start_worker


class BadImage(NamedTuple):
    """An image that could not be read, and why."""

    path: str
    reason: str


class Batch(NamedTuple):
    """What a loader gives.

    Attributes:
        images: B x 3 x size x size, uint8, RGB.
        labels: B, int64, 0 real and 1 fake.
        positions: B, int64, each image's position in its `FaceImages`.
        bad: the images of the batch that could not be read; they are in none of the above.
    """

    images: Tensor
    labels: Tensor
    positions: Tensor
    bad: list[BadImage]


def read_image(path: Path, turn: bool = False) -> np.ndarray:
    """Read an image as H x W x 3, uint8, RGB; with `turn`, turned as its camera says.

    Pillow reads it, and not OpenCV, because OpenCV fills the rest of a truncated file with grey.

    Raises:
        InputError: it is missing, unreadable or truncated.
    """
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image) if turn else image
            if image.mode.startswith("I;16"):  # Pillow itself would cut 16 bits off at 255
                return np.repeat((np.asarray(image) // 257).astype(np.uint8)[:, :, None], 3, axis=2)
            if image.mode in ("I", "F"):
                raise ValueError(f"its pixels are of Pillow's mode {image.mode}, not 8 or 16 bits")
            return np.asarray(image.convert("RGB"))
    # SyntaxError: a broken PNG; struct.error: broken EXIF
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        reason = "it is no image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise InputError(f"{path}: {reason}") from error


class FaceImages(Dataset):
    """All images of some videos.

    Each image's augmentation is drawn from (seed, epoch, position) and from nothing else, so that it does
    not depend on the number of workers, nor on what was read before.

    Args:
        videos: as `datasets.labels.read_split` gives them; a video that stands there four times is read
            four times an epoch, each time augmented otherwise.
        size: images are resized to size x size.
        seed: None to leave the images as they are (validation and test).
    """

    def __init__(self, videos: list[Video], size: int, seed: int | None = None) -> None:
        self.videos = videos
        self.size = size
        self.seed = seed
        self.epoch = 0
        self.augment = None if seed is None else training_augmentation(size)
        # Arrays, which worker processes share. Of lists, as of the names in `videos`, each copies what it looks at.
        frames = [len(video.images) for video in videos]
        self.video_of = np.repeat(np.arange(len(videos)), frames)
        self.frame_of = np.concatenate([np.arange(n) for n in frames])
        self.labels = np.repeat([video.label for video in videos], frames)

    def __len__(self) -> int:
        return len(self.video_of)

    def path(self, position: int) -> str:
        """Return an image's path as the label file gives it, with the file's name."""
        video = self.videos[self.video_of[position]]
        return f"{video.path.rstrip('/')}/{video.images[self.frame_of[position]]}"

    def __getitem__(self, position: int) -> tuple[Tensor, int, int] | BadImage:
        video = self.videos[self.video_of[position]]
        path = video.folder / video.images[self.frame_of[position]]
        try:
            image = read_image(path)
        except InputError as error:
            return BadImage(str(path), str(error).removeprefix(f"{path}: "))
        if self.augment is None:
            image = resize(image, self.size)
        else:
            draw = np.random.SeedSequence([self.seed, self.epoch, position]).generate_state(1)
            self.augment.set_random_seed(int(draw[0]))
            image = self.augment(image=image)["image"]
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), video.label, position


def collate(items: list[tuple[Tensor, int, int] | BadImage]) -> Batch:
    """Make a batch of what could be read."""
    bad = [item for item in items if isinstance(item, BadImage)]
    good = [item for item in items if not isinstance(item, BadImage)]
    images, labels, positions = zip(*good, strict=True) if good else ((), (), ())
    return Batch(
        torch.stack(images) if images else torch.empty(0, 3, 0, 0, dtype=torch.uint8),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(positions, dtype=torch.int64),
        bad,
    )


def make_loader(
    faces: FaceImages, batch_size: int, num_workers: int, device: torch.device, shuffle: bool = False
) -> DataLoader:
    """Load `faces` in batches (`Batch`) for `device`, in order or, for training, shuffled by ``loader.generator``."""
    return DataLoader(
        faces,
        batch_size,
        shuffle=shuffle,
        generator=torch.Generator(),
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        worker_init_fn=start_worker,
    )
