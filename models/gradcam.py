"""Where a Local Information Block looks: Grad-CAM (Selvaraju et al., ICCV 2017) for each of them."""

import torch
from torch import Tensor

from losses.terms import Logits
from models.lib_network import LIBNetwork
from utils.errors import InputError


def heatmaps(network: LIBNetwork, images: Tensor) -> tuple[Tensor, list[Tensor], Logits]:
    """Map what in an image speaks for fake, in the eyes of each block.

    A block's last feature maps are weighted by the mean gradient of the prediction's fake logit, less its real one,
    and summed; what is negative speaks for real and is left out.

    Args:
        network: in evaluation mode, with backbones of timm.
        images: B x 3 x H x W, normalised.

    Returns:
        The maps, B x n x h x w of n blocks, each from 0 to 1 (all 0 where nothing speaks for fake); h x w is the size
        of the last feature maps. And what the network gave on the way, so that nobody has to ask it again: the
        features z_1 to z_n, n times B x d, and its outputs, see `LIBNetwork.forward`; both in autograd's graph.

    Raises:
        InputError: a backbone without feature maps, such as a transformer.
    """
    with torch.no_grad():  # the gradients end at the maps
        maps = [block.forward_features(images) for block in network.blocks()]
    if any(x.ndim != 4 for x in maps):
        raise InputError("heatmaps need backbones whose last features are maps, which this --model has not.")
    with torch.enable_grad():
        maps = [x.requires_grad_() for x in maps]
        features = [block.forward_head(x) for block, x in zip(network.blocks(), maps, strict=True)]
        outputs = network.judge(features)
        logits = outputs.fused
        gradients = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), maps)
    cams = []
    for block, x, gradient in zip(network.blocks(), maps, gradients, strict=True):
        channels_last = getattr(block, "output_fmt", "NCHW") == "NHWC"  # as in Swin
        channel, space = (3, (1, 2)) if channels_last else (1, (2, 3))
        cam = (gradient.mean(dim=space, keepdim=True) * x).sum(dim=channel).relu()
        cams.append(cam / cam.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12))
    return torch.stack(cams, dim=1).detach(), features, outputs
