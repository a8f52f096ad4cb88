"""Say what shards are made of and how, without reading images: only equal plans continue each other."""

import hashlib
import json
import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from bigbigan.data.frames import FrameStore
from bigbigan.data.image_set import ArrayStore, FileStore, Source
from bigbigan.data.names import shown
from bigbigan.data.window import Window
from bigbigan.errors import UserError

__all__ = ["plan_of"]


def plan_of(source: Source, size_mib: float, count: int | None, resolution: int | None) -> dict[str, Any]:
    """Return what decides the content of shards, as JSON types; see `write_shards` for the arguments.

    Raises:
        UserError: an argument is wrong.
    """
    if not isinstance(size_mib, int | float) or not 0 < size_mib < math.inf:
        raise UserError(f"size_mib is {size_mib!r}; expected a number above 0")
    for name, value in (("count", count), ("resolution", resolution)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f"{name} is {value!r}; expected a whole number of at least 1, or None")
    plan: dict[str, Any] = {
        "size_mib": None if count else size_mib,
        "images": count,
        "resolution": resolution,
        "source": _names_of(source),
        "files": _content_of(source),
    }
    store = source.splits["train"].store
    window = None if isinstance(store, ArrayStore) else store.limits.window
    if resolution is not None and isinstance(window, Window):
        plan["window"] = [window.black, window.white]
    return plan


def _names_of(source: Source) -> str:
    """Return a digest of the names, labels and groups of a source."""
    digest = hashlib.sha256()
    for split, images in source.splits.items():
        labels = None if images.labels is None else images.labels.tolist()
        files = list(map(shown, images.files))
        classes = None if images.classes is None else list(map(shown, images.classes))
        groups = () if images.groups is None else (images.groups.tolist(),)
        digest.update(json.dumps([split, files, labels, classes, *groups]).encode())
    return digest.hexdigest()


def _content_of(source: Source) -> str:
    """Return a digest that changes when images do: of times and sizes of files, and of arrays in memory.

    Of a data set in Python, one of Hugging Face, and remote shards nothing but names is known without reading them.
    """
    digest = hashlib.sha256()
    path = Path(os.path.expanduser(source.spec))
    if path.is_file():
        digest.update(json.dumps(_of_file(path)).encode())
    for images in source.splits.values():
        if isinstance(images.store, ArrayStore):
            digest.update(str(zlib.crc32(np.ascontiguousarray(images.store.pixels).data)).encode())
        elif isinstance(images.store, FileStore):
            digest.update(json.dumps([_of_handle(handle) for handle in _handles(images.store, images.index)]).encode())
    return digest.hexdigest()


def _handles(store: FileStore, index: np.ndarray) -> list[Any]:
    if isinstance(store, FrameStore):
        index, store = store.files[index], store.store
    return [store.handles[i] for i in index.tolist()]


def _of_handle(handle: Any) -> Any:
    """Return what is known of an image by its handle, as JSON types."""
    if isinstance(handle, Path):
        return _of_file(handle)
    if isinstance(handle, zipfile.ZipInfo):
        return [handle.file_size, handle.CRC]
    if isinstance(handle, bytes):  # of a gzipped archive
        return zlib.crc32(handle)
    return handle.tolist() if isinstance(handle, np.ndarray | np.generic) else str(handle)


def _of_file(path: Path) -> list[int]:
    """Return size and time of a file; none if it cannot be read, which is reported when it is."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, int(status.st_mtime)]
