"""Balance of the loss terms: a sum with learnt weights or with fixed scales.

Weights and scales are stored by the name of their term, never by position, so switching a term off also removes its
weight.
"""

import torch
from torch import Tensor, nn

TERMS = ("classification", "local", "global")  # order of --scales


class LearntBalance(nn.Module):
    """``--balance_loss_method auto``: sum over terms of 0.5 / w^2 * loss + log(1 + w^2), with learnt w.

    Each term has one scalar w, which starts at 1. Weighting by uncertainty follows Kendall et al. (2018). The
    regulariser log(1 + w^2), which stays positive, follows Liebel and Koerner (2018).

    Args:
        terms: names of the terms in use.
    """

    def __init__(self, terms: list[str]) -> None:
        super().__init__()
        self.weights = nn.ParameterDict({name: nn.Parameter(torch.ones(())) for name in terms})

    def forward(self, terms: dict[str, Tensor]) -> Tensor:
        """Return the balanced loss, a scalar, from the scalar loss of each term by name."""
        weighted = [(self.weights[name], loss) for name, loss in terms.items()]
        parts = [0.5 / w**2 * loss + torch.log(1 + w**2) for w, loss in weighted]
        return sum(parts[1:], parts[0])


class FixedBalance(nn.Module):
    """``--balance_loss_method hyper``: sum over terms of scale * loss.

    Args:
        scales: positive scales of the classification, local and global loss, in this order. The authors' README
            gives this order; their code uses classification, global, local.
    """

    def __init__(self, scales: list[float]) -> None:
        super().__init__()
        self.scales = dict(zip(TERMS, scales, strict=True))

    def forward(self, terms: dict[str, Tensor]) -> Tensor:
        """Return the balanced loss, a scalar, from the scalar loss of each term by name."""
        parts = [self.scales[name] * loss for name, loss in terms.items()]
        return sum(parts[1:], parts[0])
