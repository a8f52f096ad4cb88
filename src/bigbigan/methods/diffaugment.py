"""Differentiable augmentation (Zhao et al. 2020, "DiffAugment"): what D sees is changed at random, real images and
drawn ones alike, and the gradient goes through to G.

With few images D then cannot learn them by heart, and G does not learn the changes, as it would if real images alone
were changed. Strengths are the published ones; what is shifted or cut out is filled with 0, the middle of [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["augmentation", "augmented"]

SHIFT = 1 / 8  # of the side
CUTOUT = 1 / 2  # likewise


def augmentation(count: int, noise: torch.Generator) -> Tensor:
    """What `augmented` draws for so many images: [count, 7], each U(0, 1)."""
    return torch.rand(count, 7, generator=noise, device=noise.device)


def augmented(x: Tensor, policy: Sequence[str], draws: Tensor) -> Tensor:
    """Images [N, C, R, R] in [-1, 1], each with draws of its own: the same shape, colours may leave [-1, 1].

    Args:
        policy: of "color", "translation", "cutout", applied in that order; with none of them x is returned.
        draws: see `augmentation`.
    """
    if "color" in policy:
        x = color(x, draws[:, :3])
    if "translation" in policy:
        x = translation(x, draws[:, 3:5])
    if "cutout" in policy:
        x = cutout(x, draws[:, 5:])
    return x


def color(x: Tensor, draws: Tensor) -> Tensor:
    """Brightness by -0.5 to 0.5, saturation times 0 to 2, contrast times 0.5 to 1.5."""
    brightness, saturation, contrast = draws.view(-1, 3, 1, 1, 1).unbind(1)
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (2 * saturation) + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (contrast + 0.5) + mean


def translation(x: Tensor, draws: Tensor) -> Tensor:
    """Shifted by up to an eighth of the side along each axis."""
    n, side = len(x), x.shape[-1]
    most = int(side * SHIFT + 0.5)
    place = torch.arange(side, device=x.device)
    rows, columns = ((draws.double() * (2 * most + 1)).long()[:, :, None] + place).unbind(1)  # in the padded image
    padded = pad(x, (most, most, most, most)).permute(0, 2, 3, 1)
    each = torch.arange(n, device=x.device).view(-1, 1, 1)
    return padded[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(x: Tensor, draws: Tensor) -> Tensor:
    """A square of half the side, its middle anywhere in the image, set to 0."""
    side = x.shape[-1]
    size = int(side * CUTOUT + 0.5)
    place = torch.arange(side, device=x.device)
    first = (draws.double() * (side + 1 - size % 2)).long()[:, :, None] - size // 2
    rows, columns = ((place >= first) & (place < first + size)).unbind(1)
    return x.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0.0)
