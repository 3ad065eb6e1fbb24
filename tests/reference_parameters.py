"""The parameters and inputs behind tests/fidelity_reference.json, rebuilt from names and shapes."""

import zlib
from functools import cache

import numpy as np
import torch
from torch import Tensor


def parameter(name: str, shape: list[int]) -> Tensor:
    """Return the checkpoint entry `name`, drawn from a generator seeded by its name."""
    return _parameter(name, tuple(shape))


@cache
def _parameter(name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    normal = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        values = 1 + 0.1 * np.abs(normal)
    elif name.endswith(("running_mean", "bias")):
        values = 0.05 * normal
    elif len(shape) == 1:
        values = 1 + 0.1 * normal
    else:
        values = normal * np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def images(batch: int, size: int, seed: int | None = None) -> Tensor:
    """Return batch x 3 x size x size inputs of a network, or of training step `seed`."""
    rng = np.random.default_rng(batch * 1000 + size if seed is None else seed)
    return torch.from_numpy(rng.standard_normal((batch, 3, size, size)).astype(np.float32))


def labels(batch: int) -> Tensor:
    """Return 0, 1, 0, 1, ..."""
    return torch.arange(batch) % 2
