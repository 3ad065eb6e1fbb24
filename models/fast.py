"""Compute scores faster: without the heads that a score does not use, and with OpenVINO on a CPU."""

import copy
import math

import torch
from torch import Tensor, nn

from models.lib_network import LIBNetwork
from utils.fast import OpenVINOLater

OPENVINO_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}
# Number of images that PyTorch scores before the conversion to OpenVINO; the conversion of the paper's network takes as
# long as scoring 50 images (docs/performance.md).
PYTORCH_IMAGES = 200


class FusedLogits(nn.Module):
    """The network with the fused logits as its only output: B x 3 x H x W, normalised, to B x 2."""

    def __init__(self, network: LIBNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of class 0 (real) and class 1 (fake)."""
        return self.network.fused(images)


def fast_scorer(network: nn.Module, images: int | None = None) -> nn.Module:
    """Return a module that computes the logits for `engine.fake_probability` as fast as the device allows.

    On a CPU, OpenVINO scores sets of more than `PYTORCH_IMAGES` images, if it is installed; in float32, its scores
    agree with PyTorch's within 1e-4. A network in float64 stays in PyTorch. A `torch.nn.DataParallel` is returned
    unchanged.

    Args:
        network: on its device; its weights must not change while the scorer is in use.
        images: number of images of all processes. OpenVINO then scores all of them or none, so the scores do not depend
            on the number of processes. None if the number is unknown: PyTorch then scores the first `PYTORCH_IMAGES`.

    Returns:
        A module that maps B x 3 x H x W normalised images to the fused logits, B x 2; a `torch.nn.DataParallel` maps
        them to all logits.
    """
    if not isinstance(network, LIBNetwork):
        return network
    scorer, weight = FusedLogits(network), next(network.parameters())
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or network.precision not in OPENVINO_PRECISIONS:
        return scorer
    source = copy.copy(network)
    source.precision = torch.float32  # autocast would leave its casts in the trace
    pytorch_images = PYTORCH_IMAGES if images is None else 0 if images > PYTORCH_IMAGES else math.inf
    return OpenVINOLater(scorer, pytorch_images, OPENVINO_PRECISIONS[network.precision], FusedLogits(source))
