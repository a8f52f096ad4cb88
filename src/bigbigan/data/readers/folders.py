"""Folders: which files of a folder or archive are images, and what its folders mean: splits and classes.

`list_folder` here, `list_zip` and `list_tar` in `archives` list the candidates; `arrange` makes splits of them:

    a.png  b.png                      one split, without labels
    cat/a.png  dog/b.png              one split, a folder a class
    train/cat/a.png  test/cat/c.png   splits (train, val, test), with or without classes
    cat/train/a.png  cat/test/c.png   the same, the other way round

Folders that all images share are passed over. Splits are known by many names (`split_of`). The classes are those of
train: a folder that another split alone has is no class. Folders that may be meant otherwise are named in a warning.
Files are known by their ending, or else by their first bytes.
"""

import errno
import math
import os
import re
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bigbigan.data.decode import DecodeLimits
from bigbigan.data.formats import EXTENSIONS, HEAD, NOT_READ, Unreadable, other_format, sniff
from bigbigan.data.image_set import FileStore, ImageSet, Source
from bigbigan.data.names import class_order, extension, named, shown

__all__ = ["Entry", "Reader", "arrange", "is_candidate", "list_folder", "split_of"]

Entry = tuple[tuple[str, ...], Any]  # (parts of the name, handle: what the reader takes, or an Unreadable)
Reader = Callable[..., bytes]  # (handle, size) -> at most so many bytes; without a size, one more than may be

_JUNK = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "lost+found", "picasa.ini"}
_JUNK |= {"@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "@recently-snapshot", "system volume information"}
_JUNK_ENDINGS = (".part", ".crdownload", ".tmp", "~")
_SPLITS = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
_SPLITS |= {"dev": "val", "test": "test", "testing": "test"}
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
_FILLERS |= {"jpg", "jpeg", "png", "full", "folder", "x"}
_OF_IMAGES = {"images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "rgb"}
_OF_ANNOTATIONS = {"annotations", "annotation", "masks", "mask", "labels", "label", "trimaps", "groundtruth", "gt"}
_OF_ANNOTATIONS |= {"segmentations", "segmentation", "segmentationclass", "segmentationobject"}


def split_of(name: str) -> str | None:
    """The split that a folder's or column's name stands for: "train" of Train, train2017, seg_train, training_set,
    train_images and trainval; "val" likewise of val, valid, validation and dev; "test"; or None."""
    words = [w.removesuffix("set") or w for w in re.split(r"[\W\d_]+", name.lower())]
    known = [_SPLITS[w] for w in words if w in _SPLITS]
    if known == ["train", "val"] and len(words) == 2:
        return "train"
    return known[0] if len(known) == 1 and all(w in _SPLITS or w in _FILLERS for w in words) else None


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
        if split_of(names[0][depth]):
            break
        depth += 1
    return names[0][:depth], [p[depth:] for p in names]


def _without_annotations(names: list[tuple[str, ...]], source: Source) -> list[tuple[str, ...]]:
    """The names without those in a folder of masks or the like that stands beside a folder of images."""
    beside = {p[:k] for p in names for k in range(len(p) - 1) if p[k].lower() in _OF_IMAGES}

    def masks(p: tuple[str, ...]) -> str:
        at = (k for k in range(len(p) - 1) if p[:k] in beside and re.sub(r"\W|_", "", p[k].lower()) in _OF_ANNOTATIONS)
        return next((p[k] for k in at), "")

    found = Counter(filter(None, map(masks, names)))
    if found:
        source.notes["ignored, in a folder of annotations beside one of images"] += found.total()
        _warn(source, f"{found.total():,} images are left out as masks or annotations: {_list(found)}")
    return [p for p in names if not masks(p)] if found else names


def _by_split(names: list[tuple[str, ...]], source: Source) -> tuple[list[str | None], list[tuple[str, ...]]]:
    """(the split of each name, or None where it is outside of all; the names without the folder that says so).
    Empty lists where folders are no splits."""
    folders = {p[0] for p in names if len(p) > 1}
    splits = {f: s for f in folders if (s := split_of(f))}
    if (
        "trainval" in map(str.lower, splits) and list(splits.values()).count("train") > 1
    ):  # its images are in the others
        splits = {f: s for f, s in splits.items() if f.lower() != "trainval"}
    found, others = set(splits.values()), folders - splits.keys()
    if others and found == {"train"}:  # a class of vehicles, or the one split beside something else
        below = {p[1] for p in names if len(p) > 2 and p[0] in splits}
        of_splits = len(below) > 1 and not all(map(split_of, below))
    elif others or any(len(p) == 1 for p in names):
        of_splits = "train" in found
    else:
        of_splits = bool(found)
    if of_splits:
        tops = [splits.get(p[0]) if len(p) > 1 else None for p in names]
        if outside := tops.count(None):
            source.notes["ignored, outside the train, val and test folders"] += outside
            where = Counter(p[0] if len(p) > 1 else "." for p, top in zip(names, tops, strict=True) if top is None)
            way_out = "to use them, move them into one of those folders or name them as a source of their own"
            _warn(
                source,
                f"{outside:,} images outside the train, val and test folders are left out: {_list(where)}; {way_out}",
            )
        return tops, [p[1:] for p in names]
    if all(len(p) > 2 and split_of(p[1]) for p in names) and any(split_of(p[1]) == "train" for p in names):
        return [split_of(p[1]) for p in names], [(p[0], *p[2:]) for p in names]  # cat/train/a.png
    return [], []


def _are_parts(paths: Iterable[tuple[str, str]]) -> bool:
    """Whether folders, given with each file's name, share out one set by number and are no classes: part_1 and part_2;
    00000, with 00000.png to 00999.png, and 01000; or 0a, with 0a9f31c4.png, by the beginning of a checksum."""
    of: dict[str, list[str]] = {}
    for folder, file in paths:
        of.setdefault(folder, []).append(file.partition(".")[0])
    if len({m[1] if (m := _PART.fullmatch(f.lower())) else f for f in of}) == 1 and all(
        map(_PART.fullmatch, map(str.lower, of))
    ):
        return True
    if all(re.fullmatch(r"\d{4,}", f) for f in of):
        step = math.gcd(*map(int, of))
        ranges = {f: range(int(f), int(f) + step) for f in of}
        return step >= 100 and all(s.isdecimal() and int(s) in ranges[f] for f, stems in of.items() for s in stems)
    begins = all(re.fullmatch(r"[0-9a-f]{2,4}", f) for f in of) and len(of) >= 8
    return begins and all(re.fullmatch(f"{f}[0-9a-f]{{6,}}", s) for f, stems in of.items() for s in stems)


_PART = re.compile(r"(part|batch|chunk|piece|shard|disc|disk|volume|vol|zip|archive|dir|folder|subset)[-_ ]?\d+")
_LIKE_SPLIT = re.compile(r"(?i:train|test|valid|val|dev)([A-Z\d_\W].*)?")


def _warn_of_classes(classes: Iterable[str], source: Source) -> None:
    """Name the classes that are called like something else."""
    odd = [c for c in classes if split_of(c) or _LIKE_SPLIT.fullmatch(c) or c.lower() in _OF_IMAGES | _OF_ANNOTATIONS]
    if odd:
        rest = [c for c in classes if c not in odd]
        text = f"the folders {_list(odd)} are read as classes, like {_list(rest)}" if rest else f"classes: {_list(odd)}"
        way_out = "if they are not, give the folder you mean, rename them train, val and test, or give --labels"
        _warn(source, f"{text}; {way_out}")


def _list(names: Iterable[str], most: int = 5) -> str:
    names = sorted(names)
    return ", ".join(map(shown, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def _warn(source: Source, text: str) -> None:
    warnings.warn(f"{source.spec}: {text}", stacklevel=4)


def arrange(
    entries: list[Entry], read: Reader, source: Source, limits: DecodeLimits, packed: bool, classed: bool = True
) -> dict[str, ImageSet]:
    """Candidate images -> splits, with labels where most images lie in one of at least two class folders.

    Folders are splits when "train" is there with val or test or with folders of its own, or when all are called as
    splits: a class may be named "test", or "train" among other vehicles.
    `packed`: one folder around everything is how archives are made, and not worth a note.
    `classed`: folders may be classes; not where labels come from elsewhere.
    """
    handles = dict(entries)
    if repeated := len(entries) - len(handles):
        source.notes["name twice in archive, last one read"] += repeated
    names = _without_annotations(sorted(handles), source)
    files = ["/".join(map(named, parts)) for parts in names]
    store = FileStore(files, [handles[parts] for parts in names], read, limits)
    nested, stripped = _strip(names)
    rest = dict(enumerate(stripped))
    rows = {"train": list(rest)}  # the images of each split
    tops, inner = _by_split(stripped, source)
    if tops:
        rows = {s: [i for i, t in enumerate(tops) if t == s] for s in ("train", "val", "test") if s in tops}
        for split, members in rows.items():  # seg_train/seg_train/cat
            while all(len(inner[i]) > 1 and split_of(inner[i][0]) == split for i in members):
                for i in members:
                    inner[i] = inner[i][1:]
        used = [i for members in rows.values() for i in members]
        nested, stripped = _strip([inner[i] for i in used])
        rest = dict(zip(used, stripped, strict=True))
    elif packed and len(nested) == 1:
        nested = ()

    class_of = _classes(rows, rest, source) if classed else {}
    found = sorted(set(class_of.values()), key=class_order)
    if len(found) > 1 and _are_parts((rest[i][0], rest[i][-1]) for i in class_of):
        source.notes["folders that are parts of one set: read without labels"] += len(found)
        class_of, found = {}, []
    number = {c: k for k, c in enumerate(found)} if len(found) > 1 else {}
    if number and nested:
        source.notes[f"classes found further down, in '{'/'.join(map(shown, nested))}'"] += 1
    elif classed and not number and (found or nested):
        source.notes[f"only one folder, '{shown((found or nested)[-1])}': read without labels"] += 1
    _warn_of_classes(number, source)

    splits = {}
    for split, members in rows.items():
        labels = None
        if number and any(i in class_of for i in members):
            error = Unreadable("beside the class folders (so without a class)")
            for i in members:
                if len(rest[i]) == 1:
                    source.refuse(files[i], error)
            members = [i for i in members if len(rest[i]) > 1]
            labels = np.array([number.get(class_of.get(i, ""), -1) for i in members], dtype=np.int64)
        if deeper := sum(len(rest[i]) > 2 for i in members):
            source.notes["in a deeper folder" + ", counted to the folder above" * bool(number)] += deeper
        classes = [named(c) for c in found] if labels is not None else None
        index = np.array(members, dtype=np.int64)
        splits[split] = ImageSet(split, [files[i] for i in members], labels, classes, store, index)
    return splits


def _classes(rows: dict[str, list[int]], rest: dict[int, tuple[str, ...]], source: Source) -> dict[int, str]:
    """The class folder of each image that lies in one, by split: of train, and of the others where train has it too.

    Of a train split with one class alone, say of what is normal, the others' further folders are classes as well.
    """
    folders: dict[str, dict[int, str]] = {}
    for split, members in rows.items():
        in_folders = {i: rest[i][0] for i in members if len(rest[i]) > 1}
        folders[split] = in_folders if 2 * len(in_folders) > len(members) else {}  # else the folders are no classes
    of_train = set(folders.get("train", {}).values())
    class_of: dict[int, str] = {}
    for split, in_folders in folders.items():
        strange = set(in_folders.values()) - of_train if of_train else set()
        shared = set(in_folders.values()) & of_train
        if strange and (len(of_train) > 1 or not shared):
            left = {i for i, folder in in_folders.items() if folder in strange}
            in_folders = {i: folder for i, folder in in_folders.items() if folder not in strange}
            source.notes[f"in folders of '{split}' that train does not have: read without labels"] += len(left)
            _warn(
                source,
                f"{len(left):,} images of '{split}' are read without labels, as train has no folder {_list(strange)}",
            )
        class_of |= in_folders
    return class_of
