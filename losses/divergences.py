"""How far apart two predictions are: the paper's KL divergence, and the Wasserstein distance in its place.

Both take probabilities of a batch, B x C, and return a scalar. `DIVERGENCES` names them as
``--mi_calculator`` does.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SINKHORN_EPSILON = 0.01
SINKHORN_ITERATIONS = 100


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(p || q), averaged over images *and classes*.

    The paper's loss weights were found with ``F.kl_div(..., reduction="mean")``, which divides the sum of
    p (log p - log q) by B * C and not by B. The scale stays, so that those weights keep their meaning; the mean
    is taken here because PyTorch has announced that "mean" will come to divide by B alone.

    The logarithm of the softmax, and not log_softmax, because the authors' numbers are rounded so; a probability
    that underflows counts as the smallest there is, and so costs 87 nats and not infinitely many.

    Args:
        p: probabilities, B x C.
        q: probabilities, B x C.

    Returns:
        A scalar in nats per image and class, >= 0.
    """
    smallest = torch.finfo(q.dtype).tiny
    return F.kl_div(q.clamp_min(smallest).log(), p.clamp_min(smallest), reduction="none").mean()


def wasserstein_distance(p: Tensor, q: Tensor) -> Tensor:
    """Entropic optimal transport between the batch's two sets of predictions.

    Each row is a point on the probability simplex and weighs 1/B; moving one point onto another costs
    their squared Euclidean distance. Sinkhorn's iterations (Cuturi 2013) run on the dual potentials in the
    log domain, a fixed number of times: a test for convergence would read a value back to the host in
    every iteration. Gradients flow through the iterations. Two sets that lie far apart are not
    fully settled after a hundred iterations, and the cost then comes out too low; that is the method's.

    Args:
        p: probabilities, B x C.
        q: probabilities, B x C.

    Returns:
        The transport cost <plan, cost>, a scalar from 0 to 2 (without the entropy term).
    """
    # Not torch.cdist(...) ** 2: the root has no gradient where two points are equal.
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
