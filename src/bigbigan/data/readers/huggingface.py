"""Read data sets of the Hugging Face `datasets` library, by their name on the Hub or by a local folder.

    hf:ylecun/mnist  hf:owner/name:validation  hf:folder/of/parquet  hf:folder/saved/to/disk

The image column and the label column are the first of their kinds (`Image`, `ClassLabel`). Images are read as encoded
bytes and decoded here, with the same limits as files. No code of a data set is run.
"""

import os
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from bigbigan.data.decode import DecodeLimits
from bigbigan.data.image_set import FileStore, ImageSet, Source
from bigbigan.data.names import composed, shown, stored_name
from bigbigan.data.readers.folders import split_of
from bigbigan.data.readers.offline import offline_if_unreachable
from bigbigan.errors import UserError

__all__ = ["open_huggingface"]


def open_huggingface(spec: str, source: Source, limits: DecodeLimits) -> dict[str, ImageSet]:
    """Open the splits of hf:NAME, or the one of hf:NAME:SPLIT as "train".

    Raises:
        UserError: the library is not installed, the data set cannot be loaded, or it has no images.
    """
    name, _, split = spec.removeprefix("hf:").partition(":")
    if not name:
        raise UserError(f"{shown(spec)}: no name after the colon; expected hf:OWNER/NAME, hf:NAME:SPLIT or hf:FOLDER")
    try:
        import datasets
    except ModuleNotFoundError:
        raise UserError(f"{shown(spec)} needs the datasets library: pip install 'bigbigan[hf]'") from None
    try:
        loaded = _load(datasets, os.path.expanduser(name))
    except Exception as e:  # datasets, huggingface_hub, fsspec, pyarrow, ...: each has its own exceptions
        reason = " ".join(str(e).split()) or type(e).__name__
        raise UserError(f"{shown(spec)} cannot be loaded: {shown(reason[:300])}") from e
    if split:
        if split not in loaded:
            raise UserError(
                f"{shown(spec)}: there is no split '{shown(split)}'; there are {', '.join(map(shown, loaded))}"
            )
        chosen = {"train": split}
    else:
        chosen = {our_name: s for s in reversed(loaded) if (our_name := split_of(s))}
        chosen |= {s: s for s in ("train", "val", "test") if s in loaded}
        chosen = {s: chosen[s] for s in ("train", "val", "test") if s in chosen}
        if not chosen:
            names = ", ".join(map(shown, loaded))
            raise UserError(f"{shown(spec)}: no split is train, val or test; write hf:NAME:SPLIT with one of {names}")
        if unused := [s for s in loaded if s not in chosen.values()]:
            source.notes[f"splits not used: {', '.join(map(shown, unused))}"] += 1
    source.name = shown(name.rstrip("/").rpartition("/")[2])
    splits = {
        our_name: _image_set(loaded[their_name], our_name, their_name, spec, datasets, limits, source)
        for our_name, their_name in chosen.items()
    }
    _number_classes_alike(splits)
    return splits


def _number_classes_alike(splits: dict[str, ImageSet]) -> None:
    """Give the classes of all splits the numbers of the first split's; each split may have an order of its own."""
    names = list(dict.fromkeys(name for images in splits.values() for name in images.classes or ()))
    for images in splits.values():
        if images.labels is not None and images.classes is not None:
            number = np.array([names.index(name) for name in images.classes], dtype=np.int64)
            images.labels, images.classes = np.where(images.labels < 0, -1, number[images.labels]), names


def _load(datasets: Any, name: str) -> dict[str, Any]:
    """Load all splits, from the Hub or from a folder."""
    folder = Path(name)
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        loaded = datasets.load_from_disk(name)
        return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    with nullcontext() if os.path.exists(name) else offline_if_unreachable():
        return dict(datasets.load_dataset(name))


_LABEL_COLUMNS = {"label", "labels", "class", "classes", "category", "target", "y", "diagnosis"}


def _image_set(
    table: Any, name: str, their_name: str, spec: str, datasets: Any, limits: DecodeLimits, source: Source
) -> ImageSet:
    features = table.features
    image = next((k for k, f in features.items() if isinstance(f, datasets.Image)), None)
    if image is None:  # a column of the same form, as pandas and pyarrow write it
        image = next((k for k, f in features.items() if isinstance(f, dict) and set(f) == {"bytes", "path"}), None)
    if image is None:
        columns = ", ".join(f"{shown(k)} ({type(f).__name__})" for k, f in features.items())
        raise UserError(f"{shown(spec)}: '{shown(their_name)}' has no column of images; it has {columns}")
    label = next((k for k, f in features.items() if isinstance(f, datasets.ClassLabel)), None)
    if label is None and (plain := next((k for k in features if k.lower() in _LABEL_COLUMNS), None)) is not None:
        kind = getattr(features[plain], "dtype", type(features[plain]).__name__)
        source.notes[f"column '{shown(plain)}' ({kind}) is not a ClassLabel: read without labels"] += 1
        remedy = f"class_encode_column('{shown(plain)}') makes it one; or give --labels"
        warnings.warn(
            f"{shown(spec)}: column '{shown(plain)}' ({kind}) is not a ClassLabel and not read; {remedy}", stacklevel=3
        )
    encoded = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))

    def read(row: int) -> bytes:
        cell = encoded[int(row)][image]
        if cell is None:
            return b""
        if cell["bytes"] is not None:
            return bytes(cell["bytes"])
        with open(cell["path"], "rb") as file:
            return file.read(limits.max_bytes + 1)

    labels, classes = None, None
    if label is not None:
        labels = np.array([-1 if k is None else k for k in table[label]], dtype=np.int64)
        classes = [stored_name(composed(c)) for c in features[label].names]
        if not (labels >= 0).any():  # the labels of a test split may be withheld
            labels, classes = None, None
    rows = np.arange(len(table))
    return ImageSet(name, [f"{their_name}/{i:08d}" for i in rows], labels, classes,
                    FileStore([""] * len(rows), rows, read, limits), rows)  # fmt: skip
