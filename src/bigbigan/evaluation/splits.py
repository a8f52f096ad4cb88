"""Which images an evaluation learns from, chooses by, and is scored on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import GroupShuffleSplit
from torch import Tensor

from bigbigan.config import Config
from bigbigan.data import ImageSet, Source, load_pixels, load_view
from bigbigan.data.image_set import MAX_HELD
from bigbigan.data.loading import stored_side
from bigbigan.data.streaming import StreamedPixels
from bigbigan.errors import UserError
from bigbigan.io import read_json, write_json

__all__ = [
    "Images",
    "Split",
    "View",
    "few",
    "hold_out",
    "load_images",
    "load_labelled",
    "parted",
    "stored_for_crops",
    "train_val",
]

SEED = 0  # one for all runs, so that all choose by the same images of a data set


@dataclass(frozen=True)
class View:
    """How an encoder takes images: side R, 1 or 3 channels, and the augmentation its classifiers are trained with,
    which mirrors images only with `mirror`."""

    resolution: int
    channels: int
    augment: str = "none"
    mirror: bool = False

    @classmethod
    def of(cls, config: Config) -> View:
        data = config.data
        return cls(config.encoder.resolution, data.channels, data.classifier_augment, data.mirrors)


@dataclass(eq=False)  # compared and hashed by identity
class Split:
    """The readable images of one split, with their labels int64 [N] (-1 where there is none) and file names.

    `pixels` are uint8 [N, C, R, R], as evaluation sees them. `groups`, int64 [N], says which belong together
    (`ImageSet.groups`).
    """

    name: str
    images: ImageSet
    pixels: np.ndarray

    @property
    def labels(self) -> np.ndarray | None:
        return self.images.labels

    @property
    def files(self) -> list[str]:
        return self.images.files

    @property
    def groups(self) -> np.ndarray | None:
        return self.images.groups

    def __len__(self) -> int:
        return len(self.pixels)

    def pick(self, indices: np.ndarray, name: str) -> Split:
        return Split(name, self.images.subset(indices), self.pixels[indices])


def read_split(source: Source, images: ImageSet, view: View) -> Split:
    pixels, kept = load_view(images, view.resolution, view.channels, view.augment, source)
    return Split(images.name, images.subset(kept), pixels)


def stored_for_crops(source: Source, split: Split, view: View) -> Tensor | StreamedPixels:
    """The images of a split to cut training crops from, uint8 [N, C, S, S] (`stored_side`), read once more where that
    is larger than what evaluation sees; decoded anew for each batch where memory cannot hold them."""
    side = stored_side(split.images, view.resolution, view.augment)
    if side == view.resolution:
        return torch.from_numpy(split.pixels)
    if len(split) * view.channels * side**2 > MAX_HELD:
        return StreamedPixels(split.images, side, view.channels, source, torch.device("cpu"))
    return torch.from_numpy(load_pixels(split.images, side, view.channels)[0])


@dataclass(eq=False)
class Images:
    """A source as it is measured on.

    Attributes:
        train, test: to learn from and to be scored on: labelled images alone, where there are any.
        others: the images without a label, and those of splits that are not used, by split.
    """

    train: Split
    test: Split
    others: list[Split]

    @property
    def seen(self) -> np.ndarray:
        """Pixels of training images, labelled or not, for statistics: uint8 [N, C, R, R]."""
        more = [split.pixels for split in self.others if split.name == "train"]
        return np.concatenate([self.train.pixels, *more]) if more else self.train.pixels


def load_images(source: Source, view: View, seed: int = 0, *, everything: bool = False) -> Images:
    """The images of a source, shared out. Where it has no test split, or only train is labelled, a fifth of the
    (labelled) training images is held out as test, drawn by `seed`, whole groups where there are groups.

    `everything` reads the splits that are not needed to measure, too.

    Raises:
        UserError: images cannot be read, or all belong to one group.
    """
    train = read_split(source, source.splits["train"], view)
    given = [source.splits[n] for n in ("test", "val") if n in source.splits]
    given.sort(key=lambda images: images.labels is None)  # stable: test before val
    chosen = next((i for i in given if i.labels is not None or train.labels is None), None)
    others = [read_split(source, i, view) for i in given if i is not chosen] if everything else []
    train, nameless = parted(train)
    others += [nameless] if len(nameless) else []
    if chosen is None:
        kept, held = hold_out(len(train), len(train) // 5, seed, train.groups)
        return Images(train.pick(kept, "train"), train.pick(held, "held_out"), others)
    test, nameless = parted(read_split(source, chosen, view))
    return Images(train, test, others + ([nameless] if len(nameless) else []))


def parted(split: Split) -> tuple[Split, Split]:
    """The images with a label, and those without; all are in the first where no image has one."""
    if split.labels is None:
        return split, split.pick(np.arange(0), split.name)
    known = split.labels >= 0
    if known.all():
        return split, split.pick(np.arange(0), split.name)
    return split.pick(np.flatnonzero(known), split.name), split.pick(np.flatnonzero(~known), split.name)


def few(images: ImageSet, most: int) -> ImageSet:
    """At most so many of the images, drawn by one seed for all."""
    picks = np.random.default_rng(SEED).permutation(len(images))[:most]
    return images.subset(np.sort(picks))


def load_labelled(source: Source, view: View, seed: int = 0) -> tuple[Split, Split]:
    """The train and test splits of `load_images`."""
    images = load_images(source, view, seed)
    return images.train, images.test


def hold_out(count: int, size: int, seed: int, groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(kept, held) indices of 0 .. count - 1 in random order, drawn by `seed`: `size` are held out, or of groups int64
    [count] as large a share; no group is on both sides.

    Raises:
        UserError: there is only one group.
    """
    rng = np.random.default_rng(seed)
    if groups is None:
        order = rng.permutation(count)
        return order[size:], order[:size]
    if len(np.unique(groups)) < 2:
        raise UserError(f"all {count:,} labelled training images are of one group, of which none can be held out")
    draw = GroupShuffleSplit(1, test_size=max(size, 1) / count, random_state=seed)
    kept, held = next(draw.split(groups, groups=groups))
    return rng.permutation(kept), rng.permutation(held)


def train_val(
    count: int, run: Path | None = None, groups: np.ndarray | None = None, out: Path | None = None
) -> np.ndarray:
    """Indices, sorted, of the training images that are held out to choose by (the paper's train_val): 10,000, or a
    tenth of fewer than 100,000; of whole groups as many. Never of the test split.

    Made once by a seed. With a run folder they are recorded in its train_val.json, or in that of `out`, and taken from
    there afterwards.
    """
    held = np.sort(hold_out(count, min(10_000, max(1, count // 10)), SEED, groups)[1])
    if run is None:
        return held
    path = run / "train_val.json"
    if out is not None and not path.exists():
        path = out / "train_val.json"
    if path.exists():
        recorded = read_json(path, {"of": int, "indices": [int]})
        if recorded["of"] == count:  # otherwise this is another source than the run's own, or has other labels
            before = np.array(recorded["indices"], dtype=np.int64)
            if groups is None or not np.isin(np.delete(groups, before), groups[before]).any():
                return before
    else:
        write_json(path, {"seed": SEED, "of": count, "indices": held.tolist()}, stamp=True)
    return held
