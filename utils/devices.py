"""Choice of GPUs and precision, number of worker processes, and random seeds."""

import os
import random
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from utils.errors import InputError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Network = TypeVar("Network", bound=nn.Module)


def select_devices(gpu_num: str | None) -> list[torch.device]:
    """Turn ``--gpu_num`` into devices; the first one holds the network.

    Args:
        gpu_num: GPU numbers such as ``0,1``, or ``cpu``. None selects all GPUs, or the CPU if there are none.

    Raises:
        InputError: a GPU does not exist, or the text is neither numbers nor ``cpu``.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu_num is None:
        return [torch.device("cuda", i) for i in range(gpus)] or [torch.device("cpu")]
    if gpu_num.strip().lower() == "cpu":
        return [torch.device("cpu")]
    try:
        wanted = [int(number) for number in gpu_num.strip().strip("[]").split(",")]
    except ValueError:
        wanted = [-1]
    if min(wanted) < 0 or len(set(wanted)) < len(wanted):
        raise InputError(f"--gpu_num: '{gpu_num}' is neither cpu nor a list of different GPU numbers such as 0,1.")
    if gpus == 0:
        raise InputError(f"--gpu_num {gpu_num}: PyTorch finds no GPU (CUDA is not available); give --gpu_num cpu.")
    if absent := [number for number in wanted if number >= gpus]:
        raise InputError(f"--gpu_num {gpu_num}: GPU {absent[0]} does not exist; give numbers below {gpus}, or cpu.")
    return [torch.device("cuda", number) for number in wanted]


def to_device(network: Network, device: torch.device) -> Network:
    """Move a network to a device, with channels-last weights, which make convolutions faster."""
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]


def choose_precision(requested: str, device: torch.device, model: str) -> str:
    """Turn ``--precision`` into fp32, bf16 or fp16; auto is bf16 where the device computes in it, else fp32.

    On a CPU, auto is bf16 for ResNets only: EfficientNet trained more slowly in bf16, and bf16 changed the AUC of
    MobileNets more than the AUC of ResNets (docs/performance.md).
    """
    if requested != "auto":
        return requested
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        instructions = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        has_bf16 = instructions and "resnet" in model
    return "bf16" if has_bf16 else "fp32"


def core_count() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(requested: int, processes: int = 1) -> int:
    """Return the number of loader processes: at most one per core. Print a note if it is smaller than requested.

    Args:
        requested: value of ``--num_workers``.
        processes: number of processes of this run on this machine. They share its cores, unless each has cores of its
            own, as under SLURM.
    """
    cores = core_count()
    if cores == os.cpu_count():
        cores //= processes
    if requested > cores:
        limit = "one per core" if processes == 1 else "one per core of each process"
        print(f"note: --num_workers {requested} is too high; using {cores}, {limit}")
    return min(requested, cores)


def seed_everything(*key: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch from a key such as (seed, epoch, step).

    A call at each step gives a continued run the random numbers of an uninterrupted run.
    """
    draw = np.random.SeedSequence(key).generate_state(1)
    random.seed(int(draw[0]))
    np.random.seed(draw[0])
    torch.manual_seed(int(draw[0]))


def smallest_share(images: int, gpus: int, micro_batches: int = 1) -> int:
    """Return the smallest number of images that a GPU gets when `torch.nn.DataParallel` splits each micro-batch.

    `engine.Objective` divides a batch with ``tensor_split``, and DataParallel divides each part with ``chunk``.
    """
    parts = torch.empty(images, dtype=torch.uint8).tensor_split(micro_batches)
    return min(len(chunk) for part in parts for chunk in part.chunk(gpus))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether memory ran out; CUDA libraries raise a plain RuntimeError with one of these texts."""
    texts = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in texts)
