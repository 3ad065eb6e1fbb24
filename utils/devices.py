"""Which processor a run uses, and its random numbers."""

import os
import random

import numpy as np
import torch

from utils.errors import InputError


def select_devices(gpu_num: str | None) -> list[torch.device]:
    """Turn ``--gpu_num`` into devices, the first of which holds the network.

    Args:
        gpu_num: ``0,1`` for those GPUs, ``cpu``, or None for all GPUs there are, else the CPU.

    Raises:
        InputError: a GPU that is not there, or neither numbers nor ``cpu``.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu_num is None:
        return [torch.device("cuda", i) for i in range(there)] or [torch.device("cpu")]
    if gpu_num.strip().lower() == "cpu":
        return [torch.device("cpu")]
    try:
        wanted = [int(number) for number in gpu_num.strip().strip("[]").split(",")]
    except ValueError:
        wanted = [-1]
    if min(wanted) < 0 or len(set(wanted)) < len(wanted):
        raise InputError(f"--gpu_num: '{gpu_num}' is neither 'cpu' nor different GPU numbers such as 0,1.")
    if there == 0:
        raise InputError(f"--gpu_num {gpu_num}: PyTorch sees no GPU here (CUDA is absent); give --gpu_num cpu.")
    if absent := [number for number in wanted if number >= there]:
        raise InputError(f"--gpu_num {gpu_num}: there is no GPU {absent[0]}; give numbers below {there}, or cpu.")
    return [torch.device("cuda", number) for number in wanted]


def core_count() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(asked: int) -> int:
    """Return how many loader processes to use: never more than there are cores, which is said."""
    cores = core_count()
    if asked > cores:
        print(f"note: --num_workers {asked}, but this machine has {cores} cores: {cores} workers")
    return min(asked, cores)


def seed_everything(seed: int, epoch: int) -> None:
    """Set every generator from (seed, epoch).

    Called at the start of each epoch, it gives a resumed run the random states of an uninterrupted one,
    whatever was drawn before.
    """
    draw = np.random.SeedSequence([seed, epoch]).generate_state(1)
    random.seed(int(draw[0]))
    np.random.seed(draw[0])
    torch.manual_seed(int(draw[0]))


def smallest_share(images: int, gpus: int) -> int:
    """Return the fewest images that any GPU gets when `torch.nn.DataParallel` splits a batch.

    It cuts the batch into pieces of ceil(images / gpus), the last of which may be smaller.
    """
    piece = -(-images // gpus)
    return images % piece or piece


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether memory ran out: PyTorch says so by its own class, and CUDA and its libraries by words alone."""
    words = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)
