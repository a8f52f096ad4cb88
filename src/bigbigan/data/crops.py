"""Random crops of whole batches on the device: boxes, and bicubic resizing of each image's own box.

Resizing is linear, rows and columns apart, so the crop of an image is two matrix products with a weight matrix of
its own: [R, S] rows by [S, S] pixels by [S, R] columns. The weights are those of Pillow's BICUBIC on the cut-out
(a = -0.5, widened when shrinking, so that nothing is skipped), and mirroring is a flip of the columns' weights.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["CENTRAL", "Boxes", "fixed_boxes", "resize_boxes", "resnet_boxes", "square_boxes"]

CENTRAL = 0.875  # share of the side that evaluation sees, and training's crops are drawn from all of (tpu/resnet)


class Boxes(NamedTuple):
    """Cut-outs of N images, in whole pixels: each int64 [N]; `mirrored` bool [N]."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    mirrored: Tensor


def resnet_boxes(count: int, side: int, generator: torch.Generator, tries: int = 10) -> Boxes:
    """8-100 % of the area, aspect ratio 3/4-4/3, mirrored half of the time (tensorflow/tpu resnet_preprocessing).

    The first of `tries` draws that fits into the image counts; where none does, the central square.
    """
    area, aspect, place, mirror = _uniform(generator, (count, tries), (count, tries), (2, count), (count,))
    area, aspect = (0.08 + 0.92 * area) * side**2, 3 / 4 + (4 / 3 - 3 / 4) * aspect
    width, height = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (width <= side) & (height <= side)
    first = fits.int().argmax(dim=1, keepdim=True)
    central, found = round(CENTRAL * side), fits.any(dim=1)
    height, width = (torch.where(found, t.gather(1, first).squeeze(1), central).long() for t in (height, width))
    top, left = (
        torch.where(found, (p * (side - length + 1)).long(), (side - central) // 2)
        for p, length in zip(place, (height, width), strict=True)
    )
    return Boxes(top, left, height, width, mirror < 0.5)


def square_boxes(count: int, side: int, generator: torch.Generator) -> Boxes:
    """A square of 50-100 % of the area, not mirrored (Lucic et al. 2019, compare_gan's "distorted")."""
    area, place = _uniform(generator, (count,), (2, count))
    length = ((0.5 + 0.5 * area).sqrt() * side).round().long()
    top, left = ((p * (side - length + 1)).long() for p in place)
    return Boxes(top, left, length, length, torch.zeros_like(length, dtype=torch.bool))


def fixed_boxes(count: int, side: int, generator: torch.Generator) -> Boxes:
    """Squares of the size that evaluation sees, anywhere, not mirrored (BiGAN: 112 of 128 px)."""
    (place,) = _uniform(generator, (2, count))
    length = torch.full((count,), round(CENTRAL * side), device=generator.device)
    top, left = ((p * (side - length + 1)).long() for p in place)
    return Boxes(top, left, length, length, torch.zeros_like(length, dtype=torch.bool))


def resize_boxes(pixels: Tensor, boxes: Boxes, resolution: int) -> Tensor:
    """The cut-outs of uint8 pixels [N, C, S, S], each resized to [C, R, R], as float in [0, 255]."""
    side = pixels.shape[-1]
    rows = _weights(boxes.top, boxes.height, side, resolution)
    columns = _weights(boxes.left, boxes.width, side, resolution)
    columns = torch.where(boxes.mirrored[:, None, None], columns.flip(1), columns)
    cut = torch.einsum("nrs,ncst,nqt->ncrq", rows, pixels.float(), columns)
    return cut.clamp_(0, 255)  # the cubic overshoots at edges


def _weights(start: Tensor, length: Tensor, side: int, resolution: int) -> Tensor:
    """Bicubic weights [N, R, S] from pixels of [start, start + length) to R outputs; rows add up to 1."""
    step = (length / resolution)[:, None, None]
    output = torch.arange(resolution, device=start.device)[None, :, None]
    pixel = torch.arange(side, device=start.device)[None, None, :]
    begin, end = start[:, None, None], (start + length)[:, None, None]
    distance = (pixel + 0.5 - begin - (output + 0.5) * step).abs() / step.clamp(min=1)
    weights = torch.where((pixel >= begin) & (pixel < end), _cubic(distance), 0)
    return weights / weights.sum(dim=2, keepdim=True)


def _cubic(t: Tensor, a: float = -0.5) -> Tensor:
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return torch.where(t < 1, near, torch.where(t < 2, far, 0))


def _uniform(generator: torch.Generator, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Uniform draws in [0, 1), one tensor a shape, from one draw of all."""
    draws = torch.rand(sum(map(math.prod, shapes)), generator=generator, device=generator.device)
    return [part.view(shape) for part, shape in zip(draws.split([*map(math.prod, shapes)]), shapes, strict=True)]
