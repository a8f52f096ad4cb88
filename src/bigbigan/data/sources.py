"""Sources: a SOURCE string -> named splits of images, and their pixels in memory.

    digits                          1,797 images of 8x8, shipped with scikit-learn
    mnist  fashion-mnist  cifar10   from the cache, downloaded when absent; or NAME:PATH
    FOLDER                          images, flat; or a folder a class; or train/ val/ test/ above those
    FILE.tar  .tar.gz  .tgz  .zip   such a folder, packed: read in place, never unpacked to disk
    FOLDER of idx files             train-images-idx3-ubyte and so on, plain or .gz
    FILE.npz                        MedMNIST keys {train,val,test}_{images,labels}, or images and labels

A known name wins over a folder of that name: write ./mnist for the folder.

Data flows `open_source` -> `Source.splits["train"]` (an `ImageSet`) -> `load_pixels`. File-backed sets keep
paths or encoded bytes, never pixels, and decode on `load`.

Nothing is lost silently: every image that cannot be used is named in `Source.skipped`, everything ignored or
converted is counted in `Source.notes`, and what the user must mend raises `UserError` in one line. Labels
never reach training; they are read for evaluation alone.
"""

import difflib
import gzip
import hashlib
import http.client
import os
import re
import stat
import sys
import tarfile
import tempfile
import time
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from bigbigan.data.decode import (
    EXTENSIONS,
    DecodeLimits,
    Unreadable,
    decode,
    fit,
    resize_square,
    sniff,
    to_channels,
    too_many_bytes,
)
from bigbigan.errors import UserError

__all__ = ["ImageSet", "Source", "fingerprint", "load_pixels", "open_source"]

Notes = Counter[str]
_LIMITS = DecodeLimits()


# ---------------------------------------------------------------------------------------------------------
# What a source is made of


class Store(Protocol):
    """Where images lie: pixels in an array, or encoded bytes in memory, a folder or an archive."""

    def raw(self, i: int) -> bytes:
        """The bytes that identify image i. Raises Unreadable."""

    def get(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """Pixels of image i, uint8 [H, W, 1|3], and notes on their conversion. Raises Unreadable."""


@dataclass
class ImageSet:
    """One split: N images, decoded one at a time on `load`."""

    name: str  # "train", "val" or "test"
    files: list[str]  # one name an image; "train/00042" where images are rows of an array
    labels: np.ndarray | None  # int64 [N], or None when unlabelled
    classes: list[str] | None  # what label k means; shared by all splits of a source
    store: Store = field(repr=False)
    index: np.ndarray = field(repr=False)  # int64 [N]: where in the store each image lies

    def __len__(self) -> int:
        return len(self.files)

    def load(self, i: int) -> np.ndarray:
        """Pixels of image i, uint8 [H, W, 1] or [H, W, 3]. Raises Unreadable."""
        return self.load_noted(i)[0]

    def load_noted(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """Like `load`, with notes on what was converted ("EXIF rotated", "palette", ...)."""
        return self.store.get(int(self.index[i]))

    def subset(self, indices: Sequence[int] | np.ndarray, name: str | None = None) -> "ImageSet":
        """The images at `indices`, in that order, sharing this set's storage."""
        picked = np.asarray(indices, dtype=np.int64).reshape(-1)
        labels = None if self.labels is None else self.labels[picked]
        files = [self.files[i] for i in picked]
        return ImageSet(name or self.name, files, labels, self.classes, self.store, self.index[picked])


@dataclass
class Source:
    """An opened SOURCE. `skipped` and `notes` fill as images are read; each image is counted once."""

    spec: str  # as given
    name: str  # short, for result lines: "digits", "mnist", or the base name of the path
    splits: dict[str, ImageSet]  # at least "train"
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (file name, reason)
    notes: dict[str, int] = field(default_factory=dict)  # e.g. {"EXIF rotated": 3, "not an image": 2}
    max_unreadable: float = 0.05  # share of a split
    _counted: set[str] = field(default_factory=set, repr=False)

    def record(self, file: str, notes: Iterable[str]) -> None:
        """Counts the conversions of one image that was read."""
        if file not in self._counted:
            self._counted.add(file)
            for note in notes:
                self.notes[note] = self.notes.get(note, 0) + 1

    def refuse(self, file: str, error: Unreadable) -> None:
        """Lists one image that could not be read."""
        if file not in self._counted:
            self._counted.add(file)
            self.skipped.append((file, str(error)))
            self.notes[error.kind] = self.notes.get(error.kind, 0) + 1


class _ArrayStore:
    """Images that are rows of one uint8 array [N, H, W, 1|3]."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def raw(self, i: int) -> bytes:
        return f"{self.pixels.shape[1:]}".encode() + self.pixels[i].tobytes()

    def get(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
        return np.ascontiguousarray(self.pixels[i]), ()


class _FileStore:
    """Encoded images: image i is what `read(handles[i])` returns. A handle that is Unreadable is raised."""

    def __init__(
        self, names: list[str], handles: list[Any], read: Callable[[Any], bytes], limits: DecodeLimits
    ):
        self.names, self.handles, self.read, self.limits = names, handles, read, limits

    def raw(self, i: int) -> bytes:
        handle = self.handles[i]
        if isinstance(handle, Unreadable):
            raise handle
        try:
            return self.read(handle)
        except Unreadable:
            raise
        except PermissionError as e:
            raise Unreadable("permission denied") from e
        except FileNotFoundError as e:
            raise Unreadable("missing file or dangling link") from e
        except Exception as e:  # OSError (link loops, bad disks); BadZipFile, zlib.error, ... from archives
            words = getattr(e, "strerror", None) or type(e).__name__
            raise Unreadable(f"cannot be read ({words})", kind="cannot be read") from e

    def get(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
        data = self.raw(i)
        array, notes = decode(data, self.limits)
        promised = EXTENSIONS.get(_extension(self.names[i]))
        if promised is not None and promised != sniff(data):
            notes = (*notes, "extension does not match the format")
        return array, notes


# ---------------------------------------------------------------------------------------------------------
# Opening


def open_source(spec: str, *, max_unreadable: float = 0.05, limits: DecodeLimits = _LIMITS) -> Source:
    """Opens a SOURCE string (grammar: see the module). Lists the images; decodes none of them yet.

    Args:
        spec: what the user typed after `--data`.
        max_unreadable: the share of a split that may be skipped as unreadable before reading stops.
        limits: what one image may cost.

    Raises:
        UserError: one line, for anything that is not a source or holds no image.
    """
    if not 0 <= max_unreadable <= 1:
        raise UserError(f"max_unreadable is a share between 0 and 1, not {max_unreadable}")
    spec = str(spec)
    notes: Notes = Counter()
    skipped: list[tuple[str, str]] = []
    name, path = _parse(spec)
    try:
        if name == "digits":
            splits = _digits()
        elif path is None:
            splits = _open_path(_cached(name), name, notes, skipped, limits)
        else:
            splits = _open_path(path, name, notes, skipped, limits)
    except OSError as e:
        raise UserError(f"cannot read {_shown(spec)}: {e.strerror or type(e).__name__}") from e
    except Unreadable as e:  # an archive that holds arrays, cut short
        raise UserError(f"cannot read {_shown(spec)}: {e}") from e
    if "train" not in splits:
        # A source has a "train" split; where the data names none, the first split there is takes that part.
        first = next(s for s in ("val", "test") if s in splits)
        images = splits.pop(first)
        images.name = "train"
        splits = {"train": images, **splits}
        notes[f"no train split: '{first}' is read as train"] += 1
    if name in _REMOTE:
        _check_known(name, spec, splits)
    short = name or _shown(re.sub(r"(?i)\.(npz|zip|tgz|tar|tar\.gz)$", "", Path(path or "").resolve().name))
    return Source(_shown(spec), short, splits, skipped, dict(notes), max_unreadable)


def _check_known(name: str, spec: str, splits: dict[str, ImageSet]) -> None:
    """All three known data sets have ten classes: anything else is another set under a wrong name."""
    for split, images in splits.items():
        if images.classes is None or len(images.classes) != 10:
            have = f"{len(images.classes)} classes" if images.classes else "no labels"
            raise UserError(
                f"{_shown(spec)} does not hold {name}: expected 10 classes in '{split}', found {have}"
            )
        if name in _CLASSES and images.classes == [str(k) for k in range(10)]:
            images.classes = list(_CLASSES[name])


def _parse(spec: str) -> tuple[str, Path | None]:
    """SOURCE -> (data set name or "", path or None). Raises UserError for what cannot be a source."""
    names = ", ".join(_NAMES)
    accepted = f"expected one of {names}, NAME:PATH, a folder, .tar, .tar.gz, .tgz, .zip or .npz"
    if not spec.strip() or "\0" in spec:
        raise UserError(f"the data source is empty: {accepted}")
    head, colon, tail = spec.partition(":")
    if head == "hf":
        raise UserError(
            f"{_shown(spec)}: Hugging Face names are not supported in this version; use a folder or archive"
        )
    if re.search(r"\{\d+\.\.\d+\}", spec):
        raise UserError(
            f"{_shown(spec)}: tar shards are not supported in this version; use a folder or archive"
        )
    if head in _NAMES:
        if head == "digits" and colon:
            raise UserError(
                f"digits comes with scikit-learn and takes no path: write 'digits', not {_shown(spec)}"
            )
        if colon and not tail:
            raise UserError(f"{head}: has no path behind the colon; write {head} or {head}:PATH")
        path = Path(os.path.expanduser(tail)) if colon else None
    else:
        head, path = "", Path(os.path.expanduser(spec))
    if path is not None and not os.path.lexists(path):
        word = spec.partition(":")[0]
        close = difflib.get_close_matches(word.lower(), _NAMES, n=1)
        hint = f"did you mean '{close[0]}'? " if close and not head else ""
        raise UserError(f"no such file or folder: {_shown(str(path))}; {hint}{accepted}")
    return head, path


def _open_path(
    path: Path, name: str, notes: Notes, skipped: list[tuple[str, str]], limits: DecodeLimits
) -> dict[str, ImageSet]:
    """Opens a path by what it holds. `name` is the known data set it should be, or ""."""
    shown = _shown(str(path))
    mode = path.stat().st_mode  # follows links; an OSError (dangling, loop) is the caller's to word
    if stat.S_ISDIR(mode):
        names = set(os.listdir(path))
        for inner in _INNER_FOLDERS.get(name, ()):  # where the files may lie within PATH
            if not _holds_binary(names) and (path / inner).exists():
                return _open_path(path / inner, name, notes, skipped, limits)
        if any(_idx_file(path, part, "images") for part in ("train", "t10k")):
            return _open_idx(path)
        if "data_batch_1.bin" in names:
            return _open_cifar10({n: (path / n).read_bytes() for n in _CIFAR10_FILES if n in names}, shown)
        if "data_batch_1" in names or "cifar-10-batches-py" in names:
            raise UserError(
                f"{shown} holds the pickled python version of CIFAR-10; get cifar-10-binary.tar.gz instead"
            )
        entries, read = _list_folder(path, notes), _folder_reader(path, limits)
        if not entries:
            raise UserError(_nothing_in(shown, notes, names, name))
        return _arrange(entries, read, limits, notes, skipped, packed=False)
    if not stat.S_ISREG(mode):
        raise UserError(f"{shown} is neither a folder nor a file")
    ending = _extension(path.name)
    if ending == ".npz":
        return _open_npz(path, notes)
    if ending == ".zip":
        entries, read = _list_zip(path, notes, skipped, limits)
    elif ending == ".tar" or path.name.lower().endswith((".tar.gz", ".tgz")):
        if path.name == "cifar-10-python.tar.gz":
            raise UserError(
                f"{shown} is the pickled python version of CIFAR-10; get cifar-10-binary.tar.gz instead"
            )
        entries, read = _list_tar(path, notes, skipped, limits)
        batches = {parts[-1]: handle for parts, handle in entries if parts[-1] in _CIFAR10_FILES}
        batches = {n: handle for n, handle in batches.items() if not isinstance(handle, Unreadable)}
        if "data_batch_1.bin" in batches:
            return _open_cifar10({n: read(handle) for n, handle in batches.items()}, shown)
    else:
        what = "is one image" if ending in EXTENSIONS else "is not a source"
        raise UserError(f"{shown} {what}; expected a folder, .tar, .tar.gz, .tgz, .zip or .npz")
    if not entries:
        raise UserError(_nothing_in(shown, notes, set(), name))
    return _arrange(entries, read, limits, notes, skipped, packed=True)


def _holds_binary(names: set[str]) -> bool:
    return "data_batch_1.bin" in names or any("-ubyte" in n for n in names)


def _nothing_in(shown: str, notes: Notes, names: set[str], name: str) -> str:
    """The line for a place without images: what was there instead, and what would have been right."""
    packed = sorted(n for n in names if n.lower().endswith((".tar", ".tar.gz", ".tgz", ".zip", ".npz")))
    if packed:
        hint = f"; give one of its archives, such as {_shown(str(Path(shown) / packed[0]))}"
    elif name in _REMOTE:
        hint = f"; {name} needs {', '.join(_REMOTE[name][1])}"
    else:
        hint = "; expected JPEG, PNG, WebP, BMP, TIFF or GIF files"
    seen = f" ({', '.join(f'{k}: {v}' for k, v in notes.items())})" if notes else ""
    return f"no images in {shown}{seen}{hint}"


def _extension(name: str) -> str:
    """ ".jpg" of "a/B.JPG"; "" where there is none."""
    return os.path.splitext(name)[1].lower()


def _shown(name: str) -> str:
    """A file name made fit to print: undecodable bytes and control characters escaped, one line."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# ---------------------------------------------------------------------------------------------------------
# Folders and archives: list the candidates, ...

Entry = tuple[tuple[str, ...], Any]  # (parts of the name, handle for the reader)
Reader = Callable[[Any], bytes]

_JUNK = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "lost+found"}
_JUNK_ENDINGS = (".part", ".crdownload", ".tmp", "~")
# Images of formats that are not read: listed as candidates, so that they are reported and not overlooked.
_UNREAD = {".heic", ".heif", ".avif", ".dcm", ".psd", ".jp2", ".j2k", ".pgm", ".ppm", ".tga", ".exr", ".dng"}
_MAX_MEMBERS = 5_000_000
_MAX_STREAM = 256 * 2**30  # decompressed bytes of one archive
_MAX_HELD = 16 * 2**30  # encoded bytes held in memory for a compressed tar
_BOMB_FROM, _BOMB_RATIO = 2**30, 200  # images hardly compress: past 1 GiB, 200 to 1 is no archive of images


def _is_junk(parts: Sequence[str]) -> bool:
    return any(p.startswith(".") or p.lower() in _JUNK or p.lower().endswith(_JUNK_ENDINGS) for p in parts)


def _is_candidate(name: str, notes: Notes, head: Callable[..., bytes], *where: Any) -> bool:
    """Whether a file is read as an image: by its ending, or else by its first bytes, `head(*where)`."""
    ending = _extension(name)
    if ending in EXTENSIONS or ending in _UNREAD:
        return True
    try:
        if sniff(head(*where)) is not None:
            return True
    except Exception:  # unreadable, and nothing promises that it is an image
        pass
    kind = ending if re.fullmatch(r"\.\w{1,8}", ending) else "no ending"
    notes[f"ignored, not an image ({kind})"] += 1
    return False


def _list_folder(root: Path, notes: Notes) -> list[Entry]:
    """All candidate images under a folder, links followed, loops cut."""
    entries: list[Entry] = []
    status = root.stat()
    waiting: list[tuple[tuple[str, ...], frozenset[tuple[int, int]]]] = [
        ((), frozenset({(status.st_dev, status.st_ino)}))
    ]
    while waiting:
        parts, above = waiting.pop()
        try:
            found = list(os.scandir(root.joinpath(*parts)))
        except OSError as e:
            if not parts:
                raise
            notes[f"folder not read ({e.strerror or type(e).__name__})"] += 1
            continue
        for item in found:
            here = (*parts, item.name)
            if _is_junk((item.name,)):
                notes["ignored, hidden or system file"] += 1
                continue
            try:
                status = item.stat()
            except OSError:  # dangling or looping link: a candidate if its name says so, refused when read
                if _extension(item.name) in EXTENSIONS:
                    entries.append((here, here))
                continue
            if stat.S_ISDIR(status.st_mode):
                key = (status.st_dev, status.st_ino)
                if key in above:
                    notes["link back to a folder above, not followed"] += 1
                else:
                    waiting.append((here, above | {key}))
            elif _is_candidate(item.name, notes, _head, root.joinpath(*here), status):
                entries.append((here, here))
    return entries


def _head(path: Path, status: os.stat_result) -> bytes:
    if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for ever
        return b""
    with open(path, "rb") as f:
        return f.read(32)


def _folder_reader(root: Path, limits: DecodeLimits) -> Reader:
    def read(parts: tuple[str, ...]) -> bytes:
        path = root.joinpath(*parts)
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("not a regular file")
        if status.st_size > limits.max_bytes:
            raise too_many_bytes(status.st_size, limits)
        return path.read_bytes()

    return read


def _member_parts(name: str, skipped: list[tuple[str, str]]) -> tuple[str, ...] | None:
    """The parts of a member's name. Names are data, never paths; those that try to be are refused."""
    parts = tuple(p for p in name.split("/") if p not in ("", "."))
    if not parts or name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        skipped.append((_shown(name), "unsafe name in archive"))
        return None
    return parts


def _list_zip(
    path: Path, notes: Notes, skipped: list[tuple[str, str]], limits: DecodeLimits
) -> tuple[list[Entry], Reader]:
    """Candidate images of a zip file, which stays closed between reads of different processes."""
    shown = _shown(str(path))
    opened: dict[int, zipfile.ZipFile] = {}

    def archive() -> zipfile.ZipFile:
        if os.getpid() not in opened:  # a forked worker would share, and disturb, the parent's file position
            opened.clear()
            opened[os.getpid()] = zipfile.ZipFile(path)
        return opened[os.getpid()]

    def read(member: zipfile.ZipInfo) -> bytes:
        if member.file_size > limits.max_bytes:  # as declared; zipfile never yields more than that
            raise too_many_bytes(member.file_size, limits)
        return archive().read(member)

    def head(member: zipfile.ZipInfo) -> bytes:
        with archive().open(member) as f:
            return f.read(32)

    try:
        members = archive().infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as e:
        raise UserError(f"{shown} is not a readable zip file (cut short or damaged?)") from e
    if len(members) > _MAX_MEMBERS:
        raise UserError(f"{shown} has {len(members):,} members, limit {_MAX_MEMBERS:,}")
    with open(path, "rb") as f:  # zipfile takes what it finds; the end record says how many there should be
        f.seek(-min(path.stat().st_size, 66_000), os.SEEK_END)
        end = f.read().rpartition(b"PK\5\6")[2]
    count = int.from_bytes(end[6:8], "little")
    if count not in (len(members), 0xFFFF):  # which stands for "more, see the zip64 record"
        skipped.append((shown, f"archive damaged: lists {len(members):,} of its {count:,} members"))
        notes["archive damaged or cut short"] += 1
    entries: dict[tuple[str, ...], Any] = {}
    for member in members:
        name = member.filename.replace("\\", "/")
        parts = None if name.endswith("/") else _member_parts(name, skipped)
        if parts is None:
            continue
        if _is_junk(parts):
            notes["ignored, hidden or system file"] += 1
            continue
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            handle: Any = Unreadable("link or device in archive")
        else:
            handle = Unreadable("encrypted") if member.flag_bits & 1 else member
        if _is_candidate(parts[-1], notes, head, member):
            if parts in entries:
                notes["name twice in archive, last one read"] += 1
            entries[parts] = handle
    return list(entries.items()), read


class _Forward:
    """A file, gzipped or not, that a tar reader may only walk forwards: what bounds hostile archives.

    Backward jumps (negative sizes, endless loops), reads beyond any sane header or image, and decompression
    bombs all end in an error. One byte may be read again, because tarfile looks at the byte before a header.
    """

    def __init__(self, file: IO[bytes], packed_bytes: int, max_read: int) -> None:
        self.gzipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        self.file: Any = gzip.GzipFile(fileobj=file) if self.gzipped else file
        self.max_read = max_read
        self.limit = max(_BOMB_FROM, packed_bytes * _BOMB_RATIO)
        self.at = 0
        self.last = b""  # the byte before `at`
        self.again = False  # the next read starts with `last`

    def tell(self) -> int:
        return self.at

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.max_read:
            raise ValueError(f"a record claims {size:,} bytes")
        if self.again and size:
            data = self.last + self.file.read(size - 1)
            self.again = False
        else:
            data = self.file.read(size)
        self.at += len(data)
        self.last = data[-1:] or self.last
        if self.gzipped and self.at > self.limit:
            raise UserError(f"archive unpacks to more than {self.limit / 2**30:.3g} GiB: refused")
        return data

    def seek(self, position: int) -> None:
        if position == self.at - 1 and self.last and not self.again:
            self.at, self.again = position, True
        if position < self.at:
            raise ValueError("a record points backwards")
        if not self.gzipped and position > self.at:
            self.file.seek(position)
            self.at, self.last, self.again = position, b"", False
        while self.at < position and self.read(min(position - self.at, 2**20)):
            pass


def _list_tar(
    path: Path, notes: Notes, skipped: list[tuple[str, str]], limits: DecodeLimits
) -> tuple[list[Entry], Reader]:
    """Candidate images of a tar file: their encoded bytes if it is gzipped, else where they lie in it.

    Python's tarfile ends without a word at a damaged header. Therefore what follows the last member is read
    too: it must be the zeros that mark the end of an archive (reading them also checks gzip's own trailer).
    """
    shown = _shown(str(path))
    entries: dict[tuple[str, ...], Any] = {}
    count = held = 0
    with open(path, "rb") as file:
        stream = _Forward(file, path.stat().st_size, max(limits.max_bytes, 2**20) + 512)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:  # type: ignore[call-overload]
                while (member := archive.next()) is not None:
                    archive.members = []  # else every TarInfo stays in memory
                    count += 1
                    parts = None if member.isdir() else _member_parts(member.name, skipped)
                    if parts is None:
                        continue
                    if _is_junk(parts):
                        notes["ignored, hidden or system file"] += 1
                        continue
                    handle, head = _tar_handle(stream, member, limits)
                    if parts[-1] not in _CIFAR10_FILES and not _is_candidate(
                        parts[-1], notes, lambda first: first, head
                    ):
                        continue
                    held += len(handle) if isinstance(handle, bytes) else 0
                    if held > _MAX_HELD or count > _MAX_MEMBERS:
                        limits_hit = f"{_MAX_HELD / 2**30:g} GiB of images or {_MAX_MEMBERS:,} members"
                        raise UserError(f"archive holds more than {limits_hit}; unpack it to a folder")
                    if parts in entries:
                        notes["name twice in archive, last one read"] += 1
                    entries[parts] = handle
                damage = _after_last_member(stream)
        except UserError as e:
            raise UserError(f"{shown}: {e}") from e
        except Exception as e:  # ReadError, EOFError, BadGzipFile, zlib.error, ValueError, OverflowError, ...
            damage = " ".join(str(e).split()) or type(e).__name__
    if damage:
        if count == 0:
            raise UserError(f"{shown} is not a readable tar file ({damage})")
        skipped.append((shown, f"archive damaged or cut short after member {count:,}: {damage}"))
        notes["archive damaged or cut short"] += 1

    def read(handle: Any) -> bytes:
        if isinstance(handle, bytes):
            return handle
        offset, size = handle
        with open(path, "rb") as f:
            f.seek(offset)
            data = f.read(size)
        if len(data) < size:
            raise Unreadable("archive cut short")
        return data

    return list(entries.items()), read


def _tar_handle(stream: _Forward, member: tarfile.TarInfo, limits: DecodeLimits) -> tuple[Any, bytes]:
    """(handle, first bytes) of the member that the stream stands at."""
    if not member.isreg() or member.issparse():
        return Unreadable("link or device in archive"), b""
    if member.size > limits.max_bytes:
        return too_many_bytes(member.size, limits), b""
    stream.seek(member.offset_data)
    data = stream.read(member.size if stream.gzipped else min(member.size, 32))
    return (data if stream.gzipped else (member.offset_data, member.size)), data[:32]


def _after_last_member(stream: _Forward) -> str:
    """What is wrong with the end of a tar, "" if nothing. The stream stands behind the last header read."""
    seen = 0
    while chunk := stream.read(2**20):
        if chunk.count(0) != len(chunk):
            return "damaged header, what follows is lost"
        seen += len(chunk)
    if stream.at % 512:
        return "its length is no multiple of 512, bytes are missing"
    return "" if seen else "no end mark"


# ... then arrange them into splits and classes


def _split_of(name: str) -> str | None:
    """The split that a folder's name stands for."""
    names = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
    return {**names, "test": "test", "testing": "test"}.get(name.lower())


def _common_depth(names: list[tuple[str, ...]], start: int = 0) -> int:
    """How many leading folders, from `start` on, all names share; folders that name a split are kept."""
    depth = start
    while True:
        first = {parts[depth] for parts in names}
        if len(first) > 1 or any(len(p) <= depth + 1 for p in names) or _split_of(next(iter(first))):
            return depth
        depth += 1


def _arrange(
    entries: list[Entry],
    read: Reader,
    limits: DecodeLimits,
    notes: Notes,
    skipped: list[tuple[str, str]],
    packed: bool,
) -> dict[str, ImageSet]:
    """Candidate images -> splits, with labels where most images lie in one of at least two class folders.

    Folders are splits when one is called "train", or all are called as splits: a class may be named "test".
    """
    entries = sorted(entries, key=lambda e: e[0])
    names = [parts for parts, _ in entries]
    shown = ["/".join(_shown(p) for p in parts) for parts in names]
    store = _FileStore(shown, [handle for _, handle in entries], read, limits)

    depth = _common_depth(names)
    top = {parts[depth] for parts in names if len(parts) > depth + 1}
    flat = any(len(parts) == depth + 1 for parts in names)
    by_split: dict[str, list[int]] = {}
    if any(_split_of(t) == "train" for t in top) or (not flat and all(_split_of(t) for t in top)):
        for i, parts in enumerate(names):
            split = _split_of(parts[depth]) if len(parts) > depth + 1 else None
            if split is None:
                notes["ignored, outside the train, val and test folders"] += 1
            else:
                by_split.setdefault(split, []).append(i)
        used = [names[i] for members in by_split.values() for i in members]
        inner = _common_depth([("", *parts[depth + 1 :]) for parts in used], 1) - 1
        base, nested = depth + 1 + inner, used[0][depth + 1 : depth + 1 + inner]
    else:
        by_split["train"] = list(range(len(names)))
        base, nested = depth, names[0][:depth]

    # A split has classes when most of its images lie in folders.
    class_of: dict[str, list[str | None]] = {}
    for split, members in by_split.items():
        of = [names[i][base] if len(names[i]) > base + 1 else None for i in members]
        class_of[split] = of if sum(c is not None for c in of) * 2 > len(of) else [None] * len(of)
    found = sorted({c for of in class_of.values() for c in of if c is not None})
    labelled = len(found) > 1
    usual = packed and base == 1  # one folder around everything is how archives are made
    if nested and not labelled and not usual:
        notes[f"every image lies in one folder, '{_shown(nested[-1])}': read without labels"] += 1
    elif nested and not usual:
        notes[f"classes found further down, in '{'/'.join(_shown(n) for n in nested)}'"] += 1
    elif found and not labelled:
        notes[f"only one class folder, '{_shown(found[0])}': read without labels"] += 1
    number = {c: k for k, c in enumerate(found)}

    splits: dict[str, ImageSet] = {}
    for split in ("train", "val", "test"):
        members, of = by_split.get(split, []), class_of.get(split, [])
        labels = None
        if labelled and any(c is not None for c in of):
            for i, c in zip(members, of, strict=True):
                if c is None:
                    skipped.append((shown[i], "beside the class folders, so without a class"))
                    notes["beside the class folders"] += 1
            members = [i for i, c in zip(members, of, strict=True) if c is not None]
            labels = np.array([number[c] for c in of if c is not None], dtype=np.int64)
        if deeper := sum(len(names[i]) > base + 2 for i in members):
            notes[
                "in a deeper folder, counted to the folder above" if labelled else "in a deeper folder"
            ] += deeper
        if members:
            classes = [_shown(c) for c in found] if labels is not None else None
            files = [shown[i] for i in members]
            splits[split] = ImageSet(split, files, labels, classes, store, np.array(members, dtype=np.int64))
    return splits


# ---------------------------------------------------------------------------------------------------------
# Arrays: digits, idx files, npz files, CIFAR-10


_Arrays = dict[str, tuple[np.ndarray, np.ndarray | None]]  # split: (uint8 [N, H, W, C], int64 [N] or None)


def _from_arrays(arrays: _Arrays) -> dict[str, ImageSet]:
    """Arrays -> splits. Class k is called "k"."""
    highest = max((int(y.max()) for _, y in arrays.values() if y is not None and len(y)), default=-1)
    classes = [str(k) for k in range(highest + 1)]
    splits = {}
    for split, (pixels, labels) in arrays.items():
        n = len(pixels)
        if n:
            files = [f"{split}/{i:05d}" for i in range(n)]
            of = classes if labels is not None else None
            splits[split] = ImageSet(split, files, labels, of, _ArrayStore(pixels), np.arange(n))
    return splits


def _digits() -> dict[str, ImageSet]:
    """scikit-learn's digits: values 0..16 become round(x * 255 / 16).

    scikit-learn has no split of it. Ours: within each class, images are ordered by the sha256 of
    "bigbigan digits split 0: ROW" and the first fifth (rounded) is test. It depends on no random generator,
    so it stays the same for ever. Files are named by their row in `load_digits`.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    order = [hashlib.sha256(f"bigbigan digits split 0: {i}".encode()).hexdigest() for i in range(len(labels))]
    test: list[int] = []
    for k in range(10):
        rows = sorted(np.flatnonzero(labels == k).tolist(), key=order.__getitem__)
        test += rows[: round(len(rows) / 5)]
    rows_of = {"train": np.setdiff1d(np.arange(len(labels)), test), "test": np.sort(test)}
    store, classes = _ArrayStore(pixels), [str(k) for k in range(10)]
    return {
        split: ImageSet(
            split, [f"{split}/{i:05d}" for i in rows], labels[rows], classes, store, rows.astype(np.int64)
        )
        for split, rows in rows_of.items()
    }


def _idx_file(folder: Path, part: str, what: str) -> Path | None:
    """train-images-idx3-ubyte and its spellings, plain before .gz."""
    dims = 3 if what == "images" else 1
    for ending in ("", ".gz"):
        for dash in ("-", "."):
            path = folder / f"{part}-{what}{dash}idx{dims}-ubyte{ending}"
            if path.is_file():
                return path
    return None


def _open_idx(folder: Path) -> dict[str, ImageSet]:
    arrays: _Arrays = {}
    for split, part in (("train", "train"), ("test", "t10k")):
        images_file, labels_file = _idx_file(folder, part, "images"), _idx_file(folder, part, "labels")
        if images_file is None:
            continue
        images = _read_idx(images_file, dims=3)
        labels = _read_idx(labels_file, dims=1).astype(np.int64) if labels_file else None
        if labels is not None and len(labels) != len(images):
            raise UserError(
                f"{_shown(str(labels_file))} has {len(labels):,} labels for {len(images):,} images"
            )
        arrays[split] = (images[..., None], labels)
    if not any(len(x) for x, _ in arrays.values()):
        raise UserError(f"the idx files in {_shown(str(folder))} hold no images")
    return _from_arrays(arrays)


def _read_idx(path: Path, dims: int) -> np.ndarray:
    """One idx file of unsigned bytes; its length must be what its header says."""
    shown = _shown(str(path))
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as f:
            header = f.read(4 + 4 * dims)
            if len(header) < 4 + 4 * dims or header[:4] != bytes((0, 0, 8, dims)):
                raise UserError(f"{shown} is not an idx file of {dims} dimensions of unsigned bytes")
            shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(4, len(header), 4))
            size = int(np.prod(shape, dtype=object))
            if 0 in shape[1:]:
                raise UserError(f"{shown} claims images of {shape[1]}x{shape[2]} pixels")
            if size > _MAX_HELD:
                raise UserError(f"{shown} claims {size / 2**30:,.0f} GiB, limit {_MAX_HELD / 2**30:g}")
            data = f.read(size + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise UserError(f"{shown} is damaged or cut short; delete it and get it again") from e
    if len(data) != size:
        word = "fewer" if len(data) < size else "more"
        raise UserError(f"{shown} is damaged: it holds {word} bytes than the {size:,} its header says")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _open_npz(path: Path, notes: Notes) -> dict[str, ImageSet]:
    shown = _shown(str(path))
    try:
        with zipfile.ZipFile(path) as z:
            size = sum(m.file_size for m in z.infolist())
        if size > _MAX_HELD:
            raise UserError(f"{shown} unpacks to {size / 2**30:,.0f} GiB, limit {_MAX_HELD / 2**30:g}")
        with np.load(path, allow_pickle=False) as file:
            prefixed = [(s, f"{s}_images", f"{s}_labels") for s in ("train", "val", "test")]
            wanted = [k for k in prefixed if k[1] in file] or [
                k for k in [("train", "images", "labels")] if k[1] in file
            ]
            if not wanted:
                keys = ", ".join(_shown(k) for k in file.files[:8]) or "nothing"
                raise UserError(f"{shown} holds {keys}; expected train_images (and val_, test_) or images")
            read = [(s, file[images], file.get(labels)) for s, images, labels in wanted]
    except (
        zipfile.BadZipFile,
        ValueError,
        EOFError,
        zlib.error,
        KeyError,
        SyntaxError,
        NotImplementedError,
    ) as e:
        if "pickle" in str(e):
            raise UserError(
                f"{shown} holds Python objects, which are never unpickled; save plain uint8 arrays"
            ) from e
        raise UserError(f"{shown} is not a readable npz file (cut short or damaged?)") from e
    arrays: _Arrays = {}
    for split, x, y in read:
        shape = (*x.shape, 1) if x.ndim == 3 else x.shape
        if x.dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape[1:]:
            raise UserError(
                f"{shown}: {split} images are {x.dtype} {list(x.shape)}; "
                "expected uint8 [N, H, W] or [N, H, W, 1 or 3]"
            )
        arrays[split] = (
            x.reshape(shape),
            None if y is None else _npz_labels(y, len(x), f"{shown}: {split}", notes),
        )
    if not any(len(x) for x, _ in arrays.values()):
        raise UserError(f"{shown} holds no images")
    return _from_arrays(arrays)


def _npz_labels(y: np.ndarray, n: int, where: str, notes: Notes) -> np.ndarray | None:
    if y.ndim == 2 and y.shape[1] > 1:
        notes["several labels an image: read without labels"] += 1
        return None
    y = y.reshape(-1)
    if len(y) != n:
        raise UserError(f"{where} has {len(y):,} labels for {n:,} images")
    if y.dtype.kind not in "iub" or (n and (int(y.min()) < 0 or int(y.max()) >= 1_000_000)):
        raise UserError(f"{where} labels are not class numbers 0, 1, 2, ... ({y.dtype})")
    return y.astype(np.int64)


_CIFAR10_FILES = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")


def _open_cifar10(batches: dict[str, bytes], shown: str) -> dict[str, ImageSet]:
    """The binary version of CIFAR-10: records of 1 label byte and 3 x 32 x 32 pixel bytes."""
    if missing := [n for n in _CIFAR10_FILES if n not in batches]:
        raise UserError(f"{shown} lacks {', '.join(missing)} of the binary version of CIFAR-10")
    read = {}
    for name, data in batches.items():
        if not data or len(data) % 3073:
            raise UserError(f"{shown}: {name} is damaged: {len(data):,} bytes is no multiple of 3,073")
        read[name] = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3073)
    train = np.concatenate([read[n] for n in _CIFAR10_FILES[:5]])
    arrays: _Arrays = {}
    for split, records in (("train", train), ("test", read["test_batch.bin"])):
        if records[:, 0].max() > 9:
            raise UserError(f"{shown} is damaged: labels beyond 9")
        pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        arrays[split] = (pixels, records[:, 0].astype(np.int64))
    return _from_arrays(arrays)


# ---------------------------------------------------------------------------------------------------------
# Known data sets: the cache and the download


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
_CIFAR10 = "https://www.cs.toronto.edu/~kriz/"
# Each data set: where its files are, and the digest (sha256 or md5, told apart by length) each must have.
_REMOTE = {
    "mnist": (
        _MNIST,
        {
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    "fashion-mnist": (
        _FASHION,
        {
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
    "cifar10": (_CIFAR10, {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"}),
}
_CLASSES = {
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
}
_NAMES = ("digits", *_REMOTE)
_INNER_FOLDERS = {
    "mnist": ("MNIST", "raw"),
    "fashion-mnist": ("FashionMNIST", "raw"),
    "cifar10": ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", "cifar10-jpeg.tar.gz"),
}
_MAX_DOWNLOAD = 2**30


def _cached(name: str) -> Path:
    """The cache folder of a known data set, its files downloaded if absent."""
    root = Path(os.path.expanduser(os.environ.get("BIGBIGAN_CACHE") or "~/.cache/bigbigan"))
    folder = root / name
    base, files = _REMOTE[name]
    for file, digest in files.items():
        if not (folder / file).exists():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                _download(base + file, folder / file, digest)
            except (
                OSError,
                ValueError,
                http.client.HTTPException,
            ) as e:  # URLErrors and timeouts are OSErrors
                reason = " ".join(str(getattr(e, "reason", None) or e).split()) or type(e).__name__
                raise UserError(
                    f"cannot download {file} ({reason}); put {base}{file} into "
                    f"{_shown(str(folder))}, or give {name}:PATH"
                ) from e
    return folder


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith("https://"):
            raise ValueError(f"redirected away from https to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open_url(url: str) -> IO[bytes]:
    opened: IO[bytes] = urllib.request.build_opener(_HttpsOnly).open(url, timeout=30)
    return opened


def _download(url: str, target: Path, wanted: str) -> None:
    """Downloads to a temporary file beside the target, checks it, and only then gives it its name."""
    digest = hashlib.sha256() if len(wanted) == 64 else hashlib.md5(usedforsecurity=False)
    print(f"downloading {url} to {target.parent}", file=sys.stderr)
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".part", delete=False) as out:
        try:
            size = 0
            with _open_url(url) as response:
                while chunk := response.read(2**20):
                    size += len(chunk)
                    if size > _MAX_DOWNLOAD:
                        raise ValueError(f"more than {_MAX_DOWNLOAD / 2**30:g} GiB")
                    digest.update(chunk)
                    out.write(chunk)
            if digest.hexdigest() != wanted:
                raise ValueError(f"wrong checksum after {size:,} bytes")
            out.close()
            os.replace(out.name, target)
        except BaseException:
            out.close()
            os.unlink(out.name)
            raise


# ---------------------------------------------------------------------------------------------------------
# Pixels in memory


def load_pixels(
    images: ImageSet,
    resolution: int,
    channels: int,
    source: Source | None = None,
    progress: bool = False,
    *,
    crop: str = "center",
    max_bytes: int = 16 * 2**30,
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes a whole split once: (pixels uint8 [N', C, R, R], kept int64 [N']).

    Images that cannot be read are left out; `kept` says which were not, as indices into `images`. They are
    recorded in `source`, and so are conversions. Sizes are brought to R by `resize_square`.

    Args:
        images: a split.
        resolution: R, in pixels.
        channels: 1 (grey) or 3 (colour).
        source: where skips and notes are recorded, and whose `max_unreadable` holds (0.05 without).
        progress: shows images/s and time left on stderr.
        crop: "center" or "stretch", see `resize_square`.
        max_bytes: the most that the pixels may take in memory.

    Raises:
        UserError: when more than `max_unreadable` of the split cannot be read, when nothing is left, or when
            the pixels would not fit in `max_bytes`.
    """
    n = len(images)
    if channels not in (1, 3) or resolution < 1:
        raise UserError(
            f"expected channels 1 or 3 and a positive resolution, not {channels} and {resolution}"
        )
    if n == 0:
        raise UserError(f"no images in '{images.name}'")
    need = n * channels * resolution * resolution
    if need > max_bytes:
        raise UserError(
            f"{n:,} images of {resolution}x{resolution}x{channels} take {need / 2**30:,.1f} GiB, limit "
            f"{max_bytes / 2**30:,.1f}; lower the resolution or use fewer images"
        )
    out = np.empty((n, channels, resolution, resolution), dtype=np.uint8)
    limit = source.max_unreadable if source is not None else Source.max_unreadable
    refused: list[str] = []
    kept: list[int] = []
    for i in _progress(n, images.name) if progress else range(n):
        try:
            array, notes = images.load_noted(i)
        except Unreadable as e:
            refused.append(f"{images.files[i]} ({e})")
            if source is not None:
                source.refuse(images.files[i], e)
            if len(refused) > limit * n:  # no need to read on
                raise UserError(_too_many_refused(images, refused, i + 1, limit)) from e
            continue
        height, width = array.shape[:2]
        side = min(height, width) if crop == "center" else None
        way = fit(side or height, side or width, resolution)
        out[len(kept)] = to_channels(resize_square(array, resolution, crop), channels).transpose(2, 0, 1)
        kept.append(i)
        if source is not None:
            extra = {
                "padded": "padded with zeros to the resolution",
                "enlarged": "enlarged to the resolution",
            }
            source.record(images.files[i], (*notes, extra[way]) if way in extra else notes)
    if not kept:
        raise UserError(_too_many_refused(images, refused, n, limit))
    return out[: len(kept)], np.array(kept, dtype=np.int64)


def _too_many_refused(images: ImageSet, refused: list[str], seen: int, limit: float) -> str:
    n, bad = len(images), len(refused)
    if bad == n:
        return f"none of the {n:,} images in '{images.name}' can be read: {', '.join(refused[:5])}"
    return (
        f"{bad / n:.1%} of the {n:,} images in '{images.name}' cannot be read "
        f"({bad:,} of the first {seen:,}), limit {limit:.1%}: {', '.join(refused[:5])}"
    )


def _progress(n: int, name: str) -> Iterator[int]:
    """range(n), with a line on stderr twice a second."""
    start = shown = time.monotonic()
    for i in range(n):
        yield i
        now = time.monotonic()
        if now - shown > 0.5 or i + 1 == n:
            shown = now
            rate = (i + 1) / max(now - start, 1e-9)
            left = (n - i - 1) / rate
            end = "\n" if i + 1 == n else ""
            line = f"\rreading {name}: {i + 1:,} of {n:,} images, {rate:,.0f} images/s, {left:,.0f} s left "
            print(line, end=end, file=sys.stderr, flush=True)


def fingerprint(images: ImageSet) -> str:
    """sha256 (hex) over the names and the content of the images, in order.

    It changes when an image is added, removed, renamed, reordered or edited. Content is a file's bytes, or a
    row's pixels. Labels are not in it: training never sees them.
    """
    digest = hashlib.sha256()
    for file, i in zip(images.files, images.index, strict=True):
        try:
            raw = images.store.raw(int(i))
        except Unreadable as e:
            raw = f"unreadable: {e}".encode()
        name = file.encode()
        digest.update(len(name).to_bytes(8, "little") + name + len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()
