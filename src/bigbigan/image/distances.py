"""Measure distances between images, in units of pixels in [0, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["image_distances", "reconstruction_distances"]


def image_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return ‖x − y‖₂ of each pair of images, [N, C, R, R] in [-1, 1] each, as [N], pixels in [0, 1]."""
    return (x - y).flatten(1).norm(dim=1) / 2


def reconstruction_distances(x: Tensor, x_hat: Tensor) -> tuple[Tensor, Tensor]:
    """Return ‖x − G(E(x))‖₂ of each image of a batch, and the distance to the reconstruction of the previous image.

    If E has learned nothing, the two have equal means.

    Args:
        x, x_hat: [N, C, R, R] in [-1, 1].

    Returns:
        Two of [N], in units of pixels in [0, 1].
    """
    return image_distances(x, x_hat), image_distances(x, x_hat.roll(1, 0))
