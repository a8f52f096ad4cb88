"""G: the BigGAN generator (Brock et al. 2019), latent to image.

z is cut into equal chunks: the first feeds the 4×4 seed, each later one a block's conditional batch norms
("skip-z"). Without labels there is one class, whose embedding is a learned vector shared by all images: the
Single Label reading of the released BigBiGAN generator.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbigan.models.layers import BN_EPS, ConditionalBatchNorm2d, SNConv2d, SNLinear, upsample

__all__ = ["GBlock", "Generator"]


class GBlock(nn.Module):
    """Up-block: (cBN, ReLU, ×2, 3×3 conv), (cBN, ReLU, 3×3 conv), plus ×2 and a 1×1 conv on the skip."""

    def __init__(self, in_channels: int, out_channels: int, condition_dim: int) -> None:
        super().__init__()
        self.norm1 = ConditionalBatchNorm2d(in_channels, condition_dim)
        self.conv1 = SNConv2d(in_channels, out_channels, 3)
        self.norm2 = ConditionalBatchNorm2d(out_channels, condition_dim)
        self.conv2 = SNConv2d(out_channels, out_channels, 3)
        self.skip = SNConv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x [N, C, H, W], c [N, condition_dim] -> [N, C', 2H, 2W]."""
        h = self.conv1.after_upsample(F.relu(self.norm1(x, c)))
        h = self.conv2(F.relu(self.norm2(h, c)))
        return h + upsample(self.skip(x))  # the 1×1 conv and nearest ×2 commute: convolve the small one


class Generator(nn.Module):
    """G(z): latents [N, dim_z] to images [N, image_channels, R, R] in [-1, 1], R = 4·2^blocks.

    Args:
        dim_z: latent dimension; must divide into one chunk for the seed and one for each block.
        channels: widths, of the 4×4 seed and then after each block (Table of BigGAN appendix B).
        image_channels: 1 or 3.
        shared_dim: length of the class embedding.

    Raises:
        ValueError: dim_z is not a multiple of the number of chunks.
    """

    def __init__(self, dim_z: int, channels: tuple[int, ...], image_channels: int, shared_dim: int) -> None:
        super().__init__()
        self.chunks = len(channels)  # one for the seed, one for each block
        if dim_z % self.chunks:
            raise ValueError(f"dim_z = {dim_z} does not divide into {self.chunks} chunks")
        self.dim_z, self.channels = dim_z, channels
        chunk = dim_z // self.chunks
        self.shared = nn.Embedding(1, shared_dim)
        self.seed = SNLinear(chunk, channels[0] * 16)
        self.blocks = nn.ModuleList(GBlock(a, b, shared_dim + chunk) for a, b in pairwise(channels))
        self.norm = nn.BatchNorm2d(channels[-1], eps=BN_EPS)
        self.to_image = SNConv2d(channels[-1], image_channels, 3)

    def forward(self, z: Tensor) -> Tensor:
        seed, *skips = z.chunk(self.chunks, dim=1)
        embedding = self.shared.weight.expand(len(z), -1)
        h = self.seed(seed).view(len(z), self.channels[0], 4, 4)
        for block, skip in zip(self.blocks, skips, strict=True):
            h = block(h, torch.cat([skip, embedding], dim=1))  # chunk first, as in the released G
        return torch.tanh(self.to_image(F.relu(self.norm(h))))
