"""Training batches: which images come when, and how they reach the networks.

The order is a function of (seed, position), so a run can be continued at any batch. Labels are not part of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bigbigan.data.loading import middle_of_stored
from bigbigan.data.streaming import StreamedPixels, order_by_shards
from bigbigan.image import to_float
from bigbigan.image.crops import Boxes, fixed_boxes, resize_boxes, resnet_boxes, square_boxes
from bigbigan.randomness import keyed_generator

__all__ = ["Batches"]


ALL = slice(None)
AHEAD = 4  # batches that are decoded ahead where images are streamed
BOXES = {"resnet_crop": resnet_boxes, "square_crop": square_boxes, "random_crop": fixed_boxes}


def _to_float(pixels: Tensor) -> Tensor:
    return to_float(pixels).contiguous(memory_format=torch.channels_last)


class Batches:
    """Endless shuffled batches of an image set.

    Batch number b holds positions b·n .. b·n + n - 1 of the concatenation of one permutation an epoch; no
    image is left out or seen twice within an epoch. Of shards elsewhere a permutation is `order_by_shards`.

    Args:
        pixels: uint8 [N, C, S, S], S at least R, on the device that trains; or what decodes as it is asked.
        batch_size: n; may exceed N, then a batch spans epochs.
        seed: of the permutations and of augmentation.
        augment: see `DataConfig.augment`.
        mirror: whether an augmentation that mirrors images does so; see `DataConfig.mirror`.
        resolution: R; S without it.
        only: indices of the images to use; all without it.
        labels: int64 [N], of systems that are told them.
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
    ) -> None:
        self.pixels, self.batch_size, self.seed, self.augment = pixels, batch_size, seed, augment
        self.resolution = resolution or pixels.shape[-1]
        self.only, self._labels, self.mirror = only, labels, mirror
        self._orders: dict[int, Tensor] = {}  # of this epoch and, at its end, of the next
        self._total = len(pixels if only is None else only)
        self._epoch, self._group = self._total, 0  # images of an epoch, and of the shards that are shuffled together
        self._world = 1
        if isinstance(pixels, StreamedPixels) and pixels.shards is not None:
            self._world = pixels.world if batch_size % pixels.world == 0 else 1  # else rows are not shared out evenly
            if self._world > 1:  # whole batches, so that each process has the same rows of all of them
                self._epoch = self._total // batch_size * batch_size
            each = self._total // len(pixels.shards.unique())
            self._group = min(self._epoch, self._world * pixels.together * each)

    def steps_per_epoch(self, updates: int = 1) -> int:
        """Return how many training steps an epoch has, each of `updates` batches; a step begun counts."""
        return -(-self._epoch // (updates * self.batch_size))

    def indices(self, number: int) -> Tensor:
        """Which images are in batch `number`: int64 [n]."""
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
        """An epoch's order: in each batch first the rows of the first process, then those of the second, and so on."""
        world = self._world
        generators = [keyed_generator(self.seed, "order", epoch) for _ in range(world)]
        orders = [order_by_shards(shards, pixels.together, g, rank, world) for rank, g in enumerate(generators)]
        if world == 1:
            return orders[0]
        rows = self.batch_size // world
        count = self._epoch // self.batch_size * rows
        return torch.stack([order[:count].view(-1, rows) for order in orders], dim=1).flatten()

    def batch(self, number: int, part: slice = ALL) -> Tensor:
        """Batch `number`, or these rows of it, as float [n, C, R, R] in [-1, 1]; with "task_crop" [n, C, S, S]."""
        indices = self.indices(number)[part].to(self.pixels.device)
        if isinstance(self.pixels, StreamedPixels):
            for following in range(AHEAD + 1):
                self.pixels.prefetch(self.indices(number + following)[part])
            if self._group:
                self.pixels.fetch(self.indices(number + self._group // self.batch_size)[part])
        generator = keyed_generator(self.seed, self.augment, number, str(self.pixels.device))
        if self.augment in BOXES:
            boxes = BOXES[self.augment](self.batch_size, self.pixels.shape[-1], generator)
            mine = Boxes(*(numbers[part] for numbers in boxes))
            if not self.mirror:
                mine = mine._replace(mirrored=torch.zeros_like(mine.mirrored))
            return _to_float(resize_boxes(self.pixels[indices], mine, self.resolution))
        if self.augment == "task_crop":
            return _to_float(self.pixels[indices])
        x = self.images(indices)
        if self.augment == "flip" and self.mirror:
            mirrored = torch.rand(self.batch_size, 1, 1, 1, generator=generator, device=x.device)[part] < 0.5
            x = torch.where(mirrored, x.flip(3), x)
        return x

    def draw(self, count: int, generator: torch.Generator, number: int) -> Tensor:
        """Images drawn at random, with repetition, int64 [count] on the generator's device: of all, or of shards
        elsewhere from those that batch `number` begins with, in shares of equal size for each process."""
        if not self._group:
            return torch.randint(len(self.pixels), (count,), generator=generator, device=generator.device)
        world, near = self._world, self._group // self.batch_size // 2 + 1
        at_hand = torch.stack([self.indices(number + i) for i in range(near)])  # [batches, n]
        mine = at_hand.view(near, world, -1).transpose(0, 1).flatten(1).to(generator.device)
        picks = torch.randint(mine.shape[1], (count,), generator=generator, device=generator.device)
        return mine[torch.arange(count, device=generator.device) * world // count, picks]

    def labels(self, number: int, part: slice = ALL) -> Tensor | None:
        """The labels of batch `number`, or of these rows of it, int64 [n]; None where there are none. Of an image that
        cannot be read it is that of the image that stands in, so ask for the images first."""
        if self._labels is None:
            return None
        indices = self.indices(number)[part]
        if isinstance(self.pixels, StreamedPixels):
            indices = self.pixels.shown(indices)
        return self._labels[indices.to(self._labels.device)]

    def images(self, indices: Tensor) -> Tensor:
        """The images of these indices as evaluation sees them, float [n, C, R, R] in [-1, 1]."""
        return _to_float(self.middle(indices))

    def middle(self, indices: Tensor) -> Tensor:
        """The images of these indices as evaluation sees them, uint8 [n, C, R, R]: the middle of what is kept."""
        return torch.cat([middle_of_stored(self.pixels[part], self.resolution) for part in indices.split(256)])
