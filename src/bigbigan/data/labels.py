"""Read labels, groups and splits from a CSV file (--labels).

    file,label,group,split
    cat/001.png,healthy,P17,train
    cat/002.png,,P17,
    ...

`labels_table` reads the file; columns that are not used are noted. Rows that name no image are ignored if they are
fewer than half.

A name matches the image of the same name. Otherwise names match by suffix at folder boundaries: `photos/cat/001.png`
and `001.png` both match `cat/001.png` if it is the only match; `dog/001.png` does not. If nothing matches, extensions
are compared regardless of case, and a name without an extension matches any extension.

A name with spaces around it that matches nothing is compared without them. A name of a file of several frames
(`data.frames=all`) is for all of its frames, except those with a row of their own.
A group given to one frame is for all frames of the file to which no other group is given.

A file with labels (a column `label`, or one-hot columns) replaces the source's own: an image without a row, or whose
cell is empty or one of `NO_LABEL`, has no label (-1). A file without labels keeps the source's. An image without a
group stays in the group (such as a patient: `ImageSet.groups`) that the source gives it, if any, or else is a group of
its own. If it has no split it stays in the source's split.
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from bigbigan.data.csv_cells import text_of
from bigbigan.data.image_set import ImageSet, LabelsFile, Source, with_train
from bigbigan.data.labels_table import SPLITS, Row, Table, read_table
from bigbigan.data.names import class_order, composed, label_of, listed, shown, stored_name
from bigbigan.errors import UserError

__all__ = ["apply_labels", "rows_of"]


def apply_labels(source: Source, table: Table) -> None:
    """Set the labels, groups and splits of an opened source's images from a labels file (see the module), in place.

    Raises:
        UserError: the file does not match the images.
    """
    path = table.path
    if table.unused:
        source.notes[f"columns of the labels file that are not used: {listed(table.unused)}"] += 1
    if table.one_hot:
        source.notes[f"label of an image is the column that holds its 1, of {listed(table.one_hot, 8)}"] += 1
    if spelled := Counter(row.label for _, row in table.rows if row.label and not label_of(row.label)):
        source.notes[f"labels read as none: {', '.join(sorted(spelled))}"] += spelled.total()
    rows = _matched(table, source)
    images = [file for s in source.splits.values() for file in s.files]
    row_of = [rows.get(file, Row()) for file in images]
    if table.labelled:
        names = sorted({row.label for row in row_of if row.label}, key=class_order)
        if not names:
            hint = "; to use predictions as labels, call their column label" if "predicted" in table.unused else ""
            raise UserError(
                f"--labels {shown(path)} gives no label: its column 'label' is empty (without this column, the images "
                f"keep the labels of {source.spec}){hint}"
            )
        number = {name: k for k, name in enumerate(names)}
        labels = np.array([number.get(row.label, -1) for row in row_of], dtype=np.int64)
        classes: list[str] | None = [stored_name(name) for name in names]
        if len(names) > max(20, (labels >= 0).sum() / 2):
            warnings.warn(
                f"--labels {shown(path)} gives {len(names):,} classes to {(labels >= 0).sum():,} images: is its column "
                "'label' a class?",
                stacklevel=3,
            )
    else:
        labels, classes = _source_labels(source)
        text = f"--labels {shown(path)} has no column 'label'"
        if classes is None:
            warnings.warn(f"{text}, and {source.spec} has no labels of its own: no image has a label", stacklevel=3)
        elif table.unused:
            text += f" but {listed(table.unused)}, which {'is' if len(table.unused) == 1 else 'are'} not used"
            warnings.warn(f"{text}: the images keep the labels of {source.spec}", stacklevel=3)
    groups = _groups([row.group for row in row_of], _source_groups(source))
    source.splits = _arranged(source, [row.split for row in row_of], path)
    position = {file: i for i, file in enumerate(images)}
    for split in source.splits.values():
        at = np.array([position[file] for file in split.files], dtype=np.int64)
        labelled = bool((labels[at] >= 0).any())
        split.labels, split.classes = (labels[at], classes) if labelled else (None, None)
        split.groups = None if groups is None else groups[at]
    source.labels = LabelsFile(str(path), table.sha256)
    source.notes.pop("without a label", None)  # those of the source's own labels
    if unlabelled := int((labels < 0).sum()):
        source.notes["without a label"] = unlabelled
    _warn_of_shared_groups(source)


def rows_of(source: Source) -> dict[str, Row]:
    """Return the rows of a labels file that gives a source the labels, groups and splits it has, by image.

    They are those of the labels file that was applied, if there is one. Labels that it does not give are the source's
    own.

    Raises:
        UserError: the labels file can no longer be read.
    """
    rows: dict[str, Row] = {}
    labelled = False
    if source.labels is not None:
        table = read_table(Path(source.labels.path))
        rows, labelled = _matched(table, source), table.labelled
    if labelled:
        return rows
    for images in source.splits.values():
        labels = np.full(len(images), -1) if images.labels is None else images.labels
        for i in np.flatnonzero(labels >= 0).tolist():
            own = Row(group="" if images.groups is None or source.labels is not None else str(images.groups[i]))
            rows[images.files[i]] = replace(rows.get(images.files[i], own), label=images.class_name(i))
    return rows


def _matched(table: Table, source: Source) -> dict[str, Row]:
    """Return the rows by the image they name, with "" for labels that mean none."""
    what = f"--labels {shown(table.path)}"
    files = [file for split in source.splits.values() for file in split.files]
    frames = {frame for of_file in source.frames.values() for frame in of_file}
    whole = [*(file for file in files if file not in frames), *source.frames]
    # Names of whole files come before those of frames, as a name without extension would match all frames of a file.
    indices = [_Index([*files, *source.frames]), _Index(whole, loose=True), _Index(sorted(frames), loose=True)]
    matched: dict[str, Row] = {}
    unmatched = []
    for name, written in table.rows:
        row = replace(written, label=label_of(written.label))
        spellings = dict.fromkeys((name, text_of(name.strip())))  # a file's name may begin or end with a space
        matches = next(filter(None, (index.find(spelled) for spelled in spellings for index in indices)), [])
        if len(matches) > 1:
            raise UserError(f"{what}: {shown(name)} may be {matches[0]} or {matches[1]}; give the whole name")
        if not matches:
            unmatched.append(name)
        elif matched.setdefault(matches[0], row) != row:
            raise UserError(f"{what}: {matches[0]} has two rows, with different labels, groups or splits")
    if unmatched:
        text = f"{len(unmatched):,} of {len(table.rows):,} rows name no image of {source.spec}, the first is"
        text += f" {shown(unmatched[0])}"
        if 2 * len(unmatched) >= len(table.rows):
            raise UserError(f"{what}: {text}; an image there is called {shown(files[0])}")
        warnings.warn(f"{what}: {text}; these rows are ignored", stacklevel=4)
    of_frames = {frame: matched[file] for file in source.frames if file in matched for frame in source.frames[file]}
    return of_frames | {file: row for file, row in matched.items() if file not in source.frames}


class _Index:
    """Images by their names, and by suffixes of their names at folder boundaries.

    Names are compared in Unicode's composed form: macOS writes é as two characters, spreadsheets as one.

    Args:
        files: names of all images.
        loose: compare extensions regardless of case, and find an image by its name without the extension.
    """

    def __init__(self, files: list[str], loose: bool = False) -> None:
        self.files, self.loose = files, loose
        self.whole: dict[str, list[str]] = {}
        self.ends: dict[str, list[str]] = {}

    def find(self, given: str) -> list[str]:
        """Return the images that a name matches, at most two of them."""
        if not self.whole:  # built when it is first needed
            for file in self.files:
                name = _compared(file)
                stem, ending = os.path.splitext(name)
                for spelled in {name, stem, stem + ending.lower()} if self.loose else {name}:
                    _add(self.whole, spelled, file)
                    for end in _ends(spelled):
                        _add(self.ends, end, file)
        given = _compared(given)
        for form in dict.fromkeys((given, given.replace("\\", "/"))):  # a backslash is part of a name, or a separator
            name = form.removeprefix("./")
            stem, ending = os.path.splitext(name)
            for spelled in dict.fromkeys((name, stem + ending.lower())) if self.loose else (name,):
                if spelled in self.whole:
                    return self.whole[spelled]
                matches = [*self.ends.get(spelled, ())]
                matches += [file for end in _ends(spelled) for file in self.whole.get(end, ()) if file not in matches]
                if matches:
                    return matches
        return []


def _compared(name: str) -> str:
    return shown(composed(name))


def _ends(name: str) -> Iterable[str]:
    """Iterate over the suffixes of a name: b/c.png and c.png for a/b/c.png."""
    at = name.find("/")
    while at >= 0:
        yield name[at + 1 :]
        at = name.find("/", at + 1)


def _add(index: dict[str, list[str]], name: str, file: str) -> None:
    """Add a file, if it is the first or second of this name."""
    files = index.setdefault(name, [])
    if len(files) < 2 and file not in files:
        files.append(file)


def _source_labels(source: Source) -> tuple[np.ndarray, list[str] | None]:
    """Return the label of each image of all splits, int64 [N], -1 is none, and the names of the classes, if any."""
    splits = source.splits.values()
    labels = [np.full(len(split), -1, np.int64) if split.labels is None else split.labels for split in splits]
    return np.concatenate(labels), next((split.classes for split in splits if split.classes), None)


def _source_groups(source: Source) -> np.ndarray | None:
    """Return the group number of each image of all splits, int64 [N], before labels are applied; None without groups.

    They are those of the frames of a file, or those that shards were written with.
    """
    splits = list(source.splits.values())
    known = [split.groups for split in splits if split.groups is not None]
    if not known:
        return None
    unused = 1 + max(int(groups.max(initial=-1)) for groups in known)
    parts = []
    for split in splits:  # each image of a split without groups is one of its own
        parts.append(np.arange(unused, unused + len(split)) if split.groups is None else split.groups)
        unused += len(split)
    return np.concatenate(parts)


def _groups(names: list[str], before: np.ndarray | None) -> np.ndarray | None:
    """Return each image's group number, int64 [N]; None if no image has a group.

    Args:
        names: of each image's group in the labels file; "" is none.
        before: the group that the source gives each image, or None. Images without a name stay together in it, and
            with the first image of it that has a name.
    """
    numbers: dict[str, int] = {}
    named_groups = [numbers.setdefault(name, len(numbers)) if name else -1 for name in names]
    if not numbers:
        return before
    before = np.arange(len(names)) if before is None else before
    of_before: dict[int, int] = {}
    for old, new in zip(before.tolist(), named_groups, strict=True):
        if new >= 0:
            of_before.setdefault(old, new)
    return np.array(
        [
            new if new >= 0 else of_before.get(old, len(numbers) + old)
            for old, new in zip(before.tolist(), named_groups, strict=True)
        ],
        dtype=np.int64,
    )


def _arranged(source: Source, wanted: list[str], path: Path) -> dict[str, ImageSet]:
    """Return the splits of a source with each image in the split wanted for it; "" leaves it in its split."""
    before = list(source.splits.values())
    origin = np.repeat(np.arange(len(before)), [len(s) for s in before])
    names = np.array([split or before[k].name for split, k in zip(wanted, origin, strict=True)])
    if all(names[i] == before[k].name for i, k in enumerate(origin)):
        return source.splits
    if len({id(s.store) for s in before}) > 1:
        i = next(i for i, k in enumerate(origin) if names[i] != before[k].name)
        file = [f for s in before for f in s.files][i]
        raise UserError(
            f"--labels {shown(path)} puts {file} into {names[i]}; the splits of {source.spec} cannot be changed: "
            "remove the column 'split'"
        )
    files, index = [f for s in before for f in s.files], np.concatenate([s.index for s in before])
    splits = {}
    for name in SPLITS:
        members = np.flatnonzero(names == name)
        if len(members):
            splits[name] = ImageSet(name, [files[i] for i in members], None, None, before[0].store, index[members])
    return with_train(splits, source)


def _warn_of_shared_groups(source: Source) -> None:
    known = {name: split.groups for name, split in source.splits.items() if split.groups is not None}
    for a, b in combinations(known, 2):
        if shared := len(np.intersect1d(known[a], known[b])):
            source.notes[f"groups with images in both {a} and {b}"] += shared
            warnings.warn(
                f"{source.spec}: {shared:,} groups have images in both {a} and {b}: metrics on {b} will be too good",
                stacklevel=3,
            )
