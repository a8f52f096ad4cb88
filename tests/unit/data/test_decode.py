"""decode: every odd or broken image has one stated outcome, pixel by pixel where that can be said."""

import io
import struct
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin

from bigbigan.config import Config, override
from bigbigan.data import tiff as tiff_tags
from bigbigan.data.decode import DecodeLimits, decode
from bigbigan.data.formats import Unreadable, sniff
from bigbigan.errors import UserError
from bigbigan.image import resize_square, to_channels, way_to_resize
from bigbigan.training.run_folder import limits_of

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
DEEP = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)  # 1,024 levels, which become all 256
SMOOTH = np.asarray(Image.fromarray(RGB).resize((48, 32), Image.Resampling.BICUBIC))  # survives JPEG


def save(image, format, **options):
    out = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(out, format, **options)
    return out.getvalue()


def png(header, rows, *chunks):
    """A PNG by hand: `header` is (width, height, bits, colour type), `rows` the bytes of each row."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    ihdr = chunk(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0))
    idat = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + r for r in rows)))
    return b"\x89PNG\r\n\x1a\n" + ihdr + b"".join(chunk(*c) for c in chunks) + idat + chunk(b"IEND", b"")


def tiff(width, height, bits, photometric, data, sample_format=1, **tags):
    """An uncompressed grey little-endian TIFF by hand."""
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: height}
    entries |= {279: len(data), 339: sample_format, **{int(k[1:]): v for k, v in tags.items()}}
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    body = b"".join(struct.pack("<HHII", k, 4, 1, v) for k, v in sorted(entries.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", 0) + data


def tiff_by_hand(array, order="<", planar=1, photometric=None, deflate=False, rows=None, sample_format=1, extra=()):
    """A TIFF of any number of channels and any depth, in strips of `rows`; with `planar` 2, plane after plane."""
    array = np.atleast_3d(array)
    height, width, samples = array.shape
    rows = rows or height
    planes = [array] if planar == 1 else np.split(array, samples, axis=2)
    strips = [
        p[y : y + rows].astype(array.dtype.newbyteorder(order)).tobytes()
        for p in planes
        for y in range(0, height, rows)
    ]
    strips = [zlib.compress(s) for s in strips] if deflate else strips
    photometric = photometric if photometric is not None else 2 if samples > 2 else 1
    bits = array.dtype.itemsize * 8
    tags = {256: [width], 257: [height], 258: [bits] * samples, 259: [8 if deflate else 1], 262: [photometric]}
    tags |= {273: [0] * len(strips), 277: [samples], 278: [rows], 279: [len(s) for s in strips], 284: [planar]}
    tags |= {339: [sample_format] * samples, **({338: list(extra)} if extra else {})}
    kinds = {tag: "I" if tag in (256, 257, 273, 278, 279) else "H" for tag in tags}
    sizes = {tag: struct.calcsize(kinds[tag]) * len(numbers) for tag, numbers in tags.items()}
    behind = 8 + 2 + 12 * len(tags) + 4
    start = behind + sum(size for size in sizes.values() if size > 4)
    tags[273] = [start + sum(map(len, strips[:k])) for k in range(len(strips))]
    entries, values = b"", b""
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}{kinds[tag]}", *numbers)
        if len(packed) > 4:
            values, packed = values + packed, struct.pack(f"{order}I", behind + len(values))
        entries += struct.pack(f"{order}HHI", tag, 3 if kinds[tag] == "H" else 4, len(numbers)) + packed.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}IH", 8, len(tags)) + entries + bytes(4) + values + b"".join(strips)


FLOAT = "float pixels (no fixed range to scale from; set data.window, or save as 8 or 16 bits)"


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def alpha_grey():
    return Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(np.full_like(GREY, 128))])


def alpha_rgb(alpha):
    image = Image.fromarray(RGB).convert("RGBA")
    image.putalpha(alpha)
    return image


def on_white(values, alpha):
    return np.rint((values.astype(float) * alpha + 255 * (255 - alpha)) / 255).astype(np.uint8)


def palette(**options):
    image = Image.fromarray(np.array([[0, 1], [2, 3]], dtype=np.uint8), "L").convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    return save(image, "PNG", **options)


COLOURS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 9, 9]]], dtype=np.uint8)
BE16 = [row.astype(">u2").tobytes() for row in DEEP]
RGB16 = np.stack([DEEP, DEEP[::-1], DEEP.T], axis=-1)
DEEP8 = (DEEP >> 8).astype(np.uint8)[..., None]
GREY1 = GREY[..., None]

# name: (file, pixels exactly, notes)
EXACT = {
    "grey png": (save(GREY, "PNG"), GREY1, ()),
    "rgb png": (save(RGB, "PNG"), RGB, ()),
    "rgb bmp": (save(RGB, "BMP"), RGB, ()),
    "rgb tiff": (save(RGB, "TIFF"), RGB, ()),
    "rgb tiff, lzw": (save(RGB, "TIFF", compression="tiff_lzw"), RGB, ()),
    "lossless webp": (save(RGB, "WEBP", lossless=True), RGB, ()),
    "grey gif": (save(GREY, "GIF"), GREY1, ("palette",)),
    "16-bit grey png": (save(DEEP, "PNG"), DEEP8, ("16-bit scaled to 8",)),
    "16-bit grey png by hand": (png((32, 32, 16, 0), BE16), DEEP8, ("16-bit scaled to 8",)),
    "16-bit grey tiff": (save(DEEP, "TIFF"), DEEP8, ("16-bit scaled to 8",)),
    "16-bit big-endian tiff": (
        save(Image.frombytes("I;16B", (32, 32), b"".join(BE16)), "TIFF"),
        DEEP8,
        ("16-bit scaled to 8",),
    ),
    "16-bit tiff, white is zero": (
        tiff(32, 32, 16, 0, (65535 - DEEP).astype("<u2").tobytes()),
        DEEP8,
        ("16-bit scaled to 8",),
    ),
    "16-bit rgb png": (
        png((32, 32, 16, 2), [r.astype(">u2").tobytes() for r in RGB16]),
        (RGB16 >> 8).astype(np.uint8),
        ("16-bit scaled to 8",),
    ),
    "16-bit grey png with opaque alpha": (
        png((32, 32, 16, 4), [np.stack([r, r * 0 + 65535], -1).astype(">u2").tobytes() for r in DEEP]),
        DEEP8,
        ("16-bit scaled to 8",),
    ),
    "12-bit camera in a 16-bit file": (
        save(DEEP >> 4, "PNG"),
        DEEP8 >> 4,
        ("16-bit scaled to 8", "16-bit, but values under 4096: dark, 16 levels or fewer"),
    ),
    "12-bit tiff": (  # two values in three bytes
        tiff(2, 1, 12, 1, bytes((0x80, 0x0F, 0xF0))),
        np.array([[[0x80], [0xFF]]], dtype=np.uint8),
        ("12-bit scaled to 8",),
    ),
    "1-bit png": (save(Image.fromarray(GREY > 99), "PNG"), np.where(GREY1 > 99, 255, 0), ("1-bit",)),
    "palette": (palette(), COLOURS, ("palette",)),
    "palette with a transparent entry": (
        palette(transparency=1),
        np.array([[[255, 0, 0], [255, 255, 255]], [[0, 0, 255], [9, 9, 9]]]),
        ("palette", "alpha composited on white"),
    ),
    "grey + alpha": (save(alpha_grey(), "PNG"), on_white(GREY1, 128), ("alpha composited on white",)),
    "rgb + alpha": (save(alpha_rgb(64), "PNG"), on_white(RGB, 64), ("alpha composited on white",)),
    "rgb + opaque alpha": (save(alpha_rgb(255), "PNG"), RGB, ()),
    "rgb + zero alpha": (
        save(alpha_rgb(0), "PNG"),
        np.full_like(RGB, 255),
        ("wholly transparent: all white",),
    ),
    "exif: turned right": (save(RGB, "PNG", exif=turned(6)), np.rot90(RGB, -1), ("EXIF rotated",)),
    "exif: upside down": (save(RGB, "PNG", exif=turned(3)), RGB[::-1, ::-1], ("EXIF rotated",)),
    "exif: mirrored": (save(RGB, "PNG", exif=turned(2)), RGB[:, ::-1], ("EXIF rotated",)),
    "exif: nonsense value": (save(RGB, "PNG", exif=turned(77)), RGB, ()),
    "tiff turned by its own tag": (
        tiff(9, 6, 8, 1, GREY.tobytes(), t274=6),
        np.rot90(GREY1, -1),
        ("EXIF rotated",),
    ),
    "16-bit, turned": (save(DEEP[:16], "PNG", exif=turned(8)), np.rot90(DEEP8[:16]), ("16-bit scaled to 8",)),
    "damaged exif": (save(RGB, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), RGB, None),
    "animated gif": (
        save(Image.fromarray(GREY), "GIF", save_all=True, append_images=[Image.fromarray(255 - GREY)]),
        GREY1,
        ("palette", "first picture of an animation or series"),
    ),
    "tiff of two pages": (
        save(Image.fromarray(RGB), "TIFF", save_all=True, append_images=[Image.fromarray(GREY)]),
        RGB,
        ("first of several frames",),
    ),
    "one pixel": (save(GREY[:1, :1], "PNG"), GREY1[:1, :1], ()),
    "colour profile of garbage": (save(RGB, "PNG", icc_profile=b"garbage"), RGB, ()),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_pixels(name):
    data, wanted, notes = EXACT[name]
    array, got = decode(data)
    assert array.dtype == np.uint8
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, wanted)
    if name == "16-bit, turned":
        assert set(got) == {"16-bit scaled to 8", "EXIF rotated"}
    elif notes is not None:
        assert got == notes


def test_16_bit_keeps_256_levels():
    array, _ = decode(EXACT["16-bit grey png"][0])
    assert len(np.unique(array)) == 256


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("rows", [None, 4])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_tiff_of_any_layout_is_read_exactly(planar, depth, order, deflate, rows):
    layout = {"order": order, "planar": planar, "deflate": deflate, "rows": rows}
    scale = 257 if depth is np.uint16 else 1
    rgb, grey, alpha = RGB.astype(depth) * scale, GREY1.astype(depth) * scale, np.full(GREY1.shape, 128)
    np.testing.assert_array_equal(decode(tiff_by_hand(rgb, **layout))[0], RGB)
    np.testing.assert_array_equal(decode(tiff_by_hand(grey, **layout))[0], GREY1)
    np.testing.assert_array_equal(decode(tiff_by_hand(grey, photometric=0, **layout))[0], 255 - GREY1)
    rgba = np.concatenate([rgb, alpha.astype(depth) * scale], axis=2)
    np.testing.assert_array_equal(decode(tiff_by_hand(rgba, extra=[2], **layout))[0], on_white(RGB, alpha))
    if planar == 2 or depth is np.uint8:
        both = np.concatenate([grey, alpha.astype(depth) * scale], axis=2)
        np.testing.assert_array_equal(decode(tiff_by_hand(both, extra=[2], **layout))[0], on_white(GREY1, alpha))


@pytest.mark.parametrize("chunk", [b"tEXt", b"zTXt", b"iTXt", b"iCCP"])
def test_png_with_large_text_or_profile_is_read(chunk):
    big = RNG.bytes(1_500_000)
    content = {
        b"tEXt": b"k\0" + b"x" * 1_500_000,
        b"zTXt": b"k\0\0" + zlib.compress(bytes(3_000_000)),
        b"iTXt": b"k\0\1\0\0\0" + zlib.compress(bytes(3_000_000)),
        b"iCCP": b"p\0\0" + zlib.compress(big),
    }[chunk]
    array, notes = decode(png((9, 6, 8, 0), [r.tobytes() for r in GREY], (chunk, content)))
    np.testing.assert_array_equal(array, GREY1)
    assert notes == ()


def profile(space=b"RGB ", name=b"Adobe RGB (1998)"):
    return bytes(16) + space + bytes(108) + b"desc" + name + bytes(50)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_another_colour_profile_is_noted(kind):
    note = "colour profile other than sRGB, not applied"
    assert note in decode(save(SMOOTH, kind, icc_profile=profile()))[1]
    for other in (profile(name=b"sRGB IEC61966-2.1"), profile(name="sRGB".encode("utf-16-be")), profile(b"GRAY")):
        assert note not in decode(save(SMOOTH, kind, icc_profile=other))[1]


@pytest.mark.parametrize(("size", "factor"), [((200, 150), 1), ((400, 300), 2), ((480, 360), 4)])
def test_large_jpeg_is_read_at_a_reduced_size(size, factor):
    limits = DecodeLimits(max_pixels=30_000)
    image = Image.fromarray(RGB).resize(size, Image.Resampling.BICUBIC)
    array, notes = decode(save(image, "JPEG", quality=95), limits)
    assert array.shape == (size[1] // factor, size[0] // factor, 3)
    assert notes == (("large JPEG, decoded at a reduced size",) if factor > 1 else ())
    expected = np.asarray(image.resize((size[0] // factor, size[1] // factor), Image.Resampling.BOX)).astype(int)
    assert np.abs(array - expected).mean() < 2
    for options in ({"progressive": True}, {}):
        with pytest.raises(Unreadable, match="too many pixels"):
            decode(save(Image.new("L", (600, 500)), "JPEG", **options), DecodeLimits(max_pixels=30_000))


def test_the_ending_tells_formats_without_a_signature():
    with pytest.raises(Unreadable, match=r"TGA \(convert to PNG\)"):
        decode(bytes(50), ending=".tga")
    with pytest.raises(Unreadable, match="raw format"):
        decode(save(RGB, "TIFF"), ending=".dng")  # what Pillow would give is a preview


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_turned_as_pillow_turns_them(orientation):
    data = save(RGB, "PNG", exif=turned(orientation))
    np.testing.assert_array_equal(decode(data)[0], np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))


def test_other_warnings_are_shown_while_threads_decode():
    data, done = save(SMOOTH, "JPEG", quality=95), threading.Event()

    def work():
        while not done.is_set():
            decode(data)

    with warnings.catch_warnings(record=True) as shown, ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("always")
        for _ in range(4):
            pool.submit(work)
        for _ in range(100):
            warnings.warn("of the program", stacklevel=1)
        done.set()
    assert [str(w.message) for w in shown] == ["of the program"] * 100


def test_jpeg_kinds_come_near():
    for image, notes in (
        (Image.fromarray(SMOOTH), ()),
        (Image.fromarray(SMOOTH).convert("CMYK"), ("CMYK converted",)),
    ):
        array, got = decode(save(image, "JPEG", quality=95, subsampling=0))
        assert got == notes
        assert np.abs(array.astype(int) - SMOOTH).mean() < 3
    array, got = decode(save(SMOOTH, "JPEG", quality=95, subsampling=0, exif=turned(6)))
    assert got == ("EXIF rotated",)
    assert array.shape == (48, 32, 3)
    assert np.abs(array.astype(int) - np.rot90(SMOOTH, -1)).mean() < 3
    assert decode(save(GREY, "JPEG"))[0].shape == (6, 9, 1)


def test_exif_that_raises_keeps_the_pixels(monkeypatch):
    def explode(self):
        raise ZeroDivisionError

    monkeypatch.setattr(Image.Image, "getexif", explode)
    array, notes = decode(save(RGB, "PNG"))
    np.testing.assert_array_equal(array, RGB)
    assert notes == ("EXIF unreadable",)


JPEG, PNG = save(SMOOTH, "JPEG"), save(SMOOTH, "PNG")


def flipped(data, at):
    return data[:at] + bytes((data[at] ^ 0x55,)) + data[at + 1 :]


# name: (file, reason)
REFUSED = {
    "empty": (b"", "empty file"),
    "text": (b"hello, this is not an image at all", "not an image"),
    "html error page": (b"<!DOCTYPE html><html>404</html>", "not an image"),
    "zeros": (bytes(5000), "not an image"),
    "png signature alone": (PNG[:8], "damaged PNG"),
    "png header alone": (PNG[:33], "damaged PNG"),
    "png cut in half": (PNG[: len(PNG) // 2], "truncated PNG"),
    "png with a flipped bit": (flipped(PNG, len(PNG) // 2), "damaged PNG"),
    "jpeg start alone": (JPEG[:4], "damaged JPEG"),
    "jpeg cut in half": (JPEG[: len(JPEG) // 2], "truncated JPEG"),
    "jpeg 2 bytes short": (JPEG[:-2], "truncated JPEG"),
    "gif header alone": (save(GREY, "GIF")[:13], "damaged GIF"),
    "webp cut": (save(RGB, "WEBP")[:40], "damaged WEBP"),
    "bmp cut": (save(RGB, "BMP")[:60], "truncated BMP"),
    "tiff cut": (save(RGB, "TIFF")[:80], "damaged TIFF"),
    "float tiff": (
        save(GREY.astype(np.float32), "TIFF"),
        FLOAT,
    ),
    "32-bit tiff": (
        tiff(9, 6, 32, 1, GREY.astype("<u4").tobytes()),
        "32-bit or signed pixels (no fixed range to scale from; set data.window, or save as 8 or 16 bits)",
    ),
    "signed 16-bit tiff": (
        tiff(9, 6, 16, 1, (GREY.astype("<i2") - 100).tobytes(), sample_format=2),
        "32-bit or signed pixels (no fixed range to scale from; set data.window, or save as 8 or 16 bits)",
    ),
    "ppm, a format not read": (save(RGB, "PPM"), "PGM, PPM or a relative (convert to PNG)"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(100), "HEIC or AVIF (convert to JPEG or PNG)"),
    "dicom": (bytes(128) + b"DICM" + bytes(100), "DICOM (pip install 'bigbigan[dicom]', or convert to PNG)"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript (convert to PNG)"),
    "photoshop": (b"8BPS\0\1" + bytes(100), "Photoshop (convert to PNG)"),
    "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50), "JPEG 2000 (convert to PNG)"),
    "jpeg 2000 code stream": (b"\xff\x4f\xff\x51" + bytes(50), "JPEG 2000 (convert to PNG)"),
    "jpeg xl": (b"\xff\x0a" + bytes(50), "JPEG XL (convert to PNG)"),
    "openexr": (b"\x76\x2f\x31\x01" + bytes(50), "OpenEXR (convert to PNG)"),
    "pdf": (b"%PDF-1.7\n", "PDF (convert to PNG)"),
    "float rgb tiff": (tiff_by_hand(RGB.astype(np.float32), sample_format=3), FLOAT),
    "half float tiff": (tiff_by_hand(GREY.astype(np.float16), sample_format=3), FLOAT),
    "double tiff": (tiff_by_hand(GREY.astype(np.float64), sample_format=3), FLOAT),
    "tiff of five channels": (
        tiff_by_hand(np.zeros((6, 9, 5), np.uint8), photometric=1),
        "TIFF of 5 channels (save it as grey or RGB)",
    ),
    "planar tiff of five channels": (
        tiff_by_hand(np.zeros((6, 9, 5), np.uint16), photometric=1, planar=2),
        "TIFF of 5 channels (save it as grey or RGB)",
    ),
    "tiff in jpeg 2000": (
        tiff(9, 6, 8, 1, GREY.tobytes(), _259=34712),
        "TIFF compressed as JPEG 2000 (pip install 'bigbigan[tiff]', or save it uncompressed, or with LZW or Deflate)",
    ),
    "too narrow": (save(np.zeros((1, 21), np.uint8), "PNG"), "too narrow (21x1: 21 to 1, limit 20)"),
    "no width": (png((0, 5, 8, 0), []), None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(name):
    data, reason = REFUSED[name]
    with pytest.raises(Unreadable) as e:
        decode(data)
    assert reason is None or str(e.value) == reason
    assert "\n" not in str(e.value)


REMEDY = "reduce the image or raise data.max_pixels"


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (5001, 5001, f"too many pixels (25.0 megapixels, limit 25: {REMEDY})"),
        (
            9500,
            9500,
            f"too many pixels (90.2 megapixels, limit 25: {REMEDY})",
        ),  # Pillow only warns of these
        (20000, 10000, "too many pixels (over 179 megapixels: reduce the image)"),  # Pillow refuses these itself
        (2**31 - 1, 2**31 - 1, "too many pixels (over 179 megapixels: reduce the image)"),
        (65535, 1, "too narrow (65535x1: 65535 to 1, limit 20)"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bombs_are_refused_from_the_header(monkeypatch, width, height, reason):
    def never(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    start = time.process_time()
    with pytest.raises(Unreadable) as e:
        decode(png((width, height, 8, 0), [bytes(100)]))
    assert str(e.value) == reason
    assert time.process_time() - start < 0.2


def test_real_bomb_of_a_few_kilobytes():
    bomb = png((6000, 6000, 1, 0), [bytes(750)] * 6000)
    assert len(bomb) < 10_000
    with pytest.raises(Unreadable, match=r"36\.0 megapixels"):
        decode(bomb)
    assert decode(bomb, DecodeLimits(max_pixels=36_000_000))[0].shape == (6000, 6000, 1)


def test_file_limit_follows_the_limit_of_pixels():
    assert DecodeLimits().max_bytes == 200_000_000
    assert DecodeLimits(max_pixels=10_000).max_bytes == 64 * 2**20
    assert DecodeLimits(max_pixels=10**8).max_bytes == 8 * 10**8
    assert DecodeLimits(all_frames=True).max_bytes == 2**31
    assert limits_of(override(Config(), ["data.frames=all"])).max_bytes == 2**31
    size = 14 + 40 + 3 * 5000 * 4900
    header = b"BM" + struct.pack("<IHHIIiiHHIIiiII", size, 0, 0, 54, 40, 5000, 4900, 1, 24, 0, 0, 0, 0, 0, 0)
    assert decode(header + bytes(size - 54))[0].shape == (4900, 5000, 3)


def test_too_many_bytes():
    with pytest.raises(Unreadable, match=r"over 0\.0009\d* MiB"):
        decode(PNG, DecodeLimits(max_bytes=1000))


def test_bomb_in_a_text_chunk_is_no_harm():
    text = b"k\0\0" + zlib.compress(bytes(80 * 2**20), 9)
    start = time.process_time()
    try:
        array, _ = decode(png((9, 6, 8, 0), [r.tobytes() for r in GREY], (b"zTXt", text)))
        np.testing.assert_array_equal(array, GREY1)
    except Unreadable:
        pass
    assert time.process_time() - start < 0.5


SEEDS = [JPEG, PNG] + [
    EXACT[name][0]
    for name in (
        "16-bit tiff, white is zero",
        "animated gif",
        "lossless webp",
        "rgb bmp",
        "palette with a transparent entry",
        "exif: turned right",
        "rgb tiff, lzw",
    )
]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
    st.integers(0, 10**6),
)
def test_mutated_bytes_only_raise_unreadable(data, changes, cut):
    data = bytearray(data)
    for at, value in changes:
        data[at % len(data)] = value
    if cut % 3 == 0:
        del data[cut % len(data) :]
    try:
        array, notes = decode(bytes(data), DecodeLimits(max_pixels=10**6))
    except Unreadable as e:
        reason = str(e)
        assert reason
        assert "\n" not in reason
    else:
        assert array.dtype == np.uint8
        assert array.ndim == 3
        assert array.shape[2] in (1, 3)
        assert all(isinstance(n, str) for n in notes)


def test_sniff_knows_all_formats():
    for format in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"):
        assert sniff(save(GREY, format)) == format


def test_to_channels_is_pillows_luma():
    wanted = np.asarray(Image.fromarray(RGB).convert("L"))
    np.testing.assert_array_equal(to_channels(RGB, 1)[..., 0], wanted)
    np.testing.assert_array_equal(to_channels(GREY1, 3), np.stack([GREY] * 3, -1))
    assert to_channels(RGB, 3) is RGB
    with pytest.raises(UserError):
        to_channels(RGB, 2)


def test_resize_square():
    digit = RNG.integers(1, 256, (28, 28, 1), dtype=np.uint8)
    padded = resize_square(digit, 32, pad=True)
    np.testing.assert_array_equal(padded[2:30, 2:30], digit)  # exact, and zeros around it
    assert padded.sum() == digit.sum(dtype=np.uint64)
    assert resize_square(digit, 32)[:2].mean() > 50  # enlarged
    ways = [way_to_resize((side, side, 1), 32, pad=True) for side in (25, 26, 31, 32, 33)]  # 25 is 0.78 of 32
    assert ways == ["enlarged", "padded", "padded", "exact", "reduced"]
    assert way_to_resize((28, 28, 1), 32) == "enlarged"
    assert way_to_resize((28, 27, 1), 32, pad=True) == "padded"
    np.testing.assert_array_equal(resize_square(RGB, 6), RGB[:, 1:7])  # the centre square, untouched
    assert resize_square(GREY1, 24).shape == (24, 24, 1)
    # A checkerboard finer than the result becomes grey: reduction does not alias.
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None]
    assert np.abs(resize_square(board, 16).astype(int) - 127)[2:-2, 2:-2].max() < 4


@pytest.mark.parametrize("tag", [258, 259, 262, 277, 339])
@pytest.mark.parametrize("value", [b"\x08", (b"\x08", b"\x08"), 8.5, "8"])
def test_tiff_tags_that_are_no_whole_numbers_are_named(tag, value):
    assert tiff_tags.unreadable_reason({258: 8, tag: value}) == f"damaged TIFF (tag {tag} is not a whole number)"
    assert tiff_tags.unreadable_reason({258: (8, 8, 8), 277: 3}) is None


@pytest.mark.parametrize(("tags", "kind"), [({258: 32}, "32-bit or signed"), ({258: 32, 339: 3}, "float")])
def test_a_window_that_is_set_is_not_recommended(tags, kind):
    assert "set data.window" in tiff_tags.unreadable_reason(tags)
    assert tiff_tags.unreadable_reason(tags, has_window=True).startswith(
        f"{kind} pixels that Pillow does not read (pip install"
    )


def test_signed_bytes_are_not_taken_for_unsigned_ones():
    """Pillow reads -1 as 255."""
    buffer = io.BytesIO()
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[339] = 2
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(buffer, "TIFF", tiffinfo=info)
    with pytest.raises(Unreadable, match="signed pixels"):
        decode(buffer.getvalue())


def test_a_deflated_dicom_file_is_refused_before_it_is_unpacked():
    data = bytes(128) + b"DICM" + bytes(100) + b"1.2.840.10008.1.2.1.99\0" + bytes(100)
    with pytest.raises(Unreadable, match="deflated DICOM"):
        decode(data)
