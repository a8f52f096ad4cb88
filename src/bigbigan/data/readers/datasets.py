"""Read map-style data sets in Python, such as a `torch.utils.data.Dataset` of the user's own.

    python:MODULE:NAME     a data set, a class or function without arguments that returns one, or a dictionary of them
                           by split: {"train": ..., "test": ...}

Item i is an image, or (image, label). An image is a PIL image; an array, uint8 [H, W], [H, W, 1] or [H, W, 3]; or a
tensor, uint8 or float in [0, 1], [H, W], [1, H, W] or [3, H, W]. A label is a whole number, a class name, or None.
PIL images are read like files: those of more than 8 bits by `data.window`.
Items must be the same each time: random augmentation is a setting (data.augment). They are read one at a time.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from bigbigan.data.decode import DecodeLimits, decode_pillow
from bigbigan.data.formats import Unreadable
from bigbigan.data.image_set import ImageSet, Source
from bigbigan.data.names import class_order, composed, label_of, shown, stored_name
from bigbigan.data.window import Window
from bigbigan.errors import UserError
from bigbigan.user_code import import_named, message_and_place

__all__ = ["DatasetStore", "is_python", "open_datasets", "open_python"]

SPLITS = ("train", "val", "test")
CHECKED = 32  # items whose labels are compared with `targets`
EXPECTED = "a map-style data set (__len__ and __getitem__), a function that returns one, or a dictionary by split"


class DatasetStore:
    """Images that are items of a map-style data set. It has the methods of `FileStore`, except `raw`."""

    pads = False
    remote = None
    channels = 3  # of the first item
    transformed = False  # whether items have other labels than the data set's `targets`, which its `classes` may name

    def __init__(self, dataset: Any, limits: DecodeLimits) -> None:
        self.dataset, self.limits = dataset, limits
        self._lock = threading.Lock()  # data sets are seldom made for threads

    def item(self, i: int) -> tuple[Any, Any]:
        """Return the image of item i as the data set gives it, and its label or None. Raises Unreadable."""
        try:
            with self._lock:
                item = self.dataset[i]
        except Exception as error:  # the user's code may raise anything
            raise Unreadable(f"item cannot be read ({message_and_place(error)})") from error
        if isinstance(item, tuple | list):
            if len(item) != 2:
                raise Unreadable(f"item has {len(item)} parts; expected an image, or (image, label)")
            return item[0], item[1]
        return item, None

    def get(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the pixels of image i, uint8 [H, W, 1|3], and notes on their conversion. Raises Unreadable."""
        return _pixels(self.item(i)[0], self.limits)

    def identity(self, i: int) -> bytes:
        """Return the bytes that identify image i: its pixels, with any window the same. Raises Unreadable."""
        image = self.item(i)[0]
        try:
            pixels, _ = _pixels(image, replace(self.limits, window=None))
        except Unreadable:
            _pixels(image, replace(self.limits, window=Window(0, 1)))  # raises, unless a window is all that it lacks
            pixels = np.asarray(image)
        return f"{pixels.shape}".encode() + pixels.tobytes()


def is_python(spec: str) -> bool:
    """Return whether a SOURCE is a data set in Python: python:MODULE:NAME."""
    return spec.startswith("python:")


def open_python(spec: str, source: Source, limits: DecodeLimits) -> dict[str, ImageSet]:
    """Open the data set that python:MODULE:NAME names; its module is imported.

    Raises:
        UserError: it cannot be imported, or see `open_datasets`.
    """
    return open_datasets(import_named(spec, EXPECTED), source, limits)


def open_datasets(found: Any, source: Source, limits: DecodeLimits) -> dict[str, ImageSet]:
    """Open a data set as the split "train", or a dictionary of data sets by split.

    Raises:
        UserError: it is no map-style data set, is empty, or its first item is no image or is random.
    """
    if callable(found) and (isinstance(found, type) or not hasattr(found, "__getitem__")):
        try:
            found = found()
        except Exception as error:  # the user's code may raise anything
            raise UserError(f"{source.spec}: {message_and_place(error)}") from error
    splits: Mapping[str, Any] = found if isinstance(found, Mapping) else {"train": found}
    if unknown := [name for name in splits if name not in SPLITS]:
        raise UserError(f"{source.spec}: there is no split {unknown[0]}; expected {', '.join(SPLITS)}")
    values = {name: _checked(splits[name], name, source, limits) for name in SPLITS if name in splits}
    labels = {name: _labels(store, len(splits[name]), source) for name, store in values.items()}
    classes = _classes(values, labels, source)
    if unlabelled := sum(label is None for found in labels.values() for label in found or ()):
        source.notes["without a label"] += unlabelled
    found_splits = {}
    for name, store in values.items():
        count = len(splits[name])
        numbers = None if classes is None else _numbers(labels[name], count, classes[0][name])
        labelled = numbers is not None and bool((numbers >= 0).any())
        found_splits[name] = ImageSet(
            name,
            [f"{name}/{i:05d}" for i in range(count)],
            numbers if labelled else None,
            classes[1] if labelled and classes is not None else None,
            store,
            np.arange(count),
        )
    return found_splits


def _checked(dataset: Any, name: str, source: Source, limits: DecodeLimits) -> DatasetStore:
    """Return the store of a data set whose first item can be used, perhaps with a window that is not set yet."""
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise UserError(f"{source.spec}: '{name}' is a {type(dataset).__name__}; expected {EXPECTED}")
    if not len(dataset):
        raise UserError(f"{source.spec}: '{name}' has no items")
    store = DatasetStore(dataset, replace(limits, window=limits.window or Window(0, 2**16 - 1)))
    try:
        (first, _), (again, _) = store.get(0), store.get(0)
    except Unreadable as error:
        raise UserError(f"{source.spec}: '{name}': {error}") from error
    if first.shape != again.shape or (first != again).any():
        raise UserError(
            f"{source.spec}: '{name}' gives a different image each time it is asked for item 0; "
            "remove its random augmentation; the setting data.augment does that"
        )
    store.limits, store.channels = limits, first.shape[-1]
    return store


def _labels(store: DatasetStore, count: int, source: Source) -> list[Any] | None:
    """Return the label of each item, None if it has none; or None if no item has one.

    They are the data set's `targets` or `labels`, as in torchvision, if a few items agree; else all items are read.
    """
    if not isinstance(first := _first(store), tuple):
        return None
    why = "has no 'targets'"
    for name in ("targets", "labels"):
        values = getattr(store.dataset, name, None)
        if values is not None and hasattr(values, "__len__") and len(values) == count:
            labels = [_plain(value) for value in values]
            if _agrees(store, labels):
                return labels
            store.transformed = True
            why = f"has other '{name}' than its items' labels"  # a target_transform changes only the items
    source.notes[f"labels read from all items, as the data set {why}"] += 1
    found = [_plain(first[1])]
    for i in range(1, count):
        try:
            found.append(_plain(store.item(i)[1]))
        except Unreadable:
            found.append(None)  # is counted when its image is read
    return found if any(label is not None for label in found) else None


def _agrees(store: DatasetStore, labels: list[Any]) -> bool:
    """Return whether the items have these labels, by one item of each label, of up to `CHECKED` labels."""
    positions = list({label: i for i, label in reversed(list(enumerate(labels)))}.values())
    for i in positions[:: -(-len(positions) // CHECKED)]:
        try:
            if _plain(store.item(i)[1]) != labels[i]:
                return False
        except (Unreadable, UserError):  # an item that is damaged, or whose own label cannot be a class
            continue
    return True


def _first(store: DatasetStore) -> Any:
    item = store.dataset[0]
    return tuple(item) if isinstance(item, tuple | list) else item


def _plain(label: Any) -> Any:
    """Return a label as a number, a class name, or None if it means no label (-1, NaN, "NA" and so on: `NO_LABEL`).

    One that is an array or a tensor has one number.
    """
    if hasattr(label, "item"):
        try:
            label = label.item()
        except (RuntimeError, ValueError):
            raise UserError(f"a label is {label!r:.60}; expected one whole number, a class name or None") from None
    if label is None or (isinstance(label, float) and math.isnan(label)):
        return None
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, str):
        return label_of(label) or None
    if isinstance(label, int):
        return None if label < 0 else int(label)
    raise UserError(f"a label is {label!r:.60}; expected a whole number, a class name or None")


def _classes(
    stores: Mapping[str, DatasetStore], labels: Mapping[str, list[Any] | None], source: Source
) -> tuple[dict[str, dict[Any, int]], list[str]] | None:
    """Return the number of each label of each split, and the names of the classes; None without labels.

    Raises:
        UserError: splits name different `classes`, and a label is a number that its split does not name.
    """
    used = {split: {label for label in values or () if label is not None} for split, values in labels.items()}
    every = set().union(*used.values())
    if not every:
        return None
    lists = {split: names for split in used if (names := _listed(stores[split].dataset)) is not None}
    for split in [split for split in lists if stores[split].transformed and used[split] != {*range(len(lists[split]))}]:
        source.notes[f"'classes' of '{split}' not used, as they name its 'targets'"] += 1
        del lists[split]
    numeric = all(isinstance(label, int) for label in every)
    if lists and numeric and len(set(map(tuple, lists.values()))) > 1:
        for split in used:
            if wrong := sorted(k for k in used[split] if k >= len(lists.get(split, ()))):
                both = " and ".join(
                    f"{', '.join(names[:8])}{', ...' * (len(names) > 8)} in '{name}'" for name, names in lists.items()
                )
                raise UserError(
                    f"{source.spec}: splits have different classes, {shown(both)}, and label {wrong[0]} of '{split}' "
                    "has no name; give every split a name for each of its labels in `classes`"
                )
        names = list(dict.fromkeys(name for names in lists.values() for name in names))
        return {split: {k: names.index(name) for k, name in enumerate(lists.get(split, ()))} for split in used}, names
    names = next(iter(lists.values()), [])
    if names and numeric and max(every) < len(names):
        numbers: dict[Any, int] = {k: k for k in range(len(names))}
    else:
        ordered = sorted(every, key=class_order)
        numbers, names = {label: k for k, label in enumerate(ordered)}, [stored_name(label) for label in ordered]
    return dict.fromkeys(used, numbers), names


def _listed(dataset: Any) -> list[str] | None:
    """Return the names in a data set's `classes`; None if it has none."""
    names = getattr(dataset, "classes", None)
    if not isinstance(names, Sequence | np.ndarray) or isinstance(names, str) or not len(names):
        return None
    return [stored_name(composed(str(name))) for name in names]


def _numbers(labels: list[Any] | None, count: int, numbers: Mapping[Any, int]) -> np.ndarray:
    return np.array([numbers.get(label, -1) for label in labels or [None] * count], dtype=np.int64)


def _pixels(image: Any, limits: DecodeLimits) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return an image of a data set as uint8 [H, W, 1|3], and notes on its conversion. Raises Unreadable."""
    if isinstance(image, Image.Image):
        return decode_pillow(image, limits)
    notes: tuple[str, ...] = ()
    is_tensor = hasattr(image, "detach")  # torch may not be loaded yet
    if not (is_tensor or isinstance(image, np.ndarray)):
        raise Unreadable(f"not an image ({type(image).__name__}; expected a PIL image, an array or a tensor)")
    array = image.detach().cpu().numpy() if is_tensor else image
    if is_tensor and array.ndim == 3:
        array = array.transpose(1, 2, 0)
    if is_tensor and array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise Unreadable("float tensor outside [0, 1] (give uint8, or floats in [0, 1])")
        array = (array * 255).round().astype(np.uint8)
        notes = ("float tensor scaled to 8 bits",)
    array = array[:, :, None] if array.ndim == 2 else array
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in (1, 3) or 0 in array.shape:
        kind, form = ("tensor", "[C, H, W]") if is_tensor else ("array", "[H, W, C]")
        raise Unreadable(
            f"not an image ({kind} {image.dtype} {list(image.shape)}; expected uint8 {form} with 1 or 3 channels)"
        )
    return np.ascontiguousarray(array), notes
