"""Define an opened SOURCE: a `Source` of named splits, each an `ImageSet`.

A store holds the images: rows of an array, or encoded files in a folder or an archive, which are decoded one at a time
on `load`. A `FileStore` keeps paths or encoded bytes in memory, never pixels.

Nothing is lost silently: every image that cannot be used is named in `Source.skipped`, everything ignored or
converted is counted in `Source.notes`. Labels are used for evaluation only, unless `data.labels` makes the model
conditional.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bigbigan.data.decode import DecodeLimits, decode
from bigbigan.data.formats import EXTENSIONS, Unreadable, sniff
from bigbigan.data.names import extension
from bigbigan.data.window import ToBytes

if TYPE_CHECKING:
    from bigbigan.data.readers.datasets import DatasetStore
    from bigbigan.data.shards.remote import RemoteShards

__all__ = [
    "MAX_MEMORY",
    "ArrayStore",
    "FileStore",
    "ImageSet",
    "LabelsFile",
    "Source",
    "fixed_picks",
    "fraction_of",
    "memory_free",
]

MAX_MEMORY = 16 * 2**30  # bytes of a source that may be kept in memory
AHEAD = 3  # remote shards that are cached or fetched while images are read in order


def _available() -> int | None:
    """Return the bytes of memory that this process can still allocate; None if unknown.

    It is the minimum of what the machine has free and what its control group (a container, a scheduler's job) allows.
    """
    free = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        free.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # no such file, or "max"
            free.append(max(0, int(Path(limit).read_text("ascii")) - int(Path(used).read_text("ascii"))))
    return min(free, default=None)


def memory_free() -> int:
    """Return the bytes of memory that this process can still allocate, at most `MAX_MEMORY`."""
    free = _available()
    return MAX_MEMORY if free is None else min(MAX_MEMORY, free)


class ArrayStore:
    """Images that are rows of one uint8 array [N, H, W, 1|3]."""

    pads = True  # `load_pixels` pads small squares with zeros; files are always resized
    remote = None

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def identity(self, i: int) -> bytes:
        """Return the bytes that identify image i."""
        return f"{self.pixels.shape[1:]}".encode() + self.pixels[i].tobytes()

    def get(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the pixels of image i, uint8 [H, W, 1|3], and notes on their conversion."""
        return np.ascontiguousarray(self.pixels[i]), ()


class FileStore:
    """Encoded images: image i is decoded from `read(handles[i])`. A handle may be an Unreadable, which is raised.

    It has the methods of `ArrayStore`, which here may raise Unreadable, and `raw`.
    """

    pads = False
    remote: "RemoteShards | None" = None  # if shards are on another machine; handles then begin with the shard number

    def __init__(
        self, names: list[str], handles: list[Any] | np.ndarray, read: Callable[[Any], bytes], limits: DecodeLimits
    ) -> None:
        self.names, self.handles, self.read, self.limits = names, handles, read, limits

    def raw(self, i: int) -> bytes:
        """Return the encoded bytes of image i. Raises Unreadable."""
        handle = self.handles[i]
        if isinstance(handle, Unreadable):
            raise handle
        try:
            return self.read(handle)
        except Exception as e:  # OSError (no permission, dangling link); BadZipFile, zlib.error, ... from archives
            raise Unreadable(f"cannot be read ({getattr(e, 'strerror', None) or type(e).__name__})") from e

    def identity(self, i: int) -> bytes:
        """Return the bytes that identify image i: its file; in remote shards, the shard's checksum and its position."""
        if self.remote is None:
            return self.raw(i)
        shard, *place = self.handles[i].tolist()[:3]
        return f"{self.remote.digests[shard]} {place}".encode()

    def get(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the pixels of image i, uint8 [H, W, 1|3], and notes on their conversion. Raises Unreadable."""
        data, ending = self.raw(i), extension(self.names[i])
        array, notes = decode(data, self.limits, ending, self.frame(i))
        if EXTENSIONS.get(ending, sniff(data)) != sniff(data):
            notes = (*notes, "extension does not match the format")
        return array, notes

    def frame(self, i: int) -> int:
        """Return which frame of its file image i is, from 0."""
        return 0


@dataclass
class ImageSet:
    """One split: N images, decoded one at a time on `load`."""

    name: str  # "train", "val" or "test"
    files: list[str]  # one name per image; "train/00042" for rows of an array
    labels: np.ndarray | None  # int64 [N], -1 for an image without a label; None if no image has one
    classes: list[str] | None  # the name of each class, of all splits of a source; None exactly if `labels` is
    store: "ArrayStore | FileStore | DatasetStore" = field(repr=False)
    index: np.ndarray = field(repr=False)  # int64 [N]: each image's position in the store
    groups: np.ndarray | None = None  # int64 [N]: images of one group, such as a patient, belong in one split

    def __len__(self) -> int:
        return len(self.files)

    def load(self, i: int) -> np.ndarray:
        """Return the pixels of image i, uint8 [H, W, 1] or [H, W, 3]. Raises Unreadable."""
        return self.load_noted(i)[0]

    def load_noted(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return pixels as `load` does, and notes on what was converted ("EXIF rotated", "palette", ...)."""
        return self.store.get(int(self.index[i]))

    @functools.cached_property
    def shards(self) -> np.ndarray | None:
        """The number of each image's shard, int64 [N], if the shards are remote; None if all images are local."""
        if self.store.remote is None:
            return None
        return np.asarray(self.store.handles)[self.index, 0]

    def in_first_shard(self, order: np.ndarray) -> np.ndarray:
        """Return the images of `order` that are in the first shard, in that order; all of them if they are local."""
        shards = self.shards
        return order if shards is None else order[shards[order] == shards.min()]

    def fetch_ahead(self, i: int) -> None:
        """Begin to fetch image i's shard and the next ones, if the shards are remote and read in order."""
        if self.store.remote is not None and self.shards is not None:
            first, last = self.shards[[i, -1]].tolist()
            self.store.remote.fetch(range(first, min(first + AHEAD, last + 1)))

    def class_name(self, i: int) -> str:
        """Return the name of the class of image i; "" if it has no label."""
        if self.labels is None or self.labels[i] < 0:
            return ""
        assert self.classes is not None
        return self.classes[self.labels[i]]

    def subset(self, indices: Sequence[int] | np.ndarray, name: str | None = None) -> "ImageSet":
        """Return the images at `indices`, in that order; they share this set's store."""
        picked = np.asarray(indices, dtype=np.int64).reshape(-1)
        labels = None if self.labels is None else self.labels[picked]
        files = [self.files[i] for i in picked]
        groups = None if self.groups is None else self.groups[picked]
        return ImageSet(name or self.name, files, labels, self.classes, self.store, self.index[picked], groups)

    def spread(self, count: int) -> np.ndarray:
        """Return the indices of `count` images spread evenly over the set, of all if it has fewer."""
        return np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(np.int64)


@dataclass(frozen=True)
class LabelsFile:
    """The CSV file that the labels are from (bigbigan.data.labels)."""

    path: str
    sha256: str


def with_train(splits: dict[str, ImageSet], source: "Source") -> dict[str, ImageSet]:
    """Return the splits; if there is no train, val or else test is called train, which is noted."""
    if "train" in splits:
        return splits
    first = "val" if "val" in splits else "test"
    source.notes[f"no train split: '{first}' is read as train"] += 1
    splits[first].name = "train"
    return {"train": splits[first], **{name: images for name, images in splits.items() if name != first}}


def fraction_of(images: ImageSet, fraction: float) -> ImageSet:
    """Return a random share of an image set, at least one image, always the same and in the order of the set."""
    return images if fraction == 1 else images.subset(fixed_picks(len(images), max(1, round(fraction * len(images)))))


def fixed_picks(count: int, size: int) -> np.ndarray:
    """Draw at most `size` of `count` images, always the same ones; return their sorted indices, int64."""
    return np.sort(np.random.default_rng(0).permutation(count)[:size])


@dataclass
class Source:
    """An opened SOURCE. `skipped` and `notes` grow as images are read; each image is counted once."""

    spec: str  # as given
    name: str  # short, for result lines: "digits", "mnist", or the base name of the path
    splits: dict[str, ImageSet]  # at least "train"
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (file name, reason)
    notes: Counter[str] = field(default_factory=Counter)  # e.g. {"EXIF rotated": 3, "not an image": 2}
    max_unreadable: float = 0.05  # share of a split
    labels: LabelsFile | None = None  # if given, it replaces the source's own labels
    mirrorable: bool = True  # whether mirror images are as natural as the images; False for digits and letters
    frames: dict[str, list[str]] = field(default_factory=dict)  # the frames of each file that has several
    _counted: set[str] = field(default_factory=set, repr=False)
    _to_read_again: Counter[str] = field(default_factory=Counter, repr=False)  # notes of `remember`, see `record`

    def set_window(self, window: ToBytes | None) -> None:
        """Set how images of more than 8 bits are reduced to 8; those of arrays have 8."""
        for images in self.splits.values():
            if not isinstance(images.store, ArrayStore):
                images.store.limits = replace(images.store.limits, window=window)

    def set_padding(self, pad: Literal["auto", "always", "never"]) -> None:
        """Set whether `load_pixels` pads small squares with zeros; "auto" leaves it to the kind of the source."""
        for images in self.splits.values():
            if pad != "auto":
                images.store.pads = pad == "always"

    def record(self, file: str, notes: Iterable[str]) -> None:
        """Count the conversions of one image that was read, unless it was counted before.

        It is not known which images earlier processes counted. So a conversion of a kind that they recorded is taken
        for one of theirs, until as many have been read again.
        """
        if file not in self._counted:
            self._counted.add(file)
            found = Counter(notes)
            again = found & self._to_read_again
            self._to_read_again -= again
            self.notes.update(found - again)

    def refuse(self, file: str, error: Unreadable) -> None:
        """Add one file that could not be read to `skipped`, and count the reason."""
        if file not in self._counted:
            self._counted.add(file)
            self.skipped.append((file, str(error)))
            self.notes[error.kind] += 1

    def remember(self, skipped: Iterable[tuple[str, str]], notes: Mapping[str, int]) -> None:
        """Add the files that earlier processes of the same run could not read to `skipped`, and their notes."""
        listed = {file for file, _ in self.skipped}  # when the source was opened, too
        for file, reason in skipped:
            if file not in listed:
                self.refuse(file, Unreadable(reason))
        self._to_read_again = Counter(notes) - self.notes
        self.notes.update(self._to_read_again)
