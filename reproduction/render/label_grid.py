"""Draw a grid of images, such as training writes to samples/, as a sheet with a title and names of its rows.

    python -m reproduction.render.label_grid GRID.png OUT.png --side 32 --title "samples G(z)"
    python -m reproduction.render.label_grid GRID.png OUT.png --side 32 --scale 2 --rows x "G(E(x))" --columns 8

The images of a grid have one size, with gaps of 2 pixels. A group of rows, one for each name of --rows, is broken into
groups of --columns images. It is for pictures of runs that are gone: `bigbigan reconstruct`, `generate` and
`reproduction.render.bigan_rows` draw those of a run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bigbigan.apps.sheet import Tile, sheet
from bigbigan.errors import UserError
from bigbigan.image.grid import save_image
from reproduction.common import Script

GAP = 2  # of bigbigan.image.grid.grid
TEXT = 16


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__)
    add = script.parser.add_argument
    add("grid", type=Path, metavar="GRID.png")
    add("out", type=Path, metavar="OUT.png")
    add("--side", type=int, required=True, metavar="N", help="side of each image in the grid, pixels")
    add("--scale", type=int, default=1, metavar="K", help="factor that the grid enlarged them by (default 1)")
    add("--title", default="")
    add("--rows", nargs="+", default=[], metavar="NAME", help="names of the rows, which repeat")
    add("--columns", type=int, metavar="N", help="images in a row of the sheet (default: as in the grid)")
    add("--enlarge", type=int, default=64, metavar="N", help="enlarge images to at least N pixels (default 64)")
    return script.run(draw, arguments)


def draw(script: Script, options: argparse.Namespace) -> None:
    with Image.open(options.grid) as grid:
        tiles = cut(np.asarray(grid.convert("RGB")), options.side, options.scale)
    save_image(labelled(tiles, options.rows, options.title, options.columns, options.enlarge), options.out)


def cut(grid: np.ndarray, side: int, scale: int = 1) -> list[list[Tile]]:
    """Return the images of a grid, uint8 [H, W, 3], row by row, at the size they had before they were enlarged."""
    step = side + GAP
    if side % scale or any((length + GAP) % step for length in grid.shape[:2]):
        raise UserError(f"images of {side} px with gaps of {GAP} do not fill a picture of {grid.shape[1::-1]} px")
    corners = [range(0, length, step) for length in grid.shape[:2]]
    return [
        [Tile(grid[y : y + side : scale, x : x + side : scale].transpose(2, 0, 1)) for x in corners[1]]
        for y in corners[0]
    ]


def labelled(
    rows: list[list[Tile]], names: Sequence[str], title: str, columns: int | None = None, enlarge: int = 64
) -> Image.Image:
    """Return the rows as a sheet; each group of len(names) rows is broken into groups of `columns` images."""
    group, columns = max(1, len(names)), columns or len(rows[0])
    broken = [
        row[x : x + columns]
        for y in range(0, len(rows), group)
        for x in range(0, len(rows[0]), columns)
        for row in rows[y : y + group]
    ]
    return sheet(broken, list(names) * (len(broken) // group), title=title, side=enlarge, text=TEXT)


if __name__ == "__main__":
    sys.exit(main())
