"""Write a source as tar shards, for sets too large to be copied file by file or to fit on one disk.

    DIR/index.json                  counts, classes, checksums of shards and images; the position and the group of each
                                    image; unreadable files
    DIR/train/shard-000000.tar      members 00000042.jpg, the unchanged file, and 00000042.cls, the number of its class

The images of a split are shuffled, always in the same way, so that any shard is a random sample of it; KEY is an
image's position in the source. The content of shards depends only on the source and the settings. Each shard is written
to a temporary file, renamed, and recorded in DIR/progress.jsonl: a restarted command continues after the last recorded
shard.
"""

import hashlib
import io
import json
import os
import tarfile
import warnings
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from bigbigan.data.decode import decode
from bigbigan.data.formats import Unreadable, sniff
from bigbigan.data.frames import FrameStore
from bigbigan.data.image_set import FileStore, ImageSet, Source
from bigbigan.data.names import extension, shown
from bigbigan.data.shards.index import INDEX, PROGRESS, Shard, is_index, read_index, write_index
from bigbigan.data.shards.plan import plan_of
from bigbigan.errors import RunError, UserError
from bigbigan.image import resize_square
from bigbigan.io import checked, lock, read_lines, stamped, write_text
from bigbigan.io.files import TEMPORARY
from bigbigan.io.locking import LOCK_FILE, open_to_lock
from bigbigan.progress import Bar

__all__ = ["write_shards"]

SEED = 0  # of the order of images
ENDINGS = {"JPEG": "jpg", "PNG": "png", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp", "GIF": "gif", "DICOM": "dcm"}
RECORD = {"split": str, "shard": {"file": str, "size": int}, "next": int, "skipped": [[str]]}  # the line of a shard
END_MARK = bytes(1024)  # of a tar file

_Prepared = tuple[bytes | Unreadable, tuple[str, ...]]  # what to store, and notes on its conversion


def write_shards(
    source: Source,
    out: str | Path,
    size_mib: float = 256,
    count: int | None = None,
    resolution: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Write every split of a source as shards under `out`, or the shards that are still missing.

    Files are copied byte for byte, if they can be decoded; rows of arrays become PNG files, and so do the frames of
    stacks, of 8 or 16 bits, if the source was opened with `DecodeLimits.all_frames`.

    Args:
        source: an opened source.
        out: a folder that does not exist, or is empty, or has shards of the same source, unchanged, and settings.
        size_mib: maximum size of a shard.
        count: images in a shard, instead of a maximum size.
        resolution: R: images are cropped to their central square and resized to R×R, as in training, and stored as PNG
            of 8 bits: by the window of the source, or else by the range of their format.
        progress: show images/s and time left on stderr.

    Returns:
        {"splits": {"train": {"images": N, "shards": K, "bytes": B}}, "skipped": [[file, reason]], "notes": {note: N}}

    Raises:
        UserError: an argument is wrong, `out` contains something else, no image of a split can be read, or a PNG file
            cannot hold a frame.
        RunError: writing failed, for example because the disk is full. Complete shards are kept.
    """
    if not isinstance(out, str | os.PathLike):
        raise UserError(f"out is {out!r}; expected the path of a folder")
    out, plan = Path(out), plan_of(source, size_mib, count, resolution)
    try:
        _make(out)
        with _locked(out):
            if not (out / INDEX).exists():
                _write_all(source, out, plan, progress)
            for left in (out / PROGRESS, *out.glob(f"{TEMPORARY}*")):  # of a process that was killed
                left.unlink(missing_ok=True)
    except OSError as e:
        raise RunError(
            f"{e.filename or out}: {e.strerror}; complete shards are kept, run the same command again to continue"
        ) from e
    about, splits = read_index(out)
    if about.get("plan") != plan:
        raise UserError(f"--out {out} has shards of other images or settings; choose another folder")
    for shard in (shard for shards in splits.values() for shard in shards):
        path = out / shard.file
        if not path.is_file() or path.stat().st_size != shard.size:
            raise UserError(f"{path} is damaged or missing; remove {out}, and run the same command to write it again")
    if resolution is not None and (deep := sum(n for note, n in source.notes.items() if note.endswith(" scaled to 8"))):
        warnings.warn(
            f"{source.spec}: only the upper 8 bits of {deep:,} deeper images are stored; to store a window of "
            "values, open the source with one (--set data.window=[BLACK,WHITE])",
            stacklevel=2,
        )
    return {
        "splits": {
            split: {
                "images": sum(len(s.names) for s in shards),
                "shards": len(shards),
                "bytes": sum(s.size for s in shards),
            }
            for split, shards in splits.items()
        },
        "skipped": about["skipped"],
        "notes": dict(sorted(source.notes.items())),
    }


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Lock a folder, so that no two processes write to it."""
    folder = open_to_lock(out)
    try:
        if not lock(folder, out):
            raise UserError(f"another process is writing shards to {out}; wait for it or choose another --out")
        yield
    finally:
        os.close(folder)


def _make(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; expected a folder for the shards")
    out.mkdir(parents=True, exist_ok=True)
    names = {name for name in os.listdir(out) if not name.startswith(TEMPORARY) and name != LOCK_FILE}
    if names and PROGRESS not in names and not is_index(out):
        raise UserError(f"--out {out} is not empty and has no shards; choose another folder")


def _write_all(source: Source, out: Path, plan: dict[str, Any], progress: bool) -> None:
    recorded = _recorded(out, plan)
    write_text(out / PROGRESS, "".join(json.dumps(stamped(line)) + "\n" for line in (plan, *recorded)))
    done: dict[str, list[dict[str, Any]]] = {}
    with open(out / PROGRESS, "a", encoding="utf-8", newline="\n") as records:
        for split, images in source.splits.items():
            done[split] = [line for line in recorded if line["split"] == split]
            for line in _write_split(source, images, out, done[split], plan, progress):
                _record(records, line)
                done[split].append(line)
    store = source.splits["train"].store
    about = {
        "name": source.name,
        "classes": next((images.classes for images in source.splits.values() if images.classes), None),
        "pads": store.pads and plan["resolution"] is None,
        "mirrorable": source.mirrorable,
        "plan": plan,
        "skipped": [s for lines in done.values() for line in lines for s in line["skipped"]],
    }
    shards = {split: [Shard(**line["shard"]) for line in lines] for split, lines in done.items()}
    write_index(out / INDEX, about, shards)


def _record(records: IO[str], line: dict[str, Any]) -> None:
    records.write(json.dumps(stamped(line)) + "\n")
    records.flush()
    os.fsync(records.fileno())


def _recorded(out: Path, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records of the shards that are already complete: each is {"split", "shard", "next", "skipped"}."""
    for temporary in out.glob("*/.*.part"):
        temporary.unlink()
    if not (out / PROGRESS).exists():
        return []
    lines, damaged = read_lines(out / PROGRESS, {str: Any})  # only the last line can be cut off
    if not lines or lines[0] != plan:
        raise UserError(f"--out {out} has unfinished shards of other images or settings; choose another folder")
    complete, broken = [], set()
    for line in lines[1 : min(damaged) - 1 if damaged else None]:
        try:
            checked(line, RECORD)
        except ValueError:
            break
        path = out / line["shard"]["file"]
        if not path.exists() or path.stat().st_size != line["shard"]["size"]:
            broken.add(line["split"])
        if line["split"] not in broken:
            complete.append(line)
    return complete


def _write_split(
    source: Source, images: ImageSet, out: Path, done: list[dict[str, Any]], plan: dict[str, Any], progress: bool
) -> Iterator[dict[str, Any]]:
    """Write the shards that follow those done; yield the record of each."""
    split, start = images.name, done[-1]["next"] if done else 0
    order = _order(images)
    (out / split).mkdir(exist_ok=True)
    max_images = plan["images"] or len(images)
    limit = 2**62 if plan["size_mib"] is None else int(plan["size_mib"] * 2**20)
    tar: _Tar | None = None
    number, skipped = len(done), []
    bar = Bar(total=len(images), initial=start, desc=f"sharding {split}", unit=" images", disable=not progress)
    try:
        for at, (data, notes) in enumerate(_prepared(images, order[start:], plan["resolution"]), start):
            i, file = int(order[at]), images.files[order[at]]
            bar.update()
            if isinstance(data, Unreadable):
                skipped.append([file, str(data)])
                continue
            source.record(file, notes)
            label = None if images.labels is None or images.labels[i] < 0 else int(images.labels[i])
            members = {f"{i:08d}.{ENDINGS[sniff(data) or '']}": data}
            members |= {} if label is None else {f"{i:08d}.cls": str(label).encode()}
            if tar and (len(tar.shard.names) == max_images or tar.size_with(members) > limit):
                yield {"split": split, "shard": tar.finish(), "next": at, "skipped": skipped}
                tar, skipped = None, []
            if tar is None:
                tar, number = _Tar(out, f"{split}/shard-{number:06d}.tar"), number + 1
            offset = tar.add(members)
            tar.shard.add(file, offset, len(data), label, i)
            tar.shard.crcs.append(zlib.crc32(data))
            if images.groups is not None:
                tar.shard.groups.append(int(images.groups[i]))
        if tar:
            yield {"split": split, "shard": tar.finish(), "next": len(order), "skipped": skipped}
        elif not done and not number:
            first = ", ".join(f"{file} ({reason})" for file, reason in skipped[:5])
            raise UserError(f"none of the {len(images):,} images in '{split}' can be read: {first}")
    finally:
        bar.close()
        if tar:
            tar.abandon()


def _order(images: ImageSet) -> np.ndarray:
    """Return a permutation that is always the same; for remote shards, one that needs a few of them at a time."""
    import torch  # here, so that a source can be opened without it

    from bigbigan.data.streaming import order_by_shards
    from bigbigan.randomness import keyed_generator

    generator = keyed_generator(SEED, f"shards {images.name}")
    if images.shards is None:
        return torch.randperm(len(images), generator=generator).numpy()
    return order_by_shards(torch.from_numpy(images.shards), 16, generator).numpy()


def _prepared(images: ImageSet, order: np.ndarray, resolution: int | None) -> Iterator[_Prepared]:
    """Iterate over the bytes to store for each image, in this order; threads prepare them ahead."""

    def prepare(i: int) -> _Prepared:
        try:
            if resolution is None:
                return stored(i), ()
            pixels, notes = images.load_noted(i)
            return _png(resize_square(pixels, resolution, pad=images.store.pads)), notes
        except Unreadable as e:
            return e, ()

    def stored(i: int) -> bytes:
        if isinstance(images.store, FileStore):
            at = int(images.index[i])
            if isinstance(images.store, FrameStore) and not images.store.is_whole_file(at):
                return _frame_png(images.store, at, images.files[i])
            data = images.store.raw(at)
            decode(data, images.store.limits, extension(images.store.names[at]))
            return data
        return _png(images.load(i))

    threads = os.cpu_count() or 1
    coming: deque[Future[_Prepared]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="shard") as pool:
        try:
            for i in order.tolist():
                coming.append(pool.submit(prepare, i))
                if len(coming) > 4 * threads:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _frame_png(store: FrameStore, at: int, file: str) -> bytes:
    """Return a frame of a file as a PNG file that decodes to the same pixels, with any window and with none.

    Raises:
        Unreadable: the frame cannot be read.
        UserError: a PNG file cannot hold its values.
    """
    store.get(at)
    raw, ending, frame = store.raw(at), extension(store.names[at]), store.frame(at)
    deep: list[np.ndarray] = []

    def keep(values: np.ndarray) -> np.ndarray:
        deep.append(values)
        return np.zeros(values.shape, dtype=np.uint8)

    with suppress(Unreadable):  # without a window, or with one
        plain, _ = decode(raw, replace(store.limits, window=None), ending, frame)
        decode(raw, replace(store.limits, window=keep), ending, frame)
        values = deep[0].clip(0, 2**16 - 1).astype(np.uint16)[:, :, None] if deep else plain
        data = _png(values)
        same = not deep or (len(deep) == 1 and np.array_equal(values[:, :, 0], deep[0]))
        # What this finds: 12 bits in 12, whose upper 8 bits are others, and grey with white as 0.
        if same and np.array_equal(decode(data, replace(store.limits, window=None))[0], plain):
            return data
    raise UserError(
        f"{shown(file)}: a PNG file cannot hold the values of this frame; expected 8 bits, or 16-bit grey with black "
        "as 0; write shards of a resolution, which have 8 bits, or train on the files"
    )


def _png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(out, "PNG")
    return out.getvalue()


class _Tar:
    """A tar file, temporary until it is finished, without times and owners: equal members give equal bytes."""

    def __init__(self, out: Path, file: str) -> None:
        self.path = out / file
        self.temporary = self.path.with_name(f".{self.path.name}.part")
        self.file = open(self.temporary, "wb")  # noqa: SIM115
        self.digest = hashlib.sha256()
        self.shard = Shard(file)

    def size_with(self, members: dict[str, bytes]) -> int:
        """Return the size, in bytes, that the finished file would have with these members added."""
        return self.shard.size + sum(512 + _padded(len(data)) for data in members.values()) + len(END_MARK)

    def add(self, members: dict[str, bytes]) -> int:
        """Add members; return the offset of the first one's bytes."""
        offset = self.shard.size + 512
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            self._write(info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(_padded(len(data)) - len(data)))
        return offset

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.shard.size += len(data)

    def finish(self) -> dict[str, Any]:
        """Finish the file, rename it, and return its entry for the index."""
        self._write(END_MARK)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self.temporary, self.path)
        self.shard.sha256 = self.digest.hexdigest()
        return vars(self.shard)

    def abandon(self) -> None:
        """Remove the temporary file."""
        with suppress(OSError):  # of a full disk, on which the remaining buffer cannot be written either
            self.file.close()
        self.temporary.unlink(missing_ok=True)


def _padded(size: int) -> int:
    return -(-size // 512) * 512
