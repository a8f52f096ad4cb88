"""Convert images: between uint8 and float, and between grey and colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bigbigan.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["to_channels", "to_float", "to_grey", "to_nearest_uint8", "to_uint8"]

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R 601-2)


def to_float(pixels: Tensor) -> Tensor:
    """Convert uint8 [N, C, H, W] to float in [-1, 1]: x / 127.5 - 1."""
    return pixels.float().div_(127.5).sub_(1)


def to_uint8(x: Tensor) -> Tensor:
    """Convert float in [-1, 1] to uint8 as the paper's authors do: 128·(x + 1), clipped and truncated."""
    return (128 * (x.float() + 1)).clamp(0, 255).byte()


def to_nearest_uint8(x: Tensor) -> Tensor:
    """Convert float in [-1, 1] to the nearest uint8; `to_float` is its inverse."""
    return ((x + 1) * 127.5).round().clamp(0, 255).byte()


def to_grey(x: Tensor) -> Tensor:
    """Convert colour images, float [..., 3, H, W], to grey by luma: [..., 1, H, W]."""
    import torch  # late: messages about mistakes in a command must not wait for torch

    weights = torch.tensor(LUMA, dtype=x.dtype, device=x.device).view(3, 1, 1)
    return (x * weights).sum(-3, keepdim=True)


def to_channels(array: np.ndarray, channels: int) -> np.ndarray:
    """Convert uint8 [..., 1|3] to uint8 [..., channels]: by luma (ITU-R 601-2, as Pillow's "L") or by repetition.

    Raises:
        UserError: another number of channels.
    """
    current = array.shape[-1]
    if current not in (1, 3) or channels not in (1, 3):
        raise UserError(f"cannot convert images of {current} channels to {channels}; expected 1 (grey) or 3 (colour)")
    if current == channels:
        return array
    if channels == 3:
        return np.repeat(array, 3, axis=-1)
    red, green, blue = (array[..., i].astype(np.uint32) for i in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)[..., None]
