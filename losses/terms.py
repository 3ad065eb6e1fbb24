"""The loss terms of the paper: classification, Local Information Loss (LIL) and Global Information Loss (GIL).

Notation: z_i is the feature of LIB i, Z = [z_1; ...; z_n], and G is the fused feature. p_T(y | .) is
softmax(logits / T) with temperature T. D is a divergence of `losses.divergences`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Divergence = Callable[[Tensor, Tensor], Tensor]


class Logits(NamedTuple):
    """Outputs of the network for B images: logits of class 0 (real) and class 1 (fake).

    Attributes:
        fused: B x 2, logits of p(y | G), the prediction (``p_y_given_z`` in the authors' code).
        all: B x 2, logits of p(y | Z) (``p_y_given_f_all``).
        leave_one_out: n tensors of B x 2, logits of p(y | Z without z_i); empty if n = 1 (``p_y_given_f1_fn_list``).
    """

    fused: Tensor
    all: Tensor
    leave_one_out: list[Tensor]


def classification_loss(outputs: Logits, labels: Tensor, lil: bool = True, gil: bool = True) -> Tensor:
    """Compute the classification loss, a sum of cross-entropies (CE) without temperature.

    CE(p(y | G), y) + [with GIL] CE(p(y | Z), y) + [with LIL] sum over i of CE(p(y | Z without z_i), y).

    Args:
        outputs: outputs of the network.
        labels: B, int64, 0 real and 1 fake.
        lil: whether the local loss is in use.
        gil: whether the global loss is in use.

    Returns:
        A scalar in nats, at least 0.
    """
    loss = F.cross_entropy(outputs.fused, labels)
    if gil:
        loss = loss + F.cross_entropy(outputs.all, labels)
    if lil:
        loss = loss + sum(F.cross_entropy(logits, labels) for logits in outputs.leave_one_out)
    return loss


def local_information_loss(outputs: Logits, temperature: float, divergence: Divergence) -> Tensor:
    """Compute the Local Information Loss; it is small if each LIB adds information that the others lack.

    exp(-sum over i of D(p_T(y | Z without z_i), p_T(y | Z))), with p_T(y | Z) detached. The paper uses D = KL.

    Args:
        outputs: outputs of the network.
        temperature: T, above 0.
        divergence: D, a function of two probability tensors, B x 2.

    Returns:
        A scalar from 0 to 1.
    """
    p_all = (outputs.all.detach() / temperature).softmax(dim=1)
    distances = [divergence((logits / temperature).softmax(dim=1), p_all) for logits in outputs.leave_one_out]
    return torch.exp(-torch.stack(distances).sum())


def global_information_loss(outputs: Logits, temperature: float, divergence: Divergence) -> Tensor:
    """Compute the Global Information Loss; it is small if G keeps the information of Z about the label.

    D(p_T(y | G), p_T(y | Z)), with p_T(y | Z) detached. The paper uses D = KL.

    Args:
        outputs: outputs of the network.
        temperature: T, above 0.
        divergence: D, a function of two probability tensors, B x 2.

    Returns:
        A scalar, at least 0.
    """
    p_fused = (outputs.fused / temperature).softmax(dim=1)
    p_all = (outputs.all.detach() / temperature).softmax(dim=1)
    return divergence(p_fused, p_all)


def loss_terms(
    outputs: Logits, labels: Tensor, lil: bool, gil: bool, temperature: float, divergence: Divergence
) -> dict[str, Tensor]:
    """Compute the loss terms in use, before they are balanced.

    Args:
        outputs: outputs of the network.
        labels: B, int64, 0 real and 1 fake.
        lil: whether the local loss is in use.
        gil: whether the global loss is in use.
        temperature: T, above 0.
        divergence: D, a function of two probability tensors, B x 2.

    Returns:
        Scalars by name: ``classification``; ``local`` with `lil`; ``global`` with `gil`.
    """
    terms = {"classification": classification_loss(outputs, labels, lil, gil)}
    if lil:
        terms["local"] = local_information_loss(outputs, temperature, divergence)
    if gil:
        terms["global"] = global_information_loss(outputs, temperature, divergence)
    return terms
