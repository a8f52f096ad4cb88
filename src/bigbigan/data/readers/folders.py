"""Find the images of a folder or archive, and decide which of its folders are splits and classes.

`list_folder` here, `list_zip` and `list_tar` in `archives` list the candidates; `arrange` makes splits from them:

    a.png  b.png                      one split, without labels
    cat/a.png  dog/b.png              one split, one folder for each class
    train/cat/a.png  test/cat/c.png   splits (train, val, test), with or without classes
    cat/train/a.png  cat/test/c.png   the same, with the class first

Folders that all images share are skipped. Splits have many spellings (`split_of`). The classes are the folders of
train: a folder that only another split has is not a class. A warning names folders whose meaning is ambiguous. Files
are recognised by their extension, or else by their first bytes.
"""

import errno
import math
import os
import re
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bigbigan.data.decode import DecodeLimits
from bigbigan.data.formats import EXTENSIONS, HEAD, NOT_READ, Unreadable, other_format, sniff
from bigbigan.data.image_set import FileStore, ImageSet, Source
from bigbigan.data.names import class_order, composed, extension, listed, shown, stored_name
from bigbigan.data.readers.annotations import (
    ANNOTATION_FOLDERS,
    IMAGE_FOLDERS,
    warn_of_pairs,
    without_annotations,
    without_nested_copy,
)

__all__ = ["Entry", "Reader", "arrange", "is_candidate", "list_folder", "split_of"]

Entry = tuple[tuple[str, ...], Any]  # (parts of the name, handle: what the reader takes, or an Unreadable)
Reader = Callable[..., bytes]  # (handle, size) -> at most `size` bytes; by default, one more than the limit of a file

_JUNK = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "lost+found", "picasa.ini"}
_JUNK |= {"@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "@recently-snapshot", "system volume information"}
_JUNK_ENDINGS = (".part", ".crdownload", ".tmp", "~")
_SPLITS = {"train": "train", "training": "train", "trainval": "train", "dev": "val"}
_SPLITS |= {"val": "val", "valid": "val", "validation": "val", "test": "test", "testing": "test"}
_FILLERS = {
    "",
    "set",
    "data",
    "dataset",
    "image",
    "images",
    "img",
    "imgs",
    "photos",
    "pictures",
    "split",
    "seg",
    "part",
}
_FILLERS |= {"jpg", "jpeg", "png", "full", "folder", "stage", "x"}
NOT_AN_IMAGE = "ignored, not an image"  # a note, followed by the ending in brackets
_RUN = {"config.json", "environment.json"}  # files of a training run


def split_of(name: str) -> str | None:
    """Return the split that the name of a folder or column means, "train", "val" or "test", or None.

    "train": Train, train2017, seg_train, training_set, train_images, trainval; "val": val, valid, validation, dev.
    """
    words = _words(name)
    splits = [_SPLITS[w] for w in words if w in _SPLITS]
    if splits == ["train", "val"] and len(words) == 2:
        return "train"
    return splits[0] if len(splits) == 1 and all(w in _SPLITS or w in _FILLERS for w in words) else None


def _words(name: str) -> list[str]:
    return [w.removesuffix("set") or w for w in re.split(r"[\W\d_]+", name.lower())]


def _is_junk(parts: Sequence[str], notes: Counter[str]) -> bool:
    junk = any(p.startswith(".") or p.lower() in _JUNK or p.lower().endswith(_JUNK_ENDINGS) for p in parts)
    if junk:
        notes["ignored, hidden or system file"] += 1
    return junk


def is_candidate(parts: Sequence[str], notes: Counter[str], read: Reader, handle: Any) -> bool:
    """Return whether a file is read as an image, by its extension or else by its first bytes; note the ones ignored."""
    if _is_junk(parts, notes):
        return False
    ending = extension(parts[-1])
    if ending in EXTENSIONS or ending in NOT_READ:
        return True
    try:
        head = read(handle, HEAD)
        if sniff(head) is not None or other_format(head, pictures_only=True):
            return True
    except Exception:  # unreadable, and no extension says that it is an image
        pass
    kind = ending if re.fullmatch(r"\.\w{1,8}", ending) else "no ending"
    notes[f"{NOT_AN_IMAGE} ({kind})"] += 1
    return False


def list_folder(root: Path, source: Source, limits: DecodeLimits) -> tuple[list[Entry], Reader]:
    """List the candidate images under a folder, without those of training runs in it.

    Links are followed, unless they lead back to a folder above.
    """

    def read(path: Path, size: int = limits.max_bytes + 1) -> bytes:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a FIFO would block
            raise OSError(errno.EINVAL, "not a regular file")
        with open(path, "rb") as f:
            return f.read(size)

    def failed(error: OSError) -> None:
        source.notes[f"folder not read ({error.strerror})"] += 1

    entries: list[Entry] = []
    for top, folders, files in os.walk(root.absolute(), onerror=failed, followlinks=True):
        here, followed = Path(top), []
        if here != root.absolute() and set(files) >= _RUN:
            source.notes["folder ignored, a training run"] += 1
            folders[:] = []
            continue
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
    """Return (the leading folders that all names share, the names without them). A folder that names a split stays."""
    depth = 0
    while all(len(p) > depth + 1 and p[depth] == names[0][depth] for p in names):
        if split_of(names[0][depth]):
            break
        depth += 1
    return names[0][:depth], [p[depth:] for p in names]


def _by_split(names: list[tuple[str, ...]], source: Source) -> tuple[list[str | None], list[tuple[str, ...]]]:
    """Return (the split of each name, or None outside the split folders; the names without the split folder).

    Both are empty lists if the folders are not splits.
    """
    tops, inner, depth = _splits_on_top(names) or _splits_below(names) or ([], [], 0)
    if outside := tops.count(None):
        source.notes["ignored, outside the train, val and test folders"] += outside
        places = Counter("/".join(p[:-1][:depth]) or "." for p, top in zip(names, tops, strict=True) if top is None)
        remedy = "to use them, move them into one of those folders or give them as a source of their own"
        _warn(
            source,
            f"{outside:,} images outside the train, val and test folders are skipped: {listed(sorted(places))}; "
            f"{remedy}",
        )
    return tops, inner


_Splits = tuple[list[str | None], list[tuple[str, ...]], int]  # as of `_by_split`; folders that name a place outside


def _splits_on_top(names: list[tuple[str, ...]]) -> _Splits | None:
    """Return the splits of train/cat/a.png, test/cat/b.png; None if the folders on top are not splits."""
    folders = {p[0] for p in names if len(p) > 1}
    splits = {f: s for f in folders if (s := split_of(f))}
    if "trainval" in map(str.lower, splits) and list(splits.values()).count("train") > 1:
        splits = {f: s for f, s in splits.items() if f.lower() != "trainval"}  # its images are in the others too
    present, others = set(splits.values()), folders - splits.keys()
    if others and present == {"train"}:  # "train" is a class of vehicles, or the only split among other folders
        below = {p[1] for p in names if len(p) > 2 and p[0] in splits}
        has_splits = len(below) > 1 and not all(map(split_of, below))
    elif others or any(len(p) == 1 for p in names):
        has_splits = "train" in present
    else:
        has_splits = bool(present)
    if not has_splits:
        return None
    return [splits.get(p[0]) if len(p) > 1 else None for p in names], [p[1:] for p in names], 1


def _splits_below(names: list[tuple[str, ...]]) -> _Splits | None:
    """Return the splits of cat/train/a.png, cat/test/b.png, data/train/cat/a.png; None if there are none.

    Some images may be in no split folder: then a class must have both train and val or test, since one class may be
    called "train" and another "test".
    """
    tops = [split_of(p[1]) if len(p) > 2 else None for p in names]
    of_class: dict[str, set[str | None]] = {}
    for p, top in zip(names, tops, strict=True):
        of_class.setdefault(p[0], set()).add(top)
    if "train" in tops and (None not in tops or any("train" in s and s & {"val", "test"} for s in of_class.values())):
        return tops, [(p[0], *p[2:]) for p in names], 2
    return _splits_next_to_strays(names)


def _splits_next_to_strays(names: list[tuple[str, ...]]) -> _Splits | None:
    """Return the splits of data/train/a.png, overview.png: a few images keep `_strip` from skipping the folder."""
    inner = [p[1:] for p in names if len(p) > 1]
    if len({p[0] for p in names if len(p) > 1}) != 1 or not len(names) > len(inner) > len(names) / 2:
        return None
    found = _splits_on_top(inner) or _splits_below(inner)
    if found is None:
        return None
    below = iter(zip(found[0], found[1], strict=True))
    pairs = [next(below) if len(p) > 1 else (None, p) for p in names]
    return [top for top, _ in pairs], [p for _, p in pairs], found[2] + 1


def _are_parts(paths: Iterable[tuple[str, str]]) -> bool:
    """Return whether folders are numbered parts of one set rather than classes, from (folder, file name) pairs.

    Such folders are part_1 and part_2; 00000, with 00000.png to 00999.png, and 01000; or 0a, with 0a9f31c4.png, by the
    beginning of a checksum.
    """
    stems: dict[str, list[str]] = {}
    for folder, file in paths:
        stems.setdefault(folder, []).append(file.partition(".")[0])
    if len({m[1] if (m := _PART.fullmatch(f.lower())) else f for f in stems}) == 1 and all(
        map(_PART.fullmatch, map(str.lower, stems))
    ):
        return True
    if all(re.fullmatch(r"\d{4,}", f) for f in stems):
        step = math.gcd(*map(int, stems))
        ranges = {f: range(int(f), int(f) + step) for f in stems}
        return step >= 100 and all(s.isdecimal() and int(s) in ranges[f] for f, each in stems.items() for s in each)
    hexadecimal = all(re.fullmatch(r"[0-9a-f]{2,4}", f) for f in stems) and len(stems) >= 8
    return hexadecimal and all(re.fullmatch(f"{f}[0-9a-f]{{6,}}", s) for f, each in stems.items() for s in each)


_PART = re.compile(
    r"((?:.*[-_ ])?(?:part|batch|chunk|piece|shard|disc|disk|volume|vol|zip|archive|dir|folder|subset|fold))[-_ ]?\d+"
)


def _shared_below(paths: Collection[tuple[str, ...]]) -> list[str]:
    """Return the names of the folders that most folders on top have in common, if nearly all images are in them."""
    below: dict[str, set[str]] = {}
    paths = [(path[0], *(p for p in path[1:-1] if p.lower() not in IMAGE_FOLDERS), path[-1]) for path in paths]
    for path in paths:
        below.setdefault(path[0], set()).update(path[1:2] if len(path) > 2 else ())
    names = sorted(set().union(*below.values()))
    numbered = any(map(str.isdecimal, names)) and len(below) < len(names)  # parts of each class
    named = not numbered and not any(_PART.fullmatch(name.lower()) for name in names)
    deep = sum(len(path) > 2 for path in paths)
    common = sum(map(len, below.values())) > 0.6 * len(names) * len(below)
    return names if len(names) > 1 and named and common and deep > 0.9 * len(paths) else []


_LIKE_SPLIT = re.compile(r"(?i:train|test|valid|val|dev)([A-Z\d_\W].*)?")


def _warn_of_classes(classes: Iterable[str], source: Source) -> None:
    """Warn of classes whose names look like splits, image folders or annotations."""
    suspects = IMAGE_FOLDERS | ANNOTATION_FOLDERS

    def like_split(name: str) -> bool:
        return bool(_LIKE_SPLIT.fullmatch(name)) or any(word in _SPLITS for word in _words(name))

    odd = [c for c in classes if like_split(c) or c.lower() in suspects]
    if odd:
        others = [c for c in classes if c not in odd]
        text = f"classes: {listed(sorted(odd))}"
        if others:
            text = f"the folders {listed(sorted(odd))} are read as classes, like {listed(sorted(others))}"
        remedy = "if they are not, give the folder you mean, rename them train, val and test, or give --labels"
        _warn(source, f"{text}; {remedy}")


def _warn(source: Source, text: str) -> None:
    warnings.warn(f"{source.spec}: {text}", stacklevel=4)


def arrange(
    entries: list[Entry], read: Reader, source: Source, limits: DecodeLimits, packed: bool, classed: bool = True
) -> dict[str, ImageSet]:
    """Arrange candidate images into splits, with labels if most images are in one of two or more class folders.

    Folders are splits if "train" comes with val or test or has folders of its own, or if all of them have names of
    splits: a class may be named "test", or "train" among other vehicles.

    Args:
        entries: the candidates.
        read: reads an image by its handle.
        source: records notes and refused files.
        limits: limits of one image.
        packed: the images are in an archive, where one folder around everything is usual and not noted.
        classed: folders may be classes; False if labels come from a file.
    """
    handles = dict(entries)
    if repeated := len(entries) - len(handles):
        source.notes["name twice in archive, last one read"] += repeated
    names = without_nested_copy(without_annotations(sorted(handles), source), source)
    files = ["/".join(map(stored_name, parts)) for parts in names]
    store = FileStore(files, [handles[parts] for parts in names], read, limits)
    nested, stripped = _strip(names)
    parts_of = dict(enumerate(stripped))  # of each image, the folders that may be classes, and its name
    rows = {"train": list(parts_of)}  # the images of each split
    tops, inner = _by_split(stripped, source)
    if tops:
        rows = {s: [i for i, t in enumerate(tops) if t == s] for s in ("train", "val", "test") if s in tops}
        for split, members in rows.items():  # seg_train/seg_train/cat
            while all(len(inner[i]) > 1 and split_of(inner[i][0]) == split for i in members):
                for i in members:
                    inner[i] = inner[i][1:]
        used = [i for members in rows.values() for i in members]
        nested, stripped = _strip([inner[i] for i in used])
        parts_of = dict(zip(used, stripped, strict=True))
    elif packed and len(nested) == 1:
        nested = ()

    class_of = _classes(rows, parts_of, source) if classed else {}
    names_of_classes = sorted(set(class_of.values()), key=class_order)
    below = _shared_below([parts_of[i] for i in class_of]) if len(names_of_classes) > 1 else []
    if len(names_of_classes) > 1 and _are_parts((parts_of[i][0], parts_of[i][-1]) for i in class_of):
        what = "classes are the folders in them" if below else "read without labels"
        source.notes[f"folders that are parts of one set: {what}"] += len(names_of_classes)
        if below:
            parts_of |= {i: parts_of[i][1:] for i in class_of}
        class_of = _classes(rows, parts_of, source) if below else {}
        names_of_classes = sorted(set(class_of.values()), key=class_order)
    elif below:
        text = f"classes are {listed(sorted(names_of_classes))}, and each has folders {listed(sorted(below))}"
        _warn(source, f"{text}; if those are the classes, give --labels, or make them the folders on top")
    number = {c: k for k, c in enumerate(names_of_classes)} if len(names_of_classes) > 1 else {}
    if number and nested:
        source.notes[f"classes found further down, in '{'/'.join(map(shown, nested))}'"] += 1
    elif classed and not number and (names_of_classes or nested):
        source.notes[f"only one folder, '{shown((names_of_classes or nested)[-1])}': read without labels"] += 1
    _warn_of_classes(number, source)
    if len(number) > 4 and len(number) == len(class_of):
        _warn(source, f"each of the {len(number):,} classes is a folder with one image; to read others, give --labels")
    warn_of_pairs(number, ((class_of[i], *parts_of[i][1:]) for i in class_of), source)

    splits = {}
    for split, members in rows.items():
        labels = None
        if number and any(i in class_of for i in members):
            error = Unreadable("outside the class folders (so without a class)")
            for i in members:
                if len(parts_of[i]) == 1:
                    source.refuse(files[i], error)
            members = [i for i in members if len(parts_of[i]) > 1]
            labels = np.array([number.get(class_of.get(i, ""), -1) for i in members], dtype=np.int64)
        if deeper := sum(len(parts_of[i]) > 2 for i in members):
            source.notes["in a deeper folder" + ", counted to the folder above" * bool(number)] += deeper
        classes = [stored_name(c) for c in names_of_classes] if labels is not None else None
        index = np.array(members, dtype=np.int64)
        splits[split] = ImageSet(split, [files[i] for i in members], labels, classes, store, index)
    return splits


def _classes(rows: dict[str, list[int]], parts_of: dict[int, tuple[str, ...]], source: Source) -> dict[int, str]:
    """Return the class folder of each image that is in one. Classes are the folders of train.

    If train has only one class, such as normal images, and another split has it too, the further folders of the other
    splits are classes as well.
    """
    folders: dict[str, dict[int, str]] = {}
    for split, members in rows.items():
        in_folders = {i: composed(parts_of[i][0]) for i in members if len(parts_of[i]) > 1}
        folders[split] = in_folders if 2 * len(in_folders) > len(members) else {}  # else the folders are not classes
    train_classes = set(folders.get("train", {}).values())
    shared = any(train_classes & set(in_folders.values()) for split, in_folders in folders.items() if split != "train")
    class_of: dict[int, str] = {}
    for split, in_folders in folders.items():
        unknown = set(in_folders.values()) - train_classes if train_classes else set()
        if unknown and (len(train_classes) > 1 or not shared):
            unlabelled = sum(folder in unknown for folder in in_folders.values())
            in_folders = {i: folder for i, folder in in_folders.items() if folder not in unknown}
            source.notes[f"in folders of '{split}' that train does not have: read without labels"] += unlabelled
            _warn(
                source,
                f"{unlabelled:,} images of '{split}' are read without labels: train has no folder "
                f"{listed(sorted(unknown))}",
            )
        class_of |= in_folders
    return class_of
