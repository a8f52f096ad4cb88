"""Make the views of images for pretext tasks: whole batches, on the device, with random numbers that are given.

Images are float [N, C, R, R] in [-1, 1]; views are [N, P, C, S, S], P for each image. C is 3, or 1 for grey images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bigbigan.image import to_grey
from bigbigan.image.crops import Boxes, resize_boxes

__all__ = [
    "BIN",
    "crops",
    "gamut_bins",
    "grid_of_nine",
    "lab_to_rgb",
    "lightness",
    "mirrored",
    "overlapping_grid",
    "rgb_to_lab",
    "rotations",
    "single_channel",
    "standardized",
    "without_colour",
]


def rotations(x: Tensor) -> Tensor:
    """Return the image upright, and rotated counterclockwise by 90, 180 and 270 degrees: P = 4, S = R."""
    return torch.stack([x.rot90(turns, (2, 3)) for turns in range(4)], dim=1)


# -- patches ------------------------------------------------------------------------------------------------------


def grid_of_nine(x: Tensor, noise: Tensor | None = None, gap: bool = True) -> Tensor:
    """Cut patches of a 3×3 grid, row by row: P = 9, S = R / 4 (as google/revisiting-self-supervised).

    An image of 256 px has patches of 64 px in cells of 85.

    Args:
        x: images.
        noise: positions of the patches in their cells, [N, 2, 9] in [0, 1); if None they are in the middle. The last
            row and column of a cell stay free, so that neighbours never touch.
        gap: False cuts adjacent patches, at fixed positions.
    """
    side, size = x.shape[-1], x.shape[-1] // 4
    cell = side // 3 if gap else size
    start, slack = (side - 3 * cell) // 2, cell - size
    if not gap or noise is None:
        starts = [start + i * cell + slack // 2 for i in range(3)]
        return torch.stack([x[:, :, t : t + size, l : l + size] for t in starts for l in starts], dim=1)  # noqa: E741
    cells = torch.arange(9, device=x.device)
    top, left = (start + cell * torch.stack([cells // 3, cells % 3]) + (slack * noise).long()).unbind(1)
    within = torch.arange(size, device=x.device)
    n = torch.arange(len(x), device=x.device)[:, None, None, None]
    rows, columns = (top[..., None] + within)[..., None], (left[..., None] + within)[:, :, None]
    return x[n, :, rows, columns].movedim(-1, 2)


def overlapping_grid(x: Tensor) -> Tensor:
    """Cut patches of a 7×7 grid, row by row, each overlapping the next by half: P = 49, S = R / 4 (CPC)."""
    size, step = x.shape[-1] // 4, x.shape[-1] // 8
    return x.unfold(2, size, step).unfold(3, size, step).flatten(2, 3).movedim(2, 1)


def crops(x: Tensor, boxes: Boxes, side: int) -> Tensor:
    """Crop each image to its boxes, whose fields are [N, P], and resize the crops (bicubic): S = `side`."""
    pixels = (x + 1) * 127.5
    # One crop of each image at a time: stored images are much larger than crops, and would be copied for each.
    cut = [resize_boxes(pixels, Boxes(*(field[:, p] for field in boxes)), side) for p in range(boxes.top.shape[1])]
    return torch.stack(cut, dim=1) / 127.5 - 1


# -- removing cues --------------------------------------------------------------------------------------------------


def without_colour(x: Tensor, grey: Tensor) -> Tensor:
    """Convert the images [..., C, S, S] marked in `grey`, bool [...], to grey.

    Otherwise colour fringes (chromatic aberration) would reveal a patch's position in a photograph.
    """
    without = to_grey(x) if x.shape[-3] == 3 else x
    return torch.where(grey[..., None, None, None], without, x)


def single_channel(x: Tensor, chosen: Tensor, single: Tensor) -> Tensor:
    """Replace all channels by one of them in some images [..., C, S, S].

    Args:
        x: images.
        chosen: which channel, [...] in [0, 1).
        single: which images, bool [...].
    """
    index = (chosen * x.shape[-3]).long()[..., None, None, None]
    one = x.gather(-3, index.expand(*x.shape[:-3], 1, *x.shape[-2:]))
    return torch.where(single[..., None, None, None], one, x)


def mirrored(x: Tensor, which: Tensor) -> Tensor:
    """Flip the images [..., C, S, S] marked in `which`, bool [...], left to right."""
    return torch.where(which[..., None, None, None], x.flip(-1), x)


def standardized(x: Tensor) -> Tensor:
    """Standardise each image [..., C, S, S] to mean 0 and variance 1; constant images become 0."""
    centred = x - x.mean((-3, -2, -1), keepdim=True)
    return centred / centred.square().mean((-3, -2, -1), keepdim=True).sqrt().clamp(min=0.02)


# -- colour ---------------------------------------------------------------------------------------------------------

TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))  # sRGB
WHITE = (0.95047, 1.0, 1.08883)  # D65
BIN = 10  # side of the cells (bins) of the ab plane

# Cells of the ab plane that contain some sRGB colour: a / BIN, and the range of b / BIN (tested in test_pretext.py).
GAMUT = {
    -9: (8, 8), -8: (4, 8), -7: (2, 9), -6: (0, 9), -5: (-2, 9), -4: (-3, 9), -3: (-4, 9), -2: (-4, 9), -1: (-5, 9),
    0: (-6, 9), 1: (-7, 8), 2: (-7, 8), 3: (-8, 8), 4: (-9, 8), 5: (-9, 7), 6: (-10, 7), 7: (-11, 7), 8: (-11, 7),
    9: (-9, 0), 10: (-7, -5),
}  # fmt: skip


def gamut_bins() -> list[tuple[float, float]]:
    """Return the centres (a, b) of all cells that contain sRGB colours."""
    return [(BIN * a, BIN * b) for a, (low, high) in GAMUT.items() for b in range(low, high + 1)]


def rgb_to_lab(x: Tensor) -> Tensor:
    """Convert sRGB [N, 3, H, W] in [-1, 1] to CIE L*a*b*: L in [0, 100], a and b within ±110."""
    rgb = (x + 1) / 2
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    white = torch.tensor(WHITE, device=x.device).view(3, 1, 1)
    xyz = torch.einsum("ij,njhw->nihw", torch.tensor(TO_XYZ, device=x.device), linear) / white
    f = torch.where(xyz > 0.008856, xyz.clamp(min=1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
    fx, fy, fz = f.unbind(1)
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], dim=1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Convert CIE L*a*b* [N, 3, H, W] to sRGB in [-1, 1]; colours outside sRGB are clipped."""
    light, a, b = lab.unbind(1)
    fy = (light + 16) / 116
    f = torch.stack([fy + a / 500, fy, fy - b / 200], dim=1)
    xyz = torch.where(f > 0.2068966, f**3, (f - 16 / 116) / 7.787)
    xyz = xyz * torch.tensor(WHITE, device=lab.device).view(3, 1, 1)
    linear = torch.einsum("ij,njhw->nihw", torch.tensor(TO_XYZ, device=lab.device).inverse(), xyz).clamp(0, 1)
    rgb = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb.clamp(0, 1) * 2 - 1


def lightness(x: Tensor) -> Tensor:
    """Return L* of images [..., 3, S, S], scaled to [-1, 1] and repeated in all three channels."""
    light = rgb_to_lab(x.reshape(-1, *x.shape[-3:]))[:, :1] / 50 - 1
    return light.expand(-1, 3, -1, -1).reshape(x.shape)
