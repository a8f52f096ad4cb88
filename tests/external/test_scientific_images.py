"""DICOM files by pydicom, and TIFF files that Pillow does not read by tifffile."""

from __future__ import annotations

import io

import numpy as np
import pytest

from bigbigan.data import DecodeLimits, Unreadable, decode, inspect, open_source, write_shards
from bigbigan.data.decode import list_frames
from bigbigan.data.window import Window
from bigbigan.errors import UserError

VALUES = np.random.default_rng(0).integers(0, 4096, (8, 10), dtype=np.uint16)


def dicom(values, bits=12, interpretation="MONOCHROME2", rescale=None, **more):
    """A DICOM file of grey [H, W], of grey frames [N, H, W] or of colour [H, W, 3]."""
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = SecondaryCaptureImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = generate_uid()
    colour = interpretation == "RGB"
    file.Rows, file.Columns = values.shape[:2] if colour else values.shape[-2:]
    file.SamplesPerPixel = 3 if colour else 1
    if colour:
        file.PlanarConfiguration = 0
    elif values.ndim == 3:
        file.NumberOfFrames = len(values)
    file.PhotometricInterpretation = interpretation
    file.BitsAllocated, file.BitsStored, file.HighBit = 8 * values.dtype.itemsize, bits, bits - 1
    file.PixelRepresentation = int(values.dtype.kind == "i")
    if rescale:
        file.RescaleSlope, file.RescaleIntercept = map(str, rescale)
    file.PixelData = values.tobytes()
    for name, value in more.items():
        setattr(file, name, value)
    written = io.BytesIO()
    file.save_as(written, enforce_file_format=True)
    return written.getvalue()


def grey(data, window=None, **options):
    pixels, notes = decode(data, DecodeLimits(window=window, all_frames=True), ".dcm", **options)
    assert pixels.dtype == np.uint8
    return pixels[:, :, 0], notes


def test_dicom_keeps_the_upper_8_of_the_stored_bits():
    for bits in (12, 16):
        pixels, notes = grey(dicom(VALUES, bits))
        assert (pixels == VALUES >> (bits - 8)).all()
        assert notes == (f"{bits}-bit scaled to 8",)
    eight = (VALUES >> 4).astype(np.uint8)
    assert (grey(dicom(eight, 8))[0] == eight).all()


def test_dicom_of_signed_values_is_scaled_from_their_range():
    assert (grey(dicom(VALUES.astype(np.int16) - 2048))[0] == VALUES >> 4).all()


def test_monochrome1_is_inverted():
    pixels, notes = grey(dicom(VALUES, interpretation="MONOCHROME1"))
    assert (pixels == 255 - (VALUES >> 4)).all()
    assert notes == ("12-bit scaled to 8", "MONOCHROME1 inverted")
    pixels, _ = grey(dicom(VALUES, interpretation="MONOCHROME1"), Window(0, 4095))
    assert (pixels == 255 - Window(0, 4095)(VALUES)).all()


def test_window_of_dicom_is_in_rescaled_units():
    data = dicom(VALUES, rescale=(2, -1024))
    assert (grey(data, Window(-160, 240))[0] == Window(-160, 240)(2.0 * VALUES - 1024)).all()
    assert (grey(data)[0] == VALUES >> 4).all()
    assert (grey(dicom(VALUES, rescale=(-1, 0)))[0] == 255 - (VALUES >> 4)).all()


def test_each_frame_of_a_dicom_file_is_an_image(tmp_path):
    frames = np.stack([VALUES, VALUES // 2, VALUES // 4])
    (tmp_path / "volume.dcm").write_bytes(dicom(frames))
    (tmp_path / "slice.dcm").write_bytes(dicom(VALUES))
    assert list_frames((tmp_path / "volume.dcm").read_bytes()) == [0, 1, 2]
    images = open_source(str(tmp_path), limits=DecodeLimits(all_frames=True)).splits["train"]
    assert images.files == ["slice.dcm", "volume.dcm#1", "volume.dcm#2", "volume.dcm#3"]
    for k, frame in enumerate(frames, 1):
        assert (images.load(k)[:, :, 0] == frame >> 4).all()
    facts = inspect(open_source(str(tmp_path)))
    assert facts["notes"]["first of several frames"] == 1
    assert any("data.frames=all" in remedy for remedy in facts["remedies"])
    assert any("data.window=" in remedy for remedy in facts["remedies"])


def test_shards_of_dicom_files_and_frames_read_like_the_files(tmp_path):
    deep = VALUES * 16
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "volume.dcm").write_bytes(dicom(np.stack([deep, deep // 2, deep // 4]), 16))
    (tmp_path / "scans" / "slice.dcm").write_bytes(dicom(VALUES))
    for all_frames, count in ((False, 2), (True, 4)):
        source = open_source(str(tmp_path / "scans"), limits=DecodeLimits(all_frames=all_frames))
        write_shards(source, tmp_path / f"out{count}")
        files, shards = source.splits["train"], open_source(str(tmp_path / f"out{count}")).splits["train"]
        assert len(shards) == count
        assert all((shards.load(i) == files.load(i)).all() for i in range(count))
    (tmp_path / "scans" / "volume.dcm").write_bytes(dicom(np.stack([VALUES, VALUES])))
    source = open_source(str(tmp_path / "scans"), limits=DecodeLimits(all_frames=True))
    with pytest.raises(UserError, match=r"volume.dcm#\d: a PNG file cannot hold the values of this frame"):
        write_shards(source, tmp_path / "twelve")


def test_dicom_in_colour_is_read():
    colour = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    pixels, _ = decode(dicom(colour, 8, "RGB"))
    assert (pixels == colour).all()


def test_dicom_that_cannot_be_read_says_why():
    data = dicom(VALUES)
    with pytest.raises(Unreadable, match="too many pixels"):
        decode(data, DecodeLimits(max_pixels=10))
    with pytest.raises(Unreadable, match="DICOM"):
        decode(data[:200])
    with pytest.raises(Unreadable, match="DICOM"):
        decode(data[:-20])


def test_tiff_that_pillow_does_not_read_is_read_by_tifffile():
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")
    deep = (VALUES * 16).astype(np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, np.stack([deep, deep // 2]), compression="jpeg2000", photometric="minisblack")
    pixels, notes = decode(file.getvalue())
    assert (pixels[:, :, 0] == deep >> 8).all()
    assert notes == ("read by tifffile", "16-bit scaled to 8", "first of several frames")
    pixels, _ = grey(file.getvalue(), Window(0, 65535), frame=1)
    assert (pixels == Window(0, 65535)(deep // 2)).all()


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_16_bit_colour_is_windowed_by_tifffile(planar):
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    colour = np.stack([VALUES, VALUES // 2, VALUES // 3], axis=2)
    file = io.BytesIO()
    tifffile.imwrite(
        file, colour if planar == "contig" else np.moveaxis(colour, 2, 0), photometric="rgb", planarconfig=planar
    )
    pixels, _ = decode(file.getvalue(), DecodeLimits(window=Window(0, 4095)))
    assert (pixels == Window(0, 4095)(colour)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_the_same_with_and_without_a_window(orientation):
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    file = io.BytesIO()
    colour = np.stack([VALUES * 16] * 3, axis=2)
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(file, colour, photometric="rgb", extratags=[tag])
    plain, noted = decode(file.getvalue())
    windowed, notes = decode(file.getvalue(), DecodeLimits(window=Window(0, 65535)))
    assert windowed.shape == plain.shape
    assert np.abs(windowed.astype(int) - plain).max() <= 1  # rounded in place of cut
    assert ("EXIF rotated" in notes) == ("EXIF rotated" in noted) == (orientation > 1)


def test_alpha_is_composited_on_white_with_and_without_a_window():
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    colour = np.stack([VALUES * 16, VALUES * 8, VALUES * 4, np.full_like(VALUES, 65535)], axis=2)
    colour[:4, :, 3] = 0
    file = io.BytesIO()
    tifffile.imwrite(file, colour, photometric="rgb", extrasamples=["unassalpha"])
    for window in (None, Window(0, 65535)):
        pixels, notes = decode(file.getvalue(), DecodeLimits(window=window))
        assert (pixels[:4] == 255).all()
        assert np.abs(pixels[4:] - colour[4:, :, :3] / 257).max() < 1
        assert "alpha composited on white" in notes


def test_dicom_of_float_pixels_is_named():
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    file = pydicom.dcmread(io.BytesIO(dicom(VALUES, 16)))
    del file.PixelData
    file.FloatPixelData = VALUES.astype(np.float32).tobytes()
    written = io.BytesIO()
    file.save_as(written, enforce_file_format=True)
    with pytest.raises(Unreadable, match="float pixels"):
        decode(written.getvalue())
