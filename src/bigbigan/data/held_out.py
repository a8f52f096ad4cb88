"""Choose the images that are held out of training: a test split for sources without one, and images to validate on."""

from __future__ import annotations

import warnings

import numpy as np

from bigbigan.data.image_set import ImageSet, Source

__all__ = ["SEED", "has_labels", "held_out_fifth", "hold_out", "holds_out_fifth", "places_of"]

SEED = 0  # the same for all runs, so that all are validated and tested on the same images of a data set


def has_labels(images: ImageSet) -> bool:
    """Return whether any of the images has a label."""
    return images.labels is not None and bool((images.labels >= 0).any())


def holds_out_fifth(source: Source) -> bool:
    """Return whether evaluation tests on a fifth of the training images, as there is no other split to test on.

    If the training images have labels, a split without labels cannot be tested on.
    """
    others = [source.splits[name] for name in ("val", "test") if name in source.splits]
    return not any(source.splits["train"].labels is None or has_labels(images) for images in others)


def held_out_fifth(images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """Choose a fifth of the (labelled) images, one at least, as a test split; return it after the other images.

    It is drawn by a fixed seed, in whole groups, and so that no class is missing on either side if it can be helped
    (see `hold_out`). Unreadable images are drawn too: training may not know yet which images are unreadable, and must
    not validate on this fifth.

    Returns:
        Positions of the images in their store (`ImageSet.index`), int64 [N].
    """
    picks = np.arange(len(images)) if images.labels is None else np.flatnonzero(images.labels >= 0)
    groups, labels = (None if v is None else v[picks] for v in (images.groups, images.labels))
    parts = hold_out(len(picks), max(1, len(picks) // 5), SEED, groups, labels)
    kept, held_out = (images.index[picks[part]] for part in parts)
    return kept, held_out


def places_of(positions: np.ndarray, images: ImageSet) -> np.ndarray:
    """Return the places among `images` of those at `positions` of the store, in this order; others are left out."""
    place = {position: i for i, position in enumerate(images.index.tolist())}
    return np.array([place[p] for p in positions.tolist() if p in place], dtype=np.int64)


def hold_out(
    count: int, size: int, seed: int, groups: np.ndarray | None = None, labels: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return shuffled indices of 0 .. count - 1 in two parts, kept and held out.

    Args:
        count: number of images.
        size: how many are held out; if there are groups, about as many, since groups are not divided.
        seed: draws the images.
        groups: int64 [count], or None. A single group has to be divided, with a warning.
        labels: int64 [count], or None. Images, or whole groups, are moved between the parts until every class is in
            the first, and in the second if it can be in both.
    """
    rng = np.random.default_rng(seed)
    if groups is not None and len(np.unique(groups)) < 2:
        warnings.warn(
            f"all {count:,} training images to choose from are of one group, which is divided: metrics on the part "
            "that is held out will be too good",
            stacklevel=2,
        )
        groups = None
    if groups is None:
        order = rng.permutation(count)
        kept, held_out = order[size:], order[:size]
    else:
        from sklearn.model_selection import GroupShuffleSplit  # here: scikit-learn takes a second to load

        splitter = GroupShuffleSplit(1, test_size=max(size, 1) / count, random_state=seed)
        kept, held_out = (rng.permutation(part) for part in next(splitter.split(groups, groups=groups)))
    return (kept, held_out) if labels is None else _with_every_class(kept, held_out, labels, groups)


def _with_every_class(
    kept: np.ndarray, held_out: np.ndarray, labels: np.ndarray, groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Move images, or whole groups, so that every class is in `kept`, and in `held_out` if it can be in both."""
    units = np.arange(len(labels)) if groups is None else groups
    tested = np.isin(np.arange(len(labels)), held_out)

    def train_on_every_class() -> None:
        for c in np.setdiff1d(labels, labels[~tested]):
            unit = units == units[held_out[labels[held_out] == c][0]]
            if (tested & ~unit).any():  # something must be held out
                tested[unit] = False

    train_on_every_class()
    for c in np.setdiff1d(labels, labels[tested]):
        for number in dict.fromkeys(units[kept[labels[kept] == c]].tolist()):
            unit = units == number
            if np.isin(labels[unit], labels[~tested & ~unit]).all():
                tested[unit] = True
                break
    train_on_every_class()  # a class that was the only one held out is no longer
    first, second = (
        np.concatenate([mine[tested[mine] == side], other[tested[other] == side]])
        for mine, other, side in ((kept, held_out, False), (held_out, kept, True))
    )
    return first, second
