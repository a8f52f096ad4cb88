"""Random crops of whole batches on the device: boxes, and bicubic resizing of each image's own box.

Resizing is linear, rows and columns apart, so the crop of an image is two matrix products with a weight matrix of
its own: [R, S] rows by [S, S] pixels by [S, R] columns. The weights are those of Pillow's BICUBIC on the cut-out
(a = -0.5, widened when shrinking, so that nothing is skipped, unlike TensorFlow 1's `resize_bicubic`), and mirroring
is a flip of the columns' weights.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "CENTRAL",
    "STORED",
    "Boxes",
    "fixed_boxes",
    "resize_boxes",
    "resize_center",
    "resnet_boxes",
    "square_boxes",
]

CENTRAL = 0.875  # share of the side that evaluation sees, and training's crops are drawn from all of (tpu/resnet)
COVERED = 0.1  # TensorFlow's min_object_covered where the object is the image: the default, and tpu/resnet's
# Side that photographs are stored at, in multiples of R: at 2.5, 14 % of the crops are enlarged; of squares, none is.
STORED = {"resnet_crop": 2.5, "square_crop": 2**0.5, "random_crop": 1 / CENTRAL}
TOGETHER = 256  # images that are resized at a time: their pixels take four times the memory as floats


class Boxes(NamedTuple):
    """Cut-outs of N images, in whole pixels: each int64 [N]; `mirrored` bool [N]."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    mirrored: Tensor


def resnet_boxes(count: int, side: int, generator: torch.Generator, tries: int = 10) -> Boxes:
    """8-100 % of the area, aspect ratio 3/4-4/3, mirrored half of the time (tensorflow/tpu resnet_preprocessing).

    In effect it is 10-100 %: the published call asks for crops that cover a tenth of the image. Where no try succeeds,
    or the crop is the whole image, the central square of 7/8 of the side, as there.
    """
    aspect, tall, place, mirror = _uniform(generator, (count, tries), (count, tries), (2, count), (count,))
    aspect = 3 / 4 + (4 / 3 - 3 / 4) * aspect
    height, width, found = _distorted(side, 0.08, aspect, tall)
    found &= (height < side) | (width < side)
    central = int(CENTRAL * side)
    height, width = (torch.where(found, length, central) for length in (height, width))
    top, left = (
        torch.where(found, _place(p, length, side), (side - central + 1) // 2)
        for p, length in zip(place, (height, width), strict=True)
    )
    return Boxes(top, left, height, width, mirror < 0.5)


def square_boxes(count: int, side: int, generator: torch.Generator) -> Boxes:
    """A square of 50-100 % of the area, not mirrored (Lucic et al. 2019, compare_gan's "distorted")."""
    tall, place = _uniform(generator, (count, 1), (2, count))
    length, _, found = _distorted(side, 0.5, torch.ones_like(tall), tall)
    length = torch.where(found, length, side)
    top, left = (_place(p, length, side) for p in place)
    return Boxes(top, left, length, length, torch.zeros_like(length, dtype=torch.bool))


def _distorted(side: int, least: float, aspect: Tensor, tall: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Height and width, int64 [N], of crops of `least` to all of the area of an image, and bool [N], whether a try
    succeeded; the first that does counts. By TensorFlow's `sample_distorted_bounding_box`
    (sample_distorted_bounding_box_op.cc, GenerateRandomCrop).

    Not the area is uniform but the height, between what the aspect ratio allows, so that small crops are more frequent:
    the mean area of 8-100 % is 0.42, and 0.74 of squares of 50-100 %.

    Args:
        side: S of the square image.
        least: smallest area, as a share of the image's.
        aspect: width / height of each try, [N, tries].
        tall: where the height lies between its bounds, [N, tries] in [0, 1).
    """
    smallest, largest = least * side**2, side**2
    low, high = (((area / aspect).sqrt()).round() for area in (smallest, largest))
    too_wide = (high * aspect).round() > side
    high = torch.where(too_wide, ((side + 0.5) / aspect).floor(), high)
    high = torch.where((high * aspect).round() > side, high - 1, high).clamp(max=side)
    low = torch.minimum(low, high)
    height = low + _below(tall, high - low + 1)
    height = torch.where(height * (height * aspect).round() < smallest, height + 1, height)  # by rounding alone
    height = torch.where(height * (height * aspect).round() > largest, height - 1, height)
    width = (height * aspect).round()
    area = height * width
    fits = (area >= max(smallest, COVERED * side**2)) & (area <= largest) & (width <= side) & (height <= side)
    first = fits.int().argmax(dim=1, keepdim=True)
    height, width = (length.gather(1, first).squeeze(1).long() for length in (height, width))
    return height, width, fits.any(dim=1)


def _place(share: Tensor, length: Tensor, side: int) -> Tensor:
    """Where crops of this length begin; the last place is left out, as in TensorFlow."""
    return _below(share, (side - length).clamp(min=1)).long()


def _below(share: Tensor, count: Tensor) -> Tensor:
    """Whole numbers below `count`, of uniform draws in [0, 1)."""
    return torch.minimum((share * count).floor(), count - 1)  # rounding may have reached `count`


def fixed_boxes(count: int, side: int, generator: torch.Generator) -> Boxes:
    """Squares of the size that evaluation sees, anywhere, not mirrored (BiGAN: 112 of 128 px)."""
    (place,) = _uniform(generator, (2, count))
    length = torch.full((count,), round(CENTRAL * side), device=generator.device)
    top, left = ((p * (side - length + 1)).long() for p in place)
    return Boxes(top, left, length, length, torch.zeros_like(length, dtype=torch.bool))


def resize_boxes(pixels: Tensor, boxes: Boxes, resolution: int) -> Tensor:
    """The cut-outs of uint8 pixels [N, C, S, S], each resized to [C, R, R], as float in [0, 255]."""
    if len(pixels) > TOGETHER:
        parts = zip(pixels.split(TOGETHER), zip(*(field.split(TOGETHER) for field in boxes), strict=True), strict=True)
        return torch.cat([resize_boxes(part, Boxes(*fields), resolution) for part, fields in parts])
    side = pixels.shape[-1]
    rows = _weights(boxes.top, boxes.height, side, resolution)
    columns = _weights(boxes.left, boxes.width, side, resolution)
    columns = torch.where(boxes.mirrored[:, None, None], columns.flip(1), columns)
    cut = torch.einsum("nrs,ncst,nqt->ncrq", rows, pixels.float(), columns)
    return cut.clamp_(0, 255)  # the cubic overshoots at edges


def resize_center(pixels: Tensor, resolution: int) -> Tensor:
    """The middle of uint8 pixels [N, C, S, S], resized to uint8 [N, C, R, R]: what would be cut out, without resizing,
    of the same images at round(R / 0.875) px. Its edges may lie between pixels."""
    side, whole = pixels.shape[-1], round(resolution / CENTRAL)
    start, size = (
        torch.full((len(pixels),), side * length / whole, device=pixels.device)
        for length in ((whole - resolution) // 2, resolution)
    )
    boxes = Boxes(start, start, size, size, torch.zeros_like(start, dtype=torch.bool))
    return resize_boxes(pixels, boxes, resolution).round_().to(torch.uint8)


def _weights(start: Tensor, length: Tensor, side: int, resolution: int) -> Tensor:
    """Bicubic weights [N, R, S] from pixels of [start, start + length) to R outputs; rows add up to 1."""
    step = (length / resolution)[:, None, None]
    output = torch.arange(resolution, device=start.device)[None, :, None]
    pixel = torch.arange(side, device=start.device)[None, None, :]
    begin, end = start[:, None, None], (start + length)[:, None, None]
    distance = (pixel + 0.5 - begin - (output + 0.5) * step).abs() / step.clamp(min=1)
    weights = torch.where((pixel + 1 > begin) & (pixel < end), _cubic(distance), 0)
    return weights / weights.sum(dim=2, keepdim=True)


def _cubic(t: Tensor, a: float = -0.5) -> Tensor:
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return torch.where(t < 1, near, torch.where(t < 2, far, 0))


def _uniform(generator: torch.Generator, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Uniform draws in [0, 1), one tensor a shape, from one draw of all."""
    draws = torch.rand(sum(map(math.prod, shapes)), generator=generator, device=generator.device)
    return [part.view(shape) for part, shape in zip(draws.split([*map(math.prod, shapes)]), shapes, strict=True)]
