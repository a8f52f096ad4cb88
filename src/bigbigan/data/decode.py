"""Decode: one encoded image -> pixels, read rightly or refused with a reason.

Pillow's plain `convert("RGB")` is not enough: it clips 16-bit images to two grey levels, drops alpha, ignores EXIF
rotation, and a PNG of 10 KB may unfold to a gigabyte. So size and shape are judged from the header before any pixel
is decoded, and everything else is converted here, explicitly.

Files are untrusted: they may waste bounded time and memory, and the only exception that leaves this module
because of a file's content is `Unreadable`.
"""

import io
import re
import struct
import threading
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from bigbigan.errors import UserError

__all__ = [
    "EXTENSIONS",
    "HEAD",
    "NOT_READ",
    "DecodeLimits",
    "Unreadable",
    "decode",
    "decode_pillow",
    "fit",
    "other_format",
    "resize_square",
    "sniff",
    "to_channels",
]

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

    max_pixels: int = 25_000_000  # width x height; larger JPEG files are decoded at a half or a quarter
    max_bytes: int = 64 * 2**20  # encoded
    max_aspect: float = 20.0  # longer side / shorter side


def sniff(data: bytes) -> str | None:
    """The Pillow format name that the first bytes announce, or None when it is none of the six we read."""
    found = _MAGIC.match(data)
    return found.lastgroup if found else None


def decode(data: bytes, limits: DecodeLimits = DecodeLimits(), ending: str = "") -> tuple[np.ndarray, tuple[str, ...]]:
    """Decodes one image to uint8 [H, W, 1] (grey) or [H, W, 3] (colour), and notes what it converted.

    - 16-bit grey and colour keep their upper 8 bits (12-bit TIFF: upper 8 of 12); nothing is clipped.
    - Alpha and transparent palette entries are composited on white, as a viewer on a page shows them.
    - CMYK, YCCK, YCbCr, palettes and 1-bit are converted; EXIF orientation is applied.
    - Of several frames or pages the first is taken.
    - JPEG files of up to 8 times `limits.max_pixels` (progressive ones: twice) are decoded at a reduced size.
    - Colour profiles are not applied; one other than sRGB is noted.

    Notes are fixed phrases ("EXIF rotated", "16-bit scaled to 8"), so that they can be counted.

    Args:
        data: the file.
        limits: what it may cost.
        ending: of the file's name, such as ".tga": some formats are known by nothing else.

    Raises:
        Unreadable: for anything that cannot be read rightly, whatever the reason.
    """
    if not data:
        raise Unreadable("empty file")
    if len(data) > limits.max_bytes:
        raise Unreadable(f"file too large (over {limits.max_bytes / 2**20:g} MiB)")
    kind = sniff(data)
    if kind is None or (kind == "TIFF" and ending in _RAW):  # a raw file begins like a TIFF, and holds a small preview
        raise Unreadable(other_format(data, ending) or "not an image")
    tags: Any = {}
    try:
        with _without_warnings:  # Pillow warns of damaged EXIF, and of 89 to 179 megapixels
            if kind == "TIFF" and _is_read_by_planes(tags := _tiff_tags(data)):
                _check_header((tags[256], tags[257]), limits)
                return _from_planes(tags, data)
            profile = None
            if kind == "PNG":
                data, profile = _without_decoration(data)
            with Image.open(io.BytesIO(data), formats=[kind]) as image:
                reduced = kind == "JPEG" and _reduce(image, limits)
                _check_header(image.size, limits)
                if kind == "PNG":  # by its checksums: Pillow takes flipped bits for pixels
                    Image.open(io.BytesIO(data)).verify()
                array, notes = _pixels(image, data)
                if _is_first_of_several(image):
                    notes = (*notes, "first of several frames")
            if _has_other_colours(profile or image.info.get("icc_profile")):
                notes = (*notes, "colour profile other than sRGB, not applied")
            return array, (*notes, "large JPEG, decoded at a reduced size") if reduced else notes
    except Unreadable:
        raise
    except Image.DecompressionBombError as e:  # Pillow refuses before we see the size
        raise Unreadable("too many pixels (over 179 megapixels: reduce the image)") from e
    except Exception as e:
        # Decoders meet damaged data with OSError, ValueError, SyntaxError, struct.error, ZeroDivisionError,
        # MemoryError and more. All of them mean the same here.
        if kind == "TIFF" and (reason := _reason_of_tiff(tags)):
            raise Unreadable(reason) from e
        cut = isinstance(e, EOFError) or any(w in str(e).lower() for w in ("truncated", "unexpected end"))
        raise Unreadable(f"{'truncated' if cut else 'damaged'} {kind}") from e


def decode_pillow(image: Image.Image, limits: DecodeLimits = DecodeLimits()) -> tuple[np.ndarray, tuple[str, ...]]:
    """Like `decode`, for an image that was opened or made with Pillow: the frame it stands at.

    Raises:
        Unreadable: as `decode`; also where loading the image fails.
    """
    try:
        with _without_warnings:
            _check_header(image.size, limits)
            return _pixels(image, None)
    except Unreadable:
        raise
    except Exception as e:  # whatever loading a file that was opened lazily raises
        raise Unreadable(f"cannot be read ({type(e).__name__})") from e


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
        raise Unreadable(f"too many pixels ({megapixels}: reduce the image or raise data.max_pixels)")
    aspect = max(size) / min(size)  # a side of 0 is damage like any other
    if aspect > limits.max_aspect:
        raise Unreadable(f"too narrow ({width}x{height}: {aspect:.0f} to 1, limit {limits.max_aspect:g})")


def _reduce(image: Any, limits: DecodeLimits) -> bool:
    """Whether an opened JPEG is larger than allowed; then it will be decoded at a fraction of its size that is not."""
    width, height = image.size
    most = limits.max_pixels * (2 if image.info.get("progressive") else 8)  # a progressive one is held as a whole
    if not limits.max_pixels < width * height <= most:
        return False
    factor = 2 if width * height <= 4 * limits.max_pixels else 4
    image.draft(image.mode, (width // factor, height // factor))
    return True


# Formats that are not read: how a file begins, what it is, what to convert it to. Those of `_PICTURES` hold photographs
# or scans, and are reported whatever a file is called.
_PICTURES = (
    (re.compile(rb".{4}ftyp(hei|hev|mif|avi)", re.DOTALL), "HEIC or AVIF", "JPEG or PNG"),
    (re.compile(rb".{128}DICM", re.DOTALL), "DICOM", "PNG"),
    (re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"), "JPEG 2000", "PNG"),
    (re.compile(rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a"), "JPEG XL", "PNG"),
    (re.compile(rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s+\d+\s|P7\nWIDTH |P[Ff]\n\d"), "PGM, PPM or a relative", "PNG"),
    (re.compile(rb"8BPS\0[\1\2]"), "Photoshop", "PNG"),
    (re.compile(rb"\x76\x2f\x31\x01"), "OpenEXR", "PNG"),
    (re.compile(rb"#\?(RADIANCE|RGBE)"), "Radiance HDR", "PNG"),
    (re.compile(rb"SIMPLE  ="), "FITS", "PNG"),
    (re.compile(rb"\x5c\x01\0\0|.{344}(n\+1|ni1)\0", re.DOTALL), "NIfTI", "PNG"),
    (re.compile(rb"FUJIFILMCCD-RAW|II[RU][OS\0]|.{6}HEAPCCDR", re.DOTALL), "a camera's raw format", "JPEG or PNG"),
)
_OTHERS = (
    (re.compile(rb"\x89HDF\r\n"), "HDF5", "PNG or npz"),
    (re.compile(rb"\x93NUMPY"), "a NumPy array", "PNG or npz"),
    (re.compile(rb"%PDF-"), "PDF", "PNG"),
    (re.compile(rb"%!PS"), "PostScript", "PNG"),
    (re.compile(rb"\s*(<\?xml.{0,200})?<svg", re.DOTALL), "SVG", "PNG"),
    (re.compile(rb"\0\0[\1\2]\0[^\0]\0"), "a Windows icon", "PNG"),
    (re.compile(rb"\x1aE\xdf\xa3|.{4}ftyp|RIFF.{4}AVI ", re.DOTALL), "a film", "JPEG, frame by frame"),
)
HEAD = 360  # bytes of a file that tell its format
_RAW = {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"}
_BY_ENDING = {".tga": "TGA", ".pcx": "PCX", ".sgi": "SGI", ".xcf": "GIMP's format"}
_BY_ENDING |= dict.fromkeys(_RAW, "a camera's raw format")


# Endings of image files that are not read: they are listed as unreadable, with the reason, and not overlooked.
NOT_READ = {".heic", ".heif", ".avif", ".dcm", ".dicom", ".psd", ".jp2", ".j2k", ".jpx", ".j2c", ".jpc", ".jxl"}
NOT_READ |= {".pgm", ".ppm", ".pbm", ".pnm", ".pam", ".pfm", ".exr", ".fits", *_BY_ENDING}


def other_format(data: bytes, ending: str = "", pictures_alone: bool = False) -> str | None:
    """What to say of an image in a format that is not read, by its first `HEAD` bytes or by its name's ending; None
    where they tell nothing."""
    for magic, name, target in _PICTURES if pictures_alone else (*_PICTURES, *_OTHERS):
        if magic.match(data[:HEAD]):
            return f"{name} (convert to {target})"
    return f"{_BY_ENDING[ending]} (convert to PNG)" if ending in _BY_ENDING else None


_DECORATION = (b"iCCP", b"tEXt", b"zTXt", b"iTXt")


def _without_decoration(data: bytes) -> tuple[bytes, bytes | None]:
    """A PNG file without its texts and colour profile, which Pillow limits to 1 MiB; and how the profile begins."""
    kept, at, profile = [data[:8]], 8, None
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if end > len(data):  # cut short, or damaged: for Pillow to tell
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
    """Whether an ICC profile is of RGB or CMYK colours, but not sRGB by its name."""
    head = (profile or b"")[: 2**16]
    return head[16:20] in (b"RGB ", b"CMYK") and b"sRGB" not in head and "sRGB".encode("utf-16-be") not in head


def _pixels(image: Any, data: bytes | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pixels of the frame an opened image stands at, upright. `data` is the file, where it is known."""
    notes: list[str] = []
    tags = getattr(image, "tag_v2", None) or {}  # TIFF only; read now, as loading removes the orientation
    bits, min_is_white = np.ravel(tags.get(258, 0))[0], tags.get(262) == 0
    tiff_turned = tags.get(_ORIENTATION) in _TRANSPOSE
    colour_type = None
    if image.format == "PNG" and data is not None:
        bits, colour_type = data[24], data[25]
    elif image.mode == "I" and data is None:
        bits = 32
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
        if colour_type == 4:  # grey + alpha, which Pillow gives as RGBA at 16 bits
            array = array[:, :, :1]
    return np.ascontiguousarray(array), tuple(notes)


def _is_first_of_several(image: Any) -> bool:
    try:
        image.seek(1)  # cheaper than n_frames, which walks through all of them
        return True
    except Exception:  # EOFError when there is only one; others come from damage behind the first frame
        return False


# -- TIFF files that Pillow reads wrongly or not at all ---------------------------------------------------------

_COMPRESSION_OF_PLANES = (1, 5, 8, 32773, 32946)  # none, LZW, Deflate, PackBits, Deflate
_COMPRESSIONS_NOT_READ = {
    **dict.fromkeys((33003, 33004, 33005, 34712), "JPEG 2000"),
    **{34887: "LERC", 34892: "lossy JPEG of raw cameras", 50002: "JPEG XL", 52546: "JPEG XL", 34933: "PNG"},
    **{34925: "LZMA", 50000: "Zstandard", 34926: "Zstandard", 50001: "WebP", 34927: "WebP", 6: "old JPEG", 7: "JPEG"},
}
_PLANE_TAGS = {256: "I", 257: "I", 259: "H", 266: "H", _ORIENTATION: "H", 278: "I", 317: "H", 322: "I", 323: "I"}


def _tiff_tags(data: bytes) -> Any:
    """The tags of a TIFF file's first page; those that are missing are absent."""
    head = 16 if data[2:4] in (b"+\0", b"\0+") else 8
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[:head])
    file = io.BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    return tags


def _is_read_by_planes(tags: Any) -> bool:
    """Whether each channel of a page is decoded by itself: where planes are stored one after the other, which Pillow
    takes for something else at 16 bits and of grey; and of big-endian 16-bit grey with white as 0."""
    if tags.get(262) not in (0, 1, 2):
        return False
    of_16_bits = 16 in np.ravel(tags.get(258, 1))
    return tags.get(284) == 2 or (tags.get(262) == 0 and of_16_bits and tags.prefix == b"MM" and tags.get(277, 1) == 1)


def _from_planes(tags: Any, data: bytes) -> tuple[np.ndarray, tuple[str, ...]]:
    """Grey or RGB pixels of a page, each channel decoded as a grey image of its own."""
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
            pixels, said = _pixels(image, plane)
        planes.append(pixels)
        notes += [note for note in said if note not in notes]
    array = np.concatenate(planes[:colours], axis=2)
    if tags[262] == 0:
        array = 255 - array
    if alpha:
        opacity = planes[-1].astype(np.uint16)
        shown = array.astype(np.uint16) if kinds[0] == 1 else (array * opacity + 127) // 255  # 1: multiplied already
        array = np.minimum(shown + (255 - opacity), 255).astype(np.uint8)
        notes += ["alpha composited on white"] if opacity.min() < 255 else []
    notes += ["further channels ignored"] if samples > colours + alpha else []
    notes += ["first of several frames"] if tags.next else []
    return array, tuple(notes)


def _plane(tags: Any, data: bytes, k: int, samples: int) -> bytes:
    """The file with another directory at its end, by which it is a grey image of channel k alone."""
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
    behind = at + 2 + 12 * len(entries) + 4
    directory, values = struct.pack(f"{order}H", len(entries)), b""
    for tag, (kind, numbers) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(packed) > 4:
            values, packed = values + packed, struct.pack(f"{order}I", behind + len(values))
        directory += struct.pack(f"{order}HHI", tag, 3 if kind == "H" else 4, len(numbers)) + packed.ljust(4, b"\0")
    start = data[:4] + struct.pack(f"{order}I", at)
    return start + data[8:] + bytes(len(data) % 2) + directory + bytes(4) + values


def _reason_of_tiff(tags: Any) -> str | None:
    """Why Pillow cannot read a page with these tags, if it is of a kind that is not read."""
    bits, samples = np.ravel(tags.get(258, 1)).tolist(), tags.get(277, 1)
    if name := _COMPRESSIONS_NOT_READ.get(tags.get(259, 1)):
        return f"TIFF compressed as {name} (save it uncompressed, or with LZW or Deflate)"
    if 3 in np.ravel(tags.get(339, 1)):
        return "float pixels (no fixed range to scale from; save as 8 or 16 bits)"
    if max(bits, default=1) > 16 or 2 in np.ravel(tags.get(339, 1)):
        return "32-bit or signed pixels (no fixed range to scale from; save as 8 or 16 bits)"
    if samples not in (1, 3, 4) or (samples != 1 and tags.get(262) in (0, 1)):
        return f"TIFF of {samples} channels (save it as grey or RGB)"
    if not set(bits) <= {1, 2, 4, 8, 16}:
        return f"TIFF of {max(bits)} bits a channel (save as 8 or 16 bits)"
    return None


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
