"""Time two ways of the same work in turns.

The threads of PyTorch wait as briefly as in the commands (`utils.process.wait_briefly`, called in
``benchmarks/__init__.py``); ``GOMP_SPINCOUNT`` changes this.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from utils.devices import choose_precision
from utils.machine import cpu_name


def in_turns(ways: list[Callable[[], None]], images: int, turns: int, repeats: int, seconds: float) -> list[float]:
    """Time ways of the same work in turns (A B A B), after one turn each to warm up.

    Args:
        ways: functions that work on `images` images.
        images: number of images of a call.
        turns: number of timed turns of each way.
        repeats: number of calls in a turn.
        seconds: start no turn after this time; each way gets at least one.

    Returns:
        Images per second of each way: the median of its turns.
    """
    speeds: list[list[float]] = [[] for _ in ways]
    begin = time.perf_counter()
    for turn in range(turns + 1):
        for way, found in zip(ways, speeds, strict=True):
            start = _now()
            for _ in range(repeats):
                way()
            if turn:
                found.append(repeats * images / (_now() - start))
        if turn and (time.perf_counter() - begin) * (turn + 2) / (turn + 1) > seconds:
            break
    return [statistics.median(found) for found in speeds]


def make_parser(description: str | None, **defaults: int) -> argparse.ArgumentParser:
    """Return a parser with the names of training.py.

    Args:
        description: the benchmark's docstring.
        defaults: of ``size``, ``bs``, ``num_workers`` and ``steps``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet", help="backbone (default: resnet)")
    parser.add_argument("--num_LIBs", type=int, default=4, help="number of LIBs (default: 4)")
    parser.add_argument("--size", type=int, help="side of the images in pixels (default: %(default)s)")
    parser.add_argument("--bs", type=int, help="batch size (default: %(default)s)")
    parser.add_argument("--num_workers", type=int, default=0, help="loader processes (default: %(default)s)")
    parser.add_argument("--precision", default="auto", help="number format of our way (default: auto)")
    parser.add_argument("--gpu_num", help="GPU number, or cpu")
    parser.add_argument("--steps", type=int, help="timed batches of each way, at most (default: %(default)s)")
    parser.set_defaults(**defaults)
    return parser


def _now() -> float:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def processor(device: torch.device) -> str:
    """Return the name of a GPU, or of the CPU with its instructions and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    bf16 = " with bf16" if choose_precision("auto", device, "resnet") == "bf16" else ""
    return f"{cpu_name()}, {torch.backends.cpu.get_cpu_capability()}{bf16}, {torch.get_num_threads()} threads"
