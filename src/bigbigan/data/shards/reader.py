"""Read shards: an image set in many tar files, in WebDataset's convention (KEY.jpg, and KEY.cls or KEY.json).

    DIR                              as `bigbigan data shard` writes it: DIR/index.json, DIR/train/shard-000000.tar ...
    part-{000..099}.tar              shards without an index (`bigbigan.data.shards.pattern`)
    https://host/set/index.json      either of them on another machine; or pipe:COMMAND, which writes the index or the
    https://host/part-{000..099}.tar shard of this name to its output

Images are read at random, like the files of a folder, as the shard, offset and size of each are known. A few remote
shards are cached at a time (`bigbigan.data.shards.remote`), and training uses images from those.
"""

import errno
import hashlib
import http.client
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from bigbigan.data.decode import DecodeLimits
from bigbigan.data.image_set import FileStore, ImageSet, Source
from bigbigan.data.names import shown, stored_name
from bigbigan.data.readers.download import cache_folder
from bigbigan.data.shards.index import INDEX, Shard, is_index, parse_index, read_index, write_index
from bigbigan.data.shards.pattern import expand, is_pattern, list_pattern, name_of_set, number_labels
from bigbigan.data.shards.remote import RemoteShards, read_location
from bigbigan.errors import UserError

__all__ = ["open_pattern", "open_remote", "open_shards"]

MAX_BYTES = 2**30  # of an index; 80 MiB are a million images


def open_shards(folder: Path, source: Source, limits: DecodeLimits) -> dict[str, ImageSet]:
    """Open the splits of a folder written by `bigbigan data shard`, in the order of the image set it was made from."""
    about, splits = read_index(folder)
    source.name = shown(about["name"])
    paths = [folder / s.file for shards in splits.values() for s in shards]
    images = _splits(splits, about["classes"], _opener(paths), limits, in_source_order=True)
    for split in images.values():
        split.store.pads = about["pads"]
    source.mirrorable = about["mirrorable"]
    return images


def open_pattern(pattern: str, source: Source, limits: DecodeLimits) -> dict[str, ImageSet]:
    """Open shards named by a pattern, as one split, in their order."""
    paths = [Path(os.path.expanduser(p)) for p in expand(pattern)]
    missing = [p for p in paths if not p.is_file()]
    if missing:
        if len(missing) == len(paths):
            raise UserError(f"{shown(pattern)}: no shard exists; the first missing one is {shown(missing[0])}")
        some = f"{len(missing):,} of the {len(paths):,} shards are missing; the first is {shown(missing[0])}"
        raise UserError(f"{shown(pattern)}: {some}; correct the range")
    shards = list_pattern(pattern, lambda number: paths[number], source, limits)
    classes = number_labels(shards)
    source.name = name_of_set(pattern)
    return _splits({"train": shards}, classes, _opener(paths), limits)


def _opener(paths: list[Path]) -> Callable[[int], IO[bytes]]:
    def open_shard(number: int) -> IO[bytes]:
        return open(paths[number], "rb")

    return open_shard


def open_remote(spec: str, source: Source, limits: DecodeLimits) -> dict[str, ImageSet]:
    """Open remote shards, by their index or by a pattern.

    All shards of a pattern are fetched once to list their images; the list is cached.

    Raises:
        UserError: nothing can be fetched, or it is not an index or shards.
    """
    if is_pattern(spec):
        locations, source.name = expand(spec), name_of_set(spec)
        listed = cache_folder() / "shards" / hashlib.sha256(spec.encode()).hexdigest()[:32]
        if is_index(listed):
            about, splits = read_index(listed)
            source.skipped += [(file, reason) for file, reason in about["skipped"]]
        else:
            about, splits = _list_remote(spec, locations, listed, source, limits)
    elif INDEX in spec:
        try:
            data = _whole(spec)
        except (OSError, ValueError, http.client.HTTPException) as e:
            reason = " ".join(str(getattr(e, "strerror", None) or e).split())
            raise UserError(f"{shown(spec)} cannot be fetched: {reason}") from e
        about, splits = parse_index(data, shown(spec))
        source.name = shown(about["name"])
        before, _, after = spec.rpartition(INDEX)
        locations = [before + s.file + after for shards in splits.values() for s in shards]
    else:
        raise UserError(f"{shown(spec)} is not a source; expected .../{INDEX} or .../part-{{000..099}}.tar")
    every = [s for shards in splits.values() for s in shards]
    copies = RemoteShards(locations, [s.size for s in every], [s.sha256 for s in every])
    images = _splits(splits, about["classes"], copies.open, limits)
    for split in images.values():
        split.store.pads = about["pads"]
        split.store.remote = copies
    source.mirrorable = about["mirrorable"]
    return images


def _whole(location: str) -> bytes:
    """Fetch a whole file; raise ValueError if it is larger than `MAX_BYTES`."""
    data = bytearray()
    for chunk in read_location(location):
        data += chunk
        if len(data) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES / 2**30:g} GiB")
    return bytes(data)


def _list_remote(
    spec: str, locations: list[str], listed: Path, source: Source, limits: DecodeLimits
) -> tuple[dict[str, Any], dict[str, list[Shard]]]:
    copies = RemoteShards(locations, [0] * len(locations), [""] * len(locations))

    def path_of(number: int) -> Path:
        copies.fetch(range(number, min(number + 3, len(locations))))
        with copies.open(number) as file:
            return Path(file.name)

    shards = list_pattern(spec, path_of, source, limits)
    for number, shard in enumerate(shards):
        shard.size, shard.sha256 = copies.sizes[number], copies.digests[number]
    about: dict[str, Any] = {"name": source.name, "classes": number_labels(shards), "skipped": source.skipped}
    about |= {"pads": False, "mirrorable": True}
    splits = {"train": shards}
    if all(s.sha256 for s in shards):  # else some shard could not be fetched: list again next time
        listed.mkdir(parents=True, exist_ok=True)
        write_index(listed / INDEX, about, splits)
    return about, splits


def _splits(
    splits: dict[str, list[Shard]],
    classes: list[str] | None,
    open_shard: Callable[[int], IO[bytes]],
    limits: DecodeLimits,
    in_source_order: bool = False,
) -> dict[str, ImageSet]:
    """Return image sets that share one store, whose handles are rows (shard, offset, size, CRC-32 or -1)."""
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
    names = [stored_name(n) for s in shards for n in s.names]
    crcs = [n for s in shards for n in s.crcs or [-1] * len(s.names)]
    handles = np.stack([numbers, *(np.array(column, dtype=np.int64) for column in (offsets, sizes, crcs))], axis=1)
    # Names may not match the stored format; without names the store does not compare them.
    store = FileStore([""] * len(names), handles, read, limits)
    out, start = {}, 0
    for split, split_shards in splits.items():
        positions = np.array([p for s in split_shards for p in s.positions], dtype=np.int64)
        order = np.argsort(positions, kind="stable") if in_source_order else np.arange(len(positions))
        given = np.array([-1 if k is None else k for s in split_shards for k in s.labels], dtype=np.int64)[order]
        labels = given if (given >= 0).any() else None
        files = [names[i] for i in start + order]
        groups = np.array([g for s in split_shards for g in s.groups], dtype=np.int64)
        out[split] = ImageSet(
            split,
            files,
            labels,
            None if labels is None else classes,
            store,
            start + order,
            groups[order] if len(groups) else None,
        )
        start += len(order)
    return {split: images for split, images in out.items() if len(images)}
