"""Convert an image that Pillow opened to uint8 pixels: 16 bits, alpha, palettes, CMYK, EXIF orientation.

Pillow's plain `convert("RGB")` is not enough: it clips 16-bit images to two grey levels, drops alpha and ignores EXIF
rotation.
"""

from typing import Any

import numpy as np
from PIL import Image

from bigbigan.data.formats import Unreadable
from bigbigan.data.window import ToBytes

__all__ = ["BLANK", "ORIENTATION", "deep_to_8_bits", "is_turned", "on_white", "pillow_pixels", "turned"]

ORIENTATION = 0x0112  # EXIF and TIFF tag
_QUARTER_TURNS = {3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}  # by orientation, anticlockwise, to turn an image upright
BLANK = "white on a transparent background: all white"  # a note
_MIRRORED = (2, 4, 5, 7)  # orientations
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
    tiff_turned = is_turned(tags.get(ORIENTATION))  # Pillow turns a TIFF when it loads it
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
    if tiff_turned or is_turned(orientation):
        notes.append("EXIF rotated")
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if bits == 32 and unsigned and values.dtype == np.int32:  # Pillow has no unsigned type of 32 bits
            values = values.view(np.uint32)
        array = deep_to_8_bits(values, bits, window, notes)
        array = 255 - array if min_is_white else array  # Pillow inverts such TIFFs at 8 bits but not at 16
        if "transparency" in image.info:
            notes.append("transparency ignored")
    else:
        array = _from_8bit(image, bits, notes)
        if colour_type == 4:  # grey + alpha, which Pillow reads as RGBA at 16 bits
            array = array[:, :, :1]
    return turned(array, orientation), tuple(notes)


def is_turned(orientation: object) -> bool:
    """Return whether an image with this EXIF or TIFF orientation is stored turned or mirrored."""
    return orientation in _QUARTER_TURNS or orientation in _MIRRORED


def turned(array: np.ndarray, orientation: Any) -> np.ndarray:
    """Return an image [H, W, C] of this EXIF or TIFF orientation upright; as it is if the number means nothing."""
    if not is_turned(orientation):
        return np.ascontiguousarray(array)
    array = np.rot90(array, _QUARTER_TURNS.get(orientation, 0))
    return np.ascontiguousarray(array[:, ::-1] if orientation in _MIRRORED else array)


def on_white(array: np.ndarray, alpha: np.ndarray, notes: list[str], multiplied: bool = False) -> np.ndarray:
    """Return uint8 pixels [H, W, C] composited on white.

    Args:
        array: the pixels.
        alpha: their opacity, uint8 [H, W, 1].
        notes: a note is added if any pixel is transparent.
        multiplied: whether the pixels were already multiplied by their opacity.
    """
    alpha = alpha.astype(np.uint16)
    if alpha.min() == 255:
        return array
    notes.append("alpha composited on white" if alpha.max() > 0 else "wholly transparent: all white")
    seen = array.astype(np.uint16) if multiplied else (array * alpha + 127) // 255
    composited: np.ndarray = np.minimum(seen + (255 - alpha), 255).astype(np.uint8)
    if alpha.max() > 0 and composited.min() == 255:
        notes.append(BLANK)
    return composited


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
        array = on_white(array[:, :, :-1], array[:, :, -1:], notes)
    elif mode in ("1", "L"):
        array = np.asarray(image.convert("L"))[:, :, None]
    else:
        array = np.asarray(image.convert("RGB"))
    if mode in ("P", "PA") and array.shape[2] == 3 and (array == array[:, :, :1]).all():
        array = array[:, :, :1]  # a palette of greys, as in every grey GIF
    return array
