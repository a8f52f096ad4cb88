"""Provide small generators in the shape of a StyleGAN (Karras et al. 2019, 2020), with random weights.

    python -m reproduction.measure.inversion python:reproduction.measure.stylegan_shaped:z
    python -m reproduction.measure.inversion python:reproduction.measure.stylegan_shaped:w

A mapping network turns z into w; a synthesis network turns a learned constant into an image by modulated convolutions
whose styles are linear in w. `z` is the whole generator, z -> image. `w` is its synthesis network, w -> image, and
draws its latents through the mapping, as is usual when a StyleGAN is inverted.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Mapping", "StyleGAN", "Synthesis"]


class Mapping(nn.Module):
    """Map z [N, dim] to w [N, dim]: normalise z, then linear layers with leaky ReLU."""

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(layers))

    def forward(self, z: Tensor) -> Tensor:
        w = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.layers:
            w = F.leaky_relu(layer(w), 0.2) * 2**0.5
        return w


class ModulatedConv(nn.Module):
    """Convolve with a weight whose input channels are scaled by a style, and normalise it (StyleGAN2)."""

    def __init__(self, dim: int, in_channels: int, out_channels: int, side: int, demodulate: bool = True) -> None:
        super().__init__()
        self.style = nn.Linear(dim, in_channels)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, side, side))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.demodulate = demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        n, c, height, width = x.shape
        weight = self.weight * (1 + self.style(w))[:, None, :, None, None]
        if self.demodulate:
            weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        grouped = F.conv2d(
            x.reshape(1, n * c, height, width), weight.flatten(0, 1), padding=weight.shape[-1] // 2, groups=n
        )
        return grouped.view(n, -1, height, width) + self.bias[:, None, None]


class Synthesis(nn.Module):
    """Map w [N, dim] to images [N, 3, R, R], R = 4·2^(blocks - 1)."""

    def __init__(self, dim: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.empty(1, widths[0], 4, 4))
        self.convs = nn.ModuleList(
            ModulatedConv(dim, a, b, 3) for a, b in zip((widths[0], *widths), widths, strict=False)
        )
        self.to_image = ModulatedConv(dim, widths[-1], 3, 1, demodulate=False)

    def forward(self, w: Tensor) -> Tensor:
        x = self.constant.expand(len(w), -1, -1, -1)
        for i, conv in enumerate(self.convs):
            if i:
                x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
            x = F.leaky_relu(conv(x, w), 0.2) * 2**0.5
        return torch.tanh(self.to_image(x, w))


class StyleGAN(nn.Module):
    """Map z [N, dim] to images [N, 3, R, R]; weights are random, from a seed."""

    def __init__(self, dim: int = 16, widths: tuple[int, ...] = (32, 32, 16), layers: int = 4, seed: int = 0) -> None:
        super().__init__()
        self.z_dim = dim
        self.mapping, self.synthesis = Mapping(dim, layers), Synthesis(dim, widths)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in self.named_parameters():
                fan_in = p[0].numel() if p.ndim > 1 and name != "synthesis.constant" else 1
                p.copy_(torch.zeros_like(p) if p.ndim < 2 else torch.randn(p.shape, generator=generator) / fan_in**0.5)

    def forward(self, z: Tensor) -> Tensor:
        return self.synthesis(self.mapping(z))


class OfW(nn.Module):
    """The synthesis network of a StyleGAN, with latents drawn through its mapping."""

    def __init__(self, whole: StyleGAN) -> None:
        super().__init__()
        self.whole = whole

    def sample_latents(self, count: int, generator: torch.Generator) -> Tensor:
        z = torch.randn(count, self.whole.z_dim, generator=generator, device=generator.device)
        return self.whole.mapping(z)

    def forward(self, w: Tensor) -> Tensor:
        return self.whole.synthesis(w)


z = StyleGAN().requires_grad_(False)
w = OfW(z)
