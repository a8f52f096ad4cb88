"""BiGAN's networks (Donahue, Krähenbühl & Darrell 2017; jeffdonahue/bigan).

They are fully connected for small images; for photographs they have 5×5 convolutions and an AlexNet encoder. z enters
G and D at every layer but D's first: its projection is added to the layer's output, before batch norm. Inputs and
outputs are in [-1, 1]; inside, the fully connected networks use [0, 1].
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbigan.models.layers import normal

__all__ = ["AlexNet", "ConvDiscriminator", "ConvGenerator", "MLPDiscriminator", "MLPGenerator", "MLPTrunk"]

STD = 0.02  # of initial weights
LEAK = 0.2
KERNEL = 5


class Layer(nn.Module):
    """A linear map or convolution, plus a projection of z; then batch norm and (leaky) ReLU.

    Args:
        main: the linear map or convolution.
        channels: output channels of `main`.
        norm: whether batch norm follows.
        affine: whether the batch norm has gains and biases.
        dim_z: length of z; 0 for no projection of z.
        std: standard deviation of the projection's initial weights.
        leak: slope below zero.
    """

    def __init__(
        self,
        main: nn.Module,
        channels: int,
        *,
        norm: bool = True,
        affine: bool = False,
        dim_z: int = 0,
        std: float = STD,
        leak: float = LEAK,
    ) -> None:
        super().__init__()
        self.main, self.leak = normal(main, STD), leak
        self.of_z = normal(nn.Linear(dim_z, channels, bias=False), std) if dim_z else None
        kind = nn.BatchNorm1d if isinstance(main, nn.Linear) else nn.BatchNorm2d
        self.norm = kind(channels, eps=1e-8, affine=affine) if norm else nn.Identity()

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        h = self.main(x)
        if self.of_z is not None:
            h = h + self.of_z(z).view(h.shape[0], -1, *[1] * (h.ndim - 2))
        return F.leaky_relu(self.norm(h), self.leak)


def _linear(a: int, b: int) -> nn.Linear:
    return nn.Linear(a, b, bias=False)


def _zero_linear(a: int) -> nn.Linear:
    """Return the last layer of D, whose initial weights are zero, so that D's first scores are 0."""
    return normal(nn.Linear(a, 1, bias=False), 0.0)


class MLPGenerator(nn.Module):
    """G(z): [N, dim_z] to images [N, image_channels, side, side] in [-1, 1], with hidden layers of `widths`."""

    def __init__(self, dim_z: int, widths: tuple[int, ...], image_channels: int, side: int) -> None:
        super().__init__()
        self.shape = (image_channels, side, side)
        self.layers = nn.ModuleList([Layer(_linear(dim_z, widths[0]), widths[0], leak=0)])
        self.layers.extend(Layer(_linear(a, b), b, dim_z=dim_z, leak=0) for a, b in pairwise(widths))
        self.to_image = normal(_linear(widths[-1], image_channels * side**2), STD)

    def forward(self, z: Tensor) -> Tensor:
        h = z
        for layer in self.layers:
            h = layer(h, z)
        return 2 * torch.sigmoid(self.to_image(h)).unflatten(1, self.shape) - 1


class MLPTrunk(nn.Module):
    """Images [N, C, side, side] to features [N, widths[-1]]; in D, z enters each layer but the first.

    `bias` is for the first layer. Without it and z, batch norm over a batch of G's images removes their scale.
    """

    def __init__(
        self, image_channels: int, widths: tuple[int, ...], side: int, dim_z: int = 0, bias: bool = False
    ) -> None:
        super().__init__()
        self.num_features = widths[-1]
        first = nn.Linear(image_channels * side**2, widths[0], bias=bias)
        self.layers = nn.ModuleList([Layer(first, widths[0], norm=False)])
        self.layers.extend(Layer(_linear(a, b), b, dim_z=dim_z) for a, b in pairwise(widths))

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        h = (x.flatten(1) + 1) / 2
        for layer in self.layers:
            h = layer(h, z)
        return h


class ConvTrunk(nn.Module):
    """Images [N, C, R, R] to flattened maps [N, widths[-1], R/2^n, R/2^n]: n convolutions, 5×5 with stride 2."""

    def __init__(
        self, image_channels: int, widths: tuple[int, ...], resolution: int, dim_z: int = 0, bias: bool = False
    ) -> None:
        super().__init__()
        self.num_features = widths[-1] * (resolution // 2 ** len(widths)) ** 2

        def conv(a: int, b: int, bias: bool = False) -> nn.Conv2d:
            return nn.Conv2d(a, b, KERNEL, stride=2, padding=KERNEL // 2, bias=bias)

        self.layers = nn.ModuleList([Layer(conv(image_channels, widths[0], bias), widths[0], norm=False)])
        self.layers.extend(
            Layer(conv(a, b), b, affine=True, dim_z=dim_z, std=STD * KERNEL**2) for a, b in pairwise(widths)
        )

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, z)
        return x.flatten(1)


class _OneScoreDiscriminator(nn.Module):
    """A trunk and a linear score: {"s_xz": [N]} for pairs, or {"s_x": [N]} for images without z."""

    trunk: MLPTrunk | ConvTrunk

    def __init__(self, trunk: MLPTrunk | ConvTrunk, name: str) -> None:
        super().__init__()
        self.trunk, self.name = trunk, name
        self.head = _zero_linear(trunk.num_features)

    @property
    def sees_images_alone(self) -> bool:
        """Whether D's input is images without z."""
        return self.name == "s_x"

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the score, for a D without latents: [N, C, R, R] in [-1, 1] to [N, num_features]."""
        return self.trunk(x)

    def forward(self, x: Tensor, z: Tensor | None) -> dict[str, Tensor]:
        return {self.name: self.head(self.trunk(x, z)).squeeze(1)}


class MLPDiscriminator(_OneScoreDiscriminator):
    """D(x, z), or D(x) if `dim_z` is 0: x [N, C, side, side] in [-1, 1], z [N, dim_z]."""

    def __init__(
        self, image_channels: int, widths: tuple[int, ...], side: int, dim_z: int = 0, bias: bool = False
    ) -> None:
        super().__init__(MLPTrunk(image_channels, widths, side, dim_z, bias), "s_xz" if dim_z else "s_x")


class ConvDiscriminator(_OneScoreDiscriminator):
    """D(x, z), or D(x) if `dim_z` is 0: x [N, C, R, R] in [-1, 1], z [N, dim_z]."""

    def __init__(
        self, image_channels: int, widths: tuple[int, ...], resolution: int, dim_z: int = 0, bias: bool = False
    ) -> None:
        super().__init__(ConvTrunk(image_channels, widths, resolution, dim_z, bias), "s_xz" if dim_z else "s_x")


class ConvGenerator(nn.Module):
    """G(z): [N, dim_z] to images [N, C, R, R] in [-1, 1], R = 4·2^len(widths), by 5×5 transposed convolutions."""

    def __init__(self, dim_z: int, widths: tuple[int, ...], image_channels: int) -> None:
        super().__init__()

        def conv(a: int, b: int) -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(a, b, KERNEL, stride=2, padding=KERNEL // 2, output_padding=1, bias=False)

        self.widths = widths
        # The seed's batch norm has statistics for each position, as in the authors' code.
        self.seed = Layer(_linear(dim_z, 16 * widths[0]), 16 * widths[0], affine=True, leak=0)
        self.layers = nn.ModuleList(
            Layer(conv(a, b), b, affine=True, dim_z=dim_z, std=STD * KERNEL**2, leak=0) for a, b in pairwise(widths)
        )
        self.to_image = normal(conv(widths[-1], image_channels), STD)

    def forward(self, z: Tensor) -> Tensor:
        h = self.seed(z).unflatten(1, (self.widths[0], 4, 4))
        for layer in self.layers:
            h = layer(h, z)
        return 2 * torch.sigmoid(self.to_image(h)) - 1


class AlexNet(nn.Module):
    """conv1 to conv5 of AlexNet with its two groups, batch norm after conv2 to conv5, leaky ReLU; no layer 6.

    conv1 and the pools are padded, as in the authors' script: images of 112 px give maps of 7×7.

    Args:
        image_channels: 1 or 3.
        widths: of the five convolutions; (96, 256, 384, 384, 256) in AlexNet.
        resolution: R of the images.
    """

    def __init__(self, image_channels: int, widths: tuple[int, ...], resolution: int) -> None:
        super().__init__()
        w = widths
        self.layers = nn.ModuleList([
            Layer(nn.Conv2d(image_channels, w[0], 11, stride=4, padding=5, bias=False), w[0], norm=False),
            Layer(nn.Conv2d(w[0], w[1], 5, padding=2, groups=2, bias=False), w[1], affine=True),
            Layer(nn.Conv2d(w[1], w[2], 3, padding=1, bias=False), w[2], affine=True),
            Layer(nn.Conv2d(w[2], w[3], 3, padding=1, groups=2, bias=False), w[3], affine=True),
            Layer(nn.Conv2d(w[3], w[4], 3, padding=1, groups=2, bias=False), w[4], affine=True),
        ])  # fmt: skip
        side = resolution
        for stride in (4, 2, 2):
            side = -(-side // stride)
        self.num_features = w[4] * side**2

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return each convolution's output for images [N, C, R, R] in [-1, 1], after batch norm and nonlinearity."""
        outputs = []
        for i, layer in enumerate(self.layers):
            x = layer(F.max_pool2d(x, 3, stride=2, padding=1) if i in (1, 2) else x)
            outputs.append(x)
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of conv5, flattened: [N, num_features]."""
        return self.maps(x)[-1].flatten(1)
