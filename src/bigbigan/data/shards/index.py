"""Read and write the index of a folder of shards, index.json: where each image is. An index is untrusted."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bigbigan.data.names import shown
from bigbigan.errors import UserError
from bigbigan.io import parse_json, stamped, unstamped, warn_of_change, write_text

__all__ = ["INDEX", "PROGRESS", "Shard", "is_index", "parse_index", "read_index", "write_index"]

INDEX = "index.json"
PROGRESS = "progress.jsonl"  # of a folder without an index yet: a line with the settings, then one for each shard
_FORMAT = "bigbigan shards 1"
_HEAD = b'{"format": "bigbigan shards'
_FILE = re.compile(r"(train|val|test)/shard-\d{6,9}\.tar")


@dataclass
class Shard:
    """One tar file, and the positions of its images."""

    file: str
    size: int = 0  # bytes; 0 if unknown
    sha256: str = ""  # hex; empty if unknown
    names: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)  # of an image's first byte
    sizes: list[int] = field(default_factory=list)  # bytes
    labels: list[Any] = field(default_factory=list)  # a number, a name, or None
    positions: list[int] = field(default_factory=list)  # in the split that the shards were made from
    crcs: list[int] = field(default_factory=list)  # CRC-32 of each image's bytes; empty if unknown
    groups: list[int] = field(default_factory=list)  # `ImageSet.groups`; empty if there are none

    def add(self, name: str, offset: int, size: int, label: Any, position: int) -> None:
        """Add an image."""
        for column, value in zip(self.columns(), (name, offset, size, label, position), strict=True):
            column.append(value)

    def columns(self) -> tuple[list[Any], ...]:
        """Return the lists that have an entry for each image."""
        return self.names, self.offsets, self.sizes, self.labels, self.positions


def write_index(path: Path, about: dict[str, Any], splits: dict[str, list[Shard]]) -> None:
    """Write index.json atomically. `about` has "name", "classes", "pads", "mirrorable", and may have more."""
    counted = {
        split: {
            "images": sum(len(s.names) for s in shards),
            "shards": [{"images": len(s.names), **vars(s)} for s in shards],
        }
        for split, shards in splits.items()
    }
    write_text(path, json.dumps(stamped({"format": _FORMAT, **about, "splits": counted})) + "\n")


def is_index(folder: Path) -> bool:
    """Return whether a folder has an index of shards, valid or not; other kinds of files are called index.json too."""
    try:
        with open(folder / INDEX, "rb") as file:
            return file.read(len(_HEAD)) == _HEAD
    except OSError:
        return False


def read_index(folder: Path) -> tuple[dict[str, Any], dict[str, list[Shard]]]:
    """Read the index of a folder: return its fields about the image set, and the shards of each split.

    Raises:
        UserError: it is damaged, or of another version.
    """
    return parse_index((folder / INDEX).read_bytes(), shown(folder / INDEX))


def parse_index(text: bytes, where: str) -> tuple[dict[str, Any], dict[str, list[Shard]]]:
    """Parse an index as `read_index` does; `where` names it in messages."""
    try:
        about, changed = unstamped(parse_json(text))
    except ValueError as e:
        raise UserError(f"{where} is damaged ({shown(e)}); write it again: bigbigan data shard") from e
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise UserError(f"{where} is not an index that this version can read; write it again: bigbigan data shard")
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
        if not isinstance(about["name"], str) or not all(type(about[key]) is bool for key in ("pads", "mirrorable")):
            raise ValueError("name, pads or mirrorable")
        skipped = about.setdefault("skipped", [])
        if not isinstance(skipped, list) or not all(map(_is_pair, skipped)):
            raise ValueError("skipped")
        if not splits or not all(splits.values()):
            raise ValueError("no shards")
        for name, shards in splits.items():
            labels = [k for shard in shards for k in shard.labels if k is not None]
            if not all(type(k) is int and 0 <= k < len(classes or ()) for k in labels):
                raise ValueError(f"labels of {name}")
            if len({bool(shard.groups) for shard in shards if shard.names}) > 1:
                raise ValueError(f"groups of {name}")
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise UserError(f"{where} is damaged ({shown(e)}); write it again: bigbigan data shard") from e
    return about, splits


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(s, str) for s in value)


def _checked(shard: Shard, split: str) -> Shard:
    """Return the shard, or raise ValueError if its values are impossible."""
    numbers = (shard.size, *shard.offsets, *shard.sizes, *shard.positions, *shard.crcs, *shard.groups)
    if not (_FILE.fullmatch(shard.file) and shard.file.startswith(f"{split}/")):
        raise ValueError(f"file {shard.file!r}")
    if not all(type(n) is int and 0 <= n < 2**63 for n in numbers) or not all(isinstance(n, str) for n in shard.names):
        raise ValueError(f"numbers or names of {shard.file}")
    lengths = {len(column) for column in (*shard.columns(), shard.crcs or shard.names, shard.groups or shard.names)}
    if len(lengths) != 1 or not re.fullmatch(r"[0-9a-f]{64}", shard.sha256):
        raise ValueError(f"columns of {shard.file}")
    return shard
