"""Folders: which files of a folder or archive are images, and what its folders mean: splits and classes.

`list_folder` here, `list_zip` and `list_tar` in `archives` list the candidates; `arrange` makes splits of them:

    a.png  b.png                      one split, without labels
    cat/a.png  dog/b.png              one split, a folder a class
    train/cat/a.png  test/cat/c.png   splits (train, val, test), with or without classes

Folders that all images share are passed over. Files are known by their ending, or else by their first bytes.
"""

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bigbigan.data.decode import EXTENSIONS, HEAD, NOT_READ, DecodeLimits, Unreadable, other_format, sniff
from bigbigan.data.image_set import FileStore, ImageSet, Source, extension, shown

__all__ = ["SPLITS", "Entry", "Reader", "arrange", "is_candidate", "list_folder"]

Entry = tuple[tuple[str, ...], Any]  # (parts of the name, handle: what the reader takes, or an Unreadable)
Reader = Callable[..., bytes]  # (handle, size) -> at most so many bytes; without a size, one more than may be

_JUNK = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "lost+found"}
_JUNK_ENDINGS = (".part", ".crdownload", ".tmp", "~")
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
SPLITS |= {"test": "test", "testing": "test"}


def _is_junk(parts: Sequence[str], notes: Counter[str]) -> bool:
    junk = any(p.startswith(".") or p.lower() in _JUNK or p.lower().endswith(_JUNK_ENDINGS) for p in parts)
    if junk:
        notes["ignored, hidden or system file"] += 1
    return junk


def is_candidate(parts: Sequence[str], notes: Counter[str], read: Reader, handle: Any) -> bool:
    """Whether a file is read as an image: by its ending, or else by its first bytes."""
    if _is_junk(parts, notes):
        return False
    ending = extension(parts[-1])
    if ending in EXTENSIONS or ending in NOT_READ:
        return True
    try:
        head = read(handle, HEAD)
        if sniff(head) is not None or other_format(head, pictures_alone=True):
            return True
    except Exception:  # unreadable, and nothing promises that it is an image
        pass
    kind = ending if re.fullmatch(r"\.\w{1,8}", ending) else "no ending"
    notes[f"ignored, not an image ({kind})"] += 1
    return False


def list_folder(root: Path, source: Source, limits: DecodeLimits) -> tuple[list[Entry], Reader]:
    """Candidate images under a folder, links followed, loops cut."""

    def read(path: Path, size: int = limits.max_bytes + 1) -> bytes:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a FIFO would wait for ever
            raise OSError(errno.EINVAL, "not a regular file")
        with open(path, "rb") as f:
            return f.read(size)

    def failed(error: OSError) -> None:
        source.notes[f"folder not read ({error.strerror})"] += 1

    entries: list[Entry] = []
    for top, folders, files in os.walk(root.absolute(), onerror=failed, followlinks=True):
        here, followed = Path(top), []
        for name in folders:
            path = here / name
            if path.is_symlink() and path.resolve() in {p.resolve() for p in (here, *here.parents)}:
                source.notes["link back to a folder above, not followed"] += 1
            elif not _is_junk((name,), source.notes):
                followed.append(name)
        folders[:] = followed
        parts = here.relative_to(root.absolute()).parts
        for name in files:
            if is_candidate((name,), source.notes, read, here / name):
                entries.append(((*parts, name), here / name))
    return entries, read


def _strip(names: list[tuple[str, ...]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(the leading folders that all names share, the names without them). A folder that names a split stays."""
    depth = 0
    while all(len(p) > depth + 1 and p[depth] == names[0][depth] for p in names):
        if names[0][depth].lower() in SPLITS:
            break
        depth += 1
    return names[0][:depth], [p[depth:] for p in names]


def arrange(
    entries: list[Entry], read: Reader, source: Source, limits: DecodeLimits, packed: bool, classed: bool = True
) -> dict[str, ImageSet]:
    """Candidate images -> splits, with labels where most images lie in one of at least two class folders.

    Folders are splits when one is called "train", or all are called as splits: a class may be named "test".
    `packed`: one folder around everything is how archives are made, and not worth a note.
    `classed`: folders may be classes; not where labels come from elsewhere.
    """
    handles = dict(entries)
    if repeated := len(entries) - len(handles):
        source.notes["name twice in archive, last one read"] += repeated
    names = sorted(handles)
    files = ["/".join(map(shown, parts)) for parts in names]
    store = FileStore(files, [handles[parts] for parts in names], read, limits)
    nested, stripped = _strip(names)
    rest = dict(enumerate(stripped))
    rows = {"train": list(rest)}  # the images of each split
    tops = [SPLITS.get(p[0].lower()) if len(p) > 1 else None for p in stripped]
    if "train" in tops or None not in tops:
        rows = {s: [i for i, t in enumerate(tops) if t == s] for s in ("train", "val", "test") if s in tops}
        if outside := tops.count(None):
            source.notes["ignored, outside the train, val and test folders"] += outside
        used = [i for members in rows.values() for i in members]
        nested, stripped = _strip([rest[i][1:] for i in used])
        rest = dict(zip(used, stripped, strict=True))
    elif packed and len(nested) == 1:
        nested = ()

    class_of: dict[int, str] = {}
    for members in rows.values() if classed else ():
        in_folders = {i: rest[i][0] for i in members if len(rest[i]) > 1}
        if 2 * len(in_folders) > len(members):  # else the folders are no classes
            class_of |= in_folders
    found = sorted(set(class_of.values()))
    number = {c: k for k, c in enumerate(found)} if len(found) > 1 else {}
    if number and nested:
        source.notes[f"classes found further down, in '{'/'.join(map(shown, nested))}'"] += 1
    elif classed and not number and (found or nested):
        source.notes[f"only one folder, '{shown((found or nested)[-1])}': read without labels"] += 1

    splits = {}
    for split, members in rows.items():
        labels = None
        if number and any(i in class_of for i in members):
            error = Unreadable("beside the class folders (so without a class)")
            for i in members:
                if i not in class_of:
                    source.refuse(files[i], error)
            members = [i for i in members if i in class_of]
            labels = np.array([number[class_of[i]] for i in members], dtype=np.int64)
        if deeper := sum(len(rest[i]) > 2 for i in members):
            source.notes["in a deeper folder" + ", counted to the folder above" * bool(number)] += deeper
        classes = [shown(c) for c in found] if labels is not None else None
        index = np.array(members, dtype=np.int64)
        splits[split] = ImageSet(split, [files[i] for i in members], labels, classes, store, index)
    return splits
