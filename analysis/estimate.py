"""Estimate the hours and the disk space of preprocessing, training and testing from short timings on this machine."""

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.amp import GradScaler

from analysis.runs import Run, parse_training
from corpora.label_files import is_prepared
from corpora.layouts import SourceVideo
from datasets.images import FaceImages, make_loader
from datasets.labels import CLASSES, SPLITS, Video, oversampling_factor, parse_label_file
from datasets.mixup import draw_mix
from datasets.samplers import TrainingBatches
from engine import Objective, optimizer_step
from faces.detectors import load_face_detector
from faces.extraction import Source, StageTimes, extract_faces, is_done
from faces.recipe import Recipe
from faces.videos import evenly_spaced
from models.backbones import build_network
from models.fast import fast_scorer
from utils.data_roots import base_name
from utils.devices import PRECISIONS, choose_precision, core_count, select_devices
from utils.training_arguments import TrainingArguments
from utils.world import World

# Face images of a real and of a fake video at one frame in five. FF++: images and videos of the authors' training set.
# DFDC: ten seconds at 30 frames/s (Dolhansky et al., 2020). Others: frames and videos of the Celeb-DF paper, table 1.
IMAGES_PER_VIDEO = {
    "FF++": (73_649 / 720, 264_598 / 2_880),
    "Celeb-DF": (225_400 / 5 / 590, 2_116_800 / 5 / 5_639),
    "DFDC-Preview": (488_400 / 5 / 1_131, 1_783_300 / 5 / 4_113),
    "DFDC": (60, 60),
}
# Real and fake videos of a complete dataset, for a dataset that is not on the disk. Where a split is missing, its
# videos are in the training set (docs/datasets.md).
VIDEOS = {
    "FF++_c23": {"train": (720, 2_880), "val": (140, 560), "test": (140, 560)},
    "Celeb-DF-v1": {"train": (370, 733), "test": (38, 62)},
    "Celeb-DF-v2": {"train": (712, 5_299), "test": (178, 340)},
    "DFDC-Preview": {"train": (1_131, 4_113)},
    "DFDC": {"train": (19_154, 100_000)},
}
BYTES_PER_IMAGE = 91_000  # measured on FF++ c23 (docs/preprocessing.md)
CPU_BATCH, READ_BATCH = 8, 16  # images
STEPS = 3  # timed calls, after a first one

# The arguments on which the speed of a network depends.
TIMED = ("model", "num_LIBs", "size", "bs", "lil_loss", "gil_loss", "mi_calculator", "mixup", "precision")

Count = dict[tuple[str, int], tuple[int, float]]  # (split, label) -> videos, images


class Speed(NamedTuple):
    """The speed of a network in images per second of training and of testing, and its number of parameters."""

    train: float
    test: float
    parameters: int


class Cost(NamedTuple):
    """The cost of a step.

    Attributes:
        hours: None if unknown.
        size: disk space in bytes.
    """

    hours: float | None
    size: float


class Estimator:
    """Estimate the cost of each step; every speed is timed once, unless it is given.

    Args:
        speed: training images, test images and preprocessed frames per second, for all steps; None to time them.
        detector: the value of ``--detector``.
        weights: the value of ``--detector_weights``.
        dataset_root: folder of the label files.
        list_videos: returns the videos of a dataset; None if they are not on the disk.
    """

    def __init__(
        self,
        speed: list[float] | None,
        detector: str,
        weights: Path | None,
        dataset_root: Path,
        list_videos: Callable[[str], list[SourceVideo] | None],
    ) -> None:
        self.speed, self.detector, self.weights = speed, detector, weights
        self.dataset_root, self.list_videos = dataset_root, cache(list_videos)
        self.speeds: dict[tuple, Speed] = {}

    def preparation(self, dataset: str, faces: Path, args: TrainingArguments) -> Cost:
        """Estimate the extraction of the faces that are missing below `faces`."""
        videos = self.list_videos(dataset)
        if videos is not None:
            videos = [v for v in videos if v.split and v.file.is_file()]
            videos = [v for v in videos if not is_done(Source(v.file, faces / v.folder, v.mask))]
        images = sum(number for _, number in count_videos(dataset, videos).values())
        speed, size = self.speed[2] if self.speed else None, float(BYTES_PER_IMAGE)
        if speed is None and videos:
            speed, size = time_preprocessing([video.file for video in videos], self.detector, self.weights, args)
        return Cost(images / speed / 3600 if speed else None if images else 0, images * size)

    def training(self, run: Run) -> Cost:
        """Estimate the epochs that are missing, with their validation, and the test."""
        args = parse_training(run.arguments)
        (dataset,) = args.dataset
        count, speed = self.count(dataset), self.network_speed(args)
        repeat = repetitions(dataset, count, args.oversample)
        log = run.folder / "train.log"
        finished = len(log.read_bytes().splitlines()) if log.is_file() else 0
        seconds = images_of(count, "train", repeat) / speed.train + images_of(count, "val") / speed.test
        seconds = max(0, args.epoch - finished) * seconds + images_of(count, "test") / speed.test
        # model_last and model_previous hold weights and two moments of Adam, model_best and every tenth epoch weights.
        return Cost(seconds / 3600, speed.parameters * 4 * (3 + 3 + 1 + args.epoch // 10))

    def test(self, run: Run) -> Cost:
        """Estimate a test; its files are small."""
        args = parse_training(run.arguments)
        images = sum(images_of(self.count(name), "test", frames=args.frames_per_video) for name in args.dataset)
        return Cost(images / self.network_speed(args).test / 3600, 0)

    def count(self, dataset: str) -> Count:
        """Count the videos and images of a dataset: from its label files if they exist, or else from its videos."""
        folder = self.dataset_root / dataset
        return count_labels(folder) if is_prepared(folder) else count_videos(dataset, self.list_videos(dataset))

    def network_speed(self, args: TrainingArguments) -> Speed:
        """Return the speed of the network that `args` describe."""
        key = tuple(getattr(args, name) for name in TIMED)
        if key not in self.speeds:
            self.speeds[key] = time_network(args, self.speed)
        return self.speeds[key]


# ------------------------------------------------------------------------------------------------------- images


def count_labels(label_folder: Path) -> Count:
    """Count the videos and images that the label files of a dataset list."""
    count = {}
    for split in SPLITS:
        for label, kind in enumerate(CLASSES):
            frames = [number for _, number in parse_label_file(label_folder / f"{split}_{kind}.txt", label)]
            count[split, label] = len(frames), float(sum(frames))
    return count


def count_videos(dataset: str, videos: list[SourceVideo] | None) -> Count:
    """Count videos, and estimate their images from `IMAGES_PER_VIDEO`; None stands for the complete dataset."""
    base = base_name(dataset)
    found = Counter((video.split, video.label) for video in videos or () if video.split and video.file.is_file())
    for split, counts in VIDEOS[base].items() if videos is None else ():
        for label, number in enumerate(counts):
            found["test" if dataset != base else split, label] += number
    per_video = next(images for name, images in IMAGES_PER_VIDEO.items() if base.startswith(name))
    return {key: (number, number * per_video[key[1]]) for key, number in found.items()}


def images_of(count: Count, split: str, repeat_real: float = 1, frames: int | None = None) -> float:
    """Return the number of images of a split.

    Args:
        count: the videos and images of the dataset.
        split: train, val or test.
        repeat_real: how often the real images are repeated.
        frames: number of frames of each video; None for all.
    """
    parts = [count.get((split, label), (0, 0.0)) for label in (0, 1)]
    real, fake = (images if frames is None else min(images, videos * frames) for videos, images in parts)
    return repeat_real * real + fake


def repetitions(dataset: str, count: Count, oversample: str) -> float:
    """Return how often a training repeats its real images, for a value of ``--oversample``."""
    if oversample != "auto":
        return oversampling_factor(dataset, [], oversample)
    real, fake = (count.get(("train", label), (0, 0.0))[1] for label in (0, 1))
    return max(1, round(fake / real)) if real else 1


# ------------------------------------------------------------------------------------------------------ timings


def time_network(args: TrainingArguments, given: list[float] | None) -> Speed:
    """Time training steps and test batches on random images, and the reading of training images, unless given.

    A training is as fast as the slower of step and reading. On a GPU, batches have ``args.bs`` images and steps are not
    compiled; on a CPU, they have up to `CPU_BATCH` images.
    """
    world = World(args.gpu_num)
    network = build_network(args.model, args.num_LIBs, args.size)
    parameters = sum(weight.numel() for weight in network.parameters())
    if given:
        return Speed(given[0], given[1], parameters)
    network.precision = PRECISIONS[choose_precision(args.precision, world.device, args.model)]
    network.recompute = args.checkpoint_blocks
    network.freeze_unused_heads(args.lil_loss, args.gil_loss)
    objective = Objective(world.wrap_network(network), args, world).to(world.device)
    optimizer, scaler = torch.optim.Adam(objective.parameters(), fused=True), GradScaler(enabled=False)
    count = args.bs if world.device.type == "cuda" else min(args.bs, CPU_BATCH)
    images = torch.randn(count, 3, args.size, args.size, device=world.device)
    labels = (torch.arange(count) % 2).to(world.device)

    def step() -> None:
        mix = draw_mix(count, args.alpha) if args.mixup else None
        optimizer_step(optimizer, objective(images, labels, mix, [count])[0], scaler)

    train = min(_rate(step, count), time_reading(args, world))
    scorer = fast_scorer(objective.network.eval())
    with torch.inference_mode():
        test = _rate(lambda: scorer(images), count)
    return Speed(train, test, parameters)


def time_reading(args: TrainingArguments, world: World) -> float:
    """Return the training images per second that the loader reads and augments, from a PNG file of 256 x 256 pixels."""
    workers = min(args.num_workers, core_count())
    count = READ_BATCH * (1 + 4 * max(1, workers))
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        cv2.imwrite(f"{folder}/0000.png", cv2.GaussianBlur(noise, (5, 5), 0))
        faces = FaceImages([Video("", "", 0, Path(folder), ["0000.png"] * count)], args.size, args.seed)
        loader = make_loader(faces, READ_BATCH, workers, world, TrainingBatches(count, READ_BATCH, 0, world))
        batches = iter(loader)
        next(batches)  # starts the workers
        began = time.perf_counter()
        read = sum(len(batch.labels) for batch in batches)
    return read / (time.perf_counter() - began)


def _rate(work: Callable[[], object], count: int) -> float:
    """Return the images per second of work on `count` images: the median of `STEPS` calls after a first one."""
    seconds = []
    for _ in range(1 + STEPS):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return count / statistics.median(seconds[1:])


def time_preprocessing(
    files: list[Path], detector: str, weights: Path | None, args: TrainingArguments
) -> tuple[float, float]:
    """Extract the faces of a few videos, one per decoding process but at least two, into a temporary folder.

    Args:
        files: videos; some are chosen in equal steps.
        detector: the value of ``--detector``.
        weights: the value of ``--detector_weights``.
        args: ``gpu_num`` and ``num_workers`` are used.

    Returns:
        Sampled frames per second, and bytes per face image.
    """
    workers = min(args.num_workers, core_count())
    chosen = [files[i] for i in evenly_spaced(len(files), max(2, workers))]
    detect, _ = load_face_detector(detector, weights, select_devices(args.gpu_num)[0])
    with tempfile.TemporaryDirectory() as folder:
        sources = [Source(file, Path(folder) / str(number)) for number, file in enumerate(chosen)]
        times, began = StageTimes(), time.perf_counter()
        list(extract_faces(sources, Recipe(), detect, 8, min(workers, len(sources)), times))
        speed = times.frames / (time.perf_counter() - began)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*.png"))
    return speed, size / times.images if times.images else BYTES_PER_IMAGE
