"""mixup (Zhang et al. 2018): blend pairs of images and mix the losses of their labels."""

from typing import NamedTuple

import torch
from torch import Tensor


class Mix(NamedTuple):
    """The mixup parameters of one batch.

    Attributes:
        lam: lambda, the weight of each image in its blend, 0 to 1.
        partner: B, int64, a permutation: the index of each image's partner.
    """

    lam: float
    partner: Tensor


def draw_mix(batch_size: int, alpha: float) -> Mix:
    """Draw one lambda ~ Beta(alpha, alpha) and one random permutation for a batch.

    Both draws use PyTorch's CPU generator, so a seed gives the same blends on every device.

    Args:
        batch_size: B.
        alpha: parameter of the Beta distribution, above 0.
    """
    lam = torch.distributions.Beta(alpha, alpha).sample().item()
    return Mix(lam, torch.randperm(batch_size))


def mix_images(images: Tensor, partners: Tensor, lam: float) -> Tensor:
    """Return lambda * images + (1 - lambda) * partners, B x 3 x H x W.

    Args:
        images: B x 3 x H x W, float.
        partners: the partner of each image, B x 3 x H x W, float.
        lam: lambda, 0 to 1.
    """
    return lam * images + (1 - lam) * partners


def mix_terms(terms: dict[str, Tensor], partner_terms: dict[str, Tensor], lam: float) -> dict[str, Tensor]:
    """Return lambda * term + (1 - lambda) * partner term for each loss term, by name.

    Args:
        terms: loss terms with the labels of the images, scalars by name.
        partner_terms: loss terms with the labels of the partners.
        lam: lambda, 0 to 1.
    """
    return {name: lam * terms[name] + (1 - lam) * partner_terms[name] for name in terms}
