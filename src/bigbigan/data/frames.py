"""Make an image of each frame of TIFF and DICOM files: stacks, time series, volumes (`data.frames=all`).

Frame k of cells.tif, from 1, is called `cells.tif#k`. The frames of a file are one group, since they show nearly the
same: no split that bigbigan makes divides them.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

import numpy as np

from bigbigan.data.decode import list_frames
from bigbigan.data.formats import EXTENSIONS, Unreadable, sniff
from bigbigan.data.image_set import FileStore, ImageSet, Source
from bigbigan.data.names import extension

__all__ = ["FrameStore", "expand_frames"]

STACKS = ("TIFF", "DICOM")
CACHED = 2  # files kept in memory: frames are mostly read in order


class FrameStore(FileStore):
    """The frames of the files of a store: image i is a frame of file `files[i]`."""

    def __init__(self, store: FileStore, files: np.ndarray, frames: np.ndarray) -> None:
        names = [store.names[i] for i in files]
        super().__init__(names, [], store.read, store.limits)
        self.store, self.files, self.frames = store, files, frames
        self._counts = np.bincount(files)
        self._cached: OrderedDict[int, tuple[bytes, bytes]] = OrderedDict()  # content and its digest, by file
        self._lock = threading.Lock()

    def _content(self, file: int) -> tuple[bytes, bytes]:
        with self._lock:
            if file not in self._cached:
                content = self.store.raw(file)
                self._cached[file] = content, hashlib.blake2b(content).digest()
                while len(self._cached) > CACHED:
                    self._cached.popitem(last=False)
            return self._cached[file]

    def raw(self, i: int) -> bytes:
        """Return the file that has frame i. Raises Unreadable."""
        return self._content(int(self.files[i]))[0]

    def identity(self, i: int) -> bytes:
        """Return the bytes that identify frame i: the digest of its file, and its number."""
        return self._content(int(self.files[i]))[1] + f" {self.frames[i]}".encode()

    def frame(self, i: int) -> int:
        """Return which frame of its file image i is, from 0."""
        return int(self.frames[i])

    def is_whole_file(self, i: int) -> bool:
        """Return whether frame i is what its file shows if only the first frame is read, and no other frame is used."""
        return bool(self._counts[self.files[i]] == 1 and self.frames[i] == 0)


def expand_frames(source: Source) -> None:
    """Replace files of several frames by their frames, in place, and give the images groups if there are any.

    Rows of arrays, items of data sets and images of shards are single frames: they are left as they are, with a note.
    """
    stores = {id(images.store): images.store for images in source.splits.values()}
    store = next(iter(stores.values()))
    if len(stores) != 1 or not isinstance(store, FileStore) or not store.names[0]:
        source.notes["data.frames=all has no effect: no image files"] += 1
        return
    frames_of = [_frames(store, file, name) for file, name in enumerate(store.names)]
    counts = np.array([len(frames) for frames in frames_of])
    if counts.max() == 1 and not any(map(any, frames_of)):  # every file is shown by its first frame
        return
    files = np.repeat(np.arange(len(counts)), counts)
    frames = np.concatenate([np.array(f, dtype=np.int64) for f in frames_of])
    first = np.cumsum(counts) - counts  # position of each file's first frame
    expanded = FrameStore(store, files, frames)
    for split, images in source.splits.items():
        rows = np.repeat(np.arange(len(images)), counts[images.index])
        index = np.concatenate([first[i] + np.arange(counts[i]) for i in images.index])
        names = []
        for file, i in zip(images.files, images.index, strict=True):
            names += [f"{file}#{k + 1}" for k in range(counts[i])] if counts[i] > 1 else [file]
            if counts[i] > 1:
                source.frames[file] = names[-counts[i] :]
        labels = None if images.labels is None else images.labels[rows]
        source.splits[split] = ImageSet(split, names, labels, images.classes, expanded, index, files[index])
    source.notes["files of several frames, each an image"] += int((counts > 1).sum())


def _frames(store: FileStore, file: int, name: str) -> list[int]:
    """Return the frames of a file; of one that cannot be read, the first, which `get` then refuses."""
    if EXTENSIONS.get(extension(name)) not in (*STACKS, None):
        return [0]
    try:
        data = store.raw(file)
        return list_frames(data) if sniff(data) in STACKS else [0]
    except Unreadable:
        return [0]
