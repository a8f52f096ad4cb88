"""Draw random images of a source as a sheet: `data inspect --out`, and the report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

import numpy as np
from PIL import Image

from bigbigan.apps.sheet import Tile, in_rows, sheet
from bigbigan.data import ImageSet, Source, Unreadable
from bigbigan.data.names import shown
from bigbigan.image import resize_square, to_channels

__all__ = ["class_sheet", "contact_sheet"]

COLUMNS = 12
MAX_CLASSES = 100  # rows of a sheet of classes


def contact_sheet(source: Source, rows: int = 8, columns: int = COLUMNS, tile: int = 64) -> Image.Image:
    """Return a sheet of up to rows x columns training images drawn at random, each above the name of its class.

    Images are drawn without replacement, always the same. Unreadable images are skipped.
    """
    images = source.splits["train"]
    order = images.in_first_shard(np.random.default_rng(0).permutation(len(images)))
    tiles = list(islice(_tiles(images, order, tile), rows * columns))
    title = f"{shown(source.name)}: {len(tiles):,} of {len(images):,} train images, drawn at random"
    tiles = tiles or [_grey(tile, "none readable")]
    return sheet(in_rows(tiles, columns), title=title, side=tile)


def class_sheet(images: ImageSet, tile: int = 32) -> Image.Image:
    """Return a sheet with a row of random images for each class that has any; the first `MAX_CLASSES` classes."""
    assert images.labels is not None
    rng = np.random.default_rng(0)
    rows, names = [], []
    for label in np.unique(images.labels[images.labels >= 0])[:MAX_CLASSES]:
        order = rng.permutation(np.flatnonzero(images.labels == label))
        row = list(islice(_tiles(images, order, tile), COLUMNS))
        rows.append([Tile(t.pixels) for t in row] or [_grey(tile, "")])
        names.append(images.class_name(int(order[0])))
    return sheet(rows, names, side=tile)


def _tiles(images: ImageSet, order: np.ndarray, side: int) -> Iterator[Tile]:
    """Iterate over the readable images of `order`, as tiles of that side with the name of their class."""
    for i in order.tolist():
        with suppress(Unreadable):
            yield Tile(to_channels(resize_square(images.load(i), side), 3).transpose(2, 0, 1), images.class_name(i))


def _grey(side: int, caption: str) -> Tile:
    return Tile(np.full((1, side, side), 128, dtype=np.uint8), caption)
