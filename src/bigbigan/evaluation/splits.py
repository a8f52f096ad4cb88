"""Which images an evaluation learns from, chooses by, and is scored on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bigbigan.config import Config
from bigbigan.data import ImageSet, Source, load_pixels
from bigbigan.data.pixels import middle, stored_side
from bigbigan.run import read_json, write_json

__all__ = ["Split", "View", "load_labelled", "train_val"]

SEED = 0  # one for all runs, so that all choose by the same images of a data set


@dataclass(frozen=True)
class View:
    """How an encoder takes images: side R, 1 or 3 channels, and the augmentation its classifiers are trained with."""

    resolution: int
    channels: int
    augment: str = "none"

    @classmethod
    def of(cls, config: Config) -> View:
        return cls(config.encoder.resolution, config.data.channels, config.data.augment)


@dataclass(eq=False)  # compared and hashed by identity
class Split:
    """Images of one split with their labels int64 [N] and file names.

    `stored` are the pixels as they are kept, uint8 [N, C, S, S], with a margin where training crops photographs.
    """

    name: str
    stored: np.ndarray
    labels: np.ndarray | None
    files: list[str]
    resolution: int

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def pixels(self) -> np.ndarray:
        """As evaluation sees them: uint8 [N, C, R, R]."""
        return np.asarray(middle(self.stored, self.resolution))

    def pick(self, indices: np.ndarray, name: str) -> Split:
        labels = None if self.labels is None else self.labels[indices]
        return Split(name, self.stored[indices], labels, [self.files[i] for i in indices], self.resolution)


def read_split(source: Source, images: ImageSet, view: View) -> Split:
    side = stored_side(images, view.resolution, view.augment)
    pixels, kept = load_pixels(images, side, view.channels, source)
    labels = None if images.labels is None else images.labels[kept]
    return Split(images.name, pixels, labels, [images.files[i] for i in kept], view.resolution)


def load_labelled(source: Source, view: View, seed: int = 0) -> tuple[Split, Split]:
    """Train and test split of a source; a fifth of train, drawn by `seed`, where there is no test split."""
    train = read_split(source, source.splits["train"], view)
    name = next((n for n in ("test", "val") if n in source.splits), None)
    if name is not None:
        return train, read_split(source, source.splits[name], view)
    order = np.random.default_rng(seed).permutation(len(train))
    cut = len(order) // 5
    return train.pick(order[cut:], "train"), train.pick(order[:cut], "held_out")


def train_val(count: int, run: Path | None = None) -> np.ndarray:
    """Indices, sorted, of the training images that are held out to choose by (the paper's train_val): 10,000, or a
    tenth of fewer than 100,000. Never of the test split.

    Made once by a seed. With a run folder they are recorded in its train_val.json and taken from there afterwards.
    """
    held = np.sort(np.random.default_rng(SEED).permutation(count)[: min(10_000, max(1, count // 10))])
    if run is None:
        return held
    path = run / "train_val.json"
    if path.exists():
        recorded = read_json(path)
        if recorded["of"] == count:  # otherwise this is another source than the run's own
            return np.array(recorded["indices"], dtype=np.int64)
    else:
        write_json(path, {"seed": SEED, "of": count, "indices": held.tolist()})
    return held
