"""Read labels, groups and splits from a CSV file (--labels).

    file,label,group,split
    cat/001.png,healthy,P17,train
    cat/002.png,,P17,
    ...

The columns `file` and `label` are required (other spellings: `FILE_COLUMNS`, `LABEL_COLUMNS`). `group` (such as a
patient: `ImageSet.groups`) and `split` (train, val or test, in the spellings of `split_of`) are optional; other columns
are noted and ignored. So the files of `predict`, `classify`, `cluster` and `encode` can be read as labels. Rows that
name no image are ignored if they are fewer than half.

A name matches the image of the same name. Otherwise names match by suffix at folder boundaries: `photos/cat/001.png`
and `001.png` both match `cat/001.png` if it is the only match; `dog/001.png` does not. If nothing matches, extensions
are compared regardless of case, and a name without an extension matches any extension.

A name with spaces around it that matches nothing is compared without them. A name of a file of several frames
(`data.frames=all`) is for all of its frames, except those with a row of their own.
A group given to one frame is for all frames of the file to which no other group is given.

Text is UTF-8, or else Windows-1252, as Excel saves it; separated by commas, semicolons or tabs. Cells are unescaped by
`bigbigan.data.csv_cells.text_of`: '=x, which spreadsheets save, is =x.

The file replaces the source's own labels. An image without a row, or whose cell is empty or one of `NO_LABEL`, has no
label (-1). Without a group it stays in the group that the source gives it, if any, or else is a group of its own. If it
has no split it stays in the source's split.
"""

import csv
import hashlib
import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from bigbigan.data.csv_cells import text_of
from bigbigan.data.image_set import ImageSet, LabelsFile, Source
from bigbigan.data.names import class_order, composed, label_of, listed, shown, stored_name
from bigbigan.data.readers.folders import split_of
from bigbigan.errors import UserError
from bigbigan.io import regular_bytes

__all__ = ["Row", "apply_labels", "rows_of"]

MAX_BYTES = 2**30  # of a labels file

COLUMNS = ("file", "label", "group", "split")
# Spellings of two columns, in any case; the first that the file has is used.
FILE_COLUMNS: tuple[str, ...] = ("file", "filename", "file_name", "path", "filepath", "file_path")
FILE_COLUMNS += ("image", "image_path", "img", "image_id", "image_name", "id", "id_code")
LABEL_COLUMNS = ("label", "class", "target", "category", "diagnosis", "dx", "species")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Row:
    """Hold what a labels file says of an image; "" is none."""

    label: str = ""
    group: str = ""
    split: str = ""


def apply_labels(source: Source, path: Path) -> None:
    """Set the labels, groups and splits of an opened source's images from a CSV file (see the module), in place.

    Raises:
        UserError: the file cannot be read, or does not match the images.
    """
    content = _content(path)
    read, unused = _read(content, path)
    if unused:
        source.notes[f"columns of the labels file that are not used: {listed(unused)}"] += 1
    if spelled := Counter(row.label for _, row in read if row.label and not label_of(row.label)):
        source.notes[f"labels read as none: {', '.join(sorted(spelled))}"] += spelled.total()
    read = [(file, replace(row, label=label_of(row.label))) for file, row in read]
    rows = _matched(read, source, path)
    images = [file for s in source.splits.values() for file in s.files]
    row_of = [rows.get(file, Row()) for file in images]
    names = sorted({row.label for row in row_of if row.label}, key=class_order)
    if not names:
        hint = "; to use predictions as labels, call their column label" if b"predicted" in content[:1000] else ""
        raise UserError(f"--labels {shown(path)} gives no label: its column 'label' is empty{hint}")
    number = {name: k for k, name in enumerate(names)}
    labels = np.array([number.get(row.label, -1) for row in row_of], dtype=np.int64)
    groups = _groups([row.group for row in row_of], _source_groups(source))
    source.splits = _arranged(source, [row.split for row in row_of], path)
    position = {file: i for i, file in enumerate(images)}
    for split in source.splits.values():
        at = np.array([position[file] for file in split.files], dtype=np.int64)
        labelled = bool((labels[at] >= 0).any())
        split.labels, split.classes = (labels[at], [stored_name(name) for name in names]) if labelled else (None, None)
        split.groups = None if groups is None else groups[at]
    source.labels = LabelsFile(str(path), hashlib.sha256(content).hexdigest())
    source.notes.pop("without a label", None)  # those of the source's own labels
    if unlabelled := int((labels < 0).sum()):
        source.notes["without a label"] = unlabelled
    _warn_of_shared_groups(source)


def rows_of(source: Source) -> dict[str, Row]:
    """Return the rows of a labels file that gives a source the labels, groups and splits it has, by image.

    They are those of the labels file that was applied, or else made from the source's own labels.

    Raises:
        UserError: the labels file can no longer be read.
    """
    if source.labels is not None:
        path = Path(source.labels.path)
        read, _ = _read(_content(path), path)
        rows = _matched(read, source, path)
        return {file: replace(row, label=label_of(row.label)) for file, row in rows.items()}
    rows = {}
    for images in source.splits.values():
        labels = np.full(len(images), -1) if images.labels is None else images.labels
        for i in np.flatnonzero(labels >= 0).tolist():
            rows[images.files[i]] = Row(images.class_name(i), "" if images.groups is None else str(images.groups[i]))
    return rows


def _content(path: Path) -> bytes:
    try:
        return regular_bytes(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(f"--labels {shown(path)} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _read(content: bytes, path: Path) -> tuple[list[tuple[str, Row]], list[str]]:
    """Return the rows of a CSV file with commas, semicolons or tabs, (file, row), and the columns that are not used.

    A first line "sep=;", as Excel writes it, and lines before the header that begin with # are skipped.
    """
    what = f"--labels {shown(path)}"
    text = re.sub(r"\A(?:(?:sep=.|#.*)\r?\n)+", "", _text(content, what))
    head = text.partition("\n")[0]
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True))
    except csv.Error as error:
        raise UserError(f"{what} is not a readable CSV file: {error}") from None
    if not lines:
        raise UserError(f"{what} is empty; expected a header line with file,label and a line for each image")
    columns = [name.strip() for name in lines[0]]
    header = [name.lower() for name in columns]
    for column, spellings in (("file", FILE_COLUMNS), ("label", LABEL_COLUMNS)):
        if used := next((name for name in spellings if name in header), None):
            header = [column if name == used else name for name in header]
    if missing := [name for name in ("file", "label") if name not in header]:
        have = listed([name[:40] for name in columns], 8)
        raise UserError(f"{what} has no column '{missing[0]}' but {have}; expected a header line with file,label")
    unused = [name for name, known in zip(columns, header, strict=True) if name and known not in COLUMNS]
    if twice := [name for name in COLUMNS if header.count(name) > 1]:
        raise UserError(f"{what} has two columns '{twice[0]}'")
    rows = []
    for number, cells in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise UserError(f"{what}: row {number:,} has {len(cells)} cells, the header {len(header)}")
        cell = {name: value for name, value in zip(header, cells, strict=True) if name in COLUMNS}
        file = text_of(cell.pop("file"))
        cell = {name: text_of(value.strip()) for name, value in cell.items()}
        if not file.strip():
            raise UserError(f"{what}: row {number:,} names no file")
        if cell.get("split") == "held_out":  # `classify` writes it for a part of train
            cell["split"] = ""
        if spelling := cell.get("split"):
            if (split := split_of(spelling)) is None:
                raise UserError(f"{what}: row {number:,}: split is {shown(spelling)}; expected {', '.join(SPLITS)}")
            cell["split"] = split
        rows.append((file, Row(**{name: composed(text) for name, text in cell.items()})))
    if not rows:
        raise UserError(f"{what} has a header and no rows; expected one for each labelled image")
    return rows, unused


def _text(content: bytes, what: str) -> str:
    """Return the text of a file in UTF-8, in UTF-16 with a byte order mark, or else in Windows-1252.

    Excel's plain "CSV" is Windows-1252 in Western Europe. A file that is neither is refused: bytes that Windows-1252
    does not define, or control characters.
    """
    try:
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return content.decode("utf-16")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        try:
            text = content.decode("cp1252")
            if any(c < " " and c not in "\t\r\n" for c in text):
                raise ValueError
        except ValueError:
            raise UserError(f"{what} is not text (byte {error.start:,}); save it as CSV UTF-8") from None
        return text


def _matched(rows: list[tuple[str, Row]], source: Source, path: Path) -> dict[str, Row]:
    """Return the rows by the image they name."""
    what = f"--labels {shown(path)}"
    files = [file for split in source.splits.values() for file in split.files]
    frames = {frame for of_file in source.frames.values() for frame in of_file}
    whole = [*(file for file in files if file not in frames), *source.frames]
    # Names of whole files come before those of frames, as a name without extension would match all frames of a file.
    indices = [_Index([*files, *source.frames]), _Index(whole, loose=True), _Index(sorted(frames), loose=True)]
    matched: dict[str, Row] = {}
    unmatched = []
    for name, row in rows:
        spellings = dict.fromkeys((name, text_of(name.strip())))  # a file's name may begin or end with a space
        matches = next(filter(None, (index.find(spelled) for spelled in spellings for index in indices)), [])
        if len(matches) > 1:
            raise UserError(f"{what}: {shown(name)} may be {matches[0]} or {matches[1]}; give the whole name")
        if not matches:
            unmatched.append(name)
        elif matched.setdefault(matches[0], row) != row:
            raise UserError(f"{what}: {matches[0]} has two rows, with different labels, groups or splits")
    if unmatched:
        text = f"{len(unmatched):,} of {len(rows):,} rows name no image of {source.spec}, the first is"
        text += f" {shown(unmatched[0])}"
        if 2 * len(unmatched) >= len(rows):
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
            if self.loose:
                stem, ending = os.path.splitext(name)
                name = stem + ending.lower()
            if name in self.whole:
                return self.whole[name]
            matches = [*self.ends.get(name, ())]
            matches += [file for end in _ends(name) for file in self.whole.get(end, ()) if file not in matches]
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
            f"--labels {shown(path)} puts {file} into {names[i]}; {source.spec} has its splits as arrays, which cannot "
            "be changed: remove the column 'split'"
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
                f"{source.spec}: {shared:,} groups have images in both {a} and {b}: metrics on {b} will be too good",
                stacklevel=3,
            )
