"""The network of the paper: several Local Information Blocks (LIBs), fused into one prediction.

The attribute names are those of the authors' release, because they are the key names of its checkpoints.
"""

import torch
from torch import Tensor, nn

from losses.terms import Logits


class Bottleneck(nn.Module):
    """The fusion: Z, all LIBs' features side by side (n*d wide), is distilled into G (d wide).

    Args:
        width_in: n*d.
        width_out: d.
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(width_in, 1000),
            nn.BatchNorm1d(1000),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(1000, 500),
            nn.BatchNorm1d(500),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(500, width_out),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map Z, B x n*d, to G, B x d."""
        return self.model(features)


class LIBNetwork(nn.Module):
    """n backbones look at one face; heads on Z, on Z without each z_i, and on the fused G judge it.

    With n = 1 there is no leave-one-out head: it is the plain backbone, the paper's baseline.

    Args:
        backbones: the LIBs, each mapping B x 3 x H x W images to B x d features, each with its own weights.
        width: d.
    """

    def __init__(self, backbones: list[nn.Module], width: int) -> None:
        super().__init__()
        self.num_LIBs = n = len(backbones)
        for i, backbone in enumerate(backbones, start=1):
            setattr(self, f"region_model{i}", backbone)
        if n > 1:
            for i in range(1, n + 1):
                setattr(self, f"local_linear{i}", nn.Linear((n - 1) * width, 2))
        self.bottleneck = Bottleneck(n * width, width)
        self.baseline_linear = nn.Linear(n * width, 2)
        self.linear = nn.Sequential(nn.Dropout(0.5), nn.Linear(width, 2))

    def forward(self, images: Tensor) -> Logits:
        """Judge a batch of faces.

        Args:
            images: B x 3 x H x W, normalised.

        Returns:
            The logits of every head, see `losses.terms.Logits`.
        """
        return self.judge([block(images) for block in self.blocks()])

    def blocks(self) -> list[nn.Module]:
        """Return the LIBs, in their order."""
        return [getattr(self, f"region_model{i}") for i in range(1, self.num_LIBs + 1)]

    def judge(self, features: list[Tensor]) -> Logits:
        """Judge the LIBs' features, n times B x d; see `forward`."""
        everything = torch.cat(features, dim=1)
        # The heads stand in the authors' order: it decides in which order gradients are summed, and with it how
        # every training step is rounded.
        logits_of_all = self.baseline_linear(everything)
        fused = self.linear(self.bottleneck(everything))
        leave_one_out = []
        if self.num_LIBs > 1:
            for i in range(self.num_LIBs):
                others = torch.cat(features[:i] + features[i + 1 :], dim=1)
                leave_one_out.append(getattr(self, f"local_linear{i + 1}")(others))
        return Logits(fused, logits_of_all, leave_one_out)
