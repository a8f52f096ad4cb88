"""Pixels: a split decoded once into memory, at the one size and number of channels a network takes."""

import hashlib
import warnings

import numpy as np
from torch import Tensor

from bigbigan.crops import CENTRAL, STORED, resize_center
from bigbigan.data.decode import Unreadable, fit, resize_square, to_channels
from bigbigan.data.image_set import MAX_HELD, ImageSet, Source, shown
from bigbigan.errors import UserError
from bigbigan.progress import Bar

__all__ = [
    "fingerprint",
    "glance",
    "load_pixels",
    "load_view",
    "middle",
    "middle_of_stored",
    "read_pixels",
    "stored_side",
    "viewed_side",
]

WAY_OUT = "mend them or take them out, or train with a larger share, such as --set data.max_unreadable=0.2"
_FITTED = {"padded": "padded with zeros to the resolution", "enlarged": "enlarged to the resolution"}


def load_pixels(
    images: ImageSet,
    resolution: int,
    channels: int,
    source: Source | None = None,
    progress: bool = False,
    *,
    crop: str = "center",
    max_bytes: int = MAX_HELD,
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes a whole split once: (pixels uint8 [N', C, R, R], kept int64 [N']).

    Images that cannot be read are left out; `kept` says which were not, as indices into `images`. They are
    recorded in `source`, and so are conversions.

    Sizes are brought to R by `resize_square`. Rows of arrays (digits, idx, npz, binary CIFAR-10) that are squares a
    little smaller than R are padded with zeros, which keeps their pixels exact: MNIST's 28 to 32, as is usual.
    Image files are photographs, whatever their size: they are always resized.

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
    n, pad = len(images), images.store.pads
    need = n * channels * resolution * resolution
    if need > max_bytes:
        raise UserError(
            f"{n:,} images of {resolution}x{resolution}x{channels} take {need / 2**30:,.1f} GiB, limit "
            f"{max_bytes / 2**30:,.1f}; lower the resolution or use fewer images (evaluate: --most)"
        )
    out = np.empty((n, channels, resolution, resolution), dtype=np.uint8)
    limit = source.max_unreadable if source is not None else Source.max_unreadable
    refused: list[str] = []
    kept: list[int] = []
    for i in Bar(range(n), f"reading {images.name}", unit=" images", disable=not progress, dynamic_ncols=True):
        images.fetch_ahead(i)
        try:
            array, notes = images.load_noted(i)
        except Unreadable as e:
            refused.append(f"{images.files[i]} ({e})")
            if source is not None:
                source.refuse(images.files[i], e)
            if len(refused) > limit * n:  # no need to read on
                break
            continue
        out[len(kept)] = to_channels(resize_square(array, resolution, crop, pad), channels).transpose(2, 0, 1)
        kept.append(i)
        if source is not None:
            way = fit(array.shape, resolution, crop, pad)
            source.record(images.files[i], (*notes, _FITTED[way]) if way in _FITTED else notes)
    first = ", ".join(refused[:5])
    if refused and len(refused) <= limit * n and len(refused) < n:
        more = f" and {len(refused) - 5:,} more" if len(refused) > 5 else ""
        what = f"{len(refused):,} of the {n:,} images in '{images.name}' cannot be read: left out"
        warnings.warn(f"{what}: {first}{more}", stacklevel=2)
    if len(refused) == n:
        raise UserError(f"none of the {n:,} images in '{images.name}' can be read: {first}")
    if len(refused) > limit * n:
        seen = len(kept) + len(refused)
        raise UserError(
            f"{len(refused) / n:.1%} of the {n:,} images in '{images.name}' cannot be read "
            f"({len(refused):,} of the first {seen:,}), limit {limit:.1%}: {first}; {WAY_OUT}"
        )
    return out[: len(kept)], np.array(kept, dtype=np.int64)


def stored_side(images: ImageSet, resolution: int, augment: str) -> int:
    """The side S that training's images are stored at for networks of R = `resolution`.

    Where photographs are cropped it is `STORED` times R, so that few crops are enlarged (14 % of "resnet_crop"), but no
    more than the photographs have: the median side of their middle squares, of some of them. Rows of arrays, which
    have few pixels to spare, are kept and seen whole.
    """
    least = viewed_side(images, resolution, augment)
    wanted = round(STORED[augment] * resolution) if least > resolution else least
    return wanted if wanted <= least else max(least, min(wanted, typical_side(images)))


def viewed_side(images: ImageSet, resolution: int, augment: str) -> int:
    """The side that evaluation decodes images to, to see the R × R pixels in their middle: after training on crops of
    photographs the central 87.5 %, otherwise all."""
    return round(resolution / CENTRAL) if augment.endswith("_crop") and not images.store.pads else resolution


def typical_side(images: ImageSet, most: int = 50) -> int:
    """The median of the shorter sides of at most so many images, in pixels, spread over the set or, where shards are on
    another machine, over the first; 0 where none of them can be read."""
    order = images.at_hand(np.arange(len(images)))
    sides = []
    for i in order[:: max(1, -(-len(order) // most))]:
        try:
            sides.append(min(images.load(int(i)).shape[:2]))
        except Unreadable:
            continue
    return int(np.median(sides)) if sides else 0


def load_view(
    images: ImageSet,
    resolution: int,
    channels: int,
    augment: str,
    source: Source | None = None,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Images as evaluation sees them, after training with `augment`; otherwise as `load_pixels`."""
    pixels, kept = load_pixels(images, viewed_side(images, resolution, augment), channels, source, progress)
    return np.ascontiguousarray(middle(pixels, resolution)), kept


def middle(pixels: np.ndarray, resolution: int) -> np.ndarray:
    """The central [..., R, R] of [..., S, S], where S is that of `viewed_side`."""
    edge = (pixels.shape[-1] - resolution) // 2
    return pixels[..., edge : edge + resolution, edge : edge + resolution]


def middle_of_stored(pixels: Tensor, resolution: int) -> Tensor:
    """The same of uint8 pixels [N, C, S, S] that are stored for training (`stored_side`): uint8 [N, C, R, R]. They are
    resized once more where S is larger than evaluation's, which blurs them a little."""
    side = pixels.shape[-1]
    if side > round(resolution / CENTRAL) + 1:
        return resize_center(pixels, resolution)
    edge = (side - resolution) // 2
    return pixels[..., edge : edge + resolution, edge : edge + resolution]


def read_pixels(images: ImageSet, i: int, channels: int, side: int) -> np.ndarray:
    """One image as `load_pixels` gives it: uint8 [C, R, R]. Raises Unreadable."""
    array = resize_square(images.load(i), side, pad=images.store.pads)
    return np.ascontiguousarray(to_channels(array, channels).transpose(2, 0, 1))


def fingerprint(images: ImageSet, most: int | None = None) -> str:
    """sha256 (hex) over the names and the content of the images, in order.

    It changes when an image is added, removed, renamed, reordered or edited. Content is a file's bytes, a row's pixels,
    or, of shards elsewhere, their checksums. Labels are not in it: training never sees them. Of sets larger than
    `most` the content of so many, spread evenly, goes in, and of the others the names.
    """
    digest = hashlib.sha256()
    every = 1 if most is None else max(1, len(images) // most)
    for number, (file, i) in enumerate(zip(images.files, images.index, strict=True)):
        try:
            raw = images.store.identity(int(i)) if number % every == 0 else b""
        except Unreadable as e:
            raw = f"unreadable: {e}".encode()
        name = shown(file).encode()
        digest.update(len(name).to_bytes(8, "little") + name + len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


def glance(images: ImageSet) -> str:
    """A fingerprint that is soon taken: over all names, and the content of 64 images spread over the set."""
    return fingerprint(images, 64)
