"""Choose the images that an evaluation trains on, validates on and tests on."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bigbigan.config import Config
from bigbigan.data import ImageSet, Source, load_pixels, load_view
from bigbigan.data.held_out import SEED, has_labels, held_out_fifth, hold_out, holds_out_fifth, places_of
from bigbigan.data.image_set import MAX_MEMORY, fixed_picks
from bigbigan.data.loading import center_crop, stored_side
from bigbigan.data.names import listed, shown
from bigbigan.data.streaming import StreamedPixels
from bigbigan.errors import UserError
from bigbigan.image.crop_sizes import viewed_side
from bigbigan.io import read_json, write_json

__all__ = [
    "Images",
    "Split",
    "StreamedView",
    "View",
    "lacks_classes",
    "load_images",
    "split_by_label",
    "stored_for_crops",
    "subsample",
    "train_val",
    "warn_of_copies",
]


@dataclass(frozen=True)
class View:
    """Describe how an encoder takes images: side R, 1 or 3 channels, and the augmentation of its classifiers' training.

    The augmentation mirrors images only if `mirror` is set.
    """

    resolution: int
    channels: int
    augment: str = "none"
    mirror: bool = False

    @classmethod
    def from_config(cls, config: Config) -> View:
        """Return the view of a run with these settings."""
        data = config.data
        return cls(config.encoder.resolution, data.channels, data.classifier_augment, data.mirrors)


@dataclass(eq=False)  # compared and hashed by identity
class Split:
    """Hold the readable images of one split, with their labels, int64 [N] (-1 if there is none), and file names.

    `pixels` are uint8 [N, C, R, R], as evaluation sees them. `groups`, int64 [N], says which images belong together
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
        """Return the images at `indices` as a split of this name."""
        return Split(name, self.images.subset(indices), self.pixels[indices])


def read_split(source: Source, images: ImageSet, view: View, progress: bool = False) -> Split:
    """Load the readable images of one split in the form of `view`."""
    pixels, kept = load_view(images, view.resolution, view.channels, view.augment, source, progress)
    return Split(images.name, images.subset(kept), pixels)


class StreamedView:
    """Decode the images of a split as evaluation sees them, by index: `view[indices]` is uint8 [n, C, R, R].

    The next readable image stands in for one that cannot be read, and the images of one remote shard for all shards.
    """

    def __init__(self, source: Source, images: ImageSet, view: View) -> None:
        side = viewed_side(view.resolution, view.augment, images.store.pads)
        self._pixels = StreamedPixels(images, side, view.channels, source, torch.device("cpu"))
        self._near = images.in_first_shard(np.arange(len(images)))
        self._resolution = view.resolution

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        picks = torch.from_numpy(self._near[indices % len(self._near)])
        return np.ascontiguousarray(center_crop(self._pixels[picks].numpy(), self._resolution))

    def close(self) -> None:
        """End the threads that decode."""
        self._pixels.close()


def stored_for_crops(source: Source, split: Split, view: View) -> Tensor | StreamedPixels:
    """Return the images of a split in the size to cut training crops from, uint8 [N, C, S, S] (`stored_side`).

    They are read again if that size is larger than what evaluation sees, and decoded for each batch if they do not fit
    in memory.
    """
    side = stored_side(split.images, view.resolution, view.augment)
    if side == view.resolution:
        return torch.from_numpy(split.pixels)
    if len(split) * view.channels * side**2 > MAX_MEMORY:
        return StreamedPixels(split.images, side, view.channels, source, torch.device("cpu"))
    return torch.from_numpy(load_pixels(split.images, side, view.channels)[0])


@dataclass(eq=False)
class Images:
    """Hold the images of a source for an evaluation.

    Attributes:
        train: images to train on; only labelled ones, if any are labelled.
        test: images to test on, likewise.
        others: images without a label, and the images of splits that are not used, by split.
    """

    train: Split
    test: Split
    others: list[Split]

    @property
    def training_pixels(self) -> np.ndarray:
        """The training images, labelled or not, uint8 [N, C, R, R]."""
        more = [split.pixels for split in self.others if split.name == "train"]
        return np.concatenate([self.train.pixels, *more]) if more else self.train.pixels


def load_images(
    source: Source,
    view: View,
    *,
    everything: bool = False,
    drawn_from: ImageSet | None = None,
    progress: bool = False,
) -> Images:
    """Load the images of a source as training and test images.

    If the source has no test split, or only its training split is labelled, a fifth of the (labelled) training images
    becomes the test split (`held_out_fifth`).

    Args:
        source: the images.
        view: the form in which they are loaded.
        everything: whether to load the splits that no measurement needs too.
        drawn_from: all training images, if those of the source were drawn from them (`subsample`). The fifth is chosen
            among them, as validation during training knows it.
        progress: show images/s and time left.

    Raises:
        UserError: images cannot be read, or there is only one to train and test on.
    """
    train = read_split(source, source.splits["train"], view, progress)
    given = [source.splits[n] for n in ("test", "val") if n in source.splits]
    given.sort(key=lambda images: not has_labels(images))  # stable: test before val
    chosen = next((i for i in given if has_labels(i) or train.labels is None), None)
    others = [read_split(source, i, view, progress) for i in given if i is not chosen] if everything else []
    train, unlabelled = split_by_label(train)
    others += [unlabelled] if len(unlabelled) else []
    if chosen is None:
        if len(train) < 2:
            raise UserError(
                f"{source.spec}: {len(train)} training image{' with a label' * (train.labels is not None)} and no test "
                "split; expected two or more images, as one is held out for testing: give more (evaluate: --max-images)"
            )
        kept, held_out = (
            places_of(part, train.images) for part in held_out_fifth(drawn_from or source.splits["train"])
        )
        if not len(kept) or not len(held_out):  # all images of a part are unreadable, or were not drawn
            kept, held_out = hold_out(len(train), max(1, len(train) // 5), SEED, train.groups, train.labels)
        _warn_of_missing_classes(source, train, kept, held_out)
        train, test = train.pick(kept, "train"), train.pick(held_out, "held_out")
    else:
        test, unlabelled = split_by_label(read_split(source, chosen, view, progress))
        others += [unlabelled] if len(unlabelled) else []
    _warn_of_copies(source, train, test)
    return Images(train, test, others)


def split_by_label(split: Split) -> tuple[Split, Split]:
    """Return the images with a label, and those without; if `labels` is None, all images and none."""
    if split.labels is None:
        return split, split.pick(np.arange(0), split.name)
    known = split.labels >= 0
    if known.all():
        return split, split.pick(np.arange(0), split.name)
    return split.pick(np.flatnonzero(known), split.name), split.pick(np.flatnonzero(~known), split.name)


def subsample(source: Source, max_images: int) -> dict[str, ImageSet]:
    """Return at most `max_images` images of each split, the same for all runs.

    Where evaluation holds out a fifth of the training images, the fifth stays the same: a fifth of `max_images` is
    drawn from it, and the rest from the other training images.
    """
    found = {name: images.subset(fixed_picks(len(images), max_images)) for name, images in source.splits.items()}
    train = source.splits["train"]
    if len(train) > max_images and holds_out_fifth(source):
        kept, held_out = (places_of(part, train) for part in held_out_fifth(train))
        tested = min(len(held_out), max(1, max_images // 5))
        drawn = [part[fixed_picks(len(part), n)] for part, n in ((kept, max_images - tested), (held_out, tested))]
        found["train"] = train.subset(np.sort(np.concatenate(drawn)))
    return found


def _warn_of_missing_classes(source: Source, train: Split, kept: np.ndarray, held_out: np.ndarray) -> None:
    """Warn of classes that have all their images on one side of the split.

    Raises:
        UserError: classes are trained on, but none of them is tested.
    """
    if train.labels is None:
        return
    names = train.images.classes
    assert names is not None
    trained, tested = set(train.labels[kept].tolist()), set(train.labels[held_out].tolist())
    if len(trained) > 1 and not trained & tested:
        raise UserError(
            f"{source.spec} has too few labelled images, or groups of them: no class of the fifth that is held out for "
            "testing is left to train on; label more, or give a test split (--labels, column split)"
        )
    for missing, what in (
        (trained - tested, "the held-out fifth has no image of {}: {}; accuracies say nothing about these classes"),
        (tested - trained, "all images of {} are in the held-out fifth: {}; they cannot be classified correctly"),
    ):
        if missing:
            classes = listed([names[k] for k in sorted(missing)])
            said = what.format(classes, "too few labelled images, or groups")
            warnings.warn(f"{source.spec}: {said}", stacklevel=3)


def _warn_of_copies(source: Source, train: Split, test: Split) -> None:
    """Warn if more than one in a hundred test images are training images too, pixel by pixel."""
    known = {_digest(image) for image in train.pixels} if len(test) else set()
    copies = sum(_digest(image) in known for image in test.pixels)
    warn_of_copies(source, copies, len(test), "test images are also training images")


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def warn_of_copies(source: Source, copies: int, count: int, what: str) -> None:
    """Warn if copies are more than one in a hundred of the images that accuracy is measured on."""
    if copies > count / 100:
        warnings.warn(
            f"{source.spec}: {copies:,} of {count:,} {what}: accuracies are too good; bigbigan data inspect SOURCE "
            "--groups GROUPS.csv writes a labels file that keeps copies together",
            stacklevel=4,
        )


def lacks_classes(source: Source, train: Split | ImageSet, test: Split | ImageSet | None) -> str | None:
    """Return why no classifier can be trained on these labels and tested, or None if one can.

    Args:
        source: named in the reason.
        train: images to train on.
        test: images to test on, or None if there are none and need be none.
    """
    classes = np.arange(0) if train.labels is None else np.unique(train.labels[train.labels >= 0])
    if not len(classes) or (test is not None and test.labels is None):
        return f"{source.spec} has no labels of two or more classes"
    if len(classes) > 1:
        return None
    names = (train.images if isinstance(train, Split) else train).classes
    assert names is not None
    only = shown(names[classes[0]])
    tested = np.arange(0) if test is None or test.labels is None else test.labels[test.labels >= 0]
    if np.isin(tested, classes).all():
        return f"{source.spec} has no labels of two or more classes: all labelled images are of {only}"
    if test is not None and test.name == "held_out":
        return (
            f"{source.spec} has too few labelled images, or groups of them: without the fifth that is held out for "
            f"testing, all are of {only}; label more, or give a test split (--labels, column split)"
        )
    return (
        f"{source.spec} has training images of one class only, {only}; to find images unlike them: "
        "bigbigan encode RUN --features anomaly_score"
    )


def train_val(
    count: int, run: Path | None = None, groups: np.ndarray | None = None, out: Path | None = None
) -> np.ndarray:
    """Return the sorted indices of the training images that are held out for validation (the paper's train_val).

    They are 10,000, or a tenth of fewer than 100,000; if there are groups, about as many in whole groups. They are
    never of the test split. A fixed seed draws them once; with a run folder they are recorded in its train_val.json, or
    in `out`, and read from there afterwards.
    """
    held_out = np.sort(hold_out(count, min(10_000, max(1, count // 10)), SEED, groups)[1])
    if run is None:
        return held_out
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
        write_json(path, {"seed": SEED, "of": count, "indices": held_out.tolist()}, stamp=True)
    return held_out
