"""Labels of your own: a CSV file that says of what class images are, and who belongs together.

    file,label,group,split
    cat/001.png,healthy,P17,train
    cat/002.png,,P17,
    ...

`file` and `label` must be there; `group` (a patient, say: `ImageSet.groups`) and `split` (train, val or test) may be;
other columns are passed over. A row names the image whose whole name it gives, or else the one image with which it
shares all of the shorter of the two names, folder by folder from the end: `photos/cat/001.png` and `001.png` both name
`cat/001.png` if no other image fits, `dog/001.png` does not.

Cells are read as `bigbigan.cells.text_of` does: '=x, as a spreadsheet keeps it, is =x.

The file takes the place of the source's own labels. An image without a row, or with an empty cell, has no label (-1);
without a group it is a group of its own; without a split it stays where the source has it.
"""

import csv
import hashlib
import io
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from bigbigan.cells import text_of
from bigbigan.data.image_set import ImageSet, LabelsFile, Source, shown
from bigbigan.errors import UserError
from bigbigan.regular import regular_bytes

__all__ = ["apply_labels"]

MOST_BYTES = 2**30  # of a labels file

COLUMNS = ("file", "label", "group", "split")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class _Row:
    label: str = ""
    group: str = ""
    split: str = ""


def apply_labels(source: Source, path: Path) -> None:
    """Give the images of an opened source the labels, groups and splits of a CSV file (see the module), in place.

    Raises:
        UserError: one line, for a file that cannot be read or does not fit the images.
    """
    try:
        content = regular_bytes(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(f"--labels {shown(path)} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    rows = _matched(_read(content, path), source, path)
    images = [file for s in source.splits.values() for file in s.files]
    given = [rows.get(file, _Row()) for file in images]
    names = sorted({row.label for row in given if row.label}, key=_order)
    if not names:
        raise UserError(f"--labels {shown(path)} gives no label: its column 'label' is empty")
    number = {name: k for k, name in enumerate(names)}
    labels = np.array([number.get(row.label, -1) for row in given], dtype=np.int64)
    groups = _groups(row.group for row in given)
    source.splits = _arranged(source, [row.split for row in given], path)
    place = {file: i for i, file in enumerate(images)}
    for split in source.splits.values():
        at = np.array([place[file] for file in split.files], dtype=np.int64)
        some = bool((labels[at] >= 0).any())
        split.labels, split.classes = (labels[at], [shown(name) for name in names]) if some else (None, None)
        split.groups = None if groups is None else groups[at]
    source.labels = LabelsFile(str(path), hashlib.sha256(content).hexdigest())
    if without := int((labels < 0).sum()):
        source.notes["without a label"] += without
    _warn_of_shared_groups(source)


def _read(content: bytes, path: Path) -> list[tuple[str, _Row]]:
    """The rows of a CSV file with commas, semicolons or tabs: (file, row)."""
    what = f"--labels {shown(path)}"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} is not UTF-8 text (byte {error.start:,}); save it as CSV UTF-8") from None
    head = text.partition("\n")[0]
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True))
    except csv.Error as error:
        raise UserError(f"{what} is not a readable CSV file: {error}") from None
    if not lines:
        raise UserError(f"{what} is empty; expected a header line with file,label and a line an image")
    header = [name.strip() for name in lines[0]]
    if missing := [name for name in ("file", "label") if name not in header]:
        have = shown(", ".join(header))
        raise UserError(f"{what} has no column '{missing[0]}' but {have}; expected a header line with file,label")
    if twice := [name for name in COLUMNS if header.count(name) > 1]:
        raise UserError(f"{what} has two columns '{twice[0]}'")
    found = []
    for number, cells in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise UserError(f"{what}: row {number:,} has {len(cells)} cells, the header {len(header)}")
        cell = {name: text_of(value.strip()) for name, value in zip(header, cells, strict=True) if name in COLUMNS}
        file = cell.pop("file")
        if not file:
            raise UserError(f"{what}: row {number:,} names no file")
        if cell.get("split", "") not in ("", *SPLITS):
            raise UserError(f"{what}: row {number:,}: split is {shown(cell['split'])}; expected {', '.join(SPLITS)}")
        found.append((file, _Row(**cell)))
    if not found:
        raise UserError(f"{what} has a header and no rows; expected one for each labelled image")
    return found


def _matched(rows: list[tuple[str, _Row]], source: Source, path: Path) -> dict[str, _Row]:
    """Rows by the image they name."""
    what = f"--labels {shown(path)}"
    by_base: dict[str, list[str]] = {}
    for split in source.splits.values():
        for file in split.files:
            by_base.setdefault(file.rpartition("/")[2], []).append(file)
    matched: dict[str, _Row] = {}
    strangers = []
    for given, row in rows:
        name = shown(given).replace("\\", "/").removeprefix("./")
        alike = by_base.get(name.rpartition("/")[2], [])
        fitting = [f for f in alike if f == name] or [
            f for f in alike if f.endswith(f"/{name}") or name.endswith(f"/{f}")
        ]
        if len(fitting) > 1:
            raise UserError(f"{what}: {shown(given)} may be {fitting[0]} or {fitting[1]}; give the whole name")
        if not fitting:
            strangers.append(given)
        elif matched.setdefault(fitting[0], row) != row:
            raise UserError(f"{what}: {fitting[0]} stands there twice, with different labels, groups or splits")
    if strangers:
        example = next(file for split in source.splits.values() for file in split.files)
        raise UserError(
            f"{what}: {len(strangers):,} of {len(rows):,} rows name no image of {source.spec}, "
            f"the first {shown(strangers[0])}; images there are called as {example}"
        )
    return matched


def _order(name: str) -> tuple[int, float, str]:
    """Numbers first and by value, then text."""
    try:
        value = float(name)
    except ValueError:
        value = math.nan
    return (0, value, name) if math.isfinite(value) else (1, 0.0, name)


def _groups(names: Iterable[str]) -> np.ndarray | None:
    """A number for each image, the same for those of one group; None where no group is named."""
    numbers: dict[str, int] = {}
    found = [numbers.setdefault(name, len(numbers)) if name else -1 for name in names]
    if not numbers:
        return None
    groups = np.array(found, dtype=np.int64)
    alone = groups < 0
    groups[alone] = len(numbers) + np.arange(alone.sum())
    return groups


def _arranged(source: Source, wanted: list[str], path: Path) -> dict[str, ImageSet]:
    """The splits of a source with each image in the split that is wanted for it, or else where it is."""
    before = list(source.splits.values())
    origin = np.repeat(np.arange(len(before)), [len(s) for s in before])
    names = np.array([split or before[k].name for split, k in zip(wanted, origin, strict=True)])
    if all(names[i] == before[k].name for i, k in enumerate(origin)):
        return source.splits
    if len({id(s.store) for s in before}) > 1:
        i = next(i for i, k in enumerate(origin) if names[i] != before[k].name)
        file = [f for s in before for f in s.files][i]
        raise UserError(
            f"--labels {shown(path)} puts {file} into {names[i]}; {source.spec} holds its splits as arrays: "
            "leave the column 'split' out"
        )
    files, index = [f for s in before for f in s.files], np.concatenate([s.index for s in before])
    splits = {}
    for name in SPLITS:
        members = np.flatnonzero(names == name)
        if len(members):
            splits[name] = ImageSet(name, [files[i] for i in members], None, None, before[0].store, index[members])
    if "train" not in splits:
        raise UserError(f"--labels {shown(path)} leaves no image in the train split")
    return splits


def _warn_of_shared_groups(source: Source) -> None:
    known = {name: split.groups for name, split in source.splits.items() if split.groups is not None}
    for a, b in combinations(known, 2):
        if shared := len(np.intersect1d(known[a], known[b])):
            source.notes[f"groups with images in both {a} and {b}"] += shared
            warnings.warn(
                f"{source.spec}: {shared:,} groups have images in both {a} and {b}: figures on {b} will be too good",
                stacklevel=3,
            )
