"""Decode a split into memory, at the size and number of channels that a network takes, and fingerprint it."""

import hashlib
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from bigbigan.data.formats import Unreadable
from bigbigan.data.image_set import MAX_MEMORY, ArrayStore, ImageSet, Source
from bigbigan.data.names import listed, shown
from bigbigan.data.window import Sampler
from bigbigan.errors import UserError
from bigbigan.image import resize_square, to_channels, way_to_resize
from bigbigan.image.crop_sizes import STORED, viewed_side
from bigbigan.progress import Bar

__all__ = [
    "center_crop",
    "fingerprint",
    "load_pixels",
    "load_view",
    "measure_window",
    "quick_fingerprint",
    "read_noted",
    "remedy",
    "sample_values",
    "stored_side",
    "stream_pixels",
    "stream_view",
]

T = TypeVar("T")
Pixels = TypeVar("Pixels", bound=Any)  # an array or a tensor

WINDOW_IMAGES = 10_000  # maximum number of images that a window is measured on
TYPICAL_IMAGES = 50  # maximum number of images that `typical_side` reads
DECODED_TOGETHER = 16  # images that a thread decodes in one call
_FITTED = {"padded": "padded with zeros to the resolution", "enlarged": "enlarged to the resolution"}


def remedy(limit: float, readable: bool = True) -> str:
    """Return what to do if a larger share of the images than `limit` cannot be read.

    If no image is `readable`, a higher limit would not help, and none is suggested.
    """
    if not readable:
        return "bigbigan data inspect lists why"
    larger = next((share for share in (0.2, 0.5, 0.9) if share > limit), None)
    allowed = "" if larger is None else f"; train allows a larger share: --set data.max_unreadable={larger}"
    return f"repair or remove them{allowed}"


def load_pixels(
    images: ImageSet,
    resolution: int,
    channels: int,
    source: Source | None = None,
    progress: bool = False,
    *,
    max_bytes: int = MAX_MEMORY,
) -> tuple[np.ndarray, np.ndarray]:
    """Decode a whole split into memory: (pixels uint8 [N', C, R, R], kept int64 [N']).

    Args:
        images, resolution, channels, source: see `stream_pixels`.
        progress: show images/s and time left on stderr.
        max_bytes: the most that the pixels may take in memory.

    Raises:
        UserError: see `stream_pixels`; or the pixels would not fit in `max_bytes`.
    """
    n = len(images)
    need = n * channels * resolution * resolution
    if need > max_bytes:
        raise UserError(
            f"{n:,} images of {resolution}x{resolution}x{channels} take {need / 2**30:,.1f} GiB, limit "
            f"{max_bytes / 2**30:,.1f}; lower the resolution or use fewer images (evaluate: --max-images)"
        )
    out = np.empty((n, channels, resolution, resolution), dtype=np.uint8)
    kept = np.empty(n, dtype=np.int64)
    count = 0
    with Bar(total=n, desc=f"reading {images.name}", unit=" images", disable=not progress) as bar:
        for pixels, numbers in stream_pixels(images, resolution, channels, source, batch_size=64):
            rows = slice(count, count + len(numbers))
            out[rows], kept[rows] = pixels, numbers
            count = rows.stop
            bar.update(int(numbers[-1]) + 1 - bar.n)
        bar.update(n - bar.n)
    return out[:count], kept[:count]


def stream_pixels(
    images: ImageSet,
    resolution: int,
    channels: int,
    source: Source | None = None,
    *,
    batch_size: int = 500,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Decode a split in order and yield batches: (pixels uint8 [n, C, R, R], kept int64 [n]).

    All batches except the last have `batch_size` images. Threads decode ahead; memory does not grow with the number of
    images.

    Unreadable images are skipped; `kept` lists the others, as indices into `images`. Skipped images and conversions are
    recorded in `source`.

    Images are resized to R by `resize_square`. Rows of arrays (digits, idx, npz, binary CIFAR-10) that are squares a
    little smaller than R are padded with zeros, which keeps their pixels exact: MNIST's 28 to 32, as is usual.
    Image files are always resized.

    Args:
        images: a split.
        resolution: R, in pixels.
        channels: 1 (grey) or 3 (colour).
        source: records skipped images and notes, and gives `max_unreadable` (0.05 if None).
        batch_size: images in a batch.

    Raises:
        UserError: more than `max_unreadable` of the split cannot be read, or none of it can.
    """
    n = len(images)
    limit = source.max_unreadable if source is not None else Source.max_unreadable
    refused: list[str] = []
    seen = 0
    stopped = threading.Event()  # by a signal, for example: threads finish their image, not all of theirs

    def decoded(start: int) -> list[tuple[np.ndarray, tuple[str, ...]] | Unreadable]:
        found: list[tuple[np.ndarray, tuple[str, ...]] | Unreadable] = []
        for i in range(start, min(start + DECODED_TOGETHER, n)):
            if stopped.is_set():
                break
            try:
                found.append(read_noted(images, i, resolution, channels))
            except Unreadable as error:
                found.append(error)
        return found

    out = np.empty((batch_size, channels, resolution, resolution), dtype=np.uint8)
    kept: list[int] = []
    starts = range(0, n, DECODED_TOGETHER)
    results: Iterator[tuple[np.ndarray, tuple[str, ...]] | Unreadable]
    if isinstance(images.store, ArrayStore):  # there is nothing to decode
        results = (one for start in starts for one in decoded(start))
    else:
        results = _in_threads(decoded, starts, images.fetch_ahead, stopped)
    for one in results:
        seen += 1
        file = images.files[seen - 1]
        if isinstance(one, Unreadable):
            refused.append(f"{file} ({one})")
            if source is not None:
                source.refuse(file, one)
            if len(refused) > limit * n:
                break
            continue
        pixels, notes = one
        out[len(kept)] = pixels
        kept.append(seen - 1)
        if source is not None:
            source.record(file, notes)
        if len(kept) == batch_size:
            yield out, np.array(kept, dtype=np.int64)
            out, kept = np.empty_like(out), []
    first = ", ".join(refused[:5])
    if len(refused) == n:
        raise UserError(f"none of the {n:,} images in '{images.name}' can be read: {first}")
    if len(refused) > limit * n:
        raise UserError(
            f"{len(refused):,} of the first {seen:,} images in '{images.name}' cannot be read; limit {limit:.1%} of "
            f"{n:,}: {first}; {remedy(limit, readable=len(refused) < max(seen, 5))}"
        )
    if refused:
        skipped = f"{len(refused):,} of the {n:,} images in '{images.name}' cannot be read and are skipped"
        warnings.warn(f"{skipped}: {listed(refused)}", stacklevel=2)
    if kept:
        yield out[: len(kept)], np.array(kept, dtype=np.int64)


def _in_threads(
    work: Callable[[int], list[T]], starts: Iterable[int], before: Callable[[int], object], stopped: threading.Event
) -> Iterator[T]:
    """Yield the items of `work(start)` for each start, in order.

    As many threads as there are processors work two calls ahead of the reader; `before(start)` is called in the
    reader's thread when a call is handed out. `stopped` is set when the reader ends, early or not.
    """
    threads = os.cpu_count() or 1
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    coming: deque[Future[list[T]]] = deque()
    try:
        for start in starts:
            before(start)
            coming.append(pool.submit(work, start))
            if len(coming) > 2 * threads:
                yield from coming.popleft().result()
        while coming:
            yield from coming.popleft().result()
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def stored_side(images: ImageSet, resolution: int, augment: str) -> int:
    """Return the side S, in pixels, that training images are stored at for networks of R = `resolution`.

    For crops of photographs it is `STORED` times R, so that few crops are enlarged (14 % of "resnet_crop"), but not
    more than the median side of the photographs' central squares. Rows of arrays are small and not cropped: S = R.
    """
    minimum = viewed_side(resolution, augment, images.store.pads)
    wanted = round(STORED[augment] * resolution) if minimum > resolution else minimum
    return wanted if wanted <= minimum else max(minimum, min(wanted, typical_side(images)))


def typical_side(images: ImageSet) -> int:
    """Return the median of the shorter sides, in pixels, of up to `TYPICAL_IMAGES` images; 0 if none can be read.

    The images are spread over the set or, if its shards are remote, over the first shard.
    """
    order = images.in_first_shard(np.arange(len(images)))
    sides = []
    for i in order[:: max(1, -(-len(order) // TYPICAL_IMAGES))]:
        try:
            sides.append(min(images.load(int(i)).shape[:2]))
        except Unreadable:
            continue
    return int(np.median(sides)) if sides else 0


def measure_window(source: Source, images: ImageSet, percentages: tuple[float, ...]) -> tuple[float, float]:
    """Return two percentiles of the values of images that have more than 8 bits: black and white of a window.

    They are measured on all images; on `WINDOW_IMAGES` that are spread evenly if there are more, and on the first shard
    if shards are remote. The source has no window afterwards.

    Raises:
        UserError: no image has more than 8 bits, or the two percentiles are equal.
    """
    order = images.in_first_shard(np.arange(len(images)))
    order = order[:: max(1, -(-len(order) // WINDOW_IMAGES))]
    picks = [(images, i) for i in order.tolist()]
    sampler, refused = sample_values(source, picks, min(2**16, max(64, 2**23 // len(order))))
    window, name = sampler.percentiles(percentages), f"data.window_percentiles=[{percentages[0]:g},{percentages[1]:g}]"
    if window is None:
        why = f" ({len(refused):,} cannot be read, such as: {min(refused)})" if refused else ""
        raise UserError(
            f"{name}: no image of {source.spec} that can be read has more than 8 bits{why}; remove this setting"
        )
    if window[0] == window[1]:
        raise UserError(f"{name}: both are {window[0]:g} in {source.spec}; take percentiles further apart")
    return window[0], window[1]


def sample_values(source: Source, picks: list[tuple[ImageSet, int]], per_image: int) -> tuple[Sampler, list[str]]:
    """Sample the values of images that have more than 8 bits. The source has no window afterwards.

    Args:
        source: the source of the images.
        picks: the image set and the number of each image.
        per_image: number of values of each image.

    Returns:
        The sample; and why images are not in it, for each that cannot be read.
    """
    sampler, stopped, refused = Sampler(per_image), threading.Event(), list[str]()

    def load(at: int) -> list[None]:
        images, i = picks[at]
        try:
            images.load(i)
        except Unreadable as error:  # counted when the pixels are read
            refused.append(str(error))
        return []

    def fetch(at: int) -> None:
        images, i = picks[at]
        images.fetch_ahead(i)

    source.set_window(sampler)
    try:
        for _ in _in_threads(load, range(len(picks)), fetch, stopped):
            pass
    finally:
        source.set_window(None)
    return sampler, refused


def load_view(
    images: ImageSet,
    resolution: int,
    channels: int,
    augment: str,
    source: Source | None = None,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Decode images as `load_pixels` does, but as evaluation sees them after training with `augment`."""
    side = viewed_side(resolution, augment, images.store.pads)
    pixels, kept = load_pixels(images, side, channels, source, progress)
    return np.ascontiguousarray(center_crop(pixels, resolution)), kept


def stream_view(
    images: ImageSet,
    resolution: int,
    channels: int,
    augment: str,
    source: Source | None = None,
    batch_size: int = 500,
    bar: Bar | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the images of `load_view` in batches, see `stream_pixels`.

    `bar` counts the images of each batch when the next one is asked for, with the unreadable ones.
    """
    side, counted = viewed_side(resolution, augment, images.store.pads), 0
    bar = Bar(disable=True) if bar is None else bar
    for pixels, kept in stream_pixels(images, side, channels, source, batch_size=batch_size):
        yield np.ascontiguousarray(center_crop(pixels, resolution)), kept
        bar.update(int(kept[-1]) + 1 - counted)
        counted = int(kept[-1]) + 1
    bar.update(len(images) - counted)


def center_crop(pixels: Pixels, resolution: int) -> Pixels:
    """Return the central [..., R, R] of pixels [..., S, S] of the side S that `viewed_side` gives."""
    edge = (pixels.shape[-1] - resolution) // 2
    return pixels[..., edge : edge + resolution, edge : edge + resolution]


def read_noted(images: ImageSet, i: int, side: int, channels: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode one image as `load_pixels` does: uint8 [C, R, R], and notes on what was converted. Raises Unreadable."""
    array, notes = images.load_noted(i)
    way = way_to_resize(array.shape, side, images.store.pads)
    square = to_channels(resize_square(array, side, images.store.pads), channels)
    pixels = np.ascontiguousarray(square.transpose(2, 0, 1))
    return pixels, (*notes, _FITTED[way]) if way in _FITTED else notes


def fingerprint(images: ImageSet, max_contents: int | None = None) -> str:
    """Return the sha256 (hex) over the names and the content of the images, in order.

    It changes when an image is added, removed, renamed, reordered or edited. Content is a file's bytes, a row's pixels
    or, for remote shards, the shard's checksum. Labels do not enter it. With `max_contents`, the content of about that
    many images, spread evenly, enters it, and only the names of the others.
    """
    digest = hashlib.sha256()
    every = 1 if max_contents is None else max(1, len(images) // max_contents)
    for number, (file, i) in enumerate(zip(images.files, images.index, strict=True)):
        try:
            raw = images.store.identity(int(i)) if number % every == 0 else b""
        except Unreadable as e:
            raw = f"unreadable: {e}".encode()
        name = shown(file).encode()
        digest.update(len(name).to_bytes(8, "little") + name + len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


def quick_fingerprint(images: ImageSet) -> str:
    """Return a fingerprint that is quick to compute: of all names, and of the content of 64 images."""
    return fingerprint(images, 64)
