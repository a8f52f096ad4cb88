"""ResNet-v2 trunks (He et al. 2016, pre-activation): image to pooled feature.

The layout of google/revisiting-self-supervised, which the paper's encoder study cites: root convolution
without norm, norm and ReLU before each convolution, projection shortcut taken after the first norm and ReLU,
stride on the 3×3 convolution, closing norm and ReLU, mean over space.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bigbigan.models.layers import BN_EPS

__all__ = ["BasicBlock", "ResNetV2"]


class BasicBlock(nn.Module):
    """BN, ReLU, 3×3 conv (stride), BN, ReLU, 3×3 conv, plus the skip."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels, eps=BN_EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels, eps=BN_EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.project = stride != 1 or in_channels != out_channels
        self.stride = stride
        if self.project:
            self.skip = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        # The stride is taken by slicing: some CPU builds of torch 2.13 crash in the backward pass of a 1×1
        # convolution of stride 2 on channels-last images.
        shortcut = self.skip(h[:, :, :: self.stride, :: self.stride]) if self.project else x
        return shortcut + self.conv2(F.relu(self.norm2(self.conv1(h))))


class ResNetV2(nn.Module):
    """A small ResNet-v2: 3×3 root at full resolution, then stages of basic blocks, each halving the size.

    Args:
        image_channels: 1 or 3.
        widths: channels of each stage; the first stage keeps the size, each later one halves it.
        blocks: blocks of each stage.
    """

    def __init__(self, image_channels: int, widths: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        self.num_features = widths[-1]
        self.root = nn.Conv2d(image_channels, widths[0], 3, padding=1, bias=False)
        layers: list[nn.Module] = []
        previous = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(BasicBlock(previous, width, stride=2 if stage and not block else 1))
                previous = width
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(previous, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, C, R, R] in [-1, 1] to pooled features [N, num_features], not negative."""
        return F.relu(self.norm(self.blocks(self.root(x)))).mean(dim=(2, 3))
