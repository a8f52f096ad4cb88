"""Read what users pass as images: paths, PIL images, arrays, tensors, and lists of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bigbigan.config import Config
from bigbigan.data import DecodeLimits, ImageSet, Source, Unreadable, load_view
from bigbigan.data.decode import decode, decode_pillow, list_frames
from bigbigan.data.image_set import ArrayStore, FileStore
from bigbigan.data.names import extension, shown
from bigbigan.errors import UserError
from bigbigan.inference.arguments import as_tensor
from bigbigan.training.run_folder import limits_of

__all__ = ["as_numbers", "items_of", "load_items", "load_rows"]

_FRAME = re.compile(r"(.+)#([1-9]\d*)")  # as in cells.tif#3


def as_numbers(given: Any, config: Config, pads: bool | None = None) -> Any:
    """Return images as a tensor or array, [N, C, H, W] if they can be used.

    Paths, PIL images and lists of them, or of uint8 arrays [H, W] or [H, W, C], are decoded as in training: uint8
    [N, C, R, R]. Lists of tensors or of other arrays are stacked. In arrays with the channels last, they are moved.

    Args:
        given: images of any of these kinds.
        config: settings of the run.
        pads: whether small squares are padded with zeros (default: as `data.pad` says).

    Raises:
        UserError: an image cannot be read, or is of another type.
    """
    if isinstance(given, Tensor):
        return given
    if _is_numeric(given):
        return _channels_first(given)
    items = items_of([given] if isinstance(given, str | PathLike | Image.Image) else given, "images")
    if items and all(isinstance(x, Tensor) or (_is_numeric(x) and x.dtype != np.uint8) for x in items):
        if len({tuple(x.shape) for x in items}) > 1:
            raise UserError("images of the list have several shapes; expected tensors of one shape, or paths")
        if not any(isinstance(x, Tensor) for x in items):
            return _channels_first(np.stack(items))
        return torch.stack([as_tensor(x, "images", "[C, H, W]") for x in items])
    return load_items(items, config, "images", pads)


def _channels_first(array: np.ndarray) -> np.ndarray:
    """Return [N, H, W, C] as [N, C, H, W], and any other array as it is."""
    last = array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3)
    return np.moveaxis(array, 3, 1) if last else array


def _is_numeric(given: Any) -> bool:
    return isinstance(given, np.ndarray) and given.dtype.kind in "biuf"


def items_of(given: Any, name: str) -> list[Any]:
    """Return the paths or images of a list or of a data frame with one column; `name` is that of the argument."""
    if hasattr(given, "iloc") and hasattr(given, "columns"):
        if len(given.columns) != 1:
            columns = ", ".join(shown(c) for c in given.columns[:5])
            raise UserError(
                f"{name} is a data frame with the columns {columns}; expected its column of paths, such as "
                f"{name}['file']"
            )
        return list(given.iloc[:, 0])
    if isinstance(given, np.ndarray) and given.dtype.kind in "OUS" and given.ndim == 2 and given.shape[1] == 1:
        return list(given[:, 0])
    if isinstance(given, str | bytes | PathLike | Image.Image | dict) or not isinstance(given, Iterable):
        kind = "one path" if isinstance(given, str | PathLike) else f"a {type(given).__name__}"
        raise UserError(f"{name} is {kind}; expected a list of paths or of PIL images, or one array of all images")
    return list(given)


def load_items(items: Sequence[Any], config: Config, name: str, pads: bool | None = None) -> np.ndarray:
    """Return paths, PIL images and uint8 arrays [H, W] or [H, W, C] as evaluation sees them: uint8 [N, C, R, R].

    Args:
        items: the images.
        config: settings of the run.
        name: name of the argument, for messages.
        pads: see `as_numbers`; by default, if training left it open, a list of arrays is padded as one array is.

    Raises:
        UserError: an image cannot be read, or is of another type.
    """
    names: list[str] = []
    for i, item in enumerate(items):
        if isinstance(item, str | PathLike):
            names.append(str(item))
        elif isinstance(item, Image.Image) or (_is_numeric(item) and item.dtype == np.uint8):
            names.append(f"image {i}")
        else:
            raise UserError(
                f"{name} has a {type(item).__name__} at place {i}; expected paths, PIL images, or one array of all "
                "images"
            )
    store = _Items(names, list(items), Path.read_bytes, limits_of(config))
    store.pads = all(map(_is_numeric, items))
    return _load(names, store, config, name, pads)


def load_rows(rows: np.ndarray, config: Config, name: str, pads: bool | None = None) -> np.ndarray:
    """Return the images of an array, uint8 [N, H, W, 1|3], as evaluation sees them: uint8 [N, C, R, R]."""
    return _load([str(i) for i in range(len(rows))], ArrayStore(rows), config, name, pads)


def _load(names: list[str], store: ArrayStore | FileStore, config: Config, name: str, pads: bool | None) -> np.ndarray:
    side, channels = config.encoder.resolution, config.data.channels
    if not names:
        return np.empty((0, channels, side, side), dtype=np.uint8)
    images = ImageSet(name, names, None, None, store, np.arange(len(names)))
    strict = Source(name, name, {"": images}, max_unreadable=0.0)  # every image must have its row
    strict.set_padding(config.data.pad if pads is None else "always" if pads else "never")
    try:
        return load_view(images, side, channels, config.data.augment, strict)[0]
    except UserError:
        if not strict.skipped:
            raise
        file, reason = strict.skipped[0]
        message = f"{shown(file)} in {name}: {reason}; each image must give a row of the result: repair or remove it"
        raise UserError(message) from None


class _Items(FileStore):
    """Image files by their paths, PIL images, and arrays."""

    def get(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
        item = self.handles[i]
        if isinstance(item, Image.Image):
            return decode_pillow(item, self.limits)
        if isinstance(item, np.ndarray):
            array = item[:, :, None] if item.ndim == 2 else item
            if array.ndim != 3 or array.shape[2] not in (1, 3) or 0 in array.shape:
                raise Unreadable(f"an array of shape {list(item.shape)}, not [H, W], [H, W, 1] or [H, W, 3]")
            return np.ascontiguousarray(array), ()
        return _decode_file(item, self.limits)


def _decode_file(path: str | PathLike[str], limits: DecodeLimits) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode an image file, or a frame of one, as in cells.tif#3. Raises Unreadable."""
    number = 0
    if not os.path.exists(path) and (match := _FRAME.fullmatch(str(path))):
        path, number = match[1], int(match[2])
    if os.path.isdir(path):
        raise Unreadable("a folder; give a list of paths, or encode a folder by: bigbigan encode RUN --data FOLDER")
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: the path has a null character
        reason = getattr(error, "strerror", None) or str(error)
        raise Unreadable(f"cannot be read ({reason})") from error
    frame = 0
    if limits.all_frames or number:
        frames = list_frames(data)
        if number > len(frames) or (not number and len(frames) > 1):
            raise Unreadable(f"of {len(frames)} frames (name one of them, such as {shown(path)}#1)")
        frame = frames[max(number, 1) - 1]
    return decode(data, limits, extension(str(path)), frame)
