"""Crop whole batches at random on the device: draw a box for each image, and resize the box (bicubic).

Resizing is linear and separable, so the crop of an image is two products with weight matrices: [R, S] rows by [S, S]
pixels by [S, R] columns. The weights are those of Pillow's BICUBIC on the cropped image (a = -0.5, widened when
shrinking, so that no pixel is skipped, unlike TensorFlow 1's `resize_bicubic`), and mirroring is a flip of the columns'
weights.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bigbigan.image.crop_sizes import CENTRAL

__all__ = [
    "Boxes",
    "fixed_boxes",
    "resize_boxes",
    "resize_center",
    "resnet_boxes",
    "square_boxes",
]

COVERED = 0.1  # TensorFlow's min_object_covered, with the image as the object: the default, also in tpu/resnet
CHUNK = 256  # images that are resized at a time: as floats, pixels take four times the memory


class Boxes(NamedTuple):
    """Crop boxes of N images, in whole pixels: each int64 [N]; `mirrored` bool [N]."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    mirrored: Tensor


def resnet_boxes(count: int, side: int, generator: torch.Generator, tries: int = 10) -> Boxes:
    """Draw boxes of 8-100 % of the area, aspect ratio 3/4-4/3, half of them mirrored (tpu resnet_preprocessing).

    In effect the area is 10-100 %: the published code requires that crops cover a tenth of the image. If no try
    succeeds, or the crop is the whole image, the box is the central square of 7/8 of the side, as in that code.
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
    """Draw squares of 50-100 % of the area, not mirrored (Lucic et al. 2019, compare_gan's "distorted")."""
    tall, place = _uniform(generator, (count, 1), (2, count))
    length, _, found = _distorted(side, 0.5, torch.ones_like(tall), tall)
    length = torch.where(found, length, side)
    top, left = (_place(p, length, side) for p in place)
    return Boxes(top, left, length, length, torch.zeros_like(length, dtype=torch.bool))


def _distorted(side: int, min_area: float, aspect: Tensor, tall: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return height and width, int64 [N], of random crops, and whether a try succeeded, bool [N].

    The first successful try is used. It is TensorFlow's `sample_distorted_bounding_box`
    (sample_distorted_bounding_box_op.cc, GenerateRandomCrop). The height is uniform, between the bounds that the aspect
    ratio allows, and not the area, so small crops are more frequent: the mean area of 8-100 % is 0.42, and 0.74 for
    squares of 50-100 %.

    Args:
        side: S of the square image.
        min_area: minimum area, as a share of the image's.
        aspect: width / height of each try, [N, tries].
        tall: the height as a share of the range between its bounds, [N, tries] in [0, 1).
    """
    smallest, largest = min_area * side**2, side**2
    low, high = (((area / aspect).sqrt()).round() for area in (smallest, largest))
    too_wide = (high * aspect).round() > side
    high = torch.where(too_wide, ((side + 0.5) / aspect).floor(), high)
    high = torch.where((high * aspect).round() > side, high - 1, high).clamp(max=side)
    low = torch.minimum(low, high)
    height = low + _below(tall, high - low + 1)
    height = torch.where(height * (height * aspect).round() < smallest, height + 1, height)  # by rounding
    height = torch.where(height * (height * aspect).round() > largest, height - 1, height)
    width = (height * aspect).round()
    area = height * width
    fits = (area >= max(smallest, COVERED * side**2)) & (area <= largest) & (width <= side) & (height <= side)
    first = fits.int().argmax(dim=1, keepdim=True)
    height, width = (length.gather(1, first).squeeze(1).long() for length in (height, width))
    return height, width, fits.any(dim=1)


def _place(share: Tensor, length: Tensor, side: int) -> Tensor:
    """Return the start of crops of this length, never the last possible one, as in TensorFlow."""
    return _below(share, (side - length).clamp(min=1)).long()


def _below(share: Tensor, count: Tensor) -> Tensor:
    """Convert uniform random numbers in [0, 1) to whole numbers below `count`."""
    return torch.minimum((share * count).floor(), count - 1)  # rounding may give `count`


def fixed_boxes(count: int, side: int, generator: torch.Generator) -> Boxes:
    """Draw squares of the size that evaluation sees, anywhere, not mirrored (BiGAN: 112 of 128 px)."""
    (place,) = _uniform(generator, (2, count))
    length = torch.full((count,), round(CENTRAL * side), device=generator.device)
    top, left = ((p * (side - length + 1)).long() for p in place)
    return Boxes(top, left, length, length, torch.zeros_like(length, dtype=torch.bool))


def resize_boxes(pixels: Tensor, boxes: Boxes, resolution: int) -> Tensor:
    """Crop pixels [N, C, S, S] in [0, 255] and resize each crop to [C, R, R]: float in [0, 255]."""
    if len(pixels) > CHUNK:
        parts = zip(pixels.split(CHUNK), zip(*(field.split(CHUNK) for field in boxes), strict=True), strict=True)
        return torch.cat([resize_boxes(part, Boxes(*fields), resolution) for part, fields in parts])
    side = pixels.shape[-1]
    rows = _weights(boxes.top, boxes.height, side, resolution)
    columns = _weights(boxes.left, boxes.width, side, resolution)
    columns = torch.where(boxes.mirrored[:, None, None], columns.flip(1), columns)
    cut = torch.einsum("nrs,ncst,nqt->ncrq", rows, pixels.float(), columns)
    return cut.clamp_(0, 255)  # the cubic overshoots at edges


def resize_center(pixels: Tensor, resolution: int) -> Tensor:
    """Crop the centre of uint8 pixels [N, C, S, S] and resize it to uint8 [N, C, R, R].

    It is the region of the central R × R pixels of the same images at round(R / 0.875) px; its edges may be between
    pixels.
    """
    side, whole = pixels.shape[-1], round(resolution / CENTRAL)
    start, size = (
        torch.full((len(pixels),), side * length / whole, device=pixels.device)
        for length in ((whole - resolution) // 2, resolution)
    )
    boxes = Boxes(start, start, size, size, torch.zeros_like(start, dtype=torch.bool))
    return resize_boxes(pixels, boxes, resolution).round_().to(torch.uint8)


def _weights(start: Tensor, length: Tensor, side: int, resolution: int) -> Tensor:
    """Return bicubic weights [N, R, S] from the pixels in [start, start + length) to R outputs; rows add up to 1."""
    step = (length / resolution)[:, None, None]
    output = torch.arange(resolution, device=start.device)[None, :, None]
    pixel = torch.arange(side, device=start.device)[None, None, :]
    begin, end = start[:, None, None], (start + length)[:, None, None]
    distance = (pixel + 0.5 - begin - (output + 0.5) * step).abs() / step.clamp(min=1)
    weights = torch.where((pixel + 1 > begin) & (pixel < end), _cubic(distance), 0)
    return weights / weights.sum(dim=2, keepdim=True)


def _cubic(t: Tensor) -> Tensor:
    a = -0.5  # as Pillow's bicubic
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return torch.where(t < 1, near, torch.where(t < 2, far, 0))


def _uniform(generator: torch.Generator, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Draw uniform random numbers in [0, 1), one tensor for each shape, in one call."""
    numbers = torch.rand(sum(map(math.prod, shapes)), generator=generator, device=generator.device)
    return [part.view(shape) for part, shape in zip(numbers.split([*map(math.prod, shapes)]), shapes, strict=True)]
