"""Divergences D(p, q) between two batches of predictions: Kullback-Leibler (the paper's) and Wasserstein.

Both take probabilities, B x C, and return a scalar. `DIVERGENCES` maps the values of ``--mi_calculator`` to them.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SINKHORN_EPSILON = 0.01
SINKHORN_ITERATIONS = 100


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(p || q), averaged over images and classes.

    KL = (1 / (B * C)) * sum over images b and classes c of p_bc * (log p_bc - log q_bc).

    The factor 1 / C comes from ``F.kl_div(..., reduction="mean")``, which the authors used when they chose their loss
    weights. The mean is explicit here because PyTorch plans to change that reduction to 1 / B.

    The logarithm of probabilities, instead of log_softmax, rounds like the authors' code. Probabilities are clamped to
    the smallest normal float, so the logarithm stays finite (at least -87.4 in float32).

    Args:
        p: probabilities, B x C.
        q: probabilities, B x C.

    Returns:
        A scalar in nats per image and class, at least 0.
    """
    smallest = torch.finfo(q.dtype).tiny
    return F.kl_div(q.clamp_min(smallest).log(), p.clamp_min(smallest), reduction="none").mean()


def wasserstein_distance(p: Tensor, q: Tensor) -> Tensor:
    """Entropic optimal transport cost between two batches of predictions (Sinkhorn; Cuturi 2013).

    W = sum over i, j of P_ij * |p_i - q_j|^2. P is the transport plan between the uniform distributions on the rows of
    p and on the rows of q, with entropic regularisation epsilon = 0.01. The order of the rows does not matter.

    Sinkhorn's iterations update the dual potentials f and g in the log domain. Their number is fixed at 100, because a
    convergence test would copy a value to the host in each iteration. Gradients flow through all iterations. If p and
    q are far apart, 100 iterations do not converge and the cost is too low.

    Args:
        p: probabilities, B x C.
        q: probabilities, B x C.

    Returns:
        The transport cost without the entropy term, a scalar from 0 to 2.
    """
    # torch.cdist(...) ** 2 has no gradient at equal points.
    cost = (p[:, None, :] - q[None, :, :]).square().sum(dim=2)
    log_weight = -math.log(len(cost))
    f = torch.zeros_like(cost[:, 0])
    g = torch.zeros_like(cost[0])
    for _ in range(SINKHORN_ITERATIONS):
        f = -SINKHORN_EPSILON * torch.logsumexp((g[None, :] - cost) / SINKHORN_EPSILON + log_weight, dim=1)
        g = -SINKHORN_EPSILON * torch.logsumexp((f[:, None] - cost) / SINKHORN_EPSILON + log_weight, dim=0)
    log_plan = (f[:, None] + g[None, :] - cost) / SINKHORN_EPSILON + 2 * log_weight
    return (log_plan.exp() * cost).sum()


DIVERGENCES = {"kl": kl_divergence, "w": wasserstein_distance}
