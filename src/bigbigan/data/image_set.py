"""Image sets: what a SOURCE is once opened, a `Source` of named splits, each of them an `ImageSet`.

Where the images lie is a store's business: rows of an array, or encoded files in a folder or an archive, which
are decoded one at a time on `load`; of files, paths or encoded bytes are kept, never pixels.

Nothing is lost silently: every image that cannot be used is named in `Source.skipped`, everything ignored or
converted is counted in `Source.notes`. Labels never reach training, but where `data.labels` says so; they are read for
evaluation.
"""

import functools
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bigbigan.data.decode import EXTENSIONS, DecodeLimits, Unreadable, decode, sniff

if TYPE_CHECKING:
    from bigbigan.data.shards.remote import Elsewhere

__all__ = [
    "MAX_HELD",
    "NO_LABEL",
    "ArrayStore",
    "FileStore",
    "ImageSet",
    "LabelsFile",
    "Source",
    "class_order",
    "extension",
    "fraction_of",
    "memory_free",
    "named",
    "shown",
]

MAX_HELD = 16 * 2**30  # bytes of a source that may be held in memory
NO_LABEL = {"", "-1", "-1.0", "NA", "N/A", "n/a", "<NA>", "#N/A", "NaN", "nan", "NULL", "null"}  # as tables are written


def _available() -> int | None:
    """Bytes of memory that this process can still have: what the machine has free and its control group (a container,
    a scheduler's job) allows. None where neither is known."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    for most, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # no such file, or "max"
            found.append(max(0, int(Path(most).read_text()) - int(Path(used).read_text())))
    return min(found, default=None)


def memory_free() -> int:
    """Return the bytes of memory that this process can still have, at most `MAX_HELD`."""
    free = _available()
    return MAX_HELD if free is None else min(MAX_HELD, free)


class ArrayStore:
    """Images that are rows of one uint8 array [N, H, W, 1|3]."""

    pads = True  # `load_pixels` pads small squares with zeros; files it resizes, whatever their size

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    elsewhere = None

    def identity(self, i: int) -> bytes:
        """The bytes that identify image i."""
        return f"{self.pixels.shape[1:]}".encode() + self.pixels[i].tobytes()

    def get(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """Pixels of image i, uint8 [H, W, 1|3], and notes on their conversion."""
        return np.ascontiguousarray(self.pixels[i]), ()


class FileStore:
    """Encoded images: image i is what `read(handles[i])` returns. A handle that is Unreadable is raised.

    The methods are those of `ArrayStore` and `raw`, but may raise Unreadable.
    """

    pads = False
    elsewhere: "Elsewhere | None" = None  # where shards are on another machine; handles then begin with their number

    def __init__(
        self, names: list[str], handles: list[Any] | np.ndarray, read: Callable[[Any], bytes], limits: DecodeLimits
    ) -> None:
        self.names, self.handles, self.read, self.limits = names, handles, read, limits

    def raw(self, i: int) -> bytes:
        handle = self.handles[i]
        if isinstance(handle, Unreadable):
            raise handle
        try:
            return self.read(handle)
        except Exception as e:  # OSError (no permission, dangling link); BadZipFile, zlib.error, ... from archives
            raise Unreadable(f"cannot be read ({getattr(e, 'strerror', None) or type(e).__name__})") from e

    def identity(self, i: int) -> bytes:
        """The bytes that identify image i; of one that lies elsewhere, its shard's checksum and its place there."""
        if self.elsewhere is None:
            return self.raw(i)
        shard, *place = self.handles[i].tolist()[:3]
        return f"{self.elsewhere.digests[shard]} {place}".encode()

    def get(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
        data = self.raw(i)
        array, notes = decode(data, self.limits, extension(self.names[i]))
        if EXTENSIONS.get(extension(self.names[i]), sniff(data)) != sniff(data):
            notes = (*notes, "extension does not match the format")
        return array, notes


@dataclass
class ImageSet:
    """One split: N images, decoded one at a time on `load`."""

    name: str  # "train", "val" or "test"
    files: list[str]  # one name an image; "train/00042" where images are rows of an array
    labels: np.ndarray | None  # int64 [N], -1 where an image has none; or None when all are unlabelled
    classes: list[str] | None  # what label k means; shared by all splits of a source
    store: ArrayStore | FileStore = field(repr=False)
    index: np.ndarray = field(repr=False)  # int64 [N]: where in the store each image lies
    groups: np.ndarray | None = None  # int64 [N]: images of one group, a patient say, belong on one side of a split

    def __len__(self) -> int:
        return len(self.files)

    def load(self, i: int) -> np.ndarray:
        """Pixels of image i, uint8 [H, W, 1] or [H, W, 3]. Raises Unreadable."""
        return self.load_noted(i)[0]

    def load_noted(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """Like `load`, with notes on what was converted ("EXIF rotated", "palette", ...)."""
        return self.store.get(int(self.index[i]))

    @functools.cached_property
    def shards(self) -> np.ndarray | None:
        """The number of each image's shard, int64 [N], where shards lie elsewhere; None where any image is at hand."""
        if self.store.elsewhere is None:
            return None
        return np.asarray(self.store.handles)[self.index, 0]

    def at_hand(self, order: np.ndarray) -> np.ndarray:
        """Those of these images that are had without fetching more than one shard; in this order."""
        shards = self.shards
        return order if shards is None else order[shards[order] == shards.min()]

    def fetch_ahead(self, i: int, ahead: int = 3) -> None:
        """Begin to fetch image i's shard and those that follow, where shards lie elsewhere and are read in order."""
        if self.store.elsewhere is not None and self.shards is not None:
            first, last = self.shards[[i, -1]].tolist()
            self.store.elsewhere.fetch(range(first, min(first + ahead, last + 1)))

    def subset(self, indices: Sequence[int] | np.ndarray, name: str | None = None) -> "ImageSet":
        """The images at `indices`, in that order, sharing this set's storage."""
        picked = np.asarray(indices, dtype=np.int64).reshape(-1)
        labels = None if self.labels is None else self.labels[picked]
        files = [self.files[i] for i in picked]
        groups = None if self.groups is None else self.groups[picked]
        return ImageSet(name or self.name, files, labels, self.classes, self.store, self.index[picked], groups)


@dataclass(frozen=True)
class LabelsFile:
    """The CSV file that labels came from (bigbigan.data.labels)."""

    path: str
    sha256: str


def fraction_of(images: ImageSet, fraction: float) -> ImageSet:
    """A share of an image set, at least one image, drawn once and for all and in the order of the set."""
    if fraction == 1:
        return images
    picks = np.random.default_rng(0).permutation(len(images))[: max(1, round(fraction * len(images)))]
    return images.subset(np.sort(picks))


@dataclass
class Source:
    """An opened SOURCE. `skipped` and `notes` fill as images are read; each image is counted once."""

    spec: str  # as given
    name: str  # short, for result lines: "digits", "mnist", or the base name of the path
    splits: dict[str, ImageSet]  # at least "train"
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (file name, reason)
    notes: Counter[str] = field(default_factory=Counter)  # e.g. {"EXIF rotated": 3, "not an image": 2}
    max_unreadable: float = 0.05  # share of a split
    labels: LabelsFile | None = None  # in place of the source's own labels
    mirrorable: bool = True  # mirror images of its images are as natural as the images: not so of digits and letters
    _counted: set[str] = field(default_factory=set, repr=False)

    def record(self, file: str, notes: Iterable[str]) -> None:
        """Counts the conversions of one image that was read."""
        if file not in self._counted:
            self._counted.add(file)
            self.notes.update(notes)

    def refuse(self, file: str, error: Unreadable) -> None:
        """Lists one file that could not be read."""
        if file not in self._counted:
            self._counted.add(file)
            self.skipped.append((file, str(error)))
            self.notes[error.kind] += 1

    def remember(self, skipped: Iterable[tuple[str, str]]) -> None:
        """Lists what earlier processes of the same run could not read."""
        for file, reason in skipped:
            if file not in self._counted:
                self._counted.add(file)
                self.skipped.append((file, reason))


def extension(name: str) -> str:
    """ ".jpg" of "a/B.JPG"; "" where there is none."""
    return os.path.splitext(name)[1].lower()


def named(name: object) -> str:
    """A file's or a class's name as it is kept and written to files: its own, but for undecodable bytes, control
    characters, line separators and marks that reverse the direction of text, which are escaped as in `shown`."""
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or _belongs_to_names(c) else shown(c) for c in text)


def _belongs_to_names(c: str) -> bool:
    """Of characters that are not printable: spaces of all kinds, joiners of emoji, and what Unicode has added since."""
    return unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") and not (
        "\u202a" <= c <= "\u202e" or "\u2066" <= c <= "\u2069"
    )


def class_order(name: object) -> tuple[int, float, str]:
    """The order of classes: numbers first and by value, then text."""
    try:
        value = float(str(name))
    except ValueError:
        value = math.nan
    return (0, value, str(name)) if math.isfinite(value) else (1, 0.0, str(name))


def shown(name: object) -> str:
    """A file name or path made fit to print: undecodable bytes and control characters escaped, one line."""
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
