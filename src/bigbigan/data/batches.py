"""Make training batches: the order of the images, and their crops.

The order is a function of (seed, position), so a run can be continued at any batch. It does not depend on labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bigbigan.data.loading import center_crop
from bigbigan.data.streaming import StreamedPixels, order_by_shards
from bigbigan.image import to_float
from bigbigan.image.crop_sizes import CENTRAL
from bigbigan.image.crops import Boxes, fixed_boxes, resize_boxes, resize_center, resnet_boxes, square_boxes
from bigbigan.randomness import keyed_generator

__all__ = ["Batches"]


ALL = slice(None)
PREFETCHED = 4  # batches of a streamed set that are decoded ahead
BOXES = {"resnet_crop": resnet_boxes, "square_crop": square_boxes, "random_crop": fixed_boxes}


def _to_float(pixels: Tensor) -> Tensor:
    return to_float(pixels).contiguous(memory_format=torch.channels_last)


class Batches:
    """Endless shuffled batches of an image set.

    Batch number b contains positions b·n .. b·n + n - 1 of the concatenation of one permutation an epoch. Each image
    comes exactly once an epoch. For remote shards the permutation is that of `order_by_shards`.

    Args:
        pixels: uint8 [N, C, S, S], S at least R, on the training device; or pixels that are decoded on demand.
        batch_size: n; may exceed N, then a batch spans epochs.
        seed: of the permutations and of augmentation.
        augment: see `DataConfig.augment`.
        mirror: whether an augmentation that mirrors images does so; see `DataConfig.mirror`.
        resolution: R; S if None.
        only: indices of the images to use; all if None.
        labels: int64 [N], if the system is conditioned on labels.
        chunks: number of chunks that each process computes its rows of a batch in (`training.accumulate`).
    """

    def __init__(
        self,
        pixels: Tensor | StreamedPixels,
        batch_size: int,
        seed: int,
        augment: str = "none",
        resolution: int | None = None,
        only: Tensor | None = None,
        labels: Tensor | None = None,
        mirror: bool = True,
        chunks: int = 1,
    ) -> None:
        self.pixels, self.batch_size, self.seed, self.augment = pixels, batch_size, seed, augment
        self.resolution = resolution or pixels.shape[-1]
        self.only, self._labels, self.mirror = only, labels, mirror
        self._orders: dict[int, Tensor] = {}  # of this epoch and, at its end, of the next
        self._total = len(pixels if only is None else only)
        self._epoch, self._group = self._total, 0  # images of an epoch, and of the shards that are shuffled together
        self._world, self._chunks = 1, chunks
        if isinstance(pixels, StreamedPixels) and pixels.shards is not None:
            even = batch_size % (pixels.world * chunks) == 0 and batch_size <= self._total
            self._world = pixels.world if even else 1
            if self._world > 1:  # whole batches, so that each process has the same rows of all of them
                self._epoch = self._total // batch_size * batch_size
            each = self._total // len(pixels.shards.unique())
            self._group = min(self._epoch, self._world * pixels.shuffle_shards * each)

    def steps_per_epoch(self, updates: int = 1) -> int:
        """Return the number of training steps in an epoch, each of `updates` batches, rounded up."""
        return -(-self._epoch // (updates * self.batch_size))

    def indices(self, number: int) -> Tensor:
        """Return the indices of the images in batch `number`: int64 [n]."""
        start, end = number * self.batch_size, (number + 1) * self.batch_size
        count = self._epoch
        parts = []
        for epoch in range(start // count, (end - 1) // count + 1):
            order = self._order(epoch)
            parts.append(order[max(0, start - epoch * count) : end - epoch * count])
        return torch.cat(parts)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            generator = keyed_generator(self.seed, "order", epoch)
            p = self.pixels
            if isinstance(p, StreamedPixels) and p.shards is not None:
                order = self._by_shards(p, p.shards if self.only is None else p.shards[self.only], epoch)
            else:
                order = torch.randperm(self._total, generator=generator)
            self._orders[epoch] = order if self.only is None else self.only[order]
        return self._orders[epoch]

    def _by_shards(self, pixels: StreamedPixels, shards: Tensor, epoch: int) -> Tensor:
        """Return an epoch's order: each chunk of a batch is the rows of process 0, then of process 1, and so on."""
        world = self._world
        generators = [keyed_generator(self.seed, "order", epoch) for _ in range(world)]
        orders = [order_by_shards(shards, pixels.shuffle_shards, g, rank, world) for rank, g in enumerate(generators)]
        if world == 1:
            return orders[0]
        rows = self.batch_size // world
        count = self._epoch // self.batch_size * rows
        return torch.stack([order[:count].view(-1, rows // self._chunks) for order in orders], dim=1).flatten()

    def batch(self, number: int, part: slice = ALL) -> Tensor:
        """Return batch `number`, or the rows `part` of it: float [n, C, R, R] in [-1, 1]; task_crop: [n, C, S, S]."""
        indices = self.indices(number)[part].to(self.pixels.device)
        if isinstance(self.pixels, StreamedPixels):
            for ahead in range(PREFETCHED + 1):
                self.pixels.prefetch(self.indices(number + ahead)[part])
            if self._group:
                self.pixels.fetch(self.indices(number + self._group // self.batch_size)[part])
        generator = keyed_generator(self.seed, self.augment, number, str(self.pixels.device))
        if self.augment in BOXES:
            boxes = BOXES[self.augment](self.batch_size, self.pixels.shape[-1], generator)
            boxes = Boxes(*(numbers[part] for numbers in boxes))
            if not self.mirror:
                boxes = boxes._replace(mirrored=torch.zeros_like(boxes.mirrored))
            return _to_float(resize_boxes(self.pixels[indices], boxes, self.resolution))
        if self.augment == "task_crop":
            return _to_float(self.pixels[indices])
        x = self.images(indices)
        if self.augment == "flip" and self.mirror:
            mirrored = torch.rand(self.batch_size, 1, 1, 1, generator=generator, device=x.device)[part] < 0.5
            x = torch.where(mirrored, x.flip(3), x)
        return x

    def sample_indices(self, count: int, generator: torch.Generator, number: int) -> Tensor:
        """Draw image indices at random, with replacement: int64 [count] on the generator's device.

        Indices of remote shards are drawn from the batches that follow batch `number`, whose shards are cached, with
        the same number for each process.
        """
        if not self._group:
            return torch.randint(len(self.pixels), (count,), generator=generator, device=generator.device)
        world, batches = self._world, self._group // self.batch_size // 2 + 1
        cached = torch.stack([self.indices(number + i) for i in range(batches)])  # [batches, n]
        by_chunk = cached.view(batches * self._chunks, world, -1) if world > 1 else cached.view(batches, 1, -1)
        by_process = by_chunk.transpose(0, 1).flatten(1).to(generator.device)
        picks = torch.randint(by_process.shape[1], (count,), generator=generator, device=generator.device)
        return by_process[torch.arange(count, device=generator.device) * world // count, picks]

    def labels(self, number: int, part: slice = ALL) -> Tensor | None:
        """Return the labels of batch `number`, or of the rows `part` of it: int64 [n]; None without labels.

        An unreadable image has the label of the image that replaces it, so load the images first.
        """
        if self._labels is None:
            return None
        indices = self.indices(number)[part]
        if isinstance(self.pixels, StreamedPixels):
            indices = self.pixels.replaced(indices)
        return self._labels[indices.to(self._labels.device)]

    def images(self, indices: Tensor) -> Tensor:
        """Return images by index as evaluation sees them, float [n, C, R, R] in [-1, 1]."""
        return _to_float(self.evaluation_pixels(indices))

    def evaluation_pixels(self, indices: Tensor) -> Tensor:
        """Return images by index as evaluation sees them, uint8 [n, C, R, R]: the centre of the stored pixels."""
        return torch.cat([_center_of_stored(self.pixels[part], self.resolution) for part in indices.split(256)])


def _center_of_stored(pixels: Tensor, resolution: int) -> Tensor:
    """Return the centre of uint8 pixels [N, C, S, S] stored for training (`stored_side`): uint8 [N, C, R, R].

    If S is larger than the side that evaluation decodes to, they are resized once more, which blurs them a little.
    """
    if pixels.shape[-1] > round(resolution / CENTRAL) + 1:
        return resize_center(pixels, resolution)
    return center_crop(pixels, resolution)
