"""Recognise image file formats: those that are read, and those that are refused with advice."""

import re

__all__ = ["CAMERA_RAW", "EXTENSIONS", "HEAD", "NOT_READ", "Unreadable", "other_format", "sniff"]

# File name extensions and their formats.
EXTENSIONS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    ".webp": "WEBP",
    ".gif": "GIF",
    **dict.fromkeys((".dcm", ".dicom"), "DICOM"),
}

_MAGIC = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<WEBP>RIFF....WEBP)"
    rb"|(?P<GIF>GIF8[79]a)|(?P<TIFF>II[*+]\0|MM\0[*+])|(?P<DICOM>.{128}DICM)"
    rb"|(?P<BMP>BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0)",  # the size of its header follows
    re.DOTALL,
)


class Unreadable(Exception):
    """An image that cannot be used. `str(e)` is a short reason, such as "truncated JPEG"."""

    @property
    def kind(self) -> str:
        """The reason without the details in brackets, so that equal reasons can be counted together."""
        return str(self).partition(" (")[0]


def sniff(data: bytes) -> str | None:
    """Return the format of the first bytes, "DICOM" or Pillow's name of it; None if it is not one that is read."""
    found = _MAGIC.match(data)
    return found.lastgroup if found else None


# Formats that are not read: first bytes, name, format to convert to. Formats in `_PICTURES` contain photographs or
# scans, and are reported whatever the file's extension.
_PICTURES = (
    (re.compile(rb".{4}ftyp(hei|hev|mif|avi)", re.DOTALL), "HEIC or AVIF", "JPEG or PNG"),
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
HEAD = 360  # first bytes of a file, enough to recognise its format
CAMERA_RAW = {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"}
_BY_ENDING = {".tga": "TGA", ".pcx": "PCX", ".sgi": "SGI", ".xcf": "GIMP's format"}
_BY_ENDING |= dict.fromkeys(CAMERA_RAW, "a camera's raw format")


# Extensions of image files that are not read: they are listed as unreadable, with the reason.
NOT_READ = {".heic", ".heif", ".avif", ".psd", ".jp2", ".j2k", ".jpx", ".j2c", ".jpc", ".jxl"}
NOT_READ |= {".pgm", ".ppm", ".pbm", ".pnm", ".pam", ".pfm", ".exr", ".fits", *_BY_ENDING}


def other_format(data: bytes, ending: str = "", pictures_only: bool = False) -> str | None:
    """Return what to report for an image in a format that is not read, or None if it is not recognised.

    Args:
        data: the file, or its first `HEAD` bytes.
        ending: file name extension, such as ".tga".
        pictures_only: recognise only formats of photographs and scans.
    """
    for magic, name, target in _PICTURES if pictures_only else (*_PICTURES, *_OTHERS):
        if magic.match(data[:HEAD]):
            return f"{name} (convert to {target})"
    return f"{_BY_ENDING[ending]} (convert to PNG)" if ending in _BY_ENDING else None
