"""Images of more than 8 bits: a window of values, measured or given, that a run keeps for new images."""

from __future__ import annotations

import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from bigbigan import load
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.data import DecodeLimits, Unreadable, decode, inspect, open_source
from bigbigan.data.decode import decode_pillow
from bigbigan.data.loading import load_pixels, measure_window
from bigbigan.data.window import Window
from bigbigan.errors import UserError
from bigbigan.integrations.export import export
from bigbigan.sklearn import BigBiGANFeatures
from bigbigan.training.run_folder import read_config
from tiny import tiny_config

LOW, HIGH = 200, 1000  # the values of the microscope below


def encoded(values, form="TIFF", **options):
    file = io.BytesIO()
    Image.fromarray(values).save(file, form, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def microscope(tmp_path_factory):
    """Sixteen-bit files, half PNG and half TIFF, whose values fill a hundredth of the range."""
    folder = tmp_path_factory.mktemp("microscope")
    rng = np.random.default_rng(0)
    for i in range(40):
        values = rng.integers(LOW, HIGH // 2, (8, 8), dtype=np.uint16)
        values[2 * (i % 3)] = HIGH
        ending = "png" if i % 2 else "tif"
        (folder / f"{i:03d}.{ending}").write_bytes(encoded(values, "PNG" if i % 2 else "TIFF"))
    return folder


@pytest.fixture(scope="module")
def run(microscope, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = tiny_config("training.steps=2", "data.window_percentiles=[0,100]")
    train(config, str(microscope), folder, progress=False)
    return folder


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_window_maps_black_to_0_and_white_to_255(form):
    values = np.array([[0, 200, 600, 1000, 65535]], dtype=np.uint16)
    pixels, notes = decode(encoded(values, form), DecodeLimits(window=Window(200, 1000)))
    assert pixels[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert notes == ("more than 8 bits, windowed",)
    assert decode(encoded(values, form))[0].tolist() == (values >> 8)[:, :, None].tolist()


def test_window_leaves_8_bit_images_alone():
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert (decode(encoded(values, "PNG"), DecodeLimits(window=Window(10, 20)))[0][:, :, 0] == values).all()


def deep_png(colour_type, size=8):
    """A PNG of 16 bits whose channels all have the value 1000."""
    samples = {2: 3, 4: 2, 6: 4}[colour_type]
    lines = size * (b"\0" + struct.pack(">H", 1000) * size * samples)
    header = struct.pack(">IIBBBBB", size, size, 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.parametrize("colour_type", [2, 4, 6])
def test_window_refuses_png_of_16_bit_colour(tmp_path, colour_type):
    assert "16-bit scaled to 8" in decode(deep_png(colour_type))[1]
    reason = "PNG of 16 bits in several channels, with data.window (save it as grey or RGB in a TIFF file)"
    for read in (decode, lambda data, limits: decode_pillow(Image.open(io.BytesIO(data)), limits)):
        with pytest.raises(Unreadable) as error:
            read(deep_png(colour_type), DecodeLimits(window=Window(0, 4095)))
        assert str(error.value) == reason
    (tmp_path / "a.png").write_bytes(deep_png(colour_type))
    source = open_source(str(tmp_path))
    assert [r for r in inspect(source)["remedies"] if "such files are refused: to use one, save them as TIFF" in r]
    with pytest.raises(UserError, match="1 cannot be read, such as: PNG of 16 bits in several channels"):
        measure_window(source, source.splits["train"], (0, 100))


def test_window_leaves_bmp_of_16_bits_a_pixel_alone():
    pixels = struct.pack("<4H", 0xF800, 0x07E0, 0x001F, 0xFFFF)
    info = struct.pack("<IiiHHIIiiIIIII", 40, 2, 2, 1, 16, 3, 8, 0, 0, 0, 0, 0xF800, 0x07E0, 0x001F)[: 40 + 12]
    data = b"BM" + struct.pack("<IHHI", 66 + 8, 0, 0, 66) + info + pixels
    windowed, _ = decode(data, DecodeLimits(window=Window(0, 4095)))
    assert windowed.tolist() == decode(data)[0].tolist() == [[[0, 0, 255], [255] * 3], [[255, 0, 0], [0, 255, 0]]]


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_window_reads_float_and_32_bit_images(kind):
    values = np.array([[-50, 0, 50, 100]]).astype(kind)
    pixels, _ = decode(encoded(values), DecodeLimits(window=Window(-50, 100)))
    assert pixels[0, :, 0].tolist() == [0, 85, 170, 255]


def test_window_makes_nan_black():
    values = np.array([[np.nan, np.inf, -np.inf, 1]], dtype=np.float32)
    assert Window(0, 1)(values).tolist() == [[0, 255, 0, 255]]


def test_unsigned_32_bit_values_stay_positive():
    values = np.array([[0, 2**31, 2**32 - 1]], dtype=np.uint32)
    data = encoded(values.view(np.int32))
    signed, unsigned = (struct.pack("<HHIHH", 339, 3, 1, kind, 0) for kind in (2, 1))  # the tag SampleFormat
    assert data.count(signed) == 1
    data = data.replace(signed, unsigned)
    assert decode(data, DecodeLimits(window=Window(0, 2**32 - 1)))[0][0, :, 0].tolist() == [0, 128, 255]


def test_window_of_a_tiff_with_white_as_0_is_inverted():
    values = np.array([[200, 600, 1000]], dtype=np.uint16)
    data = encoded(values, tiffinfo={262: 0})
    assert decode(data, DecodeLimits(window=Window(200, 1000)))[0][0, :, 0].tolist() == [255, 127, 0]


def test_measured_window_is_the_percentiles_of_all_values(microscope):
    source = open_source(str(microscope))
    images = source.splits["train"]
    values = [np.asarray(Image.open(microscope / file)) for file in images.files]
    expected = np.percentile(np.concatenate([v.ravel() for v in values]), (1, 99))
    assert measure_window(source, images, (1, 99)) == pytest.approx(tuple(expected))


def test_window_of_8_bit_images_cannot_be_measured(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(np.zeros((8, 8), np.uint8), "PNG"))
    source = open_source(str(tmp_path))
    with pytest.raises(UserError, match=r"data.window_percentiles=\[1,99\]: no image .* has more than 8 bits"):
        measure_window(source, source.splits["train"], (1, 99))


@pytest.mark.parametrize("setting", ["window=[5,5]", "window=[1]", "window=[9,2]", "window_percentiles=[0,101]"])
def test_windows_that_are_none_are_refused(setting):
    with pytest.raises(UserError, match=r"must be empty, or two numbers.*, black below white"):
        tiny_config(f"data.{setting}")


def test_run_records_the_window_that_it_measured(run, microscope):
    assert read_config(run).data.window == (LOW, HIGH)
    train(tiny_config("training.steps=3", "data.window_percentiles=[0,100]"), str(microscope), run, progress=False)
    with pytest.raises(UserError, match=r"data\.window_percentiles"):
        train(tiny_config("training.steps=4", "data.window_percentiles=[5,95]"), str(microscope), run, progress=False)


def test_new_images_are_windowed_as_in_training(run, microscope, tmp_path):
    """By `encode` of the command line, of a run, of an exported model, and by the scikit-learn transformer."""
    paths = sorted(microscope.iterdir())[:6]
    values = np.stack([np.asarray(Image.open(path)) for path in paths])
    model = load(run)
    expected = model.encode(Window(LOW, HIGH)(values)[:, None]).bn_crelu_feat
    assert model.encode(values[:, None]).bn_crelu_feat.equal(expected)
    assert model.encode(paths).bn_crelu_feat.equal(expected)
    exported = load(export(run, tmp_path / "exported"))
    assert exported.encode([str(path) for path in paths]).bn_crelu_feat.equal(expected)
    assert "200 is black, 1000 white" in (tmp_path / "exported" / "README.md").read_text()
    for images in (paths, values, values[:, None], values[..., None], values.astype(np.int64)):
        np.testing.assert_allclose(BigBiGANFeatures(run).transform(images), expected, rtol=1e-5, atol=1e-6)
    assert main(["encode", str(run), "--data", str(microscope), "--out", str(tmp_path / "f.npz"), "--quiet"]) == 0
    with np.load(tmp_path / "f.npz") as written:
        np.testing.assert_allclose(written["bn_crelu_feat"][:6], expected, rtol=1e-5, atol=1e-6)


def test_16_bit_arrays_need_a_window_or_a_range(run, microscope, tmp_path):
    values = np.full((1, 1, 8, 8), 600, dtype=np.uint16)
    model = load(run)
    ranged = model.encode(values, value_range=(200, 1000)).bn_crelu_feat
    by_sklearn = BigBiGANFeatures(run, value_range=(200, 1000)).transform(values)
    in_bytes = model.encode(np.full((1, 1, 8, 8), 128, dtype=np.uint8)).bn_crelu_feat  # which it caches
    torch.testing.assert_close(torch.from_numpy(by_sklearn), in_bytes)
    torch.testing.assert_close(ranged, model.encode(torch.full((1, 1, 8, 8), 0.5), value_range=(0, 1)).bn_crelu_feat)
    train(tiny_config("training.steps=1"), str(microscope), tmp_path / "plain", progress=False)
    with pytest.raises(UserError, match=r"images are torch.uint16; .*value_range=\(0, 65535\)"):
        load(tmp_path / "plain").encode(values)
    with pytest.raises(UserError, match=r"images are torch.uint16; .*value_range=\(0, 65535\)"):
        BigBiGANFeatures(tmp_path / "plain").transform(values)


def test_inspection_names_the_settings_to_use(microscope, tmp_path, capsys):
    (tmp_path / "stack.tif").write_bytes(
        encoded(np.zeros((8, 8), np.uint8), save_all=True, append_images=[Image.new("L", (8, 8))])
    )
    (tmp_path / "large.png").write_bytes(encoded(np.zeros((40, 40), np.uint8), "PNG"))
    stacks, sizes = inspect(open_source(str(tmp_path)))["remedies"]
    assert "1 files have several frames: --set data.frames=all" in stacks
    assert "images have several sizes" in sizes
    (deep,) = inspect(open_source(str(microscope)))["remedies"]
    assert f"values from {LOW} to {HIGH}" in deep
    assert "--set data.window_percentiles=[0.1,99.9]" in deep
    command = ["data", "inspect", str(microscope), "--json", "--out", str(tmp_path / "sheet.png")]
    assert main(command) == 0
    dark = (np.asarray(Image.open(tmp_path / "sheet.png")) < 10).mean()
    capsys.readouterr()
    assert main([*command, "--set", "data.window_percentiles=[0.1,99.9]"]) == 0
    assert json.loads(capsys.readouterr().out)["remedies"] == []
    assert dark > 2 * (np.asarray(Image.open(tmp_path / "sheet.png")) < 10).mean()


def test_pixels_follow_the_window_of_the_limits(microscope):
    source = open_source(str(microscope), limits=DecodeLimits(window=Window(LOW, HIGH)))
    pixels, _ = load_pixels(source.splits["train"], 8, 1, source)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert source.notes["more than 8 bits, windowed"] == 40
