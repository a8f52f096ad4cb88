"""Read DICOM files by `pydicom` (pip install 'bigbigan[dicom]').

Stored values become physical ones by RescaleSlope and RescaleIntercept (Hounsfield units of a CT, for example), and
`data.window` is in these units. Without a window, the range that the stored bits can represent is scaled to 8 bits.
MONOCHROME1, where high values are dark, is inverted afterwards. The display windows and lookup tables that a file may
contain (VOI LUT) differ from file to file and are not applied.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np

from bigbigan.data.formats import Unreadable
from bigbigan.data.window import ToBytes

__all__ = ["count_frames", "read_dicom"]

MAX_FRAMES = 100_000
_DEFLATED = b"1.2.840.10008.1.2.1.99\0"  # transfer syntax, padded to an even length, near the beginning of the file


def _open(data: bytes, with_pixels: bool = True) -> Any:
    """Return the data set of a file. Raises Unreadable if pydicom is missing, or the data set is deflated."""
    if _DEFLATED in data[:4096]:  # pydicom would unpack it without a limit
        raise Unreadable("deflated DICOM (save it uncompressed)")
    try:
        import pydicom
    except ImportError:
        raise Unreadable("DICOM (pip install 'bigbigan[dicom]', or convert to PNG)") from None
    return pydicom.dcmread(io.BytesIO(data), stop_before_pixels=not with_pixels)


def count_frames(data: bytes) -> int:
    """Return the number of frames of a DICOM file. Raises Unreadable if pydicom is missing."""
    return min(max(1, int(_open(data, with_pixels=False).get("NumberOfFrames") or 1)), MAX_FRAMES)


def read_dicom(
    data: bytes, frame: int, window: ToBytes | None, alone: bool, check: Callable[[tuple[int, int]], None]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the pixels of one frame, uint8 [H, W, 1] or [H, W, 3], and notes on what was converted.

    Args:
        data: the file.
        frame: its number, from 0.
        window: reduces values of more than 8 bits to 8; by default the range of the stored bits does.
        alone: whether the other frames of the file are ignored, which is noted.
        check: called with (width, height) before pixels are decoded; may raise Unreadable.

    Raises:
        Unreadable: pydicom is missing, the file has no pixels, or they are compressed in a way it cannot read.
    """
    file = _open(data)
    if "PixelData" not in file:
        floats = "FloatPixelData" in file or "DoubleFloatPixelData" in file
        raise Unreadable("DICOM of float pixels (save it with whole numbers)" if floats else "DICOM without pixels")
    check((int(file.Columns), int(file.Rows)))
    from pydicom.pixels import apply_color_lut, pixel_array

    several = int(file.get("NumberOfFrames") or 1) > 1
    try:
        values = pixel_array(file, index=frame if several else None)
    except (RuntimeError, NotImplementedError) as error:  # no decoder is installed for this compression
        name = file.file_meta.TransferSyntaxUID.name
        raise Unreadable(f"DICOM compressed as {name} (pip install pylibjpeg, or decompress it)") from error
    interpretation = file.PhotometricInterpretation
    if interpretation == "PALETTE COLOR":
        values = apply_color_lut(values, file)
    notes = ["first of several frames"] if alone and several else []
    if values.ndim == 3:
        bits = 8 * values.dtype.itemsize
        if values.dtype.kind != "u" or bits not in (8, 16):
            raise Unreadable("DICOM of colour with more than 16 bits, or signed")
        notes += ["16-bit scaled to 8"] if bits == 16 else []
        return np.ascontiguousarray((values >> (bits - 8)).astype(np.uint8)[:, :, :3]), tuple(notes)
    slope, intercept = _rescaling(file, frame)
    bits = int(file.BitsStored)
    signed = bool(file.PixelRepresentation)
    if bits <= 8 or window is None:
        lowest = -(2 ** (bits - 1)) if signed else 0
        steps = (values.astype(np.int64) - lowest).clip(0, 2**bits - 1)
        grey = (steps >> (bits - 8) if bits >= 8 else steps * 255 // (2**bits - 1)).astype(np.uint8)
        grey = 255 - grey if slope < 0 else grey
        notes += [f"{bits}-bit scaled to 8"] if bits > 8 else []
    else:
        grey = window(values.astype(np.float64) * slope + intercept)
        notes.append("more than 8 bits, windowed")
    if interpretation == "MONOCHROME1":
        grey = 255 - grey
        notes.append("MONOCHROME1 inverted")
    return np.ascontiguousarray(grey[:, :, None]), tuple(notes)


def _rescaling(file: Any, frame: int) -> tuple[float, float]:
    """Return RescaleSlope and RescaleIntercept: of the file, or in enhanced files of all frames or of this one."""
    places = [file]
    for name, k in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", frame)):
        groups = file.get(name) or []
        if len(groups) > k:
            places += list(groups[k].get("PixelValueTransformationSequence") or [])[:1]
    found = next((place for place in places if "RescaleSlope" in place), None)
    return (1.0, 0.0) if found is None else (float(found.RescaleSlope), float(found.RescaleIntercept))
