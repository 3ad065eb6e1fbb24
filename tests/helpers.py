"""Tiny datasets of random images, and training.py on them."""

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from evaluation.predictions import Scores, make_scores
from models.backbones import timm

torch.set_num_threads(1)
torch.cpu._is_amx_tile_supported = torch.cpu._is_avx512_bf16_supported = lambda: False  # auto precision is fp32
ROOT = Path(__file__).parent.parent
TINY = (
    "--model tiny_cnn --num_LIBs 2 --size 32 --bs 4 --test_bs 16 --pretrained False --gpu_num cpu --num_workers 0 "
    "--precision fp32"  # the same on every processor
)


class TinyCNN(nn.Module):
    """A backbone of two convolutions, which trains in half the time of the smallest ResNet of timm.

    It maps B x 3 x H x W images to B x 16 features.
    """

    num_features = 16

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 16, 3, 4, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())

    def forward_features(self, images: Tensor) -> Tensor:
        return self.second(self.first(images))

    def forward_head(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))


@timm.models.register_model
def tiny_cnn(**_: Any) -> nn.Module:
    """Build the backbone of the tests; ``--model`` takes it in this process and its forks, not in a new interpreter."""
    return TinyCNN()


def make_dataset(root: Path, name: str = "tiny", videos: int = 2, frames: int = 3, seed: int = 0) -> None:
    """Write ``root/labels/<name>`` and ``root/faces/<name>``: `videos` real and `videos` reddish fake per split."""
    rng = np.random.default_rng(seed)
    labels = root / "labels" / name
    labels.mkdir(parents=True)
    for split in ("train", "val", "test"):
        for label, kind in enumerate(("real", "fake")):
            lines = []
            for video in range(videos):
                path = f"{name}/{split}/{kind}/{video:03d}"
                folder = root / "faces" / path
                folder.mkdir(parents=True)
                for frame in range(frames):
                    image = rng.integers(0, 200, (40, 40, 3), dtype=np.uint8)
                    image[:, :, 2] += np.uint8(55 * label)
                    cv2.imwrite(str(folder / f"{frame:04d}.png"), image)
                lines.append(f"{label},{path},{frames}\n")
            (labels / f"{split}_{kind}.txt").write_text("".join(lines))


def scores_of(
    labels: ArrayLike,
    scores: ArrayLike,
    videos: Sequence[Any],
    clusters: Sequence[Any] | None = None,
    folders: Sequence[Any] | None = None,
) -> Scores:
    """Make the scores of N images, with the name of each image's video, cluster and folder; by default, all equal."""
    paths = [f"{folder}/{number:04d}.png" for number, folder in enumerate(videos if folders is None else folders)]
    names = [[str(name) for name in (videos if given is None else given)] for given in (videos, clusters)]
    return make_scores(paths, np.array(labels), np.array(scores, float), *names)


def arguments(root: Path, *more: str) -> list[str]:
    """Return the command line for a tiny network on the datasets under `root`."""
    where = ["--dataset_root", str(root / "labels"), "--data_root", str(root / "faces")]
    return [*TINY.split(), *where, "--save_path", str(root / "output"), "--dataset", "tiny", "--epoch", "1", *more]


Run = Callable[..., subprocess.CompletedProcess]


def start_fork(function: Callable[..., int | None], *arguments: Any) -> Any:
    """Start a function in a fork of this process, which imports nothing again; its result is the exit code."""
    process = multiprocessing.get_context("fork").Process(target=_exit_with, args=(function, *arguments))
    process.start()
    return process


def _exit_with(function: Callable[..., int | None], *arguments: Any) -> None:
    cv2.setNumThreads(0)  # the threads of the parent are not here
    sys.exit(function(*arguments))


def in_processes(size: int, function: Callable[[], Any], machines: bool = False) -> list[Any]:
    """Run a function in `size` processes with the variables that torchrun sets; return results or errors by rank.

    Args:
        size: number of processes.
        function: the work; picklable if `machines` is True.
        machines: run each process as if on a machine of its own, in a new interpreter; forks can use neither CUDA nor
            OpenVINO after this process has used it.
    """
    context: Any = multiprocessing.get_context("spawn" if machines else "fork")
    results = context.Queue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": size}
    variables["LOCAL_WORLD_SIZE"] = 1 if machines else size
    processes = []
    for rank in range(size):
        # NCCL refuses two processes on one GPU, unless they seem to be on two machines.
        local = {"LOCAL_RANK": 0, "NCCL_HOSTID": rank} if machines else {"LOCAL_RANK": rank}
        argv = (rank, {**variables, **local, "RANK": rank}, function, results)
        processes.append(context.Process(target=_run, args=argv))
    for process in processes:
        process.start()
    try:
        found = dict(results.get(timeout=300) for _ in processes)
    finally:
        for process in processes:
            process.join(30)
            process.kill()
    return [found[rank] for rank in range(size)]


def _run(rank: int, variables: dict[str, Any], function: Callable[[], Any], results: Any) -> None:
    cv2.setNumThreads(0)  # the threads of the parent are not here
    os.environ.update({name: str(value) for name, value in variables.items()})
    try:
        result = function()
    except Exception as error:  # else the test would wait for the result
        result = error
    results.put((rank, result))
