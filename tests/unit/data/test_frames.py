"""Stacks: each frame of a TIFF file an image of its own, and all of them one group."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from bigbigan.apps.train import train
from bigbigan.data import DecodeLimits, fingerprint, open_source, write_shards
from bigbigan.data.decode import list_frames
from bigbigan.data.held_out import hold_out
from bigbigan.data.window import Window
from bigbigan.errors import UserError
from bigbigan.evaluation.runner import evaluate
from bigbigan.inference.inputs import load_items
from tiny import tiny_config, write_npz

ALL = DecodeLimits(all_frames=True)


def stack(frames, **options):
    file = io.BytesIO()
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(file, "TIFF", save_all=True, append_images=others, **options)
    return file.getvalue()


@pytest.fixture
def frames():
    return [np.full((8, 8), 20 * k, np.uint8) for k in range(1, 5)]


@pytest.fixture
def folder(tmp_path, frames):
    folder = tmp_path / "stacks"
    for name in ("a/one.tif", "a/deep.tif", "b/deep.tif", "b/other.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / "a" / "one.tif").write_bytes(stack(frames[:1]))
    (folder / "a" / "deep.tif").write_bytes(stack(frames))
    (folder / "b" / "deep.tif").write_bytes(stack(frames[:2]))
    Image.fromarray(frames[0]).save(folder / "b" / "other.png")
    return folder


def test_each_frame_is_an_image_and_a_file_is_a_group(folder, frames):
    images = open_source(str(folder), limits=ALL).splits["train"]
    deep = [f"a/deep.tif#{k}" for k in (1, 2, 3, 4)]
    assert images.files == [*deep, "a/one.tif", "b/deep.tif#1", "b/deep.tif#2", "b/other.png"]
    assert [images.classes[k] for k in images.labels] == ["a"] * 5 + ["b"] * 3
    assert len(np.unique(images.groups[:4])) == 1
    assert len(np.unique(images.groups)) == 4
    for k in range(4):
        pixels, notes = images.load_noted(k)
        assert (pixels[:, :, 0] == frames[k]).all()
        assert notes == ()
    kept, held_out = hold_out(len(images), 3, 0, images.groups)
    assert not set(images.groups[kept]) & set(images.groups[held_out])


def test_a_single_stack_is_trained_on_and_evaluated(frames, tmp_path):
    (tmp_path / "stack").mkdir()
    (tmp_path / "stack" / "one.tif").write_bytes(stack(5 * frames))
    config = tiny_config("training.steps=2", "log.validate_every=2", "data.frames=all")
    assert train(config, str(tmp_path / "stack"), tmp_path / "run", progress=False) is None
    with pytest.warns(UserWarning, match="all 20 training images to choose from are of one group"):
        lines = evaluate(tmp_path / "run", None, ["reconstruction_error", "fid10k_train_encoder"], "", progress=False)
    assert {line.metric: line.n for line in lines} == {"reconstruction_error": 4, "fid10k_train_encoder": 10_000}


def test_the_first_frame_is_read_by_default(folder):
    images = open_source(str(folder)).splits["train"]
    assert images.files == ["a/deep.tif", "a/one.tif", "b/deep.tif", "b/other.png"]
    assert images.groups is None
    assert images.load_noted(0)[1] == ("first of several frames",)


def test_frames_of_an_archive_are_those_of_the_folder(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "stacks.zip", "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder))
    found = [open_source(str(path), limits=ALL).splits["train"] for path in (folder, tmp_path / "stacks.zip")]
    assert found[0].files == found[1].files
    assert fingerprint(found[0]) == fingerprint(found[1])


def test_fingerprint_tells_the_frames_of_a_file_apart(folder):
    images = open_source(str(folder), limits=ALL).splits["train"]
    assert images.store.identity(0) != images.store.identity(1)


def test_a_label_of_a_file_is_for_all_its_frames(folder, tmp_path):
    labels = tmp_path / "l.csv"
    labels.write_text("file,label\na/deep.tif,x\na/deep.tif#2,y\nother.png,y\n")
    images = open_source(str(folder), labels=labels, limits=ALL).splits["train"]
    found = {f: images.classes[k] for f, k in zip(images.files, images.labels, strict=True) if k >= 0}
    assert found == {
        "a/deep.tif#1": "x",
        "a/deep.tif#2": "y",
        "a/deep.tif#3": "x",
        "a/deep.tif#4": "x",
        "b/other.png": "y",
    }


def test_a_label_of_a_file_without_its_ending_is_for_its_frames(folder, tmp_path):
    labels = tmp_path / "l.csv"
    labels.write_text("file,label\na/deep,x\nother,y\nb/deep.TIF,y\n")
    images = open_source(str(folder), labels=labels, limits=ALL).splits["train"]
    found = {f: images.classes[k] for f, k in zip(images.files, images.labels, strict=True) if k >= 0}
    assert found == {f"a/deep.tif#{k}": "x" for k in (1, 2, 3, 4)} | dict.fromkeys(
        ("b/deep.tif#1", "b/deep.tif#2", "b/other.png"), "y"
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a/deep.tif,x\na/deep.tif,y", "a/deep.tif has two rows, with different labels, groups or splits"),
        ("a/deep.tif,x\na/deep,y", "a/deep.tif has two rows, with different labels, groups or splits"),
        ("deep,x\nother.png,y", "deep may be a/deep.tif or b/deep.tif; give the whole name"),
    ],
)
def test_labels_that_contradict_each_other_on_a_file_are_refused(folder, tmp_path, rows, message):
    labels = tmp_path / "l.csv"
    labels.write_text(f"file,label\n{rows}\n")
    with pytest.raises(UserError, match=message):
        open_source(str(folder), labels=labels, limits=ALL)


@pytest.mark.parametrize("column", ["", ",group", ",split"])
def test_labels_without_groups_keep_a_file_one_group(folder, tmp_path, column):
    cell = {"": "", ",group": ",", ",split": ",test"}[column]
    labels = tmp_path / "l.csv"
    labels.write_text(f"file,label{column}\na/deep.tif,x{cell.replace('test', '')}\nother.png,y{cell}\n")
    source = open_source(str(folder), labels=labels, limits=ALL)
    groups = {f: int(g) for s in source.splits.values() for f, g in zip(s.files, s.groups, strict=True)}
    assert len({groups[f"a/deep.tif#{k}"] for k in (1, 2, 3, 4)}) == 1
    assert groups["b/deep.tif#1"] == groups["b/deep.tif#2"]
    assert len(set(groups.values())) == 4
    assert len(source.splits) == (2 if column == ",split" else 1)


def test_groups_of_labels_join_files_and_may_divide_one(folder, tmp_path):
    labels = tmp_path / "l.csv"
    rows = ["a/deep.tif#3,x,P1", "a/deep.tif#4,x,", "a/one.tif,x,P1", "b/deep.tif#1,y,P2", "b/deep.tif#2,y,P3"]
    labels.write_text("\n".join(["file,label,group", *rows]))
    images = open_source(str(folder), labels=labels, limits=ALL).splits["train"]
    groups = dict(zip(images.files, images.groups.tolist(), strict=True))
    together = [*(f"a/deep.tif#{k}" for k in (1, 2, 3, 4)), "a/one.tif"]
    assert len({groups[f] for f in together}) == 1
    assert len(set(groups.values())) == 4  # P1, P2, P3 and other.png


def test_a_split_of_labels_that_divides_a_file_is_reported(folder, tmp_path):
    labels = tmp_path / "l.csv"
    labels.write_text("file,label,split\na/deep.tif#1,x,test\nother.png,y,\n")
    with pytest.warns(UserWarning, match="1 groups have images in both train and test"):
        open_source(str(folder), labels=labels, limits=ALL)


def test_thumbnails_are_no_frames(frames):
    file = io.BytesIO()
    reduced = Image.fromarray(frames[0][:4, :4])
    reduced.encoderinfo = {"tiffinfo": {254: 1}}
    Image.fromarray(frames[0]).save(file, "TIFF", save_all=True, append_images=[reduced, Image.fromarray(frames[1])])
    assert list_frames(file.getvalue()) == [0, 2]


def test_a_damaged_stack_has_one_frame(frames):
    assert list_frames(stack(frames)[:40]) == [0]


def test_pages_in_a_circle_end(frames):
    data = bytearray(stack(frames[:2]))
    first = int.from_bytes(data[4:8], "little")
    second = data[first + 2 + 12 * int.from_bytes(data[first : first + 2], "little") :][:4]
    at = int.from_bytes(second, "little")
    end = at + 2 + 12 * int.from_bytes(data[at : at + 2], "little")
    data[end : end + 4] = first.to_bytes(4, "little")
    assert list_frames(bytes(data)) == [0, 1]


def test_rows_of_arrays_and_images_of_shards_are_single_frames(folder, tmp_path):
    arrays = open_source(str(write_npz(tmp_path / "a.npz")), limits=ALL)
    assert (len(arrays.splits["train"]), arrays.notes["data.frames=all has no effect: no image files"]) == (60, 1)
    files = open_source(str(folder), limits=ALL)
    write_shards(files, tmp_path / "shards")
    shards = open_source(str(tmp_path / "shards"), limits=ALL)
    assert len(shards.splits["train"]) == len(files.splits["train"])


def test_a_frame_is_named_by_its_file_and_number(folder, frames):
    config = tiny_config("data.frames=all")
    pixels = load_items([f"{folder}/a/deep.tif#3", f"{folder}/a/one.tif"], config, "images")
    assert (pixels[:, 0, 0, 0] == [60, 20]).all()
    with pytest.raises(UserError, match=r"of 4 frames \(name one of them, such as .*deep.tif#1\)"):
        load_items([f"{folder}/a/deep.tif"], config, "images")


@pytest.mark.parametrize("window", [None, Window(200, 3900)])
def test_shards_of_stacks_have_each_frame_with_its_bits(folder, tmp_path, window):
    deep = np.random.default_rng(0).integers(0, 4096, (8, 8, 8), dtype=np.uint16)
    (folder / "a" / "deep.tif").write_bytes(stack(deep))
    files = open_source(str(folder), limits=ALL)
    write_shards(files, tmp_path / "out")
    shards = open_source(str(tmp_path / "out"))
    for source in (files, shards):
        source.set_window(window)
    ours, theirs = shards.splits["train"], files.splits["train"]
    assert ours.files == theirs.files
    assert ours.groups.tolist() == theirs.groups.tolist()
    assert len({ours.load(i).tobytes() for i in range(8)}) == 8
    for i in range(len(theirs)):
        np.testing.assert_array_equal(ours.load(i), theirs.load(i))
    assert ours.store.raw(int(ours.index[8])) == (folder / "a" / "one.tif").read_bytes()


@pytest.mark.parametrize("kind", ["float", "white is 0"])
def test_frames_that_no_png_can_hold_are_refused(folder, frames, tmp_path, kind):
    values = [frame.astype(np.float32 if kind == "float" else np.uint16) for frame in frames]
    (folder / "a" / "deep.tif").write_bytes(stack(values, **({} if kind == "float" else {"tiffinfo": {262: 0}})))
    source = open_source(str(folder), limits=DecodeLimits(all_frames=True, window=Window(0, 100)))
    with pytest.raises(UserError, match=r"deep.tif#\d: a PNG file cannot hold the values of this frame"):
        write_shards(source, tmp_path / "out")
    write_shards(source, tmp_path / "small", resolution=8)
    images = open_source(str(tmp_path / "small")).splits["train"]
    assert len({images.load(i).tobytes() for i in range(4)}) == 4


def test_a_thumbnail_that_comes_first_is_no_image(frames, tmp_path):
    """Whether or not another file has several frames."""
    full = Image.fromarray(frames[0])
    full.encoderinfo = {"tiffinfo": {}}
    thumbnail = Image.fromarray(frames[0][:4, :4])
    thumbnail.save(tmp_path / "a.tif", save_all=True, append_images=[full], tiffinfo={254: 1})
    assert list_frames((tmp_path / "a.tif").read_bytes()) == [1]
    images = open_source(str(tmp_path), limits=ALL).splits["train"]
    assert [images.load(i).shape[:2] for i in range(len(images))] == [frames[0].shape[:2]]
