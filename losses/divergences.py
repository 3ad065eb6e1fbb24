"""Divergences D(p, q) between two batches of predictions: Kullback-Leibler (the paper's) and Wasserstein.

Both take probabilities, B x C, and return a scalar. `DIVERGENCES` maps the values of ``--mi_calculator`` to them.
"""

import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

SINKHORN_EPSILON = 0.01
SINKHORN_ITERATIONS = 10_000
SINKHORN_TOLERANCE = 1e-3


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Compute the Kullback-Leibler divergence KL(p || q), averaged over images and classes.

    KL = (1 / (B * C)) * sum over images b and classes c of p_bc * (log p_bc - log q_bc).

    The factor 1 / C comes from ``F.kl_div(..., reduction="mean")``, which the authors used when they chose their loss
    weights. The mean is explicit here because PyTorch plans to change that reduction to 1 / B.

    The logarithm of probabilities, instead of log_softmax, rounds like the authors' code. Probabilities are clamped to
    the smallest normal float, so the logarithm stays finite (at least -87.4 in float32).

    Args:
        p: probabilities, B x C, float.
        q: probabilities, B x C, float.

    Returns:
        A scalar in nats per image and class, at least 0.
    """
    smallest = torch.finfo(q.dtype).tiny
    return F.kl_div(q.clamp_min(smallest).log(), p.clamp_min(smallest), reduction="none").mean()


def transport_plan(cost: Tensor) -> Tensor:
    """Return the entropic optimal transport plan between two uniform distributions (Sinkhorn; Cuturi 2013).

    The iterations update the dual potentials f and g in the log domain until every row of the plan sums to its weight,
    up to a relative error of `SINKHORN_TOLERANCE`. If that takes more than `SINKHORN_ITERATIONS`, they stop with a
    warning.

    Args:
        cost: cost of moving row i of the first batch to row j of the second, B x B, float64.

    Returns:
        The plan, B x B; its entries sum to 1.
    """
    log_weight = -math.log(len(cost))
    f, g = torch.zeros_like(cost[:, 0]), torch.zeros_like(cost[0])
    for iteration in range(1, SINKHORN_ITERATIONS + 1):
        previous = f
        f = -SINKHORN_EPSILON * torch.logsumexp((g[None, :] - cost) / SINKHORN_EPSILON + log_weight, dim=1)
        g = -SINKHORN_EPSILON * torch.logsumexp((f[:, None] - cost) / SINKHORN_EPSILON + log_weight, dim=0)
        # Not in every iteration, because on a GPU this comparison waits for all work before it.
        if iteration % 10 == 0 and (f - previous).abs().max() <= SINKHORN_EPSILON * SINKHORN_TOLERANCE:
            break
    else:
        warnings.warn(
            f"--mi_calculator w: the transport plan of a batch did not converge in {SINKHORN_ITERATIONS} iterations; "
            "its Wasserstein distance is inexact",
            stacklevel=3,
        )
    return ((f[:, None] + g[None, :] - cost) / SINKHORN_EPSILON + 2 * log_weight).exp()


def wasserstein_distance(p: Tensor, q: Tensor) -> Tensor:
    """Compute the entropic optimal transport cost between two batches of predictions.

    W = sum over i, j of P_ij * |p_i - q_j|^2. P is the transport plan between the uniform distributions on the rows of
    p and on the rows of q, with entropic regularisation epsilon = 0.01. The order of the rows does not matter.

    Implicit differentiation of the converged plan gives the gradient: the rows and columns of the plan keep their sums
    for all costs, so the change of the potentials solves a linear system.

    Args:
        p: probabilities, B x C, float.
        q: probabilities, B x C, float.

    Returns:
        The transport cost without the entropy term, a scalar from 0 to 2.
    """
    # torch.cdist(...) ** 2 has no gradient at equal points.
    cost = (p[:, None, :] - q[None, :, :]).square().sum(dim=2)
    with torch.no_grad():
        exact = cost.double()
        plan = transport_plan(exact)
        rows, columns = plan.sum(dim=1), plan.sum(dim=0)
        direct = plan * exact / SINKHORN_EPSILON
        # The pseudo-inverse, because potentials are defined up to a constant for each set of connected rows.
        system = rows.diag() - plan / columns @ plan.T
        u = torch.linalg.pinv(system, hermitian=True) @ (direct.sum(dim=1) - plan @ (direct.sum(dim=0) / columns))
        v = (direct.sum(dim=0) - plan.T @ u) / columns
        gradient = plan - direct + plan * (u[:, None] + v[None, :])
        constant = (plan - gradient) * exact
    return (gradient.to(cost) * cost + constant.to(cost)).sum()


DIVERGENCES = {"kl": kl_divergence, "w": wasserstein_distance}
