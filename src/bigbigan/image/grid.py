"""Draw grids of images, as picture files."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from bigbigan.image.convert import to_uint8
from bigbigan.io import writing

__all__ = ["SOFTWARE", "grid", "is_foreign", "pairs_grid", "save_animation", "save_image"]

SOFTWARE = "bigbigan"  # recorded in each picture


def grid(images: Tensor, columns: int | None = None, gap: int = 2, min_side: int = 32) -> Image.Image:
    """Draw images, float [N, C, R, R] in [-1, 1], as one picture, row by row, with white gaps between them.

    Small images are enlarged by a whole factor to at least `min_side` pixels.
    """
    count, _, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    scale = max(1, math.ceil(min_side / height))
    tiles = to_uint8(images.detach().cpu()).expand(-1, 3, -1, -1)
    tiles = tiles.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    h, w = height * scale, width * scale
    canvas = torch.full((3, rows * (h + gap) - gap, columns * (w + gap) - gap), 255, dtype=torch.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        canvas[:, y : y + h, x : x + w] = tile
    return Image.fromarray(canvas.permute(1, 2, 0).numpy())


def pairs_grid(above: Tensor, below: Tensor, columns: int = 16) -> Image.Image:
    """Draw rows of `above`, each with the matching row of `below` under it: x over G(E(x))."""
    columns = min(columns, len(above))
    missing = -len(above) % columns
    white = torch.ones(missing, *above.shape[1:])
    above, below = torch.cat([above.cpu(), white]), torch.cat([below.cpu(), white])
    rows = [t for pair in zip(above.split(columns), below.split(columns), strict=True) for t in pair]
    return grid(torch.cat(rows), columns)


def save_animation(frames: list[Image.Image], path: Path) -> None:
    """Write pictures of one size as an endless GIF, each shown for 0.15 s; no incomplete file is ever at `path`."""
    with writing(path, durable=False) as temporary:
        frames[0].save(temporary, "GIF", save_all=True, append_images=frames[1:], duration=150, loop=0)  # ms


def save_image(image: Image.Image, path: Path) -> None:
    """Write a picture as PNG, signed by `SOFTWARE`; no incomplete file is ever at `path`."""
    signature = PngInfo()
    signature.add_text("Software", SOFTWARE)
    with writing(path, durable=False) as temporary:
        image.save(temporary, format="PNG", pnginfo=signature)


def is_foreign(path: Path) -> bool:
    """Return whether a file is a picture that `save_image` did not write."""
    try:
        with Image.open(path) as image:
            return image.info.get("Software") != SOFTWARE
    except Image.DecompressionBombError:
        return True
    except (OSError, ValueError, SyntaxError):
        return False
