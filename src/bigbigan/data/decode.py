"""Decode one encoded image to pixels, or refuse it with a reason.

A PNG of 10 KB may decompress to a gigabyte, so size and shape are checked in the header before any pixel is decoded.
Pixel conversions are in `bigbigan.data.pillow_pixels`, TIFF files that Pillow misreads in `bigbigan.data.tiff`, and
DICOM files in `bigbigan.data.dicom`.

Files are untrusted: they may waste bounded time and memory, and `Unreadable` is the only exception that a file's
content can raise here.
"""

import io
import re
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from bigbigan.data import tiff
from bigbigan.data.dicom import count_frames, read_dicom
from bigbigan.data.formats import CAMERA_RAW, Unreadable, other_format, sniff
from bigbigan.data.pillow_pixels import pillow_pixels
from bigbigan.data.window import ToBytes

__all__ = ["DEEP_CHANNELS", "DecodeLimits", "decode", "decode_pillow", "list_frames"]

DEEP_CHANNELS = " of 16 bits in several channels, with data.window (save it as grey or RGB in a TIFF file)"

_QUIET = ("ignore", None, Warning, re.compile(r"(PIL|pydicom|tifffile|imagecodecs)\b"), 0)  # a filter of `warnings`
MAX_STACK_BYTES = 2 * 2**30  # of a file with several frames
MIN_FILE_BYTES, BYTES_OF_PIXEL = 64 * 2**20, 8  # RGBA of 16 bits, not compressed


@dataclass(frozen=True)
class DecodeLimits:
    """Limits of one image, checked against its header before decoding; and what is read of deep images and stacks."""

    max_pixels: int = 25_000_000  # width x height; larger JPEG files are decoded at a half or a quarter
    max_bytes: int = 0  # of the encoded file; 0: at least 64 MiB and 8 bytes per pixel, 2 GiB with `all_frames`
    max_aspect: float = 20.0  # longer side / shorter side
    window: ToBytes | None = None  # reduces values of more than 8 bits to 8; None: the range of their format
    all_frames: bool = False  # `open_source` makes an image of each frame of a TIFF or DICOM file

    def __post_init__(self) -> None:
        if not self.max_bytes:
            largest = MAX_STACK_BYTES if self.all_frames else max(MIN_FILE_BYTES, BYTES_OF_PIXEL * self.max_pixels)
            object.__setattr__(self, "max_bytes", largest)


def decode(
    data: bytes, limits: DecodeLimits = DecodeLimits(), ending: str = "", frame: int = 0
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode one image to uint8 [H, W, 1] (grey) or [H, W, 3] (colour), and note what was converted.

    - 16-bit grey and colour keep their upper 8 bits (12-bit TIFF: upper 8 of 12), unless there is a `limits.window`.
      With a window, 16-bit colour is read only from TIFF files.
    - Alpha and transparent palette entries are composited on white.
    - CMYK, YCCK, YCbCr, palettes and 1-bit are converted; EXIF orientation is applied.
    - Only one frame or page is used.
    - DICOM needs `pydicom`, and some TIFF files need `tifffile`.
    - JPEG files of up to 8 times `limits.max_pixels` (progressive ones: twice), and at most 178 megapixels, are decoded
      at a reduced size.
    - Colour profiles are not applied; one other than sRGB is noted.

    Notes are fixed phrases ("EXIF rotated", "16-bit scaled to 8"), so that they can be counted.

    Args:
        data: the file.
        limits: limits on its size.
        ending: file name extension, such as ".tga": some formats can be recognised only by it.
        frame: number of the page of a TIFF file, or of the frame of a DICOM file, from 0; see `list_frames`.

    Raises:
        Unreadable: the image cannot be read correctly; the message is the reason.
    """
    if not data:
        raise Unreadable("empty file")
    if len(data) > limits.max_bytes:
        raise Unreadable(f"file too large (over {limits.max_bytes / 2**20:,.4g} MiB)")
    kind = sniff(data)
    # A camera's raw file begins like a TIFF, and Pillow would read its small preview.
    if kind is None or (kind == "TIFF" and ending in CAMERA_RAW):
        raise Unreadable(other_format(data, ending) or "not an image")
    tags: Any = {}
    more: tuple[str, ...] = ()
    _quiet_decoders()
    try:
        if kind == "DICOM":
            alone = not limits.all_frames
            return read_dicom(data, frame, limits.window, alone, lambda size: _check_header(size, limits))
        if kind == "TIFF":
            tags = tiff.read_tags(data, frame)
            more = ("first of several frames",) if tags.next and not limits.all_frames else ()
            if read := _misread_tiff(data, frame, tags, limits):
                return read[0], (*read[1], *more)
        return _by_pillow(data, kind, frame, limits)
    except Unreadable:
        raise
    except Image.DecompressionBombError as e:  # Pillow refuses before we see the size
        raise Unreadable("too many pixels (over 179 megapixels: reduce the image)") from e
    except Exception as e:
        # Decoders raise OSError, ValueError, SyntaxError, struct.error, ZeroDivisionError, MemoryError and more for
        # damaged data. All of them mean the same here.
        if kind == "TIFF" and (reason := tiff.unreadable_reason(tags, limits.window is not None)):
            if read := _by_tifffile(data, frame, tags, limits):
                return read[0], (*read[1], *more)
            raise Unreadable(reason) from e
        cut = isinstance(e, EOFError) or any(w in str(e).lower() for w in ("truncated", "unexpected end"))
        raise Unreadable(f"{'truncated' if cut else 'damaged'} {kind}") from e


def _misread_tiff(
    data: bytes, frame: int, tags: Any, limits: DecodeLimits
) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Return a page that Pillow would misread, and notes; None if Pillow reads it right."""
    planes = tiff.has_planes(tags)
    if tiff.is_signed_byte(tags):
        return _signed_bytes(data, frame, tags, limits)
    if not planes and (limits.window is None or not tiff.has_deep_colour(tags)):
        return None
    _check_header((tags[256], tags[257]), limits)
    if planes:
        return tiff.read_planes(tags, data, limits.window)
    if (read := tiff.read_by_tifffile(data, frame, tags, limits.window)) is None:
        raise Unreadable(tiff.DEEP_COLOUR)
    return read


def _signed_bytes(data: bytes, frame: int, tags: Any, limits: DecodeLimits) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a page of bytes from -128 to 127, which need a window, and notes."""
    _check_header((tags[256], tags[257]), limits)
    read = None if limits.window is None else tiff.read_by_tifffile(data, frame, tags, limits.window)
    if read is None:
        raise Unreadable(tiff.unreadable_reason(tags, limits.window is not None) or "signed pixels")
    return read


def _by_pillow(data: bytes, kind: str, frame: int, limits: DecodeLimits) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the pixels of a file that Pillow reads, and notes."""
    profile = None
    if kind == "PNG":
        data, profile = _without_decoration(data)
    with Image.open(io.BytesIO(data), formats=[kind]) as image:
        if frame:
            image.seek(frame)
        reduced = kind == "JPEG" and _reduce(image, limits)
        _check_header(image.size, limits)
        _check_depth(image, limits)
        if kind == "PNG":  # by its checksums: Pillow takes flipped bits for pixels
            Image.open(io.BytesIO(data)).verify()
        array, notes = pillow_pixels(image, data, limits.window)
        if _is_first_of_several(image) and not (kind == "TIFF" and limits.all_frames):
            pages = "first of several frames"  # which data.frames=all makes images
            notes = (*notes, pages if kind == "TIFF" else "first picture of an animation or series")
    if _has_other_colours(profile or image.info.get("icc_profile")):
        notes = (*notes, "colour profile other than sRGB, not applied")
    return array, (*notes, "large JPEG, decoded at a reduced size") if reduced else notes


def decode_pillow(image: Image.Image, limits: DecodeLimits = DecodeLimits()) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode the current frame of an image that was opened or made with Pillow, like `decode`.

    Raises:
        Unreadable: as `decode`; also if loading the image fails.
    """
    _quiet_decoders()
    try:
        _check_header(image.size, limits)
        _check_depth(image, limits)
        return pillow_pixels(image, None, limits.window)
    except Unreadable:
        raise
    except Exception as e:  # whatever loading a file that was opened lazily raises
        raise Unreadable(f"cannot be read ({type(e).__name__})") from e


def _by_tifffile(data: bytes, frame: int, tags: Any, limits: DecodeLimits) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Return a page that Pillow cannot read, and notes; None if tifffile is missing or cannot read it either."""
    try:
        _check_header((tags[256], tags[257]), limits)
        return tiff.read_by_tifffile(data, frame, tags, limits.window)
    except Unreadable:
        raise
    except Exception:  # as above; a codec of `imagecodecs` may be missing too
        return None


def list_frames(data: bytes) -> list[int]:
    """Return the numbers of the frames of an encoded image that `decode` takes; [0] if it has one, or is damaged.

    Raises:
        Unreadable: a DICOM file, and `pydicom` is not installed.
    """
    kind = sniff(data)
    _quiet_decoders()
    try:
        if kind == "TIFF":
            return tiff.list_pages(data) or [0]
        if kind == "DICOM":
            return list(range(count_frames(data)))
    except Unreadable:
        raise
    except Exception:  # `decode` says what is wrong
        pass
    return [0]


def _quiet_decoders() -> None:
    """Ignore warnings of the decoding libraries: Pillow warns of damaged EXIF, and of 89 to 179 megapixels.

    All threads share the filters, so these are not changed for a while but for good, and for these modules alone.
    """
    if warnings.filters[:1] != [_QUIET]:
        warnings.filterwarnings("ignore", module=_QUIET[3].pattern)


def _check_header(size: tuple[int, int], limits: DecodeLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        megapixels = f"{width * height / 1e6:.1f} megapixels, limit {limits.max_pixels / 1e6:g}"
        raise Unreadable(f"too many pixels ({megapixels}: reduce the image or raise data.max_pixels)")
    aspect = max(size) / min(size)  # a side of 0 raises, and counts as damage
    if aspect > limits.max_aspect:
        raise Unreadable(f"too narrow ({width}x{height}: {aspect:.0f} to 1, limit {limits.max_aspect:g})")


def _check_depth(image: Image.Image, limits: DecodeLimits) -> None:
    """Refuse a 16-bit image, before it is loaded, if a window needs the 8 bits that Pillow will drop."""
    deep = any(re.search(";16[BLN]", str(tile[3])) for tile in getattr(image, "tile", ()))
    if limits.window is not None and deep and len(image.getbands()) > 1:
        raise Unreadable(f"{image.format}{DEEP_CHANNELS}")


def _reduce(image: Any, limits: DecodeLimits) -> bool:
    """Set an opened JPEG that is too large to be decoded at a fraction of its size; return whether it was."""
    width, height = image.size
    largest = limits.max_pixels * (2 if image.info.get("progressive") else 8)  # progressive: all of it is in memory
    if not limits.max_pixels < width * height <= largest:
        return False
    factor = 2 if width * height <= 4 * limits.max_pixels else 4
    image.draft(image.mode, (width // factor, height // factor))
    return True


_DECORATION = (b"iCCP", b"tEXt", b"zTXt", b"iTXt")


def _without_decoration(data: bytes) -> tuple[bytes, bytes | None]:
    """Return a PNG file without texts and colour profile (Pillow limits them to 1 MiB), and the profile's start."""
    kept, at, profile = [data[:8]], 8, None
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if end > len(data):  # cut short or damaged: Pillow reports it
            break
        if kind == b"iCCP":
            packed = data[at + 8 : end - 4].partition(b"\0")[2][1:]
            try:
                profile = zlib.decompressobj().decompress(packed, 2**16)
            except zlib.error:
                profile = b""
        if kind not in _DECORATION:
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]]), profile


def _has_other_colours(profile: bytes | None) -> bool:
    """Return whether an ICC profile describes RGB or CMYK colours other than sRGB, by its name."""
    head = (profile or b"")[: 2**16]
    return head[16:20] in (b"RGB ", b"CMYK") and b"sRGB" not in head and "sRGB".encode("utf-16-be") not in head


def _is_first_of_several(image: Any) -> bool:
    try:
        image.seek(1)  # cheaper than n_frames, which reads all of them
        return True
    except Exception:  # EOFError if there is only one frame; others mean damage after the first
        return False
