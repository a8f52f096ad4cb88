"""D: the joint discriminator, made of F (images), H (latents), J (pairs) and three linear scores.

    s_x = a_x·F(x)      s_z = a_z·H(z)      s_xz = a_xz·J(F(x), H(z))        (Section 2)

Scores are high on encoder pairs (x, E(x)) and low on generator pairs (G(z), z).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, layer_norm, relu

from bigbigan.models.layers import ResidualMLP, SelfAttention, SNConv2d, SNEmbedding, SNLinear

__all__ = ["DBlock", "Discriminator", "ImageTrunk"]


class DBlock(nn.Module):
    """(ReLU), 3×3 conv, ReLU, 3×3 conv, 2×2 average pool; skip: pool and 1×1 conv (BigGAN's D)."""

    def __init__(self, in_channels: int, out_channels: int, first: bool, downsample: bool) -> None:
        super().__init__()
        self.first, self.downsample = first, downsample
        self.conv1 = SNConv2d(in_channels, out_channels, 3)
        self.conv2 = SNConv2d(out_channels, out_channels, 3)
        needs_conv = downsample or in_channels != out_channels
        self.skip = SNConv2d(in_channels, out_channels, 1) if needs_conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C', H/2, W/2], or to the same size in a block that does not downsample."""
        h = relu(self.conv1(x if self.first else relu(x)))
        if not self.downsample:
            return self.conv2(h) + self.skip(x)
        return self.conv2.then_pool(h) + self.skip(avg_pool2d(x, 2))


class ImageTrunk(nn.Module):
    """F: the BigGAN discriminator's trunk, images [N, C, R, R] in [-1, 1] to sum-pooled features [N, C'].

    Args:
        image_channels: 1 or 3.
        channels: width of each block.
        resolution: R.
        final_size: side of the map that is summed; the first log2(R / final_size) blocks halve the size.
        attention: sides, in pixels, of the maps that are followed by self-attention.
        joint_maps: number of last maps that J reads, 1 or 2.

    Attributes:
        out_features: C', the length of F(x).
        joint_features: the length of each vector that `forward` returns, in order.
    """

    def __init__(
        self,
        image_channels: int,
        channels: tuple[int, ...],
        resolution: int,
        final_size: int = 4,
        attention: tuple[int, ...] = (),
        joint_maps: int = 1,
    ) -> None:
        super().__init__()
        self.out_features = channels[-1]
        self.joint_features = (channels[-1], 4 * channels[-2]) if joint_maps == 2 else (channels[-1],)
        layers: list[nn.Module] = []
        size = resolution
        for i, (a, b) in enumerate(zip((image_channels, *channels[:-1]), channels, strict=True)):
            downsample = size > final_size
            size = size // 2 if downsample else size
            self.last_block = len(layers)
            layers.append(DBlock(a, b, first=i == 0, downsample=downsample))
            if size in attention and downsample:
                layers.append(SelfAttention(b))
        self.blocks = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return [F(x)], [N, C'], and with two joint maps also a vector [N, 4·C''].

        The second is the map before the last block, averaged over 2×2 regions. It keeps some spatial information, which
        the sum over space loses.
        """
        before = self.blocks[: self.last_block](x)
        vectors = [relu(self.blocks[self.last_block :](before)).sum(dim=(2, 3))]
        if len(self.joint_features) == 2:
            vectors.append(adaptive_avg_pool2d(relu(before), 2).flatten(1))
        return vectors


class Discriminator(nn.Module):
    """D(x, z): scores of pairs of images and latents. F, H and J are built only for the scores that use them.

    Args:
        f: the image trunk F, with `out_features`.
        dim_z: latent dimension.
        mlp_width, mlp_layers: of both H and J ("J: same shape as H").
        scores: which of "x", "z", "xz" are used (Table 1's loss columns).
        pair_norm: whether F(x) and H(z) are normalised by layer normalisation before J.
        classes: number of classes of a conditional D, whose s_x has the projection term embed(y)·F(x) (BigGAN): 1 is
            Single Label; 0 is no such term.
        projection: whether s_xz also has a bilinear term, <A F(x), B H(z)> / sqrt(mlp_width) with linear A and B: the
            projection discriminator of Miyato & Koyama (2018) with H(z) in place of a class. Not in the paper
            (docs/deviations.md).
    """

    def __init__(
        self,
        f: ImageTrunk,
        dim_z: int,
        mlp_width: int,
        mlp_layers: int,
        scores: tuple[str, ...],
        pair_norm: bool = True,
        classes: int = 0,
        projection: bool = False,
    ) -> None:
        super().__init__()
        self.scores, self.pair_norm = scores, pair_norm
        if "x" in scores or "xz" in scores:
            self.F = f
        if "z" in scores or "xz" in scores:
            self.H = ResidualMLP(dim_z, mlp_width, mlp_layers, spectral_norm=True)
        if "xz" in scores:
            joint = sum(f.joint_features)
            self.J = ResidualMLP(joint + mlp_width, mlp_width, mlp_layers, spectral_norm=True)
            self.head_xz = SNLinear(mlp_width, 1)
            self.project_x = SNLinear(joint, mlp_width, bias=False) if projection else None
            self.project_z = SNLinear(mlp_width, mlp_width, bias=False) if projection else None
        if "x" in scores:
            self.head_x = SNLinear(f.out_features, 1)
            self.embed = SNEmbedding(classes, f.out_features) if classes else None
        if "z" in scores:
            self.head_z = SNLinear(mlp_width, 1)

    @property
    def sees_images_alone(self) -> bool:
        """Whether D has F, whose input is images without z."""
        return hasattr(self, "F")

    def features(self, x: Tensor) -> Tensor:
        """Return F(x): [N, C, R, R] in [-1, 1] to [N, C']."""
        return self.F(x)[0]

    def forward(self, x: Tensor, z: Tensor | None, y: Tensor | None = None) -> dict[str, Tensor]:
        """Return the scores in use, of {"s_x": [N], "s_z": [N], "s_xz": [N]}.

        Args:
            x: images [N, C, R, R] in [-1, 1].
            z: latents [N, dim_z]; may be None if only s_x is in use.
            y: classes int64 [N] of a conditional D; may be None if there is one class.

        Raises:
            ValueError: y is None, and there are several classes.
        """
        s: dict[str, Tensor] = {}
        vectors = self.F(x) if "x" in self.scores or "xz" in self.scores else []
        h = self.H(z) if "z" in self.scores or "xz" in self.scores else None
        if "x" in self.scores:
            f = vectors[0]
            s["s_x"] = self.head_x(f).squeeze(1)
            if self.embed is not None:
                if y is None and self.embed.num_embeddings > 1:
                    raise ValueError(f"y is None; expected classes [N], 0 to {self.embed.num_embeddings - 1}")
                y = x.new_zeros(x.shape[0], dtype=torch.long) if y is None else y
                s["s_x"] = s["s_x"] + (self.embed(y) * f).sum(1)
        if "z" in self.scores:
            s["s_z"] = self.head_z(h).squeeze(1)
        if h is not None and "xz" in self.scores:
            s["s_xz"] = self._joint_score(vectors, h)
        return s

    def _joint_score(self, vectors: list[Tensor], h: Tensor) -> Tensor:
        """Return s_xz [N] from F's vectors of x and h = H(z) [N, mlp_width]."""
        if self.pair_norm:  # F(x) is a sum over space and dwarfs H(z) (docs/deviations.md, 2)
            vectors, h = [layer_norm(v, v.shape[1:]) for v in vectors], layer_norm(h, h.shape[1:])
        f = torch.cat(vectors, dim=1)
        score = self.head_xz(self.J(torch.cat([f, h], dim=1))).squeeze(1)
        if self.project_x is not None and self.project_z is not None:
            score = score + (self.project_x(f) * self.project_z(h)).sum(1) / h.shape[1] ** 0.5
        return score
