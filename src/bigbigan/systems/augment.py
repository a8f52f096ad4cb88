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

__all__ = ["augmented"]

SHIFT = 1 / 8  # of the side
CUTOUT = 1 / 2  # likewise


def augmented(x: Tensor, policy: Sequence[str], noise: torch.Generator) -> Tensor:
    """Images [N, C, R, R] in [-1, 1], each with draws of its own: the same shape, colours may leave [-1, 1].

    Args:
        policy: of "color", "translation", "cutout", applied in that order; with none of them x is returned.
        noise: where the draws come from.
    """
    for name, change in POLICY.items():
        if name in policy:
            x = change(x, noise)
    return x


def _uniform(x: Tensor, low: float, high: float, noise: torch.Generator) -> Tensor:
    return torch.rand(len(x), 1, 1, 1, generator=noise, device=x.device) * (high - low) + low


def color(x: Tensor, noise: torch.Generator) -> Tensor:
    """Brightness by -0.5 to 0.5, saturation times 0 to 2, contrast times 0.5 to 1.5."""
    x = x + _uniform(x, -0.5, 0.5, noise)
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * _uniform(x, 0, 2, noise) + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * _uniform(x, 0.5, 1.5, noise) + mean


def translation(x: Tensor, noise: torch.Generator) -> Tensor:
    """Shifted by up to an eighth of the side along each axis."""
    n, side = len(x), x.shape[-1]
    most = int(side * SHIFT + 0.5)
    place = torch.arange(side, device=x.device)
    rows, columns = (
        torch.randint(2 * most + 1, (n, 1), generator=noise, device=x.device) + place for _ in "yx"
    )  # in the padded image
    padded = pad(x, (most, most, most, most)).permute(0, 2, 3, 1)
    each = torch.arange(n, device=x.device).view(-1, 1, 1)
    return padded[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(x: Tensor, noise: torch.Generator) -> Tensor:
    """A square of half the side, its middle anywhere in the image, set to 0."""
    n, side = len(x), x.shape[-1]
    size = int(side * CUTOUT + 0.5)
    place = torch.arange(side, device=x.device)

    def covered() -> Tensor:
        first = torch.randint(side + 1 - size % 2, (n, 1), generator=noise, device=x.device) - size // 2
        return (place >= first) & (place < first + size)

    hidden = covered()[:, None, :, None] & covered()[:, None, None, :]
    return x.masked_fill(hidden, 0.0)


POLICY = {"color": color, "translation": translation, "cutout": cutout}
