"""How the terms of the loss become one number: by learnt weights, or by fixed scales.

Weights and scales go by the name of a term and never by its position, so that a term which is switched off
takes its own weight with it.
"""

import torch
from torch import Tensor, nn

TERMS = ("classification", "local", "global")  # the order of --scales


class LearntBalance(nn.Module):
    """``--balance_loss_method auto``: sum over terms of 0.5 / w^2 * loss + log(1 + w^2), w learnt.

    Kendall et al. 2018 weigh tasks by their uncertainty; the log(1 + w^2) form, which stays positive, is
    Liebel and Koerner's (2018). Every w starts at 1.

    Args:
        terms: the names of the terms in use.
    """

    def __init__(self, terms: list[str]) -> None:
        super().__init__()
        self.weights = nn.ParameterDict({name: nn.Parameter(torch.ones(())) for name in terms})

    def forward(self, terms: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of `terms` (scalars by name), a scalar."""
        return sum(
            0.5 / self.weights[name] ** 2 * loss + torch.log(1 + self.weights[name] ** 2)
            for name, loss in terms.items()
        )


class FixedBalance(nn.Module):
    """``--balance_loss_method hyper``: sum over terms of scale * loss.

    Args:
        scales: a positive number for each of classification, local, global, in this order (the order that
            the README of the paper gives; the authors' code applies them as classification, global, local).
    """

    def __init__(self, scales: list[float]) -> None:
        super().__init__()
        self.scales = dict(zip(TERMS, scales, strict=True))

    def forward(self, terms: dict[str, Tensor]) -> Tensor:
        """Return the scaled sum of `terms` (scalars by name), a scalar."""
        return sum(self.scales[name] * loss for name, loss in terms.items())
