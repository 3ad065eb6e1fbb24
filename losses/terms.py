"""The three terms of the loss: classification, local (LIL) and global (GIL).

Every function takes the `Logits` that `models.lib_network.LIBNetwork` returns.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Divergence = Callable[[Tensor, Tensor], Tensor]


class Logits(NamedTuple):
    """The network's outputs for B images: logits of class 0 (real) and class 1 (fake), before any softmax.

    Attributes:
        fused: B x 2, of p(y given G), the prediction; the authors' ``p_y_given_z``.
        all: B x 2, of p(y given Z); the authors' ``p_y_given_f_all``.
        leave_one_out: n tensors of B x 2, the i-th of p(y given Z without z_i); empty if n = 1. The authors'
            ``p_y_given_f1_fn_list``.
    """

    fused: Tensor
    all: Tensor
    leave_one_out: list[Tensor]


def classification_loss(outputs: Logits, labels: Tensor, lil: bool = True, gil: bool = True) -> Tensor:
    """Cross-entropy of every head that a term in use relies on, summed; plain logits, no temperature.

    CE(p(y given G)) + [GIL] CE(p(y given Z)) + [LIL] sum over i of CE(p(y given Z without z_i)).

    Args:
        outputs: the network's outputs.
        labels: B, int64, 0 real and 1 fake.
        lil: whether the local term is in use.
        gil: whether the global term is in use.

    Returns:
        A scalar in nats, >= 0.
    """
    loss = F.cross_entropy(outputs.fused, labels)
    if gil:
        loss = loss + F.cross_entropy(outputs.all, labels)
    if lil:
        loss = loss + sum(F.cross_entropy(logits, labels) for logits in outputs.leave_one_out)
    return loss


def soft_targets(logits: Tensor, temperature: float) -> Tensor:
    """Return softmax(logits / temperature), B x 2."""
    return F.softmax(logits / temperature, dim=1)


def local_information_loss(outputs: Logits, temperature: float, divergence: Divergence) -> Tensor:
    """Local Information Loss: small where every LIB adds something that the others do not see.

    exp(-sum over i of D(p(y given Z without z_i) || p(y given Z))), the latter detached
    (the paper's Local Information Loss, with D = KL).

    Args:
        outputs: the network's outputs.
        temperature: T in softmax(logits / T), > 0.
        divergence: D, a function of two B x C probabilities.

    Returns:
        A scalar from 0 to 1.
    """
    everything = soft_targets(outputs.all.detach(), temperature)
    distances = [divergence(soft_targets(logits, temperature), everything) for logits in outputs.leave_one_out]
    return torch.exp(-torch.stack(distances).sum())


def global_information_loss(outputs: Logits, temperature: float, divergence: Divergence) -> Tensor:
    """Global Information Loss: small where the fused feature G keeps what Z says of the label.

    D(p(y given G) || p(y given Z)), the latter detached (the paper's Global Information Loss, with D = KL).

    Args:
        outputs: the network's outputs.
        temperature: T in softmax(logits / T), > 0.
        divergence: D, a function of two B x C probabilities.

    Returns:
        A scalar, >= 0.
    """
    fused = soft_targets(outputs.fused, temperature)
    everything = soft_targets(outputs.all.detach(), temperature)
    return divergence(fused, everything)


def loss_terms(
    outputs: Logits, labels: Tensor, lil: bool, gil: bool, temperature: float, divergence: Divergence
) -> dict[str, Tensor]:
    """Return the terms in use by name, before they are balanced: classification, local, global."""
    terms = {"classification": classification_loss(outputs, labels, lil, gil)}
    if lil:
        terms["local"] = local_information_loss(outputs, temperature, divergence)
    if gil:
        terms["global"] = global_information_loss(outputs, temperature, divergence)
    return terms
