"""Draw a sheet of images with names of rows and columns, captions and frames."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bigbigan.image import to_uint8

__all__ = ["SIDE", "Tile", "in_rows", "sheet", "tiles_of"]

SIDE = 64  # images are enlarged by a whole factor to at least this many pixels
GAP = 4
APART = 16  # width of the gap after columns that are set apart
FRAME = 3
TEXT = 12  # height of the letters, unless another is given
INK, MUTED, SAME = "#1c2128", "#5c6672", "#2b7a4b"


class Tile(NamedTuple):
    """Hold one image of a sheet: pixels uint8 [C, H, W], a caption under it, and whether it has a frame."""

    pixels: np.ndarray
    caption: str = ""
    framed: bool = False


def tiles_of(images: Tensor) -> list[Tile]:
    """Return images, float [N, C, R, R] in [-1, 1], as tiles without captions."""
    return [Tile(pixels) for pixels in to_uint8(images.detach().cpu()).numpy()]


def in_rows(tiles: Sequence[Tile], columns: int) -> list[Sequence[Tile]]:
    """Return tiles in rows of `columns`; the last may be shorter."""
    return [tiles[i : i + columns] for i in range(0, len(tiles), columns)]


def sheet(
    rows: Sequence[Sequence[Tile | None]],
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    title: str = "",
    apart: int = 0,
    side: int = SIDE,
    text: int = TEXT,
) -> Image.Image:
    """Draw rows of tiles.

    Args:
        rows: of tiles of one size; None leaves a place empty.
        row_names: one for each row, at its left; of one or several lines.
        column_names: one for each column, above it.
        title: a line above everything.
        apart: number of columns at the left that a wider gap sets apart.
        side: images are enlarged by a whole factor to at least this many pixels.
        text: height of the letters, in pixels.
    """
    first = next(tile for row in rows for tile in row if tile is not None)
    height, width = first.pixels.shape[1:]
    scale = max(1, -(-side // height))
    h, w = height * scale, width * scale
    font = _font(text)
    columns = max(map(len, rows))
    left = GAP + max(
        (int(font.getlength(line)) + 2 * GAP for name in row_names for line in name.splitlines()), default=0
    )
    top = GAP + (text + 2 * GAP) * (bool(title) + bool(column_names))
    captions = any(tile is not None and tile.caption for row in rows for tile in row)
    step_x, step_y = w + GAP, h + GAP + (text + GAP) * captions
    total = left + columns * step_x - GAP + (APART if 0 < apart < columns else 0)
    width = max(total, int(font.getlength(title)) + 1) + 2 * GAP
    canvas = Image.new("RGB", (width, top + len(rows) * step_y + GAP), "white")
    pen = ImageDraw.Draw(canvas)
    if title:
        pen.text((GAP, GAP), title, INK, font)

    def x_of(column: int) -> int:
        return left + column * step_x + (APART if apart and column >= apart else 0)

    for column, name in enumerate(column_names):
        _centred(pen, name, x_of(column) + w // 2, top - text - GAP, w + GAP, MUTED, font)
    for r, row in enumerate(rows):
        y = top + r * step_y
        if row_names:
            lines = row_names[r].splitlines()
            for k, line in enumerate(lines):
                pen.text((GAP, y + (h - text * len(lines)) // 2 + k * (text + 2)), line, MUTED, font)
        for column, tile in enumerate(row):
            if tile is None:
                continue
            x = x_of(column)
            canvas.paste(_enlarged(tile.pixels, scale), (x, y))
            if tile.framed:
                pen.rectangle((x, y, x + w - 1, y + h - 1), outline=SAME, width=FRAME)
            _centred(pen, tile.caption, x + w // 2, y + h + 1, w + GAP, INK, font)
    return canvas


def _enlarged(pixels: np.ndarray, scale: int) -> Image.Image:
    colour = np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(colour))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def _centred(
    pen: ImageDraw.ImageDraw, text: str, x: int, y: int, width: int, colour: str, font: ImageFont.FreeTypeFont
) -> None:
    """Write text centred at x, shortened to `width` pixels."""
    if font.getlength(text) > width:
        while text and font.getlength(f"{text}…") > width:
            text = text[:-1]
        text = f"{text}…"
    pen.text((x - font.getlength(text) / 2, y), text, colour, font)


@cache
def _font(height: int = TEXT) -> ImageFont.FreeTypeFont:
    """Return a font with Greek, Cyrillic and mathematical letters, which comes with matplotlib."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), height)
