"""Save memory: forget the activations of a forward pass, and compute them again in the backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute(module: nn.Module, *inputs: Any) -> Any:
    """Return ``module(*inputs)`` without keeping its activations (Chen et al. 2016).

    The backward pass runs the module again, with the random numbers of the first pass, so dropout masks are equal. The
    second run does not update the running statistics of batch norms, because the first run has updated them.

    Args:
        module: network or part of a network.
        inputs: its arguments.
    """
    return checkpoint(module, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _frozen(module)))


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of a module's batch norms."""
    norms: list[Any] = [part for part in module.modules() if getattr(part, "track_running_stats", False)]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)
