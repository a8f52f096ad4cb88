"""Read TIFF files that Pillow reads wrongly, list their pages, and explain those that cannot be read."""

import io
import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from bigbigan.data.formats import Unreadable
from bigbigan.data.pillow_pixels import ORIENTATION, deep_to_8_bits, is_turned, on_white, pillow_pixels, turned
from bigbigan.data.window import ToBytes

__all__ = [
    "has_deep_colour",
    "has_planes",
    "list_pages",
    "read_by_tifffile",
    "read_planes",
    "read_tags",
    "unreadable_reason",
]

MAX_PAGES = 100_000
INSTALL = "pip install 'bigbigan[tiff]'"
DEEP_COLOUR = f"TIFF of 16-bit colour, with data.window ({INSTALL})"  # why it cannot be read without tifffile

_COMPRESSION_OF_PLANES = (1, 5, 8, 32773, 32946)  # none, LZW, Deflate, PackBits, Deflate
_COMPRESSIONS_NOT_READ = {
    **dict.fromkeys((33003, 33004, 33005, 34712), "JPEG 2000"),
    **{34887: "LERC", 34892: "lossy JPEG of raw cameras", 50002: "JPEG XL", 52546: "JPEG XL", 34933: "PNG"},
    **{34925: "LZMA", 50000: "Zstandard", 34926: "Zstandard", 50001: "WebP", 34927: "WebP", 6: "old JPEG", 7: "JPEG"},
}
_PLANE_TAGS = {256: "I", 257: "I", 259: "H", 266: "H", ORIENTATION: "H", 278: "I", 317: "H", 322: "I", 323: "I"}


def read_tags(data: bytes, page: int = 0) -> Any:
    """Return the tags of a page of a TIFF file; missing tags are absent."""
    return next(islice(_all_tags(data), page, None))


def list_pages(data: bytes) -> list[int]:
    """Return the numbers of the pages that are images of their own: neither thumbnails nor masks of other pages."""
    return [k for k, tags in enumerate(islice(_all_tags(data), MAX_PAGES)) if not tags.get(254, 0) & 0b101]


def _all_tags(data: bytes) -> Iterator[Any]:
    """Iterate over the tags of each page. Raises whatever damaged files raise."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2:4] in (b"+\0", b"\0+") else 8])
    file, seen = io.BytesIO(data), set[int]()
    while tags.next and tags.next not in seen:  # the pages of a damaged file may form a circle
        seen.add(tags.next)
        file.seek(tags.next)
        tags.load(file)
        yield tags


def has_planes(tags: Any) -> bool:
    """Return whether each channel of a page must be decoded by itself.

    It must be if planes are stored one after the other, which Pillow misreads at 16 bits and for grey, and for
    big-endian 16-bit grey with white as 0.
    """
    if tags.get(262) not in (0, 1, 2):
        return False
    sixteen_bits = 16 in np.ravel(tags.get(258, 1))
    white_is_0 = tags.get(262) == 0
    return tags.get(284) == 2 or (white_is_0 and sixteen_bits and tags.prefix == b"MM" and tags.get(277, 1) == 1)


def read_planes(tags: Any, data: bytes, window: ToBytes | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the grey or RGB pixels of a page, each channel decoded as a grey image, and notes on what was converted.

    Raises:
        Unreadable: the page has channels or a compression that are not supported.
    """
    samples, colours = tags.get(277, 1), 3 if tags[262] == 2 else 1
    kinds = np.ravel(tags.get(338, ())).tolist()  # of the channels beyond colour; 1 and 2 are alpha
    alpha = kinds[:1] in ([1], [2]) and samples > colours
    if samples < colours or (colours == 1 and samples > 1 + alpha):
        raise Unreadable(f"TIFF of {samples} channels (save it as grey or RGB)")
    if tags.get(259, 1) not in _COMPRESSION_OF_PLANES or data[2:4] in (b"+\0", b"\0+"):
        raise Unreadable("TIFF in separate planes (save it with the channels of each pixel together)")
    planes, notes = [], []
    for k in range(colours + alpha):
        plane = _plane(tags, data, k, samples)
        with Image.open(io.BytesIO(plane), formats=["TIFF"]) as image:
            pixels, plane_notes = pillow_pixels(image, plane, window if k < colours else None)
        planes.append(pixels)
        notes += [note for note in plane_notes if k < colours and note not in notes]
    array = np.concatenate(planes[:colours], axis=2)
    if tags[262] == 0:
        array = 255 - array
    if alpha:
        array = on_white(array, planes[-1], notes, multiplied=kinds[0] == 1)
    notes += ["further channels ignored"] if samples > colours + alpha else []
    return array, tuple(notes)


def _plane(tags: Any, data: bytes, k: int, samples: int) -> bytes:
    """Return the file with a new directory at its end, which makes it a grey image of channel k."""
    order = "<" if tags.prefix == b"II" else ">"
    places, sizes = (324, 325) if 324 in tags else (273, 279)
    separate = tags.get(284) == 2
    each = len(tags[places]) // samples if separate else len(tags[places])
    own = slice(k * each, (k + 1) * each) if separate else slice(None)
    bits, formats = np.ravel(tags.get(258, 1)), np.ravel(tags.get(339, 1))
    entries = {tag: (kind, [tags[tag]]) for tag, kind in _PLANE_TAGS.items() if tag in tags}
    entries |= {258: ("H", [int(bits[min(k, len(bits) - 1)])]), 339: ("H", [int(formats[min(k, len(formats) - 1)])])}
    entries |= {262: ("H", [1]), 277: ("H", [1]), 284: ("H", [1])}
    entries |= {places: ("I", list(tags[places][own])), sizes: ("I", list(tags[sizes][own]))}
    at = len(data) + len(data) % 2
    end = at + 2 + 12 * len(entries) + 4  # of the directory, where long values begin
    directory, values = struct.pack(f"{order}H", len(entries)), b""
    for tag, (kind, numbers) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(packed) > 4:
            values, packed = values + packed, struct.pack(f"{order}I", end + len(values))
        directory += struct.pack(f"{order}HHI", tag, 3 if kind == "H" else 4, len(numbers)) + packed.ljust(4, b"\0")
    start = data[:4] + struct.pack(f"{order}I", at)
    return start + data[8:] + bytes(len(data) % 2) + directory + bytes(4) + values


def is_signed_byte(tags: Any) -> bool:
    """Return whether a page with these tags has signed pixels of 8 bits, which Pillow takes for unsigned ones."""
    return 2 in np.ravel(tags.get(339, 1)) and max(np.ravel(tags.get(258, 1)).tolist(), default=1) == 8


def unreadable_reason(tags: Any, has_window: bool = False) -> str | None:
    """Return why a page with these tags cannot be read without `tifffile`, or None if Pillow should read it.

    Args:
        tags: the values of the page, by number.
        has_window: whether `data.window` or `data.window_percentiles` is set.
    """
    for tag in (258, 259, 262, 277, 339):  # bits, compression, colours, samples, format
        if np.ravel(tags.get(tag, 1)).dtype.kind not in "iu":
            return f"damaged TIFF (tag {tag} is not a whole number)"
    bits, samples = np.ravel(tags.get(258, 1)).tolist(), tags.get(277, 1)
    if name := _COMPRESSIONS_NOT_READ.get(tags.get(259, 1)):
        return f"TIFF compressed as {name} ({INSTALL}, or save it uncompressed, or with LZW or Deflate)"
    floats = 3 in np.ravel(tags.get(339, 1))
    if floats or max(bits, default=1) > 16 or 2 in np.ravel(tags.get(339, 1)):
        kind = "float pixels" if floats else "32-bit or signed pixels"
        if has_window:
            return f"{kind} that Pillow does not read ({INSTALL}, or save as 8 or 16 bits)"
        return f"{kind} (no fixed range to scale from; set data.window, or save as 8 or 16 bits)"
    if samples not in (1, 3, 4) or (samples != 1 and tags.get(262) in (0, 1)):
        return f"TIFF of {samples} channels (save it as grey or RGB)"
    if not set(bits) <= {1, 2, 4, 8, 16}:
        return f"TIFF of {max(bits)} bits a channel ({INSTALL}, or save as 8 or 16 bits)"
    return None


def has_deep_colour(tags: Any) -> bool:
    """Return whether a page has 16-bit colour; Pillow would keep only its upper 8 bits."""
    return tags.get(262) == 2 and 16 in np.ravel(tags.get(258, 1))


def read_by_tifffile(
    data: bytes, page: int, tags: Any, window: ToBytes | None
) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Return the pixels of a page that Pillow cannot read, and notes; None if `tifffile` is not installed.

    Raises:
        Unreadable: float or 32-bit pixels without a window, or another number of channels than 1, 3 or 4.
    """
    try:
        import tifffile
    except ImportError:
        return None
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        values = np.asarray(file.pages[page].asarray())
    if tags.get(284) == 2 and values.ndim == 3:
        values = np.moveaxis(values, 0, -1)
    values = values[:, :, None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4):
        raise Unreadable(f"TIFF of {values.shape[-1]} channels (save it as grey or RGB)")
    notes, alpha = ["read by tifffile"], None
    bits, kind = int(np.max(tags.get(258, 1))), np.ravel(tags.get(338, 0))[0]  # of the fourth channel: 1, 2 are alpha
    if values.shape[2] == 4:
        if kind in (1, 2) and values.dtype in (np.uint8, np.uint16):
            alpha = values[:, :, 3:] if values.dtype == np.uint8 else deep_to_8_bits(values[:, :, 3], bits, None, [])
        else:
            notes.append("further channels ignored")
        values = values[:, :, :3]
    if values.dtype != np.uint8:
        planes = [deep_to_8_bits(values[:, :, k], bits, window, notes) for k in range(values.shape[2])]
        values = np.concatenate(planes, axis=2)
    values = 255 - values if tags.get(262) == 0 else values
    if alpha is not None:
        values = on_white(values, alpha, notes, multiplied=kind == 1)
    orientation = tags.get(ORIENTATION, 1)
    notes += ["EXIF rotated"] if is_turned(orientation) else []
    return turned(values, orientation), tuple(dict.fromkeys(notes))
