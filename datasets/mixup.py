"""mixup (Zhang et al. 2018): train on blends of two images, with the losses of both labels."""

import torch
from torch import Tensor


def mixup(images: Tensor, labels: Tensor, alpha: float) -> tuple[Tensor, Tensor, float]:
    """Blend every image with another one of the batch.

    One lambda ~ Beta(alpha, alpha) serves the whole batch, and one random permutation makes the pairs. Both
    come from PyTorch's CPU generator, so that a seed gives the same blends on every device.

    Args:
        images: B x 3 x H x W, float.
        labels: B, int64.
        alpha: the Beta distribution's two parameters, > 0.

    Returns:
        The blends lambda * images + (1 - lambda) * images[permutation], the partners' labels, and lambda,
        from 0 to 1.
    """
    lam = torch.distributions.Beta(alpha, alpha).sample().item()
    partner = torch.randperm(len(images)).to(images.device)
    return lam * images + (1 - lam) * images[partner], labels[partner], lam


def mix_terms(terms: dict[str, Tensor], partner_terms: dict[str, Tensor], lam: float) -> dict[str, Tensor]:
    """Return lambda * term + (1 - lambda) * partner's term for each loss term, by name."""
    return {name: lam * terms[name] + (1 - lam) * partner_terms[name] for name in terms}
