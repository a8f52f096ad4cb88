"""ResNet-v2 trunks (He et al. 2016, pre-activation), from images to pooled features.

The layout is that of google/revisiting-self-supervised, which the paper cites for its encoders: root convolution
without norm, norm and ReLU before each convolution, projection shortcut after the first norm and ReLU, stride on the
3×3 convolution, final norm and ReLU, mean over space.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bigbigan.models.layers import norm2d

__all__ = ["BasicBlock", "Bottleneck", "ResNetV2", "root"]


class BasicBlock(nn.Module):
    """BN, ReLU, 3×3 conv (stride), BN, ReLU, 3×3 conv, plus the skip."""

    root_share = 1  # width of the first stage divided by the width of the root convolution

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: str = "batch") -> None:
        super().__init__()
        self.norm1 = norm2d(norm, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = norm2d(norm, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.skip = projection(in_channels, out_channels, stride)
        self.stride = stride

    def residual(self, h: Tensor) -> Tensor:
        """Return the output of the branch, after its first norm and ReLU."""
        return self.conv2(F.relu(self.norm2(self.conv1(h))))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        # Slicing replaces the stride: some CPU builds of torch 2.13 crash in the backward pass of a 1×1 convolution of
        # stride 2 on channels-last images.
        shortcut = x if self.skip is None else self.skip(h[:, :, :: self.stride, :: self.stride])
        return shortcut + self.residual(h)


class Bottleneck(BasicBlock):
    """BN, ReLU, 1×1 conv to a quarter, BN, ReLU, 3×3 conv (stride), BN, ReLU, 1×1 conv, plus the skip."""

    root_share = 4

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: str = "batch") -> None:
        nn.Module.__init__(self)
        hidden = out_channels // 4
        self.norm1 = norm2d(norm, in_channels)
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.norm2 = norm2d(norm, hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, padding=1, bias=False)
        self.norm3 = norm2d(norm, hidden)
        self.conv3 = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self.skip = projection(in_channels, out_channels, stride)
        self.stride = stride

    def residual(self, h: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.norm2(self.conv1(h))))
        return self.conv3(F.relu(self.norm3(h)))


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d | None:
    """Return the 1×1 convolution of a skip that changes size or width, else None; the caller applies the stride."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Conv2d(in_channels, out_channels, 1, bias=False)


def root(image_channels: int, width: int, stem: str) -> nn.Module:
    """Return the layers before the first stage.

    "imagenet" is a 7×7 convolution and 3×3 max pool, which divide the size by 4; "small" is a 3×3 convolution, which
    keeps it.
    """
    if stem == "small":
        return nn.Conv2d(image_channels, width, 3, padding=1, bias=False)
    conv = nn.Conv2d(image_channels, width, 7, stride=2, padding=3, bias=False)
    return nn.Sequential(conv, nn.MaxPool2d(3, stride=2, padding=1))


class ResNetV2(nn.Module):
    """ResNet-v2. ResNet-50 is `Bottleneck`, widths (256, 512, 1024, 2048), blocks (3, 4, 6, 3), stem "imagenet".

    Args:
        image_channels: 1 or 3.
        widths: output channels of each stage; the first stage keeps the size, each later one halves it.
        blocks: blocks of each stage.
        block: `BasicBlock` or `Bottleneck`.
        stem: see `root`.
        norm: see `layers.norm2d`.
    """

    def __init__(
        self,
        image_channels: int,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        block: type[BasicBlock] = BasicBlock,
        stem: str = "small",
        norm: str = "batch",
    ) -> None:
        super().__init__()
        self.num_features = widths[-1]
        previous = widths[0] // block.root_share
        self.root = root(image_channels, previous, stem)
        layers: list[nn.Module] = []
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for i in range(count):
                layers.append(block(previous, width, 2 if stage and not i else 1, norm))
                previous = width
        self.blocks = nn.Sequential(*layers)
        self.norm = norm2d(norm, previous)

    def final_map(self, x: Tensor) -> Tensor:
        """Return the map that is pooled: images [N, C, R, R] in [-1, 1] to [N, num_features, H, W], not negative."""
        return F.relu(self.norm(self.blocks(self.root(x))))

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, C, R, R] in [-1, 1] to pooled features [N, num_features], not negative."""
        return self.final_map(x).mean(dim=(2, 3))
