"""Sets too large for memory: the same batches, decoded ahead; what cannot be read is listed and replaced."""

import json
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from bigbigan.apps.train import train
from bigbigan.data import decode, fingerprint, load_pixels, open_source
from bigbigan.data.batches import Batches
from bigbigan.data.loading import DECODED_TOGETHER, stream_pixels
from bigbigan.data.streaming import StreamedPixels, training_pixels
from bigbigan.errors import UserError
from bigbigan.evaluation import feature_probes, splits
from bigbigan.evaluation.runner import evaluate
from bigbigan.evaluation.splits import View, read_split, stored_for_crops
from tiny import tiny_config

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    """30 photographs in two classes, of several sizes."""
    rng = np.random.default_rng(0)
    for i in range(30):
        path = tmp_path / "photos" / f"class{i % 2}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20 + i % 3, 24, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def both(folder, side=12):
    """The set in memory and streamed."""
    out = []
    for memory in (1.0, 0.0):
        source = open_source(str(folder))
        out.append(training_pixels(source.splits["train"], side, 3, source, memory, CPU, progress=False))
    return out


@pytest.mark.parametrize(("augment", "side"), [("none", 12), ("flip", 12), ("resnet_crop", 12), ("resnet_crop", 25)])
def test_streamed_batches_are_those_from_memory(folder, augment, side):
    (resident, kept, _), (streamed, all_kept, _) = both(folder, side)
    assert isinstance(streamed, StreamedPixels)
    assert np.array_equal(kept, all_kept)
    a, b = (Batches(pixels, 8, 3, augment, resolution=10) for pixels in (resident, streamed))
    for number in (0, 1, 2, 3, 7, 2):  # over the end of an epoch, ahead, and back
        assert torch.equal(a.batch(number), b.batch(number))
    assert torch.equal(a.images(torch.tensor([4, 4, 29])), b.images(torch.tensor([4, 4, 29])))


def test_a_streamed_run_has_the_weights_of_one_from_memory(folder, tmp_path):
    weights = []
    for memory in (1, 0):
        run = tmp_path / f"run{memory}"
        settings = ("data.channels=3", f"data.memory_gib={memory}", "training.steps=3", "log.validate_every=2")
        train(tiny_config(*settings), str(folder), run, progress=False)
        weights.append((run / "checkpoints" / "step-00000003" / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_a_continued_run_keeps_the_side_its_images_had(folder, tmp_path, monkeypatch):
    """Crops depend on it, and the same images in shards on another machine may be judged to be of another size."""
    run = tmp_path / "run"
    settings = ("data.channels=3", "data.augment=resnet_crop", "training.steps=2")
    train(tiny_config(*settings), str(folder), run, progress=False)
    first = json.loads((run / "data.json").read_text())["side"]
    assert first == 20  # of 8 px, 2.5 times
    monkeypatch.setattr("bigbigan.training.training_data.stored_side", lambda *_: first + 1)
    train(tiny_config(*settings, "training.steps=3"), str(folder), run, progress=False)
    assert json.loads((run / "data.json").read_text())["side"] == first


def test_classifiers_crop_from_the_larger_copy(folder, monkeypatch):
    """The one training crops from, in memory or decoded again; evaluation's own pixels are at R."""
    source, view = open_source(str(folder)), View(8, 3, "resnet_crop")
    train_split = read_split(source, source.splits["train"], view).pick(np.array([7, 3, 20]), "train")
    assert train_split.pixels.shape == (3, 3, 8, 8)
    held = stored_for_crops(source, train_split, view)
    expected, _ = load_pixels(source.splits["train"].subset([7, 3, 20]), 20, 3)
    assert np.array_equal(held, expected)
    monkeypatch.setattr(splits, "MAX_MEMORY", 0)
    streamed = stored_for_crops(source, train_split, view)
    assert isinstance(streamed, StreamedPixels)
    a, b = (Batches(pixels, 3, 0, "resnet_crop", 8) for pixels in (held, streamed))
    assert torch.equal(a.batch(0), b.batch(0))
    rows = open_source("digits")
    digits = read_split(rows, rows.splits["test"], View(8, 1, "resnet_crop"))
    assert np.array_equal(stored_for_crops(rows, digits, View(8, 1, "resnet_crop")), digits.pixels)


def test_following_batches_are_decoded_ahead(folder, monkeypatch):
    _, (streamed, *_) = both(folder)
    batches = Batches(streamed, 5, 0)
    batches.batch(0)
    coming = set(streamed._pending)
    assert set(batches.indices(1).tolist()) <= coming
    assert set(batches.indices(4).tolist()) <= coming


def test_evaluation_ends_the_threads_that_decode_for_crops(folder, tmp_path, monkeypatch):
    streams = []

    def streamed(source, split, view):
        streams.append(StreamedPixels(split.images, 12, view.channels, source, CPU))
        return streams[-1]

    monkeypatch.setattr(feature_probes, "stored_for_crops", streamed)
    monkeypatch.setitem(feature_probes.PROTOCOLS, "table1", 2)
    config = tiny_config("data.channels=3", "data.augment=resnet_crop", "training.steps=2")
    train(config, str(folder), tmp_path / "run", progress=False)
    evaluate(tmp_path / "run", None, ["top1_table1_avepool"], "", progress=False)
    assert [stream._pool._shutdown for stream in streams] == [True, True]  # untrained and trained


def test_unreadable_images_are_replaced_listed_and_written_down(folder, tmp_path):
    (folder / "class0" / "04.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    source = open_source(str(folder))
    images = source.splits["train"]
    streamed = StreamedPixels(images, 12, 3, source, CPU)
    number = images.files.index("class0/04.png")
    x = streamed[torch.tensor([number, number + 1])]
    assert torch.equal(x[0], x[1])
    assert [file for file, _ in source.skipped] == ["class0/04.png"]
    run = tmp_path / "run"
    train(tiny_config("data.channels=3", "data.memory_gib=0", "training.steps=3"), str(folder), run, progress=False)
    assert json.loads((run / "data.json").read_text())["skipped"][0][0] == "class0/04.png"


@pytest.fixture
def converted(folder):
    """The photographs; two are rotated by EXIF, three are PNG files of 16-bit grey, one cannot be read."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in (1, 3):
        Image.new("RGB", (24, 20)).save(folder / "class1" / f"{i:02d}.png", exif=exif)
    for i in (0, 2, 6):
        Image.fromarray(np.full((20, 24), 999, dtype=np.uint16)).save(folder / "class0" / f"{i:02d}.png")
    Image.new("RGB", (7, 7)).save(folder / "class0" / "08.png")
    (folder / "class0" / "04.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return folder


def test_streamed_images_are_noted_as_those_in_memory(converted):
    noted = []
    for memory in (1.0, 0.0):
        source = open_source(str(converted))
        pixels, _, _ = training_pixels(source.splits["train"], 12, 3, source, memory, CPU, progress=False)
        for _ in range(3):
            pixels[torch.arange(len(pixels))]
        noted.append(dict(sorted(source.notes.items())))
    assert noted[0] == noted[1]
    assert noted[1]["EXIF rotated"] == 2
    assert noted[1]["16-bit scaled to 8"] == 3
    assert noted[1]["enlarged to the resolution"] == 1


def test_a_continued_streamed_run_counts_conversions_once(converted, tmp_path):
    def card(memory, steps):
        run = tmp_path / f"run{memory}"
        settings = ("data.channels=3", f"data.memory_gib={memory}", f"training.steps={steps}", "log.validate_every=0")
        train(tiny_config(*settings), str(converted), run, progress=False)
        found = json.loads((run / "data.json").read_text())
        return found["notes"], found["skipped"]

    whole = card(1, 1)
    counts = [card(0, steps) for steps in (1, 2, 9, 10)]
    for (notes, skipped), (later, more) in pairwise(counts):
        assert all(later[note] >= count for note, count in notes.items())
        assert len(more) >= len(skipped)
    assert counts[-1] == whole


def test_remembered_notes_are_not_counted_again(folder):
    source = open_source(str(folder))
    source.record("a", ["palette"])
    source.remember([["b", "truncated JPEG (at 5)"]], {"palette": 3, "truncated JPEG": 1, "alpha": 2})
    assert source.notes == {"palette": 3, "truncated JPEG": 1, "alpha": 2}
    for file in "cdcd":  # two that the earlier process read, as far as anybody knows
        source.record(file, ["palette"])
    assert source.notes["palette"] == 3
    source.record("e", ["palette", "alpha", "CMYK"])
    assert source.notes == {"palette": 4, "truncated JPEG": 1, "alpha": 2, "CMYK": 1}
    assert source.skipped == [("b", "truncated JPEG (at 5)")]
    source.remember([["b", "truncated JPEG (at 5)"]], {})
    assert len(source.skipped) == 1


def test_too_many_unreadable_images_end_in_one_line(folder):
    for i in (0, 2, 4):
        (folder / "class0" / f"{i:02d}.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    source = open_source(str(folder))
    streamed = StreamedPixels(source.splits["train"], 12, 3, source, CPU)
    with pytest.raises(UserError, match=r"2 of the 30 images .* so far \(6.7%, limit 5.0%\)"):
        streamed[torch.arange(30)]


@pytest.mark.parametrize("held", ["1", "0"])  # GiB: in memory, or streamed
def test_a_higher_limit_allows_more_unreadable_images(folder, tmp_path, held):
    for i in (0, 2, 4):
        (folder / "class0" / f"{i:02d}.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    settings = ("data.channels=3", f"data.memory_gib={held}", "training.steps=3")
    with pytest.raises(UserError, match=r"--set data\.max_unreadable="):
        train(tiny_config(*settings), str(folder), tmp_path / "run", progress=False)
    more = tiny_config(*settings, "data.max_unreadable=0.2")
    assert train(more, str(folder), tmp_path / "run", progress=False) is None
    assert len(json.loads((tmp_path / "run" / "data.json").read_text())["skipped"]) == 3
    more = tiny_config(*settings, "data.max_unreadable=0.2", "training.steps=4")
    assert train(more, str(folder), tmp_path / "run", progress=False) is None
    assert len(json.loads((tmp_path / "run" / "data.json").read_text())["skipped"]) == 3  # each once


def test_the_substitute_of_an_unreadable_image_has_its_label(folder):
    (folder / "class0" / "04.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    source = open_source(str(folder))
    images = source.splits["train"]
    streamed = StreamedPixels(images, 12, 3, source, CPU)
    numbers = torch.arange(len(images))  # as labels: each names its image
    batches = Batches(streamed, len(images), 0, labels=numbers)
    x, y = batches.batch(0), batches.labels(0)
    for image, number in zip(x, y.tolist(), strict=True):
        assert torch.equal(image, batches.images(torch.tensor([number]))[0])
    lost = images.files.index("class0/04.png")
    assert lost not in y
    assert y.tolist().count(lost + 1) == 2


def test_fingerprint_covers_all_names_and_some_contents(folder):
    images = open_source(str(folder)).splits["train"]
    assert fingerprint(images, max_contents=100) == fingerprint(images)
    sampled = fingerprint(images, max_contents=10)  # every third
    Image.new("RGB", (9, 9)).save(folder / images.files[1])
    assert fingerprint(open_source(str(folder)).splits["train"], max_contents=10) == sampled
    Image.new("RGB", (9, 9)).save(folder / images.files[3])
    assert fingerprint(open_source(str(folder)).splits["train"], max_contents=10) != sampled


def test_decoding_in_threads_leaves_the_warning_filters_alone(folder):
    data = next(folder.rglob("*.png")).read_bytes()
    decode(data)  # adds a filter for good
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: decode(data), range(200)))
    assert warnings.filters == before


def test_threads_read_what_one_reader_reads(folder):
    source = open_source(str(folder))
    images = source.splits["train"]
    resident, _ = load_pixels(images, 12, 3, source)
    streamed = StreamedPixels(images, 12, 3, source, CPU)
    assert np.array_equal(streamed[torch.arange(30)].numpy(), resident)


def test_batches_of_a_stream_are_the_split(folder):
    images = open_source(str(folder)).splits["train"]
    pixels, kept = load_pixels(images, 12, 3)
    batches = list(stream_pixels(images, 12, 3, batch_size=7))
    assert [len(x) for x, _ in batches[:-1]] == [7] * (len(batches) - 1)
    assert 0 < len(batches[-1][0]) <= 7
    np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), pixels)
    np.testing.assert_array_equal(np.concatenate([numbers for _, numbers in batches]), kept)


def test_a_stream_reads_ahead_of_its_reader_a_little(folder, monkeypatch):
    images = open_source(str(folder)).splits["train"].subset(np.arange(1000) % 20)
    read = []
    load = type(images).load_noted
    monkeypatch.setattr(type(images), "load_noted", lambda self, i: read.append(i) or load(self, i))
    stream = stream_pixels(images, 12, 3, batch_size=10)
    next(stream)
    stream.close()  # nobody asks for more
    ahead = (2 * (os.cpu_count() or 1) + 2) * DECODED_TOGETHER
    assert 10 <= len(read) <= ahead
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
