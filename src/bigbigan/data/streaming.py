"""Provide the training pixels, in memory or streamed (decoded again for each batch), with the same batches."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from bigbigan.data.formats import Unreadable
from bigbigan.data.image_set import ImageSet, Source
from bigbigan.data.loading import fingerprint, load_pixels, read_noted, remedy
from bigbigan.errors import UserError

__all__ = ["StreamedPixels", "order_by_shards", "training_pixels"]

FINGERPRINTED = 10_000  # images of a streamed set whose content enters its fingerprint; of the others, the names


class StreamedPixels:
    """Pixels like a uint8 tensor [N, C, S, S], indexed by image number, but decoded on demand.

    Threads decode the images given to `prefetch` (Pillow releases the GIL while it decodes and resizes). An unreadable
    image is recorded in `source` and replaced by the next readable one. Conversions are recorded too, in the thread
    that takes the pixels.

    If the images are in remote shards, an epoch takes them from a few shards at a time (`order_by_shards`).

    Args:
        images: a split.
        side: S.
        channels: C.
        source: records skipped images and notes, and gives `max_unreadable`.
        device: of the batches.
        shuffle_shards: number of remote shards that are shuffled together; twice as many are cached.
        world: number of processes that share the batches; each reads its rows from its own remote shards.
    """

    def __init__(
        self,
        images: ImageSet,
        side: int,
        channels: int,
        source: Source,
        device: torch.device,
        shuffle_shards: int = 16,
        world: int = 1,
    ) -> None:
        self.images, self.source, self.device = images, source, device
        self.shape = (len(images), channels, side, side)
        self.shuffle_shards, self.world = shuffle_shards, world
        self.shards: Tensor | None = None  # shard number of each image, int64 [N], if the shards are remote
        if images.store.remote is not None:
            self.shards = torch.from_numpy(images.shards)
            images.store.remote.limit = 2 * shuffle_shards + 2  # and those that two ranks share
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode")
        self._pending: dict[int, Future[tuple[np.ndarray, tuple[str, ...]]]] = {}
        self._refused: set[int] = set()

    def __len__(self) -> int:
        return len(self.images)

    def prefetch(self, indices: Tensor) -> None:
        """Begin to decode these images."""
        for i in indices.tolist():
            if i not in self._pending and i not in self._refused:
                self._pending[i] = self._pool.submit(read_noted, self.images, i, self.shape[2], self.shape[1])

    def fetch(self, indices: Tensor) -> None:
        """Begin to fetch the shards of these images, if they are remote."""
        if self.shards is not None and self.images.store.remote is not None:
            self.images.store.remote.fetch(self.shards[indices].unique().tolist())

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return the images of these numbers, uint8 [n, C, S, S] on the device.

        Raises:
            UserError: more than `max_unreadable` of the set cannot be read.
        """
        self.prefetch(indices)
        pixels = np.stack([self._take(i) for i in indices.tolist()])
        return torch.from_numpy(pixels).to(self.device, non_blocking=True)

    def replaced(self, indices: Tensor) -> Tensor:
        """Return `indices`, int64 [n], with unreadable images replaced by those that were returned for them."""
        return torch.tensor([self._readable(i) for i in indices.tolist()], dtype=torch.int64)

    def _readable(self, i: int) -> int:
        while i in self._refused:
            i = (i + 1) % len(self)
        return i

    def _take(self, i: int) -> np.ndarray:
        while True:
            i = self._readable(i)
            self.prefetch(torch.tensor([i]))
            try:
                pixels, notes = self._pending.pop(i).result()
            except Unreadable as error:
                self._refuse(i, error)
                continue
            if notes:  # few images have any, and `record` keeps the names that it is given
                self.source.record(self.images.files[i], notes)
            return pixels

    def _refuse(self, i: int, error: Unreadable) -> None:
        self._refused.add(i)
        self.source.refuse(self.images.files[i], error)
        share = len(self._refused) / len(self)
        if share > self.source.max_unreadable:
            raise UserError(
                f"{len(self._refused):,} of the {len(self):,} images in '{self.images.name}' cannot be read so far "
                f"({share:.1%}, limit {self.source.max_unreadable:.1%}); the last is {self.images.files[i]} ({error}); "
                f"{remedy(self.source.max_unreadable)}"
            )

    def close(self) -> None:
        """Stop the decoding threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def order_by_shards(
    shards: Tensor, shuffle_shards: int, generator: torch.Generator, rank: int = 0, world: int = 1
) -> Tensor:
    """Return one rank's share of a random permutation of images, int64 [N // world], that needs few shards at a time.

    Shards come in random order, in groups of `shuffle_shards`, and the images of a group are shuffled. Shards are
    divided among ranks: each rank has the same number of images, and two ranks share at most the shard at their
    boundary.

    Args:
        shards: the number of each image's shard, int64 [N].
        shuffle_shards: number of shards that are shuffled together.
        generator: in the same state for all ranks.
        rank: of this process.
        world: number of processes.
    """
    names, shard = shards.unique(return_inverse=True)
    position = torch.randperm(len(names), generator=generator)[shard]  # of each image's shard in this epoch
    order = torch.randperm(len(shards), generator=generator)
    order = order[position[order].argsort(stable=True)]  # shard by shard
    count = len(shards) // world
    order = order[rank * count : (rank + 1) * count]
    group = (position[order] - position[order[0]]) // shuffle_shards
    shuffled = torch.randperm(count, generator=generator)
    return order[shuffled[group[shuffled].argsort(stable=True)]]


def training_pixels(
    images: ImageSet,
    side: int,
    channels: int,
    source: Source,
    memory: float,
    device: torch.device,
    progress: bool,
    shuffle_shards: int = 16,
    world: int = 1,
) -> tuple[Tensor | StreamedPixels, np.ndarray, str]:
    """Return a split's training pixels, the indices into `images` of those it has, and its fingerprint.

    All pixels are on the device if they take at most `memory` GiB; otherwise they are streamed.

    Raises:
        UserError: too many images cannot be read.
    """
    if len(images) * channels * side * side > memory * 2**30:
        kept = np.arange(len(images))
        streamed = StreamedPixels(images, side, channels, source, device, shuffle_shards, world)
        return streamed, kept, fingerprint(images, FINGERPRINTED)
    pixels, kept = load_pixels(images, side, channels, source, progress=progress)
    return torch.from_numpy(pixels).to(device), kept, fingerprint(images.subset(kept))
