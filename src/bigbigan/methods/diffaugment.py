"""Apply the same random, differentiable transforms to D's real and generated inputs: DiffAugment (Zhao et al. 2020).

They keep D from memorising a small set of images. As generated images are augmented too, and the gradient passes
through the transforms, G does not learn to produce augmented images. Strengths are the published ones; empty pixels are
filled with 0, the middle of [-1, 1]. E's inputs can have the same transforms (`encoder.augment`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from bigbigan.compute import has_float64

__all__ = ["augmentation", "augmented"]

SHIFT = 1 / 8  # of the side
CUTOUT = 1 / 2  # of the side


def augmentation(count: int, generator: torch.Generator) -> Tensor:
    """Draw the noise of `augmented` for `count` images: [count, 7], each U(0, 1)."""
    return torch.rand(count, 7, generator=generator, device=generator.device)


def augmented(x: Tensor, policy: Sequence[str], noise: Tensor) -> Tensor:
    """Augment images [N, C, R, R] in [-1, 1], each by its own noise: same shape, colours may leave [-1, 1].

    Args:
        policy: of "color", "translation", "cutout", applied in that order; with none of them x is returned.
        noise: see `augmentation`.
    """
    if "color" in policy:
        x = color(x, noise[:, :3])
    if "translation" in policy:
        x = translation(x, noise[:, 3:5])
    if "cutout" in policy:
        x = cutout(x, noise[:, 5:])
    return x


def color(x: Tensor, noise: Tensor) -> Tensor:
    """Change brightness by -0.5 to 0.5, saturation times 0 to 2, contrast times 0.5 to 1.5."""
    brightness, saturation, contrast = noise.view(-1, 3, 1, 1, 1).unbind(1)
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (2 * saturation) + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (contrast + 0.5) + mean


def _index(noise: Tensor, count: int) -> Tensor:
    """Return whole numbers from 0 to `count` - 1 for uniform noise in [0, 1)."""
    if not has_float64(noise.device.type):
        return (noise * count).long().clamp(max=count - 1)  # the product may be rounded up to `count`
    return (noise.double() * count).long()


def translation(x: Tensor, noise: Tensor) -> Tensor:
    """Shift images by up to an eighth of the side along each axis."""
    n, side = len(x), x.shape[-1]
    max_shift = int(side * SHIFT + 0.5)
    place = torch.arange(side, device=x.device)
    rows, columns = (_index(noise, 2 * max_shift + 1)[:, :, None] + place).unbind(1)  # in the padded image
    padded = pad(x, (max_shift, max_shift, max_shift, max_shift)).permute(0, 2, 3, 1)
    each = torch.arange(n, device=x.device).view(-1, 1, 1)
    return padded[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(x: Tensor, noise: Tensor) -> Tensor:
    """Set a square of half the side, its middle anywhere in the image, to 0."""
    side = x.shape[-1]
    size = int(side * CUTOUT + 0.5)
    place = torch.arange(side, device=x.device)
    first = _index(noise, side + 1 - size % 2)[:, :, None] - size // 2
    rows, columns = ((place >= first) & (place < first + size)).unbind(1)
    return x.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0.0)
