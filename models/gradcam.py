"""Grad-CAM heatmaps (Selvaraju et al., ICCV 2017) of the Local Information Blocks."""

import torch
from torch import Tensor

from losses.terms import Logits
from models.lib_network import LIBNetwork
from utils.errors import InputError


def heatmaps(network: LIBNetwork, images: Tensor) -> tuple[Tensor, list[Tensor], Logits]:
    """Compute a Grad-CAM heatmap of each LIB for the logit difference fake - real of the prediction.

    The heatmap of LIB i is relu(sum over channels c of w_c * A_c) / maximum. A is the LIB's last feature map, and w_c
    is the mean over pixels of the gradient of (logit fake - logit real) with respect to A_c. ReLU removes evidence for
    the class real.

    Args:
        network: network with timm backbones, in evaluation mode.
        images: B x 3 x H x W, float32, normalised.

    Returns:
        Three results of one forward pass: the heatmaps, B x n x h x w, from 0 to 1 (all 0 without evidence for fake),
        where h x w is the size of the last feature maps; the features z_1 to z_n, each B x d; the logits. Features
        and logits still require gradients, but their graph is freed; detach them.

    Raises:
        InputError: a backbone has no feature maps, such as a transformer.
    """
    with torch.no_grad():  # the backward pass ends at the feature maps
        maps = [backbone.forward_features(images) for backbone in network.backbones()]
    if any(x.ndim != 4 for x in maps):
        raise InputError("heatmaps need feature maps, but this backbone has none; choose another --model.")
    with torch.enable_grad():
        maps = [x.requires_grad_() for x in maps]
        features = [backbone.forward_head(x) for backbone, x in zip(network.backbones(), maps, strict=True)]
        outputs = network.forward_heads(features)
        logits = outputs.fused
        gradients = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), maps)
    cams = []
    for backbone, x, gradient in zip(network.backbones(), maps, gradients, strict=True):
        channels_last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"  # as in Swin
        channel_dim, spatial_dims = (3, (1, 2)) if channels_last else (1, (2, 3))
        cam = (gradient.mean(dim=spatial_dims, keepdim=True) * x).sum(dim=channel_dim).relu()
        cams.append(cam / cam.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12))
    return torch.stack(cams, dim=1).detach(), features, outputs
