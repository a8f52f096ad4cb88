"""Image tensors: value ranges, sizes, distances. Images are float [N, C, H, W] in [-1, 1], or uint8."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["pool_to", "reconstruction_distances", "to_float", "to_uint8"]


def to_float(pixels: Tensor) -> Tensor:
    """uint8 [N, C, H, W] to float in [-1, 1]: x / 127.5 - 1."""
    return pixels.float().div_(127.5).sub_(1)


def to_uint8(x: Tensor) -> Tensor:
    """Float in [-1, 1] to uint8, the authors' way back: 128·(x + 1), clipped and truncated."""
    return (128 * (x.float() + 1)).clamp(0, 255).to(torch.uint8)


def pool_to(x: Tensor, resolution: int) -> Tensor:
    """[N, C, R', R'] brought to [N, C, R, R], D's view of the crop E sees: average-pooled, or resized (bicubic,
    antialiased) where R' is no multiple of R."""
    side = x.shape[-1]
    if side == resolution:
        return x
    if side % resolution == 0:
        return F.avg_pool2d(x, side // resolution)
    return F.interpolate(x, size=(resolution, resolution), mode="bicubic", antialias=True).clamp(-1, 1)


def reconstruction_distances(x: Tensor, x_hat: Tensor) -> tuple[Tensor, Tensor]:
    """‖x − G(E(x))‖₂ of each image of a batch, and the same with the reconstruction of the image before it: where E has
    learned nothing, the two are equal in the mean.

    Args:
        x, x_hat: [N, C, R, R] in [-1, 1].

    Returns:
        Two of [N], in units of pixels in [0, 1].
    """
    own, mismatched = ((x - y).flatten(1).norm(dim=1) / 2 for y in (x_hat, x_hat.roll(1, 0)))
    return own, mismatched
