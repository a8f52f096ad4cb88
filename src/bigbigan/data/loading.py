"""Decode a split into memory, at the size and number of channels that a network takes, and fingerprint it."""

import hashlib

import numpy as np
from torch import Tensor

from bigbigan.data.formats import Unreadable
from bigbigan.data.image_set import MAX_MEMORY, ImageSet, Source
from bigbigan.data.names import shown
from bigbigan.errors import UserError
from bigbigan.image import fit, resize_square, to_channels
from bigbigan.image.crops import CENTRAL, STORED, resize_center
from bigbigan.progress import Bar

__all__ = [
    "center_crop",
    "center_of_stored",
    "fingerprint",
    "load_pixels",
    "load_view",
    "quick_fingerprint",
    "read_pixels",
    "stored_side",
    "viewed_side",
]

REMEDY = "repair or remove them, or allow a larger share, such as --set data.max_unreadable=0.2"
_FITTED = {"padded": "padded with zeros to the resolution", "enlarged": "enlarged to the resolution"}


def load_pixels(
    images: ImageSet,
    resolution: int,
    channels: int,
    source: Source | None = None,
    progress: bool = False,
    *,
    crop: str = "center",
    max_bytes: int = MAX_MEMORY,
) -> tuple[np.ndarray, np.ndarray]:
    """Decode a whole split once: (pixels uint8 [N', C, R, R], kept int64 [N']).

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
        progress: show images/s and time left on stderr.
        crop: "center" or "stretch", see `resize_square`.
        max_bytes: limit on the memory for the pixels.

    Raises:
        UserError: more than `max_unreadable` of the split cannot be read, or none of it can, or the pixels would not
            fit in `max_bytes`.
    """
    n, pad = len(images), images.store.pads
    need = n * channels * resolution * resolution
    if need > max_bytes:
        raise UserError(
            f"{n:,} images of {resolution}x{resolution}x{channels} take {need / 2**30:,.1f} GiB, limit "
            f"{max_bytes / 2**30:,.1f}; lower the resolution or use fewer images (evaluate: --max-images)"
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
            if len(refused) > limit * n:
                break
            continue
        out[len(kept)] = to_channels(resize_square(array, resolution, crop, pad), channels).transpose(2, 0, 1)
        kept.append(i)
        if source is not None:
            way = fit(array.shape, resolution, crop, pad)
            source.record(images.files[i], (*notes, _FITTED[way]) if way in _FITTED else notes)
    first = ", ".join(refused[:5])
    if len(refused) == n:
        raise UserError(f"none of the {n:,} images in '{images.name}' can be read: {first}")
    if len(refused) > limit * n:
        seen = len(kept) + len(refused)
        raise UserError(
            f"{len(refused) / n:.1%} of the {n:,} images in '{images.name}' cannot be read "
            f"({len(refused):,} of the first {seen:,}), limit {limit:.1%}: {first}; {REMEDY}"
        )
    return out[: len(kept)], np.array(kept, dtype=np.int64)


def stored_side(images: ImageSet, resolution: int, augment: str) -> int:
    """Return the side S, in pixels, that training images are stored at for networks of R = `resolution`.

    For crops of photographs it is `STORED` times R, so that few crops are enlarged (14 % of "resnet_crop"), but not
    more than the median side of the photographs' central squares. Rows of arrays are small and not cropped: S = R.
    """
    minimum = viewed_side(images, resolution, augment)
    wanted = round(STORED[augment] * resolution) if minimum > resolution else minimum
    return wanted if wanted <= minimum else max(minimum, min(wanted, typical_side(images)))


def viewed_side(images: ImageSet, resolution: int, augment: str) -> int:
    """Return the side, in pixels, that evaluation decodes images to before it takes the central R × R pixels.

    After training on crops of photographs the centre is 87.5 % of the side, otherwise all of it.
    """
    return round(resolution / CENTRAL) if augment.endswith("_crop") and not images.store.pads else resolution


def typical_side(images: ImageSet, max_images: int = 50) -> int:
    """Return the median of the shorter sides, in pixels, of up to `max_images` images; 0 if none can be read.

    The images are spread over the set or, if its shards are remote, over the first shard.
    """
    order = images.in_first_shard(np.arange(len(images)))
    sides = []
    for i in order[:: max(1, -(-len(order) // max_images))]:
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
    """Decode images as `load_pixels` does, but as evaluation sees them after training with `augment`."""
    pixels, kept = load_pixels(images, viewed_side(images, resolution, augment), channels, source, progress)
    return np.ascontiguousarray(center_crop(pixels, resolution)), kept


def center_crop(pixels: np.ndarray, resolution: int) -> np.ndarray:
    """Return the central [..., R, R] of pixels [..., S, S] of the side S that `viewed_side` gives."""
    edge = (pixels.shape[-1] - resolution) // 2
    return pixels[..., edge : edge + resolution, edge : edge + resolution]


def center_of_stored(pixels: Tensor, resolution: int) -> Tensor:
    """Return the centre of uint8 pixels [N, C, S, S] stored for training (`stored_side`): uint8 [N, C, R, R].

    If S is larger than the side that evaluation decodes to, they are resized once more, which blurs them a little.
    """
    side = pixels.shape[-1]
    if side > round(resolution / CENTRAL) + 1:
        return resize_center(pixels, resolution)
    edge = (side - resolution) // 2
    return pixels[..., edge : edge + resolution, edge : edge + resolution]


def read_pixels(images: ImageSet, i: int, channels: int, side: int) -> np.ndarray:
    """Decode one image as `load_pixels` does: uint8 [C, R, R]. Raises Unreadable."""
    array = resize_square(images.load(i), side, pad=images.store.pads)
    return np.ascontiguousarray(to_channels(array, channels).transpose(2, 0, 1))


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
