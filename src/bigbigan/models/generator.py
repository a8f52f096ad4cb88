"""G: the BigGAN generator (Brock et al. 2019), from latents to images.

z is split into equal chunks: the first is the input of the 4×4 seed, each later one of a block's conditional batch
norms ("skip-z"). Without labels there is one class, whose embedding is a learned vector shared by all images: Single
Label, as in the released BigBiGAN generator.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbigan.models.layers import BN_EPS, ConditionalBatchNorm2d, SelfAttention, SNConv2d, SNLinear, upsample

__all__ = ["GBlock", "Generator"]


class GBlock(nn.Module):
    """Up-block: (cBN, ReLU, ×2, 3×3 conv), (cBN, ReLU, 3×3 conv), plus ×2 and a 1×1 conv on the skip."""

    def __init__(self, in_channels: int, out_channels: int, condition_dim: int, per_class: bool = False) -> None:
        super().__init__()
        self.norm1 = ConditionalBatchNorm2d(in_channels, condition_dim, per_class)
        self.conv1 = SNConv2d(in_channels, out_channels, 3)
        self.norm2 = ConditionalBatchNorm2d(out_channels, condition_dim, per_class)
        self.conv2 = SNConv2d(out_channels, out_channels, 3)
        self.skip = SNConv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Map x [N, C, H, W] and c [N, condition_dim] or classes [N] to [N, C', 2H, 2W]."""
        h = self.conv1.after_upsample(F.relu(self.norm1(x, c)))
        h = self.conv2(F.relu(self.norm2(h, c)))
        return h + upsample(self.skip(x))  # the 1×1 conv and nearest ×2 commute: convolve before upsampling


class Generator(nn.Module):
    """G(z): latents [N, dim_z] to images [N, image_channels, R, R] in [-1, 1], R = 4·2^blocks.

    Args:
        dim_z: latent dimension.
        channels: widths, of the 4×4 seed and after each block (BigGAN, appendix B).
        image_channels: 1 or 3.
        shared_dim: length of the class embedding that all blocks share.
        attention: sides, in pixels, of the maps that are followed by self-attention.
        classes: 1 without labels.
        skip_z: True splits z into chunks, one for the seed and one for each block. If False, all of z enters the seed,
            and each batch norm has its own class embedding (BigGAN's PyTorch code at 32 px).

    Raises:
        ValueError: dim_z is not a multiple of the number of chunks.
    """

    def __init__(
        self,
        dim_z: int,
        channels: tuple[int, ...],
        image_channels: int,
        shared_dim: int,
        attention: tuple[int, ...] = (),
        classes: int = 1,
        skip_z: bool = True,
    ) -> None:
        super().__init__()
        self.chunks = len(channels) if skip_z else 1
        if dim_z % self.chunks:
            raise ValueError(f"dim_z = {dim_z} does not divide into {self.chunks} chunks")
        self.dim_z, self.channels, self.classes, self.skip_z = dim_z, channels, classes, skip_z
        chunk = dim_z // self.chunks
        condition = shared_dim + chunk if skip_z else classes
        if skip_z:
            self.shared = nn.Embedding(classes, shared_dim)
        self.seed = SNLinear(chunk, channels[0] * 16)
        self.blocks = nn.ModuleList(GBlock(a, b, condition, per_class=not skip_z) for a, b in pairwise(channels))
        self.attention = nn.ModuleDict(
            {str(i): SelfAttention(c) for i, c in enumerate(channels[1:]) if 8 * 2**i in attention}
        )
        self.norm = nn.BatchNorm2d(channels[-1], eps=BN_EPS)
        self.to_image = SNConv2d(channels[-1], image_channels, 3)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Generate images from latents z [N, dim_z] and classes y int64 [N]; y may be None if there is one class.

        Raises:
            ValueError: y is None, and there are several classes.
        """
        if y is None:
            if self.classes > 1:
                raise ValueError(f"y is None; expected classes [N], 0 to {self.classes - 1}")
            y = z.new_zeros(z.shape[0], dtype=torch.long)  # len(z) would become a constant of an exported graph
        if self.skip_z:
            seed, *skips = z.chunk(self.chunks, dim=1)
            embedding = self.shared(y)
            conditions = [torch.cat([skip, embedding], dim=1) for skip in skips]  # chunk first, as in the released G
        else:
            seed, conditions = z, [y] * len(self.blocks)
        h = self.seed(seed).unflatten(1, (self.channels[0], 4, 4))
        for i, (block, condition) in enumerate(zip(self.blocks, conditions, strict=True)):
            h = block(h, condition)
            if str(i) in self.attention:
                h = self.attention[str(i)](h)
        return torch.tanh(self.to_image(F.relu(self.norm(h))))
