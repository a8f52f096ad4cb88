"""Training pixels, in memory or decoded anew for each batch: whatever the size of the set, the same batches."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from bigbigan.data.formats import Unreadable
from bigbigan.data.image_set import ImageSet, Source
from bigbigan.data.loading import WAY_OUT, fingerprint, load_pixels, read_pixels
from bigbigan.errors import UserError

__all__ = ["StreamedPixels", "order_by_shards", "training_pixels"]

FINGERPRINTED = 10_000  # images of a streamed set whose content is read for its fingerprint; of the rest, the names


class StreamedPixels:
    """Like a uint8 tensor [N, C, S, S] to be indexed with images' numbers, but each image is decoded when asked for.

    Threads decode ahead what `prefetch` announces (Pillow lets go of the interpreter while it decodes and resizes).
    An image that cannot be read is listed in `source`, and the next one that can stands in for it.

    Where the images lie in shards elsewhere, an epoch takes them from a few shards at a time (`order`).

    Args:
        images: a split.
        side: S.
        channels: C.
        source: where skips are recorded, and whose `max_unreadable` holds.
        device: where batches go.
        together: how many shards elsewhere are shuffled together; twice as many are held here.
        world: processes that share the batches; each takes its rows from shards of its own, where they lie elsewhere.
    """

    def __init__(
        self,
        images: ImageSet,
        side: int,
        channels: int,
        source: Source,
        device: torch.device,
        together: int = 16,
        world: int = 1,
    ) -> None:
        self.images, self.source, self.device = images, source, device
        self.shape = (len(images), channels, side, side)
        self.together, self.world = together, world
        self.shards: Tensor | None = None  # of each image, int64 [N], where they lie elsewhere
        if images.store.elsewhere is not None:
            self.shards = torch.from_numpy(images.shards)
            images.store.elsewhere.limit = 2 * together + 2  # and those that two ranks share
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode")
        self._coming: dict[int, Future[np.ndarray]] = {}
        self._refused: set[int] = set()

    def __len__(self) -> int:
        return len(self.images)

    def prefetch(self, indices: Tensor) -> None:
        """Begin to decode these images."""
        for i in indices.tolist():
            if i not in self._coming and i not in self._refused:
                self._coming[i] = self._pool.submit(read_pixels, self.images, i, *self.shape[1:3])

    def fetch(self, indices: Tensor) -> None:
        """Begin to fetch the shards of these images, where they lie elsewhere."""
        if self.shards is not None and self.images.store.elsewhere is not None:
            self.images.store.elsewhere.fetch(self.shards[indices].unique().tolist())

    def __getitem__(self, indices: Tensor) -> Tensor:
        """The images of these numbers, uint8 [n, C, S, S] on the device.

        Raises:
            UserError: more than `max_unreadable` of the set cannot be read.
        """
        self.prefetch(indices)
        pixels = np.stack([self._take(i) for i in indices.tolist()])
        return torch.from_numpy(pixels).to(self.device, non_blocking=True)

    def shown(self, indices: Tensor) -> Tensor:
        """Which images were given for these, int64 [n]: others for those that could not be read."""
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
                return self._coming.pop(i).result()
            except Unreadable as error:
                self._refuse(i, error)

    def _refuse(self, i: int, error: Unreadable) -> None:
        self._refused.add(i)
        self.source.refuse(self.images.files[i], error)
        share = len(self._refused) / len(self)
        if share > self.source.max_unreadable:
            raise UserError(
                f"{len(self._refused):,} of the {len(self):,} images in '{self.images.name}' cannot be read so far "
                f"({share:.1%}, limit {self.source.max_unreadable:.1%}); the last is {self.images.files[i]} ({error}); "
                f"{WAY_OUT}"
            )

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def order_by_shards(shards: Tensor, together: int, generator: torch.Generator, rank: int = 0, world: int = 1) -> Tensor:
    """A permutation, int64 [N // world], of one rank's images for which few shards have to be at hand at a time.

    Shards come in random order, `together` of them at a time, and the images of these are shuffled. Ranks share out the
    shards: each has as many images as the others, and those of another rank only from the shard where they meet.

    Args:
        shards: the number of each image's shard, int64 [N].
        together: how many shards.
        generator: in the same state for all ranks.
    """
    names, shard = shards.unique(return_inverse=True)
    place = torch.randperm(len(names), generator=generator)[shard]  # of each image's shard in this epoch
    order = torch.randperm(len(shards), generator=generator)
    order = order[place[order].argsort(stable=True)]  # shard by shard
    count = len(shards) // world
    order = order[rank * count : (rank + 1) * count]
    group = (place[order] - place[order[0]]) // together
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
    together: int = 16,
    world: int = 1,
) -> tuple[Tensor | StreamedPixels, np.ndarray, str]:
    """A split as batches are made from it, which images it holds (as indices into `images`), and its fingerprint.

    All pixels lie on the device if they take at most `memory` GiB; more than that is streamed.

    Raises:
        UserError: too many images cannot be read.
    """
    if len(images) * channels * side * side > memory * 2**30:
        kept = np.arange(len(images))
        streamed = StreamedPixels(images, side, channels, source, device, together, world)
        return streamed, kept, fingerprint(images, FINGERPRINTED)
    pixels, kept = load_pixels(images, side, channels, source, progress=progress)
    return torch.from_numpy(pixels).to(device), kept, fingerprint(images.subset(kept))
