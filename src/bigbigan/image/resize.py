"""Resize images, as tensors on the device and as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["pool_to", "resize", "resize_square", "way_to_resize"]


def resize(x: Tensor, side: int) -> Tensor:
    """Resize float [N, C, H, W] to [N, C, side, side]: bicubic, antialiased, may overshoot the range of x."""
    import torch.nn.functional as F  # here, so that images can be read without torch

    return F.interpolate(x, size=(side, side), mode="bicubic", antialias=True, align_corners=False)


def pool_to(x: Tensor, resolution: int) -> Tensor:
    """Reduce [N, C, R', R'] in [-1, 1] to [N, C, R, R], as D sees the images of E.

    Images are average-pooled, or resized (see `resize`) if R' is not a multiple of R.
    """
    side = x.shape[-1]
    if side == resolution:
        return x
    if side % resolution == 0:
        import torch.nn.functional as F

        return F.avg_pool2d(x, side // resolution)
    return resize(x, resolution).clamp(-1, 1)


def way_to_resize(shape: tuple[int, ...], resolution: int, pad: bool = False) -> str:
    """Return how `resize_square` resizes an array of this shape [H, W, C]: "exact", "padded", "enlarged", "reduced"."""
    side = min(shape[:2])
    if side == resolution:
        return "exact"
    if pad and 0.8 * resolution < side < resolution:
        return "padded"
    return "enlarged" if side < resolution else "reduced"


def resize_square(array: np.ndarray, resolution: int, pad: bool = False) -> np.ndarray:
    """Crop an image, uint8 [H, W, C], to its largest central square and resize it to uint8 [R, R, C].

    Resizing is Pillow's bicubic: its kernel widens when reducing, so it does not alias (torch's plain interpolation
    does).

    With `pad`, squares a little smaller than R (more than 0.8 of it) are padded with zeros instead, which keeps
    their pixels exact: 28 -> 32, as is usual for MNIST. `load_pixels` pads arrays, not image files.
    """
    way = way_to_resize(array.shape, resolution, pad)
    height, width, channels = array.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    array = array[top : top + side, left : left + side]
    if way == "exact":
        return array
    if way == "padded":
        before, end = (resolution - len(array)) // 2, (resolution + len(array)) // 2
        padded = np.zeros((resolution, resolution, channels), dtype=array.dtype)
        padded[before:end, before:end] = array
        return padded
    image = Image.fromarray(array[:, :, 0] if channels == 1 else np.ascontiguousarray(array))
    resized = np.asarray(image.resize((resolution, resolution), Image.Resampling.BICUBIC))
    return resized[:, :, None] if channels == 1 else resized
