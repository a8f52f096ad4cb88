"""Shards: an image set in many tar files, in WebDataset's convention (KEY.jpg, and KEY.cls or KEY.json with its label).

    DIR                              as `bigbigan data shard` writes it: DIR/index.json, DIR/train/shard-000000.tar ...
    part-{000..099}.tar              anybody's shards
    https://host/set/index.json      either of them on another machine; or pipe:COMMAND, which writes the index or the
    https://host/part-{000..099}.tar shard of this name to its output

Shards are read at random, like the files of a folder: all that is known of an image is where in which shard its bytes
lie. The index says so; shards without one are walked through once, header by header. Both are untrusted. Of shards on
another machine, copies of a few are held here (`elsewhere`), and training takes the images of a few at a time.
"""

import errno
import hashlib
import http.client
import itertools
import json
import os
import re
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from bigbigan.data.decode import DecodeLimits, Unreadable
from bigbigan.data.image_set import NO_LABEL, FileStore, ImageSet, Source, class_order, extension, named, shown
from bigbigan.data.readers.archives import list_tar
from bigbigan.data.readers.download import cache_folder
from bigbigan.data.shards.remote import Elsewhere, read_location
from bigbigan.errors import UserError
from bigbigan.io import parse_json, stamped, unstamped, warn_of_change, write_text
from bigbigan.progress import Bar

__all__ = [
    "INDEX",
    "Shard",
    "expand",
    "is_index",
    "is_pattern",
    "open_pattern",
    "open_shards",
    "read_index",
    "write_index",
]

INDEX = "index.json"
_FORMAT = "bigbigan shards 1"
_HEAD = b'{"format": "bigbigan shards'
_FILE = re.compile(r"(train|val|test)/shard-\d{6,9}\.tar")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS, _MOST_CLASSES = 1_000_000, 1_000_000
_MOST_BYTES = 2**30  # of an index; 80 MiB are a million images
_LABEL_KEYS = ("cls", "label", "class")  # of KEY.json


@dataclass
class Shard:
    """One tar file, and where in it its n images are."""

    file: str
    size: int = 0  # bytes; 0 where unknown
    sha256: str = ""  # hex; empty where unknown
    names: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)  # of an image's first byte
    sizes: list[int] = field(default_factory=list)  # bytes
    labels: list[Any] = field(default_factory=list)  # a number, a name, or None
    positions: list[int] = field(default_factory=list)  # in the split that the shards were made of
    crcs: list[int] = field(default_factory=list)  # CRC-32 of each image's bytes; empty where unknown

    def add(self, name: str, offset: int, size: int, label: Any, position: int) -> None:
        for column, value in zip(self.columns(), (name, offset, size, label, position), strict=True):
            column.append(value)

    def columns(self) -> tuple[list[Any], ...]:
        return self.names, self.offsets, self.sizes, self.labels, self.positions


# -- the index ----------------------------------------------------------------------------------------------------


def write_index(path: Path, about: dict[str, Any], splits: dict[str, list[Shard]]) -> None:
    """Write index.json, whole or not at all. `about` has "name", "classes" and "pads", and may say more:
    "mirrorable" of `Source`, for one."""
    counted = {
        split: {
            "images": sum(len(s.names) for s in shards),
            "shards": [{"images": len(s.names), **vars(s)} for s in shards],
        }
        for split, shards in splits.items()
    }
    write_text(path, json.dumps(stamped({"format": _FORMAT, **about, "splits": counted})) + "\n")


def is_index(folder: Path) -> bool:
    """Whether a folder has an index of shards, sound or not; many another thing is called index.json."""
    try:
        with open(folder / INDEX, "rb") as file:
            return file.read(len(_HEAD)) == _HEAD
    except OSError:
        return False


def read_index(folder: Path) -> tuple[dict[str, Any], dict[str, list[Shard]]]:
    """(what the index of a folder says of the set, the shards of each split)."""
    return _parse_index((folder / INDEX).read_bytes(), shown(folder / INDEX))


def _parse_index(text: bytes, where: str) -> tuple[dict[str, Any], dict[str, list[Shard]]]:
    try:
        about, changed = unstamped(parse_json(text))
    except ValueError as e:
        raise UserError(f"{where} is damaged ({shown(e)}); write it anew: bigbigan data shard") from e
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise UserError(f"{where} is no index of shards that this version reads; write it anew: bigbigan data shard")
    if changed:
        warn_of_change(where)
    try:
        splits = {
            name: [_checked(Shard(**{k: v for k, v in s.items() if k != "images"}), name) for s in split["shards"]]
            for name, split in about.pop("splits").items()
        }
        classes = about["classes"]
        if classes is not None and not (isinstance(classes, list) and all(isinstance(c, str) for c in classes)):
            raise ValueError("classes")
        if not isinstance(about["name"], str) or not isinstance(about["pads"], bool):
            raise ValueError("name or pads")
        skipped = about.setdefault("skipped", [])
        if not isinstance(skipped, list) or not all(map(_is_pair, skipped)):
            raise ValueError("skipped")
        if not splits or not all(splits.values()):
            raise ValueError("no shards")
        for name, shards in splits.items():
            labels = [k for shard in shards for k in shard.labels if k is not None]
            if not all(type(k) is int and 0 <= k < len(classes or ()) for k in labels):
                raise ValueError(f"labels of {name}")
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise UserError(f"{where} is damaged ({shown(e)}); write it anew: bigbigan data shard") from e
    return about, splits


def _mirrorable(about: dict[str, Any]) -> bool:
    """`Source.mirrorable` of the set that an index is of; one of an earlier version does not say, but pads arrays."""
    return bool(about.get("mirrorable", about["name"] == "cifar10" or not about["pads"]))


def _is_pair(said: Any) -> bool:
    return isinstance(said, list) and len(said) == 2 and all(isinstance(s, str) for s in said)


def _checked(shard: Shard, split: str) -> Shard:
    """The shard, if it can be one."""
    whole = (shard.size, *shard.offsets, *shard.sizes, *shard.positions, *shard.crcs)
    if not (_FILE.fullmatch(shard.file) and shard.file.startswith(f"{split}/")):
        raise ValueError(f"file {shard.file!r}")
    if not all(type(n) is int and 0 <= n < 2**63 for n in whole) or not all(isinstance(n, str) for n in shard.names):
        raise ValueError(f"numbers or names of {shard.file}")
    lengths = {len(column) for column in (*shard.columns(), shard.crcs or shard.names)}
    if len(lengths) != 1 or not re.fullmatch(r"[0-9a-f]{64}", shard.sha256):
        raise ValueError(f"columns of {shard.file}")
    return shard


def open_shards(folder: Path, source: Source, limits: DecodeLimits) -> dict[str, ImageSet]:
    """The splits of a folder written by `bigbigan data shard`, in the order of the set it was made of."""
    about, splits = read_index(folder)
    source.name = shown(about["name"])
    paths = [folder / s.file for of in splits.values() for s in of]
    images = _splits(splits, about["classes"], _opener(paths), limits, in_source_order=True)
    for split in images.values():
        split.store.pads = bool(about["pads"])
    source.mirrorable = _mirrorable(about)
    return images


# -- anybody's shards ---------------------------------------------------------------------------------------------


def is_pattern(spec: str) -> bool:
    """Whether a SOURCE names shards by a range in braces: part-{000..099}.tar."""
    return _RANGE.search(spec) is not None


def expand(pattern: str) -> list[str]:
    """a-{08..10}.tar -> a-08.tar, a-09.tar, a-10.tar; of several ranges, all combinations."""
    parts = _RANGE.split(pattern)
    texts, ranges = parts[::3], list(zip(parts[1::3], parts[2::3], strict=True))
    count = 1
    for first, last in ranges:
        if int(last) < int(first):
            raise UserError(f"{shown(pattern)}: {{{first}..{last}}} runs backwards; write {{{last}..{first}}}")
        count *= int(last) - int(first) + 1
    if count > _MOST_SHARDS:
        raise UserError(f"{shown(pattern)} names {count:,} shards, limit {_MOST_SHARDS:,}")
    numbers = [[f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)] for first, last in ranges]
    return [
        texts[0] + "".join(n + text for n, text in zip(chosen, texts[1:], strict=True))
        for chosen in itertools.product(*numbers)
    ]


def open_pattern(pattern: str, source: Source, limits: DecodeLimits) -> dict[str, ImageSet]:
    """Shards named by a pattern, as one split, in their order."""
    paths = [Path(os.path.expanduser(p)) for p in expand(pattern)]
    missing = [p for p in paths if not p.is_file()]
    if missing:
        if len(missing) == len(paths):
            raise UserError(f"{shown(pattern)}: none of them is there; the first missing is {shown(missing[0])}")
        found = f"{len(missing):,} of the {len(paths):,} shards are missing; the first is {shown(missing[0])}"
        raise UserError(f"{shown(pattern)}: {found}; correct the range")
    shards = _list(pattern, lambda number: paths[number], source, limits)
    classes = _with_labels(shards)
    source.name = _set_name(pattern)
    return _splits({"train": shards}, classes, _opener(paths), limits)


def _opener(paths: list[Path]) -> Callable[[int], IO[bytes]]:
    def open_shard(number: int) -> IO[bytes]:
        return open(paths[number], "rb")

    return open_shard


def _list(pattern: str, path_of: Callable[[int], Path], source: Source, limits: DecodeLimits) -> list[Shard]:
    """The shards of a pattern, listed one after the other."""
    names = _names(pattern)
    shards = []
    for number, name in enumerate(Bar(names, "listing shards", unit=" shards", disable=None, dynamic_ncols=True)):
        shard = Shard(f"train/shard-{number:06d}.tar")
        try:
            _list_shard(path_of(number), name, shard, source, limits)
        except (UserError, OSError) as error:  # the others may do
            reason = error.strerror if isinstance(error, OSError) else error
            source.refuse(name, Unreadable(f"unreadable shard ({reason})"))
        shards.append(shard)
    if not any(s.names for s in shards):
        seen = f"; {source.skipped[0][0]}: {source.skipped[0][1]}" if source.skipped else ""
        raise UserError(f"no images in {shown(pattern)}: expected members such as 000123.jpg and 000123.cls{seen}")
    return shards


def _file_name(pattern: str) -> str:
    """part-{000..099} of any pattern, also of a URL or command."""
    return re.findall(r"[^/\s'\"=]*\{\d+\.\.\d+\}[^/\s'\"]*", pattern)[-1].removesuffix(".tar")


def _set_name(pattern: str) -> str:
    """What the set is called in result lines: part."""
    return shown(_RANGE.sub("", _file_name(pattern)).strip("-_.") or "shards")


def _names(pattern: str) -> list[str]:
    """A short name of each shard: part-000, or its number where that would not tell them apart."""
    count, short = len(expand(pattern)), expand(_file_name(pattern))
    return list(map(shown, short)) if len(short) == count else [f"{number:06d}" for number in range(count)]


def _list_shard(path: Path, name: str, shard: Shard, source: Source, limits: DecodeLimits) -> None:
    """Adds to `shard` the images of one tar file, and labels from KEY.cls, or KEY.json's "cls", "label" or "class".

    Raises:
        UserError: it is no readable tar file, or gzipped.
    """
    with open(path, "rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise UserError("gzipped: it could only be read from its beginning; gunzip it")
    found = Source("", "", {})
    entries, read = list_tar(path, found, limits, also=lambda member: extension(member) in (".cls", ".json"))
    source.notes.update(found.notes)
    source.skipped += [(name if file == shown(path) else f"{name}/{file}", reason) for file, reason in found.skipped]
    images: dict[str, tuple[str, Any]] = {}
    labels: dict[str, Any] = {}
    for parts, handle in entries:
        key = "/".join((*parts[:-1], parts[-1].partition(".")[0]))
        member = f"{name}/{'/'.join(map(named, parts))}"
        if extension(parts[-1]) in (".cls", ".json"):
            label = None if isinstance(handle, Unreadable) else _label(read(handle), extension(parts[-1]))
            labels[key] = labels.get(key) if label is None else label
        elif isinstance(handle, Unreadable):
            source.refuse(member, handle)
        elif key in images:
            if not source.notes["further images of one key in a shard, ignored"]:
                alike = f"{images[key][0]} and {member} have one key, the name up to its first dot"
                warnings.warn(f"{alike}: of such images only the first is read", stacklevel=2)
            source.notes["further images of one key in a shard, ignored"] += 1
        else:
            images[key] = (member, handle)
    for i, (key, (member, (offset, size))) in enumerate(images.items()):
        shard.add(member, offset, size, labels.get(key), i)


def _label(data: bytes, ending: str) -> int | str | None:
    """What a .cls or .json member says: a class by number or by name; None if nothing of the kind."""
    try:
        if ending == ".json":
            said = parse_json(data)
            found = next((said[k] for k in _LABEL_KEYS if k in said), None) if isinstance(said, dict) else said
        else:
            found = data.decode().strip()
    except (ValueError, RecursionError):
        return None
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if isinstance(found, str):
        found = None if found.strip() in NO_LABEL else found
        if found and re.fullmatch(r"-?\d{1,7}", found):
            found = int(found)
    if isinstance(found, int) and not isinstance(found, bool):
        return found if 0 <= found < _MOST_CLASSES else None
    return found if isinstance(found, str) and found else None


def _with_labels(shards: list[Shard]) -> list[str] | None:
    """Makes labels class numbers, None where an image has none, and returns the names of the classes; or None, where
    there are not two."""
    labels = {k for s in shards for k in s.labels if k is not None}
    if len(labels) < 2:
        for s in shards:
            s.labels = [None] * len(s.names)
        return None
    by_number = all(isinstance(k, int) for k in labels)
    names = [str(k) for k in range(max(labels) + 1)] if by_number else sorted(set(map(str, labels)), key=class_order)
    place = {name: k for k, name in enumerate(names)}
    number = {k: place[str(k)] for k in labels}
    for s in shards:
        s.labels = [number.get(k) for k in s.labels]
    return list(map(named, names))


# -- shards elsewhere ---------------------------------------------------------------------------------------------


def open_elsewhere(spec: str, source: Source, limits: DecodeLimits) -> dict[str, ImageSet]:
    """Shards on another machine: by their index, or by a pattern. Those of a pattern are all fetched once, to be
    listed; the list is kept in the cache.

    Raises:
        UserError: nothing can be fetched, or what is fetched is not that.
    """
    if is_pattern(spec):
        locations, source.name = expand(spec), _set_name(spec)
        listed = cache_folder() / "shards" / hashlib.sha256(spec.encode()).hexdigest()[:32]
        if is_index(listed):
            about, splits = read_index(listed)
            source.skipped += [(file, reason) for file, reason in about["skipped"]]
        else:
            about, splits = _list_elsewhere(spec, locations, listed, source, limits)
    elif INDEX in spec:
        try:
            data = _whole(spec)
        except (OSError, ValueError, http.client.HTTPException) as e:
            reason = " ".join(str(getattr(e, "strerror", None) or e).split())
            raise UserError(f"{shown(spec)} cannot be fetched: {reason}") from e
        about, splits = _parse_index(data, shown(spec))
        source.name = shown(about["name"])
        before, _, after = spec.rpartition(INDEX)
        locations = [before + s.file + after for of in splits.values() for s in of]
    else:
        raise UserError(f"{shown(spec)} is not a source; expected .../{INDEX} or .../part-{{000..099}}.tar")
    every = [s for of in splits.values() for s in of]
    copies = Elsewhere(locations, [s.size for s in every], [s.sha256 for s in every])
    images = _splits(splits, about["classes"], copies.open, limits)
    for split in images.values():
        split.store.pads = bool(about["pads"])
        split.store.elsewhere = copies
    source.mirrorable = _mirrorable(about)
    return images


def _whole(location: str) -> bytes:
    """All that lies there; not more than an index may be."""
    data = bytearray()
    for chunk in read_location(location):
        data += chunk
        if len(data) > _MOST_BYTES:
            raise ValueError(f"larger than {_MOST_BYTES / 2**30:g} GiB")
    return bytes(data)


def _list_elsewhere(
    spec: str, locations: list[str], listed: Path, source: Source, limits: DecodeLimits
) -> tuple[dict[str, Any], dict[str, list[Shard]]]:
    copies = Elsewhere(locations, [0] * len(locations), [""] * len(locations))

    def path_of(number: int) -> Path:
        copies.fetch(range(number, min(number + 3, len(locations))))
        with copies.open(number) as file:
            return Path(file.name)

    shards = _list(spec, path_of, source, limits)
    for number, shard in enumerate(shards):
        shard.size, shard.sha256 = copies.sizes[number], copies.digests[number]
    about = {"name": source.name, "classes": _with_labels(shards), "pads": False, "skipped": source.skipped}
    splits = {"train": shards}
    if all(s.sha256 for s in shards):  # else ask again next time
        listed.mkdir(parents=True, exist_ok=True)
        write_index(listed / INDEX, about, splits)
    return about, splits


# -- image sets ---------------------------------------------------------------------------------------------------


def _splits(
    splits: dict[str, list[Shard]],
    classes: list[str] | None,
    open_shard: Callable[[int], IO[bytes]],
    limits: DecodeLimits,
    in_source_order: bool = False,
) -> dict[str, ImageSet]:
    """Image sets that share one store, whose handles are rows (shard, offset, size, CRC-32 or -1)."""
    shards = [s for split in splits.values() for s in split]

    def read(handle: np.ndarray) -> bytes:
        number, offset, size, crc = handle.tolist()
        with open_shard(number) as file:
            file.seek(offset)
            data = file.read(min(size, limits.max_bytes + 1))
        if len(data) < min(size, limits.max_bytes + 1):
            raise OSError(errno.EIO, "shard cut short")
        if crc >= 0 and size <= limits.max_bytes and zlib.crc32(data) != crc:
            raise OSError(errno.EIO, "changed since it was written to the shard")
        return data

    numbers = np.repeat(np.arange(len(shards)), [len(s.names) for s in shards])
    offsets, sizes = [n for s in shards for n in s.offsets], [n for s in shards for n in s.sizes]
    names = [named(n) for s in shards for n in s.names]
    crcs = [n for s in shards for n in s.crcs or [-1] * len(s.names)]
    handles = np.stack([numbers, *(np.array(column, dtype=np.int64) for column in (offsets, sizes, crcs))], axis=1)
    # Names do not say in which format an image is stored: the nameless are not compared with it.
    store = FileStore([""] * len(names), handles, read, limits)
    out, start = {}, 0
    for split, of in splits.items():
        positions = np.array([p for s in of for p in s.positions], dtype=np.int64)
        order = np.argsort(positions, kind="stable") if in_source_order else np.arange(len(positions))
        said = np.array([-1 if k is None else k for s in of for k in s.labels], dtype=np.int64)[order]
        labels = said if (said >= 0).any() else None
        files = [names[i] for i in start + order]
        out[split] = ImageSet(split, files, labels, None if labels is None else classes, store, start + order)
        start += len(order)
    return {split: images for split, images in out.items() if len(images)}
