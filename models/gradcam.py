"""Where a Local Information Block looks: Grad-CAM (Selvaraju et al., ICCV 2017) for each of them."""

import torch
from torch import Tensor

from models.lib_network import LIBNetwork
from utils.errors import InputError


def heatmaps(network: LIBNetwork, images: Tensor) -> Tensor:
    """Map what in an image speaks for fake, in the eyes of each block.

    A block's last feature maps are weighted by the mean gradient of the prediction's fake logit, less its real one,
    and summed; what is negative speaks for real and is left out.

    Args:
        network: in evaluation mode, with convolutional backbones of timm.
        images: B x 3 x H x W, normalised.

    Returns:
        B x n x h x w of n blocks, each map from 0 to 1 (all 0 where nothing speaks for fake); h x w is the size of
        the last feature maps.

    Raises:
        InputError: a backbone without feature maps, such as a transformer.
    """
    with torch.enable_grad():
        maps = [block.forward_features(images).requires_grad_() for block in network.blocks()]
        if any(x.ndim != 4 for x in maps):
            raise InputError("heatmaps need convolutional backbones, whose last features are maps.")
        features = [block.forward_head(x) for block, x in zip(network.blocks(), maps, strict=True)]
        logits = network.judge(features)["p_y_given_z"]
        gradients = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), maps)
    cams = []
    for x, gradient in zip(maps, gradients, strict=True):
        cam = (gradient.mean(dim=(2, 3), keepdim=True) * x).sum(dim=1).relu()
        cams.append(cam / cam.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12))
    return torch.stack(cams, dim=1).detach()
