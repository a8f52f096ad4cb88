"""Convert an image that Pillow opened to uint8 pixels: 16 bits, alpha, palettes, CMYK, EXIF orientation.

Pillow's plain `convert("RGB")` is not enough: it clips 16-bit images to two grey levels, drops alpha and ignores EXIF
rotation.
"""

from typing import Any

import numpy as np
from PIL import Image

from bigbigan.data.formats import Unreadable
from bigbigan.data.window import ToBytes

__all__ = ["ORIENTATION", "deep_to_8_bits", "pillow_pixels"]

ORIENTATION = 0x0112  # EXIF and TIFF tag
_TRANSPOSE = {  # orientation: the operation that turns the image upright
    **{2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM},
    **{5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270},
    **{7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90},
}
_CONVERTED = {
    **{"1": "1-bit", "P": "palette", "PA": "palette"},
    "CMYK": "CMYK converted",  # Pillow already corrects Adobe's inverted JPEGs and YCCK
    **{mode: f"{mode} converted" for mode in ("YCbCr", "LAB", "HSV")},
}


def pillow_pixels(image: Any, data: bytes | None, window: ToBytes | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the pixels of an opened image's current frame, upright, and notes on what was converted.

    Args:
        image: a `PIL.Image.Image`.
        data: the file it was opened from, if known.
        window: reduces grey values of more than 8 bits to 8; by default the range of their format does.

    Raises:
        Unreadable: the pixel format is not supported.
    """
    notes: list[str] = []
    tags = getattr(image, "tag_v2", None) or {}  # TIFF only; read now, as loading removes the orientation
    bits, min_is_white = np.ravel(tags.get(258, 0))[0], tags.get(262) == 0
    unsigned = bool(tags) and np.ravel(tags.get(339, 1))[0] == 1
    tiff_turned = tags.get(ORIENTATION) in _TRANSPOSE
    colour_type = None
    if image.format == "PNG" and data is not None:
        bits, colour_type = data[24], data[25]
    elif image.mode == "I" and data is None:
        bits = 32
    image.load()

    orientation = 1
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF does not affect the pixels
        notes.append("EXIF unreadable")
    transpose = _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    if tiff_turned or transpose is not None:  # Pillow turns a TIFF when it loads it
        notes.append("EXIF rotated")
    upright = image.transpose(transpose) if transpose is not None else image
    upright.info = image.info
    if upright.mode.startswith("I") or upright.mode == "F":
        values = np.asarray(upright)
        if bits == 32 and unsigned and values.dtype == np.int32:  # Pillow has no unsigned type of 32 bits
            values = values.view(np.uint32)
        array = deep_to_8_bits(values, bits, window, notes)
        array = 255 - array if min_is_white else array  # Pillow inverts such TIFFs at 8 bits but not at 16
        if "transparency" in image.info:
            notes.append("transparency ignored")
    else:
        array = _from_8bit(upright, bits, notes)
        if colour_type == 4:  # grey + alpha, which Pillow reads as RGBA at 16 bits
            array = array[:, :, :1]
    return np.ascontiguousarray(array), tuple(notes)


def deep_to_8_bits(values: np.ndarray, bits: int, window: ToBytes | None, notes: list[str]) -> np.ndarray:
    """Return grey values [H, W] of more than 8 bits as uint8 [H, W, 1]: by a window, or else their upper 8 bits.

    Raises:
        Unreadable: without a window, float pixels or those of 32 bits.
    """
    if window is not None:
        notes.append("more than 8 bits, windowed")
        return window(values)[:, :, None]
    if values.dtype.kind == "f":
        raise Unreadable("float pixels (no fixed range to scale from; set data.window, or save as 8 or 16 bits)")
    if bits == 32 or values.min() < 0 or values.max() > 65_535:
        raise Unreadable(
            "32-bit or signed pixels (no fixed range to scale from; set data.window, or save as 8 or 16 bits)"
        )
    depth = bits if 8 < bits < 16 else 16
    notes.append(f"{depth}-bit scaled to 8")
    if depth == 16 and 0 < values.max() < 4096:
        # A 12-bit camera in a 16-bit file. Stretching each image by its own maximum would change brightness
        # between images, so this is only noted.
        notes.append("16-bit, but values under 4096: dark, 16 levels or fewer")
    return (values.astype(np.int32) >> (depth - 8)).astype(np.uint8)[:, :, None]


def _from_8bit(image: Image.Image, bits: int, notes: list[str]) -> np.ndarray:
    """Return the pixels of every other mode, [H, W, 1] or [H, W, 3]."""
    if bits == 16:
        notes.append("16-bit scaled to 8")  # Pillow itself takes the upper byte if there are several channels
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
        array = array[:, :, :1]  # a palette of greys, as in every grey GIF
    return array
