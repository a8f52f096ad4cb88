"""Decode: one encoded image -> pixels, read rightly or refused with a reason.

`decode` turns the bytes of one JPEG, PNG, WebP, BMP, TIFF or GIF file into uint8 pixels and says what it
had to convert on the way. Pillow's plain `convert("RGB")` is not enough: it clips 16-bit images to two grey
levels, drops alpha, ignores EXIF rotation, and a PNG of 10 KB may unfold to a gigabyte. So size and shape
are judged from the header before any pixel is decoded, and everything else is converted here, explicitly.

`resize_square` and `to_channels` bring decoded pixels to the one shape a network takes.

Files are untrusted: they may waste bounded time and memory, and the only exception that leaves this module
because of a file's content is `Unreadable`.
"""

import io
import re
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from bigbigan.errors import UserError

__all__ = [
    "EXTENSIONS",
    "DecodeLimits",
    "Unreadable",
    "decode",
    "fit",
    "resize_square",
    "sniff",
    "to_channels",
]

# File name endings and the format each promises.
EXTENSIONS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".apng": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".gif": "GIF",
}

_ORIENTATION = 0x0112  # EXIF and TIFF tag
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Unreadable(Exception):
    """An image that cannot be used. `str(e)` is a short human reason, such as "truncated JPEG".

    `kind` is the reason without its figures, so that equal reasons can be counted together.
    """

    def __init__(self, reason: str, kind: str | None = None) -> None:
        super().__init__(reason)
        self.kind = kind or reason


@dataclass(frozen=True)
class DecodeLimits:
    """What one image may cost. Judged from the header, before decoding."""

    max_pixels: int = 25_000_000  # width x height
    max_bytes: int = 64 * 2**20  # encoded
    max_aspect: float = 20.0  # longer side / shorter side


def sniff(data: bytes) -> str | None:
    """The Pillow format name that the first bytes announce, or None when it is none of the six we read."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if data.startswith(b"BM"):
        return "BMP"
    return None


def decode(data: bytes, limits: DecodeLimits = DecodeLimits()) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decodes one image to uint8 [H, W, 1] (grey) or [H, W, 3] (colour), and notes what it converted.

    - 16-bit grey and colour keep their upper 8 bits (12-bit TIFF: upper 8 of 12); nothing is clipped.
    - Alpha and transparent palette entries are composited on white, as a viewer on a page shows them.
    - CMYK, YCCK, YCbCr, palettes and 1-bit are converted; EXIF orientation is applied.
    - Of several frames or pages the first is taken.

    Notes are fixed phrases ("EXIF rotated", "16-bit scaled to 8"), so that they can be counted.

    Raises:
        Unreadable: for anything that cannot be read rightly, whatever the reason.
    """
    if not data:
        raise Unreadable("empty file")
    if len(data) > limits.max_bytes:
        raise too_many_bytes(len(data), limits)
    kind = sniff(data)
    if kind is None:
        raise Unreadable(_other_format(data))
    try:
        with warnings.catch_warnings():
            # Pillow warns of damaged EXIF, and of 89 to 179 megapixels, which `limits` judges here instead.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=[kind]) as image:
                _check_header(image.size, limits)
                return _pixels(image, data)
    except Unreadable:
        raise
    except Image.DecompressionBombError as e:  # over 179 megapixels: Pillow refuses before we see the size
        found = re.search(r"\((\d+) pixels\)", str(e))
        raise _too_many_pixels(int(found[1]) if found else 2 * 89_478_485, limits) from e
    except Exception as e:
        # Decoders meet damaged data with OSError, ValueError, SyntaxError, struct.error, ZeroDivisionError,
        # MemoryError and more. All of them mean the same here.
        raise Unreadable(_reason(kind, e)) from e


def too_many_bytes(size: int, limits: DecodeLimits) -> Unreadable:
    """The refusal of a file of `size` bytes (before it is read)."""
    return Unreadable(f"{size / 2**20:.1f} MiB, limit {limits.max_bytes / 2**20:g}", kind="file too large")


def _too_many_pixels(pixels: int, limits: DecodeLimits) -> Unreadable:
    reason = f"{pixels / 1e6:.1f} megapixels, limit {limits.max_pixels / 1e6:g}"
    return Unreadable(reason, kind="too many pixels")


def _check_header(size: tuple[int, int], limits: DecodeLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise Unreadable("no pixels")
    if width * height > limits.max_pixels:
        raise _too_many_pixels(width * height, limits)
    aspect = max(size) / min(size)
    if aspect > limits.max_aspect:
        raise Unreadable(
            f"{width}x{height}: sides {aspect:.0f} to 1, limit {limits.max_aspect:g}", kind="too narrow"
        )


def _other_format(data: bytes) -> str:
    """A better word than "not an image" for the image formats that people meet and we do not read."""
    if data[4:8] == b"ftyp" and data[8:11] in (b"hei", b"hev", b"mif", b"avi"):
        return "HEIC or AVIF (convert to JPEG or PNG)"
    if data[128:132] == b"DICM":
        return "DICOM (convert to PNG)"
    return "not an image"


def _reason(kind: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "truncated" in text.lower() or "unexpected end" in text.lower() or isinstance(error, EOFError):
        return f"truncated {kind}"
    if isinstance(error, MemoryError):
        return f"{kind} needs too much memory"
    return f"damaged {kind}"


def _pixels(image: Any, data: bytes) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pixels of the first frame of an opened image, upright."""
    notes: list[str] = []
    tags = getattr(image, "tag_v2", None) or {}  # TIFF only; read now, as loading removes the orientation
    bits, min_is_white = _int_tag(tags, 258), _int_tag(tags, 262) == 0
    tiff_turned = _int_tag(tags, _ORIENTATION) in _TRANSPOSE
    is_png = data[12:16] == b"IHDR" and len(data) > 25
    if is_png:
        _check_png(data)
        bits = data[24]
    image.load()

    orientation = 1
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # EXIF is decoration: whatever is wrong with it, the pixels stand
        notes.append("EXIF unreadable")
    if tiff_turned:
        notes.append("EXIF rotated")  # by Pillow, on loading
    transpose = _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    if transpose is not None:
        notes.append("EXIF rotated")

    upright = image.transpose(transpose) if transpose is not None else image
    upright.info = image.info
    if upright.mode.startswith("I") or upright.mode == "F":
        array = _from_deep(upright, bits, min_is_white, notes)
    else:
        array = _from_8bit(upright, bits, notes)
        if (
            is_png and data[25] == 4 and array.shape[2] == 3
        ):  # 16-bit grey + alpha, which Pillow gives as RGBA
            array = array[:, :, :1]

    try:
        image.seek(1)  # cheaper than n_frames, which walks through all of them
        notes.append("first of several frames")
    except Exception:  # EOFError when there is only one; others come from damage behind the first frame
        pass
    return np.ascontiguousarray(array), tuple(notes)


def _check_png(data: bytes) -> None:
    """Checks that the pixel data is whole, by length and checksum: Pillow takes flipped bits for pixels."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            if end + 4 > len(data):
                raise Unreadable("truncated PNG")
            if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
                raise Unreadable("damaged PNG")
        at = end + 4


def _int_tag(tags: Any, key: int) -> int:
    """A TIFF tag as one integer (the first of a tuple), -1 when absent."""
    try:
        value = tags.get(key, -1)
        return int(value[0] if isinstance(value, tuple) else value)
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return -1


def _from_deep(image: Image.Image, bits: int, min_is_white: bool, notes: list[str]) -> np.ndarray:
    """Modes I, I;16 and its kin: the upper 8 bits of a 16-bit (or 12-bit) grey image, [H, W, 1]."""
    if image.mode == "F":
        raise Unreadable("float pixels (no fixed range to scale from; save as 8 or 16 bits)")
    values = np.asarray(image).astype(np.int32)  # 32-bit unsigned wraps below 0, and is refused
    if bits == 32 or values.min() < 0 or values.max() > 65_535:
        raise Unreadable("32-bit or signed pixels (no fixed range to scale from; save as 8 or 16 bits)")
    depth = 12 if bits == 12 else 16
    if min_is_white:  # Pillow inverts such TIFFs at 8 bits but not at 16
        values = 2**depth - 1 - values
    notes.append(f"{depth}-bit scaled to 8")
    if depth == 16 and 0 < values.max() < 4096:
        # A 12-bit camera in a 16-bit file. Stretching each image by its own maximum would change brightness
        # between images, so only say it.
        notes.append("16-bit, but values under 4096: dark, 16 levels or fewer")
    if "transparency" in image.info:
        notes.append("transparency ignored")
    return (values >> (depth - 8)).astype(np.uint8)[:, :, None]


def _from_8bit(image: Image.Image, bits: int, notes: list[str]) -> np.ndarray:
    """Every other mode, [H, W, 1] or [H, W, 3]."""
    if bits == 16:
        notes.append("16-bit scaled to 8")  # Pillow takes the upper byte itself for more than one channel
    mode = image.mode
    if mode == "1":
        notes.append("1-bit")
    elif mode in ("P", "PA"):
        notes.append("palette")
    elif mode == "CMYK":
        notes.append("CMYK converted")  # Adobe's inverted JPEGs and YCCK are already set right by Pillow
    elif mode in ("YCbCr", "LAB", "HSV"):
        notes.append(f"{mode} converted")

    if image.has_transparency_data:
        array = np.asarray(image.convert("LA" if mode in ("1", "L", "LA", "La") else "RGBA"))
        array, alpha = array[:, :, :-1], array[:, :, -1:].astype(np.uint16)
        if alpha.min() < 255:
            notes.append("alpha composited on white" if alpha.max() > 0 else "wholly transparent: all white")
            array = ((array * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    elif mode in ("1", "L"):
        array = np.asarray(image.convert("L"))[:, :, None]
    else:
        array = np.asarray(image.convert("RGB"))
    if mode in ("P", "PA") and array.shape[2] == 3 and (array == array[:, :, :1]).all():
        array = array[:, :, :1]  # a palette of greys, as every grey GIF has
    return array


def to_channels(array: np.ndarray, channels: int) -> np.ndarray:
    """uint8 [..., 1|3] -> uint8 [..., channels]: luma (ITU-R 601-2, as Pillow's "L") or repetition."""
    have = array.shape[-1]
    if have not in (1, 3) or channels not in (1, 3):
        raise UserError(f"images have 1 (grey) or 3 (colour) channels, not {have} to {channels}")
    if have == channels:
        return array
    if channels == 3:
        return np.repeat(array, 3, axis=-1)
    red, green, blue = (array[..., i].astype(np.uint32) for i in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)[..., None]


def fit(height: int, width: int, resolution: int) -> str:
    """How an image comes to `resolution`: "exact", "padded" (with zeros), "enlarged" or "reduced".

    Square images a little smaller than the resolution (more than 0.8 of it) are padded, which keeps their
    pixels exact: 28 -> 32, as is usual for MNIST.
    """
    side = min(height, width)
    if height == width == resolution:
        return "exact"
    if height == width and 0.8 * resolution < side < resolution:
        return "padded"
    return "enlarged" if side < resolution else "reduced"


def resize_square(array: np.ndarray, resolution: int, crop: str = "center") -> np.ndarray:
    """Brings a whole image, uint8 [H, W, C], to uint8 [R, R, C].

    `crop="center"` cuts the largest centred square first; `crop="stretch"` keeps everything and changes the
    aspect ratio. Resizing is Pillow's bicubic both ways: its kernel widens when reducing, so it does not
    alias (torch's plain interpolation does). Small squares are padded instead: see `fit`.

    Raises:
        UserError: for an unknown `crop`.
    """
    if crop not in ("center", "stretch"):
        raise UserError(f"crop must be 'center' or 'stretch', not {crop!r}")
    height, width, channels = array.shape
    if crop == "center" and height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        array = array[top : top + side, left : left + side]
        height = width = side
    way = fit(height, width, resolution)
    if way == "exact":
        return array
    if way == "padded":
        before = (resolution - height) // 2
        after = resolution - height - before
        return np.pad(array, ((before, after), (before, after), (0, 0)))
    image = Image.fromarray(array[:, :, 0] if channels == 1 else np.ascontiguousarray(array))
    resized = np.asarray(image.resize((resolution, resolution), Image.Resampling.BICUBIC))
    return resized[:, :, None] if channels == 1 else resized
