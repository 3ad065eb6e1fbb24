"""RetinaFace (Deng et al., CVPR 2020), the paper's face detector, with a MobileNet-0.25 or ResNet-50 body.

The module names match the published Pytorch_Retinaface checkpoints, so these load without conversion.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.imports import without_compiler

with without_compiler():
    from torchvision.models.resnet import Bottleneck, ResNet

MEAN_BGR = (104.0, 117.0, 123.0)
ANCHOR_SIDES = {8: (16, 32), 16: (64, 128), 32: (256, 512)}  # feature map stride: anchor sides in pixels
CENTRE_VARIANCE, SIDE_VARIANCE = 0.1, 0.2  # scales of the predicted offsets, as in SSD


def _conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    stride: int = 1,
    groups: int = 1,
    slope: float | None = None,
) -> nn.Sequential:
    """Make a convolution, BatchNorm and, if `slope` is given, LeakyReLU with this negative slope."""
    layers = [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    return nn.Sequential(*layers, *([] if slope is None else [nn.LeakyReLU(slope)]))


def _separable(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Make a depthwise and a pointwise convolution in one Sequential."""
    depthwise = _conv(in_channels, in_channels, stride=stride, groups=in_channels, slope=0.1)
    return nn.Sequential(*depthwise, *_conv(in_channels, out_channels, kernel_size=1, slope=0.1))


class MobileNet025(nn.Module):
    """MobileNetV1 at a quarter of its width; returns the feature maps at strides 8, 16 and 32."""

    channels = (64, 128, 256)

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            _conv(3, 8, stride=2, slope=0.1),
            _separable(8, 16),
            _separable(16, 32, stride=2),
            _separable(32, 32),
            _separable(32, 64, stride=2),
            _separable(64, 64),
        )
        self.stage2 = nn.Sequential(_separable(64, 128, stride=2), *(_separable(128, 128) for _ in range(5)))
        self.stage3 = nn.Sequential(_separable(128, 256, stride=2), _separable(256, 256))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (B x 3 x H x W) to the three feature maps, the largest first."""
        stride8 = self.stage1(images)
        stride16 = self.stage2(stride8)
        return [stride8, stride16, self.stage3(stride16)]


class ResNet50(ResNet):
    """torchvision's ResNet-50 without its classifier; returns the feature maps at strides 8, 16 and 32."""

    channels = (512, 1024, 2048)

    def __init__(self) -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3])
        del self.fc

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (B x 3 x H x W) to the three feature maps, the largest first."""
        stem = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        stride8 = self.layer2(self.layer1(stem))
        stride16 = self.layer3(stride8)
        return [stride8, stride16, self.layer4(stride16)]


class FeaturePyramid(nn.Module):
    """Project three feature maps to one width and add each coarser map to the next finer one."""

    def __init__(self, in_channels: tuple[int, ...], width: int, slope: float) -> None:
        super().__init__()
        self.output1, self.output2, self.output3 = (_conv(n, width, kernel_size=1, slope=slope) for n in in_channels)
        self.merge1 = _conv(width, width, slope=slope)
        self.merge2 = _conv(width, width, slope=slope)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Map the body's three feature maps to three maps with `width` channels."""
        fine, middle, coarse = self.output1(maps[0]), self.output2(maps[1]), self.output3(maps[2])
        middle = self.merge2(middle + F.interpolate(coarse, size=middle.shape[2:]))
        fine = self.merge1(fine + F.interpolate(middle, size=fine.shape[2:]))
        return [fine, middle, coarse]


class ContextModule(nn.Module):
    """Context module of SSH (Najibi et al., ICCV 2017): parallel receptive fields of 3, 5 and 7 pixels."""

    def __init__(self, width: int, slope: float) -> None:
        super().__init__()
        self.conv3X3 = _conv(width, width // 2)
        self.conv5X5_1 = _conv(width, width // 4, slope=slope)
        self.conv5X5_2 = _conv(width // 4, width // 4)
        self.conv7X7_2 = _conv(width // 4, width // 4, slope=slope)
        self.conv7x7_3 = _conv(width // 4, width // 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return a feature map of the shape of `x`, B x width x h x w."""
        shared = self.conv5X5_1(x)
        wide = self.conv7x7_3(self.conv7X7_2(shared))
        return F.relu(torch.cat([self.conv3X3(x), self.conv5X5_2(shared), wide], dim=1))


class Head(nn.Module):
    """A 1 x 1 convolution that predicts `outputs` numbers for each of the two anchors of a position."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(width, 2 * outputs, 1)
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map B x width x h x w to B x (h * w * 2) x outputs."""
        return self.conv1x1(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.outputs)


class RetinaFace(nn.Module):
    """The detector. `LandmarkHead` exists only so that checkpoints load; landmarks are not computed."""

    def __init__(self, body: MobileNet025 | ResNet50) -> None:
        super().__init__()
        width, slope = (64, 0.1) if isinstance(body, MobileNet025) else (256, 0.0)
        self.body = body
        self.fpn = FeaturePyramid(body.channels, width, slope)
        self.ssh1, self.ssh2, self.ssh3 = (ContextModule(width, slope) for _ in range(3))
        self.ClassHead, self.BboxHead, self.LandmarkHead = (
            nn.ModuleList(Head(width, outputs) for _ in ANCHOR_SIDES) for outputs in (2, 4, 10)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the score and the box of every anchor.

        Args:
            images: B x 3 x H x W, BGR, 0 to 255 minus `MEAN_BGR`.

        Returns:
            scores (B x A, 0 to 1) and boxes (B x A x 4: left, top, right, bottom, in pixels) of A anchors.
        """
        maps = self.fpn(self.body(images))
        maps = [self.ssh1(maps[0]), self.ssh2(maps[1]), self.ssh3(maps[2])]
        logits = torch.cat([head(x) for head, x in zip(self.ClassHead, maps, strict=True)], 1)
        offsets = torch.cat([head(x) for head, x in zip(self.BboxHead, maps, strict=True)], 1)
        anchors = torch.cat(
            [
                _anchors(x.shape[2], x.shape[3], stride, sides)
                for x, (stride, sides) in zip(maps, ANCHOR_SIDES.items(), strict=True)
            ]
        ).to(offsets)
        centres = anchors[:, :2] + offsets[..., :2] * CENTRE_VARIANCE * anchors[:, 2:]
        sides = anchors[:, 2:] * torch.exp(offsets[..., 2:] * SIDE_VARIANCE)
        return logits.softmax(-1)[..., 1], torch.cat([centres - sides / 2, centres + sides / 2], dim=-1)


def _anchors(height: int, width: int, stride: int, sides: tuple[int, int]) -> Tensor:
    """Return a map's anchors in the order of `Head`: (height * width * 2) x 4, centre and sides in pixels."""
    y, x, side = torch.meshgrid(
        (torch.arange(height) + 0.5) * stride,
        (torch.arange(width) + 0.5) * stride,
        torch.tensor(sides, dtype=torch.float32),
        indexing="ij",
    )
    return torch.stack([x, y, side, side], dim=-1).reshape(-1, 4)
