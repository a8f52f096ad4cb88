"""Decode: one encoded image -> pixels, read rightly or refused with a reason.

Pillow's plain `convert("RGB")` is not enough: it clips 16-bit images to two grey levels, drops alpha, ignores EXIF
rotation, and a PNG of 10 KB may unfold to a gigabyte. So size and shape are judged from the header before any pixel
is decoded, and everything else is converted here, explicitly.

Files are untrusted: they may waste bounded time and memory, and the only exception that leaves this module
because of a file's content is `Unreadable`.
"""

import io
import re
import threading
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from bigbigan.errors import UserError

__all__ = ["EXTENSIONS", "DecodeLimits", "Unreadable", "decode", "fit", "resize_square", "sniff", "to_channels"]

# File name endings and the format each promises.
EXTENSIONS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    ".webp": "WEBP",
    ".gif": "GIF",
}

_MAGIC = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<WEBP>RIFF....WEBP)"
    rb"|(?P<GIF>GIF8[79]a)|(?P<TIFF>II[*+]\0|MM\0[*+])|(?P<BMP>BM)",
    re.DOTALL,
)
_ORIENTATION = 0x0112  # EXIF and TIFF tag
_TRANSPOSE = {  # orientation: what sets it right
    **{2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM},
    **{5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270},
    **{7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90},
}
_CONVERTED = {
    **{"1": "1-bit", "P": "palette", "PA": "palette"},
    "CMYK": "CMYK converted",  # Adobe's inverted JPEGs and YCCK are already set right by Pillow
    **{mode: f"{mode} converted" for mode in ("YCbCr", "LAB", "HSV")},
}


class Unreadable(Exception):
    """An image that cannot be used. `str(e)` is a short human reason, such as "truncated JPEG"."""

    @property
    def kind(self) -> str:
        """The reason without the figures behind it in brackets, so that equal reasons can be counted together."""
        return str(self).partition(" (")[0]


@dataclass(frozen=True)
class DecodeLimits:
    """What one image may cost. Judged from the header, before decoding."""

    max_pixels: int = 25_000_000  # width x height
    max_bytes: int = 64 * 2**20  # encoded
    max_aspect: float = 20.0  # longer side / shorter side


def sniff(data: bytes) -> str | None:
    """The Pillow format name that the first bytes announce, or None when it is none of the six we read."""
    found = _MAGIC.match(data)
    return found.lastgroup if found else None


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
        raise Unreadable(f"file too large (over {limits.max_bytes / 2**20:g} MiB)")
    kind = sniff(data)
    if kind is None:
        raise Unreadable(_other_format(data))
    try:
        # Pillow warns of damaged EXIF, and of 89 to 179 megapixels, which `limits` judges here instead.
        with _without_warnings, Image.open(io.BytesIO(data), formats=[kind]) as image:
            _check_header(image.size, limits)
            if kind == "PNG":  # by its checksums: Pillow takes flipped bits for pixels
                Image.open(io.BytesIO(data)).verify()
            return _pixels(image, data)
    except Unreadable:
        raise
    except Image.DecompressionBombError as e:  # Pillow refuses before we see the size
        raise Unreadable("too many pixels (over 179 megapixels)") from e
    except Exception as e:
        # Decoders meet damaged data with OSError, ValueError, SyntaxError, struct.error, ZeroDivisionError,
        # MemoryError and more. All of them mean the same here.
        cut = isinstance(e, EOFError) or any(w in str(e).lower() for w in ("truncated", "unexpected end"))
        raise Unreadable(f"{'truncated' if cut else 'damaged'} {kind}") from e


class _WithoutWarnings:
    """`warnings.catch_warnings` for several threads at once: the first to enter changes the filters, and the last to
    leave puts them back."""

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.caught = warnings.catch_warnings()
                self.caught.__enter__()
                warnings.simplefilter("ignore")
            self.inside += 1

    def __exit__(self, *exception: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.caught.__exit__(None, None, None)


_without_warnings = _WithoutWarnings()


def _check_header(size: tuple[int, int], limits: DecodeLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        megapixels = f"{width * height / 1e6:.1f} megapixels, limit {limits.max_pixels / 1e6:g}"
        raise Unreadable(f"too many pixels ({megapixels})")
    aspect = max(size) / min(size)  # a side of 0 is damage like any other
    if aspect > limits.max_aspect:
        raise Unreadable(f"too narrow ({width}x{height}: {aspect:.0f} to 1, limit {limits.max_aspect:g})")


def _other_format(data: bytes) -> str:
    """A better word than "not an image" for the image formats that people meet and we do not read."""
    if data[4:8] == b"ftyp" and data[8:11] in (b"hei", b"hev", b"mif", b"avi"):
        return "HEIC or AVIF (convert to JPEG or PNG)"
    if data[128:132] == b"DICM":
        return "DICOM (convert to PNG)"
    return "not an image"


def _pixels(image: Any, data: bytes) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pixels of the first frame of an opened image, upright."""
    notes: list[str] = []
    tags = getattr(image, "tag_v2", None) or {}  # TIFF only; read now, as loading removes the orientation
    bits, min_is_white = np.ravel(tags.get(258, 0))[0], tags.get(262) == 0
    tiff_turned = tags.get(_ORIENTATION) in _TRANSPOSE
    if image.format == "PNG":
        bits = data[24]
    image.load()

    orientation = 1
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # EXIF is decoration: whatever is wrong with it, the pixels stand
        notes.append("EXIF unreadable")
    transpose = _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    if tiff_turned or transpose is not None:  # a TIFF was turned by Pillow, on loading
        notes.append("EXIF rotated")
    upright = image.transpose(transpose) if transpose is not None else image
    upright.info = image.info
    if upright.mode.startswith("I") or upright.mode == "F":
        array = _from_deep(upright, bits, min_is_white, notes)
    else:
        array = _from_8bit(upright, bits, notes)
        if image.format == "PNG" and data[25] == 4:  # grey + alpha, which Pillow gives as RGBA at 16 bits
            array = array[:, :, :1]

    try:
        image.seek(1)  # cheaper than n_frames, which walks through all of them
        notes.append("first of several frames")
    except Exception:  # EOFError when there is only one; others come from damage behind the first frame
        pass
    return np.ascontiguousarray(array), tuple(notes)


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
    if mode in _CONVERTED:
        notes.append(_CONVERTED[mode])
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


def fit(shape: tuple[int, ...], resolution: int, crop: str = "center", pad: bool = False) -> str:
    """How `resize_square` brings an array [H, W, C] to R: "exact", "padded", "enlarged" or "reduced"."""
    height, width = shape[:2] if crop == "stretch" else (min(shape[:2]),) * 2
    if height == width == resolution:
        return "exact"
    if pad and height == width and 0.8 * resolution < height < resolution:
        return "padded"
    return "enlarged" if min(height, width) < resolution else "reduced"


def resize_square(array: np.ndarray, resolution: int, crop: str = "center", pad: bool = False) -> np.ndarray:
    """Brings a whole image, uint8 [H, W, C], to uint8 [R, R, C].

    `crop="center"` cuts the largest centred square first; `crop="stretch"` keeps everything and changes the
    aspect ratio. Resizing is Pillow's bicubic both ways: its kernel widens when reducing, so it does not
    alias (torch's plain interpolation does).

    With `pad`, squares a little smaller than R (more than 0.8 of it) get zeros around them instead, which keeps
    their pixels exact: 28 -> 32, as is usual for MNIST. `load_pixels` asks for it for arrays, not for image files.

    Raises:
        UserError: for an unknown `crop`.
    """
    if crop not in ("center", "stretch"):
        raise UserError(f"crop must be 'center' or 'stretch', not {crop!r}")
    way = fit(array.shape, resolution, crop, pad)
    height, width, channels = array.shape
    if crop == "center":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        array = array[top : top + side, left : left + side]
    if way == "exact":
        return array
    if way == "padded":
        before, rest = divmod(resolution - len(array), 2)
        return np.pad(array, ((before, before + rest), (before, before + rest), (0, 0)))
    image = Image.fromarray(array[:, :, 0] if channels == 1 else np.ascontiguousarray(array))
    resized = np.asarray(image.resize((resolution, resolution), Image.Resampling.BICUBIC))
    return resized[:, :, None] if channels == 1 else resized
