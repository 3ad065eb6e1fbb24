"""The network of the paper: n Local Information Blocks (LIBs) whose features are fused into one prediction.

The attribute names follow the authors' release because they are the keys of its checkpoints.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from losses.terms import Logits
from models.recompute import recompute


@cache  # each stream keeps memory of its own
def cuda_streams(device: torch.device, number: int) -> list[torch.cuda.Stream]:
    """Return `number` CUDA streams of a device."""
    return [torch.cuda.Stream(device) for _ in range(number)]


class Bottleneck(nn.Module):
    """The fusion of Z = [z_1; ...; z_n], n*d wide, into G, d wide.

    Args:
        in_features: n*d.
        out_features: d.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(in_features, 1000),
            nn.BatchNorm1d(1000),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(1000, 500),
            nn.BatchNorm1d(500),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(500, out_features),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map Z, B x n*d, to G, B x d."""
        return self.model(features)


class LIBNetwork(nn.Module):
    """n backbones with linear heads on Z, on Z without each z_i, and on the fused feature G.

    With n = 1 there are no leave-one-out heads; this is the plain backbone, the baseline of the paper.

    Args:
        backbones: the LIBs, each with its own weights; B x 3 x H x W images to B x d features z_i.
        num_features: d.

    Attributes:
        num_LIBs: n.
        precision: number format of the backbones; torch.bfloat16 and torch.float16 use autocast. The heads compute in
            the precision of their weights.
        recompute: whether training keeps the activations of one LIB at a time, and computes each LIB twice.
    """

    def __init__(self, backbones: list[nn.Module], num_features: int) -> None:
        super().__init__()
        self.precision = torch.float32
        self.recompute = False
        self.num_LIBs = n = len(backbones)
        for i, backbone in enumerate(backbones, start=1):
            setattr(self, f"region_model{i}", backbone)
        if n > 1:
            for i in range(1, n + 1):
                setattr(self, f"local_linear{i}", nn.Linear((n - 1) * num_features, 2))
        self.bottleneck = Bottleneck(n * num_features, num_features)
        self.baseline_linear = nn.Linear(n * num_features, 2)
        self.linear = nn.Sequential(nn.Dropout(0.5), nn.Linear(num_features, 2))

    def forward(self, images: Tensor) -> Logits:
        """Return the logits of all heads for B x 3 x H x W normalised images."""
        return self.forward_heads(self.features(images))

    def fused(self, images: Tensor) -> Tensor:
        """Return the fused logits alone, B x 2: all that a score needs."""
        return self.linear(self.bottleneck(torch.cat(self.features(images), dim=1)))

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the features z_1 to z_n, each B x d, in the precision of the heads."""
        if self.precision == torch.float32:
            return self._run_backbones(images)
        with torch.autocast(images.device.type, self.precision):
            features = self._run_backbones(images)
        return [z.to(self.baseline_linear.weight.dtype) for z in features]

    def _run_backbones(self, images: Tensor) -> list[Tensor]:
        if self.recompute and self.training:
            return [recompute(backbone, images) for backbone in self.backbones()]
        if not images.is_cuda or self.precision == torch.float32:
            return [backbone(images) for backbone in self.backbones()]
        # A CUDA stream for each LIB: while one LIB waits for memory, another computes. It slows float32 down.
        here, features = torch.cuda.current_stream(images.device), []
        for backbone, stream in zip(self.backbones(), cuda_streams(images.device, self.num_LIBs), strict=True):
            stream.wait_stream(here)
            images.record_stream(stream)  # its memory is not free until the stream is done with it
            with torch.cuda.stream(stream):
                features.append(backbone(images))
            features[-1].record_stream(here)
        for stream in cuda_streams(images.device, self.num_LIBs):
            here.wait_stream(stream)
        return features

    def backbones(self) -> list[Any]:
        """Return the backbones of LIB 1 to LIB n, timm networks; they map B x 3 x H x W images to B x d features."""
        return [getattr(self, f"region_model{i}") for i in range(1, self.num_LIBs + 1)]

    def freeze_unused_heads(self, lil: bool, gil: bool) -> None:
        """Freeze the heads that no loss term uses: DistributedDataParallel waits for every gradient.

        Args:
            lil: whether the local loss, and so the leave-one-out heads, are in use.
            gil: whether the global loss, and so the head on Z, is in use.
        """
        self.baseline_linear.requires_grad_(gil)
        for i in range(1, self.num_LIBs + 1) if self.num_LIBs > 1 else ():
            getattr(self, f"local_linear{i}").requires_grad_(lil)

    def forward_heads(self, features: list[Tensor]) -> Logits:
        """Return the logits of all heads for the features z_1 to z_n, each B x d."""
        z = torch.cat(features, dim=1)
        # The authors' order of the heads; it determines the order of gradient sums, hence their rounding.
        logits_of_all = self.baseline_linear(z)
        fused = self.linear(self.bottleneck(z))
        leave_one_out = []
        if self.num_LIBs > 1:
            for i in range(self.num_LIBs):
                others = torch.cat(features[:i] + features[i + 1 :], dim=1)
                leave_one_out.append(getattr(self, f"local_linear{i + 1}")(others))
        return Logits(fused, logits_of_all, leave_one_out)
