"""Compare the input side of training with the authors' way: PNG files and albumentations in each worker process.

    python -m benchmarks.input_pipeline [--size 224] [--bs 256] [--num_workers 12] [--steps 8]

The authors' way reads PNG files with OpenCV and augments them with albumentations. Ours reads a pack (`datasets.pack`)
with `FaceImages` and `make_loader`, as training.py does. Both read the same noisy images of 256 pixels, in turns
(A B A B). A turn includes the start of the worker processes. The last line is JSON: images per second, medians of the
turns, for training images, and under ``test`` for test images.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations looks for updates on the internet

import albumentations as A
import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.turns import make_parser
from datasets import pack
from datasets.images import FaceImages, make_loader
from datasets.labels import read_split
from datasets.samplers import TrainingBatches
from utils.devices import worker_count
from utils.training_arguments import TrainingArguments
from utils.workers import init_worker
from utils.world import World

FILES, SIDE = 256, 256  # images, and their side in pixels
TURNS = 2
SECONDS = 6.0  # of a turn, about: all turns take less than a minute on a free machine


class AuthorsImages(Dataset):
    """PNG files, read with OpenCV and resized; for training, augmented with albumentations.

    Args:
        files: the images.
        size: side of the resized images in pixels.
        training: whether to augment.
    """

    def __init__(self, files: list[str], size: int, training: bool) -> None:
        black = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0}
        steps = [
            A.ImageCompression(quality_range=(60, 100), p=0.5),
            A.GaussNoise(std_range=(10**0.5 / 255, 50**0.5 / 255), p=0.1),
            A.GaussianBlur(blur_limit=(3, 3), sigma_limit=(0.85, 0.85), p=0.05),
            A.HorizontalFlip(p=0.5),
            A.PadIfNeeded(size, size, **black),
            A.OneOf([A.RandomBrightnessContrast(), A.FancyPCA(), A.HueSaturationValue()], p=0.7),
            A.ToGray(p=0.2),
            A.Affine(translate_percent=(-0.1, 0.1), scale=(0.8, 1.2), rotate=(-10, 10), p=0.5, **black),
        ]
        self.files = files
        self.transform = A.Compose([A.Resize(size, size), *(steps if training else ())])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Tensor:
        image = self.transform(image=cv2.imread(self.files[number]))["image"]
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def write_images(root: Path) -> list[str]:
    """Write smooth images with noise, whose PNG files have about the size of a face crop, and a label file."""
    rng = np.random.default_rng(0)
    files = []
    for label, kind in enumerate(("real", "fake")):
        folder = root / "faces" / kind
        folder.mkdir(parents=True)
        for number in range(FILES // 2):
            smooth = cv2.resize(rng.uniform(20, 230, (12, 12, 3)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
            noisy = (smooth + rng.normal(0, 1, smooth.shape)).clip(0, 255).astype(np.uint8)
            files.append(str(folder / f"{number:04d}.png"))
            cv2.imwrite(files[-1], noisy)
        labels = root / "dataset/noisy"
        labels.mkdir(parents=True, exist_ok=True)
        (labels / f"train_{kind}.txt").write_text(f"{label},{kind},{FILES // 2}\n")
    return files


def speed(loader: DataLoader, images: int, batch_size: int) -> float:
    """Return the images per second of a loader of `images` images; stop after twice `SECONDS`."""
    start, read = time.perf_counter(), 0
    for _ in loader:
        read = min(images, read + batch_size)
        if time.perf_counter() - start > 2 * SECONDS:
            break
    return read / (time.perf_counter() - start)


def seconds_per_image(make: Callable[[int], DataLoader]) -> float:
    """Return the time of an image in this process."""
    dataset, count = make(FILES).dataset, 64
    read: Any = getattr(dataset, "__getitems__", lambda numbers: [dataset[number] for number in numbers])
    read(range(8))
    start = time.perf_counter()
    read(range(count))
    return (time.perf_counter() - start) / count


def main(argv: list[str] | None = None) -> None:
    """Print the speeds of the turns, then one line of JSON."""
    defaults = TrainingArguments()
    # --model, --num_LIBs, --precision and --gpu_num have no use: no network
    parser = make_parser(__doc__, size=defaults.size, bs=defaults.bs, num_workers=defaults.num_workers, steps=8)
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)  # as in the worker processes
    workers, world = worker_count(args.num_workers), World("cpu")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = write_images(root)
        print(f"{FILES} PNG files of {sum(map(os.path.getsize, files)) // FILES} bytes on average")
        where = ["--dataset_root", str(root / "dataset"), "--data_root", str(root / "faces")]
        if pack.main(["noisy", "--size", str(args.size), "--num_workers", str(args.num_workers), *where]):
            raise SystemExit(2)
        videos = read_split("noisy", "train", root / "dataset", root / "faces", args.size)

        def baseline(images: int, training: bool) -> DataLoader:
            data = AuthorsImages(files * -(-images // FILES), args.size, training)
            data.files = data.files[:images]
            return DataLoader(data, args.bs, shuffle=training, num_workers=workers, worker_init_fn=init_worker)

        def ours(images: int, training: bool) -> DataLoader:
            faces = FaceImages(videos * -(-images // FILES), args.size, 0 if training else None)
            batches = TrainingBatches(images, args.bs, 0, world) if training else None
            data = faces if training else torch.utils.data.Subset(faces, range(images))
            return make_loader(data, args.bs, workers, world, batches)

        result = {}
        for name, training in (("training", True), ("test", False)):
            sides = [("baseline", partial(baseline, training=training)), ("ours", partial(ours, training=training))]
            times = [seconds_per_image(make) / max(1, workers) for _, make in sides]
            most = [SECONDS / seconds / args.bs for seconds in times]
            steps = [min(args.steps, most[0]), min(args.steps * times[0] / times[1], most[1])]  # turns of equal length
            speeds: dict[str, list[float]] = {"baseline": [], "ours": []}
            for _ in range(TURNS):
                for (side, make), count in zip(sides, steps, strict=True):
                    images = max(1, round(count / max(1, workers))) * max(1, workers) * args.bs  # for every worker
                    speeds[side].append(speed(make(images), images, args.bs))
                    print(f"{name} images, {side}: {images} images, {speeds[side][-1]:.0f} images/s", flush=True)
            theirs, own = (statistics.median(speeds[side]) for side in ("baseline", "ours"))
            result[name] = {"baseline": round(theirs, 1), "ours": round(own, 1), "ratio": round(own / theirs, 2)}
    print(json.dumps({**result["training"], "test": result["test"]}))


if __name__ == "__main__":
    main()
