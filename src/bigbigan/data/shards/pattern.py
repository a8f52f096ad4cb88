"""List the images of shards named by a pattern, part-{000..099}.tar, which have no index."""

import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bigbigan.data.decode import DecodeLimits
from bigbigan.data.formats import Unreadable
from bigbigan.data.image_set import ImageSet, Source
from bigbigan.data.names import class_order, extension, label_of, shown, stored_name
from bigbigan.data.readers.archives import list_tar
from bigbigan.data.readers.folders import Entry, Reader
from bigbigan.data.shards.index import Shard
from bigbigan.errors import UserError
from bigbigan.io import parse_json
from bigbigan.progress import Bar

__all__ = ["expand", "is_label", "is_pattern", "label_by_members", "list_pattern", "name_of_set", "number_labels"]

_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")
MAX_SHARDS, MAX_CLASSES = 1_000_000, 1_000_000
_LABEL_KEYS = ("cls", "label", "class")  # of KEY.json


def is_pattern(spec: str) -> bool:
    """Return whether a SOURCE names shards by a range in braces: part-{000..099}.tar."""
    return _RANGE.search(spec) is not None


def expand(pattern: str) -> list[str]:
    """Expand a-{08..10}.tar to a-08.tar, a-09.tar, a-10.tar; of several ranges, all combinations."""
    parts = _RANGE.split(pattern)
    texts, ranges = parts[::3], list(zip(parts[1::3], parts[2::3], strict=True))
    count = 1
    for first, last in ranges:
        if int(last) < int(first):
            raise UserError(f"{shown(pattern)}: {{{first}..{last}}} runs backwards; write {{{last}..{first}}}")
        count *= int(last) - int(first) + 1
    if count > MAX_SHARDS:
        raise UserError(f"{shown(pattern)} names {count:,} shards, limit {MAX_SHARDS:,}")
    numbers = [[f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)] for first, last in ranges]
    return [
        texts[0] + "".join(n + text for n, text in zip(chosen, texts[1:], strict=True))
        for chosen in itertools.product(*numbers)
    ]


def list_pattern(pattern: str, path_of: Callable[[int], Path], source: Source, limits: DecodeLimits) -> list[Shard]:
    """List the shards of a pattern one after the other; unreadable ones are recorded in `source`.

    Raises:
        UserError: no shard has images.
    """
    names = _names(pattern)
    shards = []
    for number, name in enumerate(Bar(names, "listing shards", unit=" shards", disable=None)):
        shard = Shard(f"train/shard-{number:06d}.tar")
        try:
            _list_shard(path_of(number), name, shard, source, limits)
        except (UserError, OSError) as error:  # the others may be readable
            reason = error.strerror if isinstance(error, OSError) else error
            source.refuse(name, Unreadable(f"unreadable shard ({reason})"))
        shards.append(shard)
    if not any(s.names for s in shards):
        first = f"; {source.skipped[0][0]}: {source.skipped[0][1]}" if source.skipped else ""
        raise UserError(f"no images in {shown(pattern)}: expected members such as 000123.jpg and 000123.cls{first}")
    return shards


def _file_name(pattern: str) -> str:
    """Return the file name, such as part-{000..099}, of a pattern that may be a path, URL or command."""
    return re.findall(r"[^/\s'\"=]*\{\d+\.\.\d+\}[^/\s'\"]*", pattern)[-1].removesuffix(".tar")


def name_of_set(pattern: str) -> str:
    """Return the name of the image set in result lines, such as part."""
    return shown(_RANGE.sub("", _file_name(pattern)).strip("-_.") or "shards")


def _names(pattern: str) -> list[str]:
    """Return a short name of each shard: part-000, or its number if such names are not unique."""
    count, short = len(expand(pattern)), expand(_file_name(pattern))
    return list(map(shown, short)) if len(short) == count else [f"{number:06d}" for number in range(count)]


def _list_shard(path: Path, name: str, shard: Shard, source: Source, limits: DecodeLimits) -> None:
    """Add to `shard` the images of one tar file, and labels from KEY.cls, or KEY.json's "cls", "label" or "class".

    Raises:
        UserError: it is not a readable tar file, or it is gzipped.
    """
    with open(path, "rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise UserError("gzipped: a compressed shard has no random access; gunzip it")
    listed = Source("", "", {})
    entries, read = list_tar(path, listed, limits, also=is_label)
    source.notes.update(listed.notes)
    source.skipped += [(name if file == shown(path) else f"{name}/{file}", reason) for file, reason in listed.skipped]
    images: dict[str, tuple[str, Any]] = {}
    labels = _labels([entry for entry in entries if is_label(entry[0][-1])], read)
    for parts, handle in entries:
        key = _key(parts)
        member = f"{name}/{'/'.join(map(stored_name, parts))}"
        if is_label(parts[-1]):
            continue
        if isinstance(handle, Unreadable):
            source.refuse(member, handle)
        elif key in images:
            _note_second_image(images[key][0], member, source)
        else:
            images[key] = (member, handle)
    for i, (key, (member, (offset, size))) in enumerate(images.items()):
        shard.add(member, offset, size, labels.get(key), i)


def is_label(member: str) -> bool:
    """Return whether a member of a tar file may have the label of an image: KEY.cls, KEY.json."""
    return extension(member) in (".cls", ".json")


def _key(parts: Sequence[str]) -> str:
    return "/".join((*parts[:-1], parts[-1].partition(".")[0]))


def _labels(members: Iterable[Entry], read: Reader) -> dict[str, int | str | None]:
    """Return the label of each key, by its .cls and .json members."""
    labels: dict[str, int | str | None] = {}
    for parts, handle in members:
        label = None if isinstance(handle, Unreadable) else _label(read(handle), extension(parts[-1]))
        key = _key(tuple(map(stored_name, parts)))
        labels[key] = labels.get(key) if label is None else label
    return labels


def label_by_members(images: ImageSet, members: list[Entry], read: Reader, source: Source) -> ImageSet | None:
    """Return a single shard's images with labels by its members KEY.cls or KEY.json; None if they have no two classes.

    Of several images of one key only the first is kept, as in a pattern.
    """
    keys = [_key(file.split("/")) for file in images.files]
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    labels, shard = _labels(members, read), Shard("")
    picks = sorted(first.values())
    for i in picks:
        shard.add(keys[i], 0, 0, labels.get(keys[i]), 0)
    if (classes := number_labels([shard])) is None:
        return None
    for i, key in enumerate(keys):
        if first[key] != i:
            _note_second_image(images.files[first[key]], images.files[i], source)
    kept = images.subset(np.array(picks))
    kept.labels = np.array([-1 if k is None else k for k in shard.labels], dtype=np.int64)
    kept.classes = classes
    if unlabelled := int((kept.labels < 0).sum()):
        source.notes["without a label"] += unlabelled
    return kept


def _note_second_image(first: str, second: str, source: Source) -> None:
    """Count a further image of a key, and warn of the first one."""
    note = "further images of one key in a shard, ignored"
    if not source.notes[note]:
        both = f"{first} and {second} have the same key, the name up to its first dot"
        warnings.warn(f"{both}: only the first image of a key is read", stacklevel=3)
    source.notes[note] += 1


def _label(data: bytes, ending: str) -> int | str | None:
    """Return the class in a .cls or .json member, by number or by name; None if there is none."""
    try:
        if ending == ".json":
            parsed = parse_json(data)
            label = next((parsed[k] for k in _LABEL_KEYS if k in parsed), None) if isinstance(parsed, dict) else parsed
        else:
            label = data.decode().strip()
    except ValueError:
        return None
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, str):
        label = label_of(label)
        if re.fullmatch(r"-?\d{1,7}", label):
            label = int(label)
    if isinstance(label, int) and not isinstance(label, bool):
        return label if 0 <= label < MAX_CLASSES else None
    return label if isinstance(label, str) and label else None


def number_labels(shards: list[Shard]) -> list[str] | None:
    """Replace labels by class numbers, None for images without a label, and return the names of the classes.

    With fewer than two classes all labels become None, and the result is None.
    """
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
    return list(map(stored_name, names))
