"""Sharding: a source written as tar shards, for sets too large to be copied file by file or to lie on one disk.

    DIR/index.json                  counts, classes, checksums of shards and images; where each image lies; what could
                                    not be read
    DIR/train/shard-000000.tar      members 00000042.jpg, the file as it was, and 00000042.cls, its class's number

The images of a split are shuffled, always in the same way, so that any shard is a fair sample of it; KEY is an image's
place in the source. What shards hold depends on nothing but the source and the settings. Each is written aside and
renamed, and then noted in DIR/progress.jsonl: started again, the work goes on behind the last one noted.
"""

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from bigbigan.data.decode import Unreadable, decode, resize_square, sniff
from bigbigan.data.image_set import FileStore, ImageSet, Source, shown
from bigbigan.data.shards.reader import INDEX, Shard, is_index, read_index, write_index
from bigbigan.data.streaming import order_by_shards
from bigbigan.errors import RunError, UserError
from bigbigan.io import checked, lock, read_lines, stamped
from bigbigan.progress import Bar
from bigbigan.randomness import keyed_generator

__all__ = ["write_shards"]

SEED = 0  # of the order of images
PROGRESS = "progress.jsonl"  # a line of the settings, then one a shard
ENDINGS = {"JPEG": "jpg", "PNG": "png", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp", "GIF": "gif"}
NOTE = {"split": str, "shard": {"file": str, "size": int}, "next": int, "skipped": [[str]]}  # a line on a shard
END_MARK = bytes(1024)  # of a tar file


def write_shards(
    source: Source,
    out: Path,
    size_mib: float = 256,
    count: int | None = None,
    resolution: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Write every split of a source as shards under `out`, or what is still missing of them.

    Files are copied byte for byte, if they can be decoded; rows of arrays become PNG files.

    Args:
        source: an opened source.
        out: a folder that is not there yet, or empty, or holds the same work, begun or done.
        size_mib: how large a shard may grow.
        count: images of a shard, instead.
        resolution: R: images are cut to their middle square and brought to R×R, as training does, and stored as PNG.
        progress: shows images/s and time left on stderr.

    Returns:
        {"splits": {"train": {"images": N, "shards": K, "bytes": B}}, "skipped": [[file, reason]]}

    Raises:
        UserError: `out` holds something else, or a split of which nothing can be read.
        RunError: the disk is full, say. Complete shards are kept.
    """
    plan = {
        "size_mib": None if count else size_mib,
        "images": count,
        "resolution": resolution,
        "source": _identity(source),
    }
    try:
        _make(out)
        with _alone(out):
            if not (out / INDEX).exists():
                _write_all(source, out, plan, progress)
            for left in (PROGRESS, f".{PROGRESS}"):  # by a process that was killed
                (out / left).unlink(missing_ok=True)
    except OSError as e:
        raise RunError(f"{e.filename or out}: {e.strerror}; complete shards are kept, the same command goes on") from e
    about, splits = read_index(out)
    if about.get("plan") != plan:
        raise UserError(f"--out {out} holds shards of other images or settings; choose another folder")
    for shard in (shard for of in splits.values() for shard in of):
        path = out / shard.file
        if not path.is_file() or path.stat().st_size != shard.size:
            raise UserError(f"{path} is damaged or missing; remove {out}, and the same command writes it anew")
    return {
        "splits": {
            split: {"images": sum(len(s.names) for s in of), "shards": len(of), "bytes": sum(s.size for s in of)}
            for split, of in splits.items()
        },
        "skipped": about["skipped"],
    }


def _identity(source: Source) -> str:
    """Tells sources apart, without reading any image."""
    digest = hashlib.sha256()
    for split, images in source.splits.items():
        labels = None if images.labels is None else images.labels.tolist()
        names = (None if of is None else list(map(shown, of)) for of in (images.files, images.classes))
        files, classes = names
        digest.update(json.dumps([split, files, labels, classes]).encode())
    return digest.hexdigest()


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """No two processes write to one folder."""
    folder = os.open(out, os.O_RDONLY)
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
    names = set(os.listdir(out))
    if names - {f".{PROGRESS}"} and PROGRESS not in names and not is_index(out):
        raise UserError(f"--out {out} is not empty and holds no shards; choose another folder")


def _write_all(source: Source, out: Path, plan: dict[str, Any], progress: bool) -> None:
    kept = _noted(out, plan)
    with open(out / f".{PROGRESS}", "w") as notes:
        for line in (plan, *kept):
            _note(notes, line)
    os.replace(out / f".{PROGRESS}", out / PROGRESS)
    done: dict[str, list[dict[str, Any]]] = {}
    with open(out / PROGRESS, "a") as notes:
        for split, images in source.splits.items():
            done[split] = [line for line in kept if line["split"] == split]
            for line in _write_split(images, out, done[split], plan, progress):
                _note(notes, line)
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
    write_index(out / INDEX, about, {split: [Shard(**line["shard"]) for line in of] for split, of in done.items()})


def _note(notes: IO[str], line: dict[str, Any]) -> None:
    notes.write(json.dumps(stamped(line)) + "\n")
    notes.flush()
    os.fsync(notes.fileno())


def _noted(out: Path, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of what was done before: each is {"split", "shard", "next", "skipped"}."""
    for aside in out.glob("*/.*.part"):
        aside.unlink()
    if not (out / PROGRESS).exists():
        return []
    lines, damaged = read_lines(out / PROGRESS, {str: Any})  # a line that was cut off is the last one
    if not lines or lines[0] != plan:
        raise UserError(f"--out {out} holds shards, begun, of other images or settings; choose another folder")
    kept, broken = [], set()
    for line in lines[1 : damaged[0] - 1 if damaged else None]:
        try:
            checked(line, NOTE)
        except ValueError:
            break
        path = out / line["shard"]["file"]
        if not path.exists() or path.stat().st_size != line["shard"]["size"]:
            broken.add(line["split"])
        if line["split"] not in broken:
            kept.append(line)
    return kept


def _write_split(
    images: ImageSet, out: Path, done: list[dict[str, Any]], plan: dict[str, Any], progress: bool
) -> Iterator[dict[str, Any]]:
    """Writes the shards that follow those done; yields a line on each."""
    split, start = images.name, done[-1]["next"] if done else 0
    order = _order(images)
    (out / split).mkdir(exist_ok=True)
    most = plan["images"] or len(images)
    limit = 2**62 if plan["size_mib"] is None else int(plan["size_mib"] * 2**20)
    tar: _Tar | None = None
    number, skipped = len(done), []
    bar = Bar(total=len(images), initial=start, desc=f"sharding {split}", unit=" images", disable=not progress,
               dynamic_ncols=True)  # fmt: skip
    try:
        for at, data in enumerate(_prepared(images, order[start:], plan["resolution"]), start):
            i, file = int(order[at]), images.files[order[at]]
            bar.update()
            if isinstance(data, Unreadable):
                skipped.append([file, str(data)])
                continue
            label = None if images.labels is None or images.labels[i] < 0 else int(images.labels[i])
            members = {f"{i:08d}.{ENDINGS[sniff(data) or '']}": data}
            members |= {} if label is None else {f"{i:08d}.cls": str(label).encode()}
            if tar and (len(tar.shard.names) == most or tar.grown(members) > limit):
                yield {"split": split, "shard": tar.finish(), "next": at, "skipped": skipped}
                tar, skipped = None, []
            if tar is None:
                tar, number = _Tar(out, f"{split}/shard-{number:06d}.tar"), number + 1
            offset = tar.add(members)
            tar.shard.add(file, offset, len(data), label, i)
            tar.shard.crcs.append(zlib.crc32(data))
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
    """A permutation, the same each time; of shards elsewhere one for which a few are held at a time."""
    generator = keyed_generator(SEED, f"shards {images.name}")
    if images.shards is None:
        return torch.randperm(len(images), generator=generator).numpy()
    return order_by_shards(torch.from_numpy(images.shards), 16, generator).numpy()


def _prepared(images: ImageSet, order: np.ndarray, resolution: int | None) -> Iterator[bytes | Unreadable]:
    """What is stored of each image, in this order, made ahead by threads."""

    def prepare(i: int) -> bytes | Unreadable:
        try:
            if resolution is not None:
                return _png(resize_square(images.load(i), resolution, pad=images.store.pads))
            if isinstance(images.store, FileStore):
                data = images.store.raw(int(images.index[i]))
                decode(data, images.store.limits)
                return data
            return _png(images.load(i))
        except Unreadable as e:
            return e

    threads = os.cpu_count() or 1
    coming: deque[Future[bytes | Unreadable]] = deque()
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


def _png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(out, "PNG")
    return out.getvalue()


class _Tar:
    """A tar file written aside, without times and owners: equal members are equal bytes."""

    def __init__(self, out: Path, file: str) -> None:
        self.path = out / file
        self.aside = self.path.with_name(f".{self.path.name}.part")
        self.file = open(self.aside, "wb")  # noqa: SIM115
        self.digest = hashlib.sha256()
        self.shard = Shard(file)

    def grown(self, members: dict[str, bytes]) -> int:
        """The size it would have with these members and its end."""
        return self.shard.size + sum(512 + _padded(len(data)) for data in members.values()) + len(END_MARK)

    def add(self, members: dict[str, bytes]) -> int:
        """Where the bytes of the first begin."""
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
        """Gives it its end and its name; what the index says of it."""
        self._write(END_MARK)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self.aside, self.path)
        self.shard.sha256 = self.digest.hexdigest()
        return vars(self.shard)

    def abandon(self) -> None:
        with suppress(OSError):  # of a full disk, on which the rest of the buffer cannot be written either
            self.file.close()
        self.aside.unlink(missing_ok=True)


def _padded(size: int) -> int:
    return -(-size // 512) * 512
