"""open_source and load_pixels on folders, archives and arrays, whole, odd, broken and hostile."""

import gzip
import io
import ntpath
import os
import pickle
import re
import shutil
import socket
import stat
import struct
import sys
import tarfile
import types
import warnings
import zipfile
from collections import Counter
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from bigbigan.data import DecodeLimits, Unreadable, fingerprint, image_set, load_pixels, open_source
from bigbigan.data.names import listed
from bigbigan.data.readers import archives, arrays, folders, huggingface
from bigbigan.data.sources import absolute_source, relative_source, source_exists
from bigbigan.errors import UserError


def png(value=0, size=(8, 8)):
    """A small grey PNG whose pixels all have one value."""
    out = io.BytesIO()
    Image.new("L", size, value).save(out, "PNG")
    return out.getvalue()


def write(root, files):
    """{"a/b.png": bytes} -> files under root; a str is a symbolic link's target."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(data) if isinstance(data, str) else path.write_bytes(data)
    return root


def pack(path, files):
    """Packs {"a/b.png": bytes or TarInfo} as zip, tar or tar.gz, by the name of `path`."""
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
            for name, data in files.items():
                z.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as t:
            for name, data in files.items():
                info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
                info.name = name
                if isinstance(data, bytes):
                    info.size = len(data)
                t.addfile(info, io.BytesIO(data) if isinstance(data, bytes) else None)
    return path


def user_error(*args, **kwargs):
    """The message of the UserError that opening (and reading) a source must end with: one line."""

    def read():
        source = open_source(*args, **kwargs)
        for images in source.splits.values():
            load_pixels(images, 8, 1, source)

    with pytest.raises(UserError) as e:
        read()
    assert "\n" not in str(e.value)
    return str(e.value)


def info(kind, target=""):
    member = tarfile.TarInfo()
    member.type, member.linkname = kind, target
    member.devmajor = member.devminor = 1
    member.mode = 0o6777
    return member


TWO_CLASSES = {f"{c}/{i}.png": png(10 * k + i) for k, c in enumerate(("cat", "dog")) for i in range(3)}
SPLITS = {f"{s}/{name}": data for s in ("train", "val", "test") for name, data in TWO_CLASSES.items()}
PACKED = ["set.zip", "set.tar", "set.tar.gz", "set.tgz"]


# ---------------------------------------------------------------------------------------------------------
# Layouts: the same in a folder and in every archive


@pytest.fixture(params=["folder", *PACKED])
def make(request, tmp_path):
    """A function that puts files into a folder or an archive and returns its path."""
    if request.param == "folder":
        return lambda files: write(tmp_path / "set", files)
    return lambda files: pack(tmp_path / request.param, {f"set/{n}": d for n, d in files.items()})


def names(images):
    return [f.removeprefix("set/") for f in images.files]


def test_flat(make):
    source = open_source(str(make({f"{i}.png": png(i) for i in (2, 0, 1)})))
    assert list(source.splits) == ["train"]
    train = source.splits["train"]
    assert names(train) == ["0.png", "1.png", "2.png"]  # sorted, whatever the order on disk
    assert (train.labels, train.classes, len(train), source.name) == (None, None, 3, "set")
    pixels, kept = load_pixels(train, 8, 1, source)
    assert pixels.shape == (3, 1, 8, 8)
    np.testing.assert_array_equal(pixels[:, 0, 0, 0], [0, 1, 2])
    np.testing.assert_array_equal(kept, [0, 1, 2])
    assert (source.notes, source.skipped) == ({}, [])


def test_class_folders(make):
    source = open_source(str(make(TWO_CLASSES)))
    train = source.splits["train"]
    assert train.classes == ["cat", "dog"]
    assert train.labels.dtype == np.int64
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    pixels, _ = load_pixels(train, 8, 3, source)
    np.testing.assert_array_equal(pixels[:, 2, 3, 3], [0, 1, 2, 10, 11, 12])
    assert source.notes == {}


def test_class_name_is_empty_without_a_label(make):
    files = {f"train/{c}/1.png": png() for c in "bd"} | {f"test/{c}/1.png": png() for c in "ab"}
    with pytest.warns(UserWarning, match="read without labels"):
        test = open_source(str(make(files))).splits["test"]
    assert [test.class_name(i) for i in range(2)] == ["", "b"]
    unlabelled = open_source(str(make(files)), labelled=False).splits["test"]
    assert [unlabelled.class_name(i) for i in range(2)] == ["", ""]
    for images in (test, test.subset([0]), unlabelled):
        assert (images.labels is None) == (images.classes is None)


def test_splits_share_one_class_order(make):
    files = {f"train/{c}/1.png": png() for c in "bd"} | {f"test/{c}/1.png": png() for c in "abc"}
    with pytest.warns(UserWarning, match="2 images of 'test' are read without labels: train has no folder a, c"):
        source = open_source(str(make(files)))
    assert list(source.splits) == ["train", "test"]
    for images in source.splits.values():
        assert images.classes == ["b", "d"]
    assert source.splits["train"].labels.tolist() == [0, 1]
    assert source.splits["test"].labels.tolist() == [-1, 0, -1]


# Layouts as public data sets have them: folders with the names of their images (two each, where none are given); for
# each split, how many images have which class (None: without a label); and what is warned of.
LAYOUTS = {
    "tiny imagenet": (
        ["train/n01/images", "train/n02/images", "val/images"],
        {"train": {"n01": 2, "n02": 2}, "val": {None: 2}},
        "train has no folder images",
    ),
    "keras test/unknown": (
        ["train/cat", "train/dog", "test/unknown"],
        {"train": {"cat": 2, "dog": 2}, "test": {None: 2}},
        "train has no folder unknown",
    ),
    "anomalies in test": (
        ["train/good", "test/good", "test/broken"],
        {"train": {"good": 2}, "test": {"good": 2, "broken": 2}},
        None,
    ),
    "anomalies in test, normal images in val": (
        ["train/good", "val/good", "test/broken", "test/scratch"],
        {"train": {"good": 2}, "val": {"good": 2}, "test": {"broken": 2, "scratch": 2}},
        None,
    ),
    "one class in train, others in test": (
        ["train/all", "test/broken", "test/scratch"],
        {"train": {None: 2}, "test": {None: 4}},
        "train has no folder broken, scratch",
    ),
    "only test is labelled": (["train", "test/a", "test/b"], {"train": {None: 2}, "test": {"a": 2, "b": 2}}, None),
    "vehicles": (
        ["bus", "car", "train", "truck"],
        {"train": {"bus": 2, "car": 2, "train": 2, "truck": 2}},
        "the folders train are read as classes, like bus, car, truck",
    ),
    "vehicles, split": (
        [f"{split}/{kind}" for split in ("train", "test") for kind in ("bus", "train")],
        {"train": {"bus": 2, "train": 2}, "test": {"bus": 2, "train": 2}},
        "the folders train are read as classes",
    ),
    "one split beside something else": (
        ["train/cat", "train/dog", "unlabelled"],
        {"train": {"cat": 2, "dog": 2}},
        "skipped: unlabelled; to use them",
    ),
    "intel scenes": (
        ["seg_train/seg_train/forest", "seg_train/seg_train/sea", "seg_test/seg_test/forest", "seg_test/seg_test/sea",
         "seg_pred/seg_pred"],
        {"train": {"forest": 2, "sea": 2}, "test": {"forest": 2, "sea": 2}},
        "skipped: seg_pred; to use them",
    ),
    "cats and dogs": (
        ["training_set/training_set/cats", "training_set/training_set/dogs", "test_set/test_set/cats",
         "test_set/test_set/dogs"],
        {"train": {"cats": 2, "dogs": 2}, "test": {"cats": 2, "dogs": 2}},
        None,
    ),
    "ham10000": (["HAM10000_images_part_1=a,b", "HAM10000_images_part_2=c,d"], {"train": {None: 4}}, None),
    "nuclei": (["stage1_train", "stage1_test"], {"train": {None: 2}, "test": {None: 2}}, None),
    "coco": (["train2017", "val2017", "test2017"], {s: {None: 2} for s in ("train", "val", "test")}, None),
    "train_images": (["train_images", "test_images"], {"train": {None: 2}, "test": {None: 2}}, None),
    "trainval": (
        ["trainval/a", "trainval/b", "test/a", "test/b"],
        {"train": {"a": 2, "b": 2}, "test": {"a": 2, "b": 2}},
        None,
    ),
    "dev": (["train", "dev", "test"], {"train": {None: 2}, "val": {None: 2}, "test": {None: 2}}, None),
    "in parts": (["train_1", "train_2", "test_1"], {"train": {None: 4}, "test": {None: 2}}, None),
    "class first": (
        [f"{kind}/{split}" for kind in ("cat", "dog") for split in ("train", "test")],
        {"train": {"cat": 2, "dog": 2}, "test": {"cat": 2, "dog": 2}},
        None,
    ),
    "class first, a cover": (
        [*(f"{kind}/{split}" for kind in ("cat", "dog") for split in ("train", "test")), "cat=cover"],
        {"train": {"cat": 2, "dog": 2}, "test": {"cat": 2, "dog": 2}},
        "1 images outside the train, val and test folders are skipped: cat; to use them",
    ),
    "class first, an overview": (
        [*(f"data/{kind}/{split}" for kind in ("cat", "dog") for split in ("train", "test")), ".=overview"],
        {"train": {"cat": 2, "dog": 2}, "test": {"cat": 2, "dog": 2}},
        "skipped: .; to use them",
    ),
    "splits further down, an overview": (
        [*(f"data/{split}/{kind}" for kind in ("cat", "dog") for split in ("train", "test")), ".=overview"],
        {"train": {"cat": 2, "dog": 2}, "test": {"cat": 2, "dog": 2}},
        "skipped: .; to use them",
    ),
    "mvtec": (
        [f"{kind}/{inner}" for kind in ("bottle", "cable")
         for inner in ("train/good", "test/good", "test/broken", "ground_truth/broken")],
        {"train": {"bottle": 2, "cable": 2}, "test": {"bottle": 4, "cable": 4}},
        ("skipped: bottle/ground_truth, cable/ground_truth; to use them", "and each has folders broken, good;"),
    ),
    "vehicles and exams": (
        ["land/train", "land/bus", "paper/test", "paper/note"],
        {"train": {"land": 4, "paper": 4}},
        None,
    ),
    "ffhq": (["00000=00001,00999", "01000=01000,01777", "02000=02500"], {"train": {None: 5}}, None),
    "banknotes": (["1000=1,2", "2000=3,4", "5000=5"], {"train": {"1000": 2, "2000": 2, "5000": 1}}, None),
    "parts": (["part_1", "part_2", "part_10"], {"train": {None: 6}}, None),
    "folds": (
        [f"fold_{k}/{kind}" for k in (1, 2, 3) for kind in ("cat", "dog")],
        {"train": {"cat": 6, "dog": 6}},
        None,
    ),
    "albums in parts": (["part_1/rome", "part_2/oslo"], {"train": {None: 4}}, None),
    "patients above classes": (
        [f"P{k}/{kind}" for k in range(4) for kind in (("benign", "malign") if k else ("benign",))],
        {"train": {"P0": 2, "P1": 4, "P2": 4, "P3": 4}},
        "classes are P0, P1, P2, P3, and each has folders benign, malign; if those are the classes, give --labels",
    ),
    "patients below classes": (
        ["benign/P0", "benign/P1", "malign/P2", "malign/P3"],
        {"train": {"benign": 4, "malign": 4}},
        None,
    ),
    "by checksum": ([f"{k:02x}={k:02x}3f9c21e0" for k in range(9)], {"train": {None: 9}}, None),
    "masks": (["images", "annotations"], {"train": {None: 2}}, "skipped as masks or annotations: annotations"),
    "masks of splits": (
        ["train/images", "train/masks", "val/images", "val/masks"],
        {"train": {None: 2}, "val": {None: 2}},
        "4 images are skipped as masks or annotations: masks",
    ),
    "two domains": (
        ["trainA", "trainB", "testA", "testB"],
        {"train": {"testA": 2, "testB": 2, "trainA": 2, "trainB": 2}},
        "classes: testA, testB, trainA, trainB; if they are not",
    ),
    "synology": (["cat", "dog", "cat/@eaDir/0.png", "@eaDir"], {"train": {"cat": 2, "dog": 2}}, None),
    "numbers": ([str(k) for k in range(12)], {"train": {str(k): 2 for k in range(12)}}, None),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_public_data_sets(make, layout):
    folders, expected, warning = LAYOUTS[layout]
    files = {}
    for folder in folders:
        name, _, stems = folder.partition("=")
        files |= {f"{name}/{stem}.png": png(k) for k, stem in enumerate(stems.split(",") if stems else "xy")}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = open_source(str(make(files)))
    found = {}
    for split, images in source.splits.items():
        labels = [-1] * len(images) if images.labels is None else images.labels.tolist()
        found[split] = dict(Counter(None if k < 0 else images.classes[k] for k in labels))
    assert found == expected
    expected = () if warning is None else (warning,) if isinstance(warning, str) else warning
    assert len(caught) == len(expected)
    assert all(part in str(w.message) for part, w in zip(expected, caught, strict=True))


def test_training_runs_in_the_folder_are_not_images_of_it(tmp_path):
    run = {"runs/a/config.json": b"{}", "runs/a/environment.json": b"{}", "runs/a/samples/step-10.png": png(7)}
    write(tmp_path / "photos", TWO_CLASSES | run)
    source = open_source(str(tmp_path / "photos"))
    assert source.splits["train"].classes == ["cat", "dog"]
    assert source.notes["folder ignored, a training run"] == 1


def test_masks_of_images_are_skipped_by_their_names(make):
    files = {f"{c}/{c} ({i}){m}.png": png(i) for c in ("benign", "normal") for i in range(3) for m in ("", "_mask")}
    files["benign/benign (1)_mask_1.png"] = png(9)
    files["normal/left_mask.png"] = png(8)  # of no image
    with pytest.warns(UserWarning, match="7 images are skipped as masks of the images of the same names"):
        images = open_source(str(make(files))).splits["train"]
    assert len(images) == 7
    assert [f.removeprefix("set/") for f in images.files if "mask" in f] == ["normal/left_mask.png"]


def test_copy_of_the_classes_in_one_of_them_is_skipped(make):
    files = {f"{top}{c}/{i}.png": png(i) for top in ("", "brain/") for c in ("no", "yes") for i in range(3)}
    with pytest.warns(UserWarning, match="6 images are skipped: (set/)?brain has the folders next to it once more"):
        images = open_source(str(make(files))).splits["train"]
    assert images.classes == ["no", "yes"]
    assert len(images) == 6


@pytest.mark.parametrize(
    ("folders", "names", "warned"),
    [
        (("raw", "outlined"), "P{}_slice", True),
        (("img", "lbl"), "{}", True),
        (("cat", "dog"), "{}", False),
        (("cat", "dog"), "img_{}", False),
    ],
)
def test_two_classes_of_the_same_file_names_are_reported(make, folders, names, warned):
    stems = [names.format(i) if i % 2 else names.format(i).replace("slice", "scan") for i in range(12)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        open_source(str(make({f"{c}/{stem}.png": png(k) for k, c in enumerate(folders) for stem in stems})))
    assert any("have files of the same names" in str(w.message) for w in caught) == warned


def test_classes_of_nearly_the_same_name_are_reported(make):
    files = {f"{c}/{i}.png": png(i) for c in ("Cat", "cat ", "dog") for i in range(3)}
    with pytest.warns(UserWarning, match="nearly the same name are kept apart: 'Cat' and 'cat '"):
        open_source(str(make(files)))


def test_text_that_begins_with_bm_is_no_bitmap(make):
    source = open_source(str(make(TWO_CLASSES | {"BMI.csv": b"BMI,age\n" * 20})))
    assert source.notes["ignored, not an image (.csv)"] == 1


def test_dicom_without_an_ending_is_reported(make):
    files = {f"{i}.png": png(i) for i in range(60)} | {"IM0001": bytes(128) + b"DICM" + bytes(300)}
    files |= {"notes": b"P5 is the fifth patient", "film.mp4": b"\0\0\0\x18ftypmp42", "a.tga": bytes(50)}
    source = open_source(str(make(files)))
    load_pixels(source.splits["train"], 8, 1, source)
    reasons = {f.removeprefix("set/"): reason for f, reason in source.skipped}
    remedy = "pip install 'bigbigan[dicom]', or convert to PNG"
    assert reasons == {"IM0001": f"DICOM ({remedy})", "a.tga": "TGA (convert to PNG)"}


def test_a_folder_called_as_a_known_set_is_reported(tmp_path, monkeypatch):
    write(tmp_path / "digits", TWO_CLASSES)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match=r"digits is the known data set; for the folder of that name write \./digits"):
        assert len(open_source("digits").splits["train"]) == 1438
    assert len(open_source("./digits").splits["train"]) == 6


@pytest.mark.parametrize("after", ["", ":train"])
def test_a_hugging_face_folder_is_found_from_another_folder(tmp_path, monkeypatch, after):
    (tmp_path / "photos").mkdir()
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    for run, relative in (("runs", "../photos"), (".", "./photos")):
        assert relative_source(f"hf:photos{after}", tmp_path / run) == f"hf:{relative}{after}"
        assert absolute_source(f"hf:{relative}{after}", tmp_path / run) == f"hf:{tmp_path / 'photos'}{after}"
    assert source_exists(f"hf:{tmp_path / 'photos'}{after}")
    assert not source_exists(f"hf:{tmp_path / 'gone'}{after}")
    assert relative_source(f"hf:owner/name{after}", tmp_path) is None


def test_arguments_of_open_source_are_checked(make):
    path = str(make(TWO_CLASSES))
    assert user_error(path, labels=5) == "labels is a int; expected the path of a CSV file, or None"
    assert user_error(path, max_unreadable="x") == "max_unreadable is a share between 0 and 1, not 'x'"


def test_classes_are_in_the_order_of_their_numbers(make):
    source = open_source(str(make({f"{c}/1.png": png() for c in ("0", "2", "10", "b", "a", "-1.5")})))
    assert source.splits["train"].classes == ["-1.5", "0", "2", "10", "a", "b"]
    assert [f.split("/")[-2] for f in source.splits["train"].files] == ["-1.5", "0", "10", "2", "a", "b"]
    assert source.splits["train"].labels.tolist() == [0, 1, 3, 2, 4, 5]


def test_classes_of_one_name_are_one_however_it_is_composed(make):
    source = open_source(str(make({"train/caf\u00e9/1.png": png(), "train/tea/1.png": png(),
                                   "test/cafe\u0301/1.png": png(), "test/tea/1.png": png()})))  # fmt: skip
    assert source.splits["test"].classes == ["caf\u00e9", "tea"]
    assert source.splits["test"].labels.tolist() == [0, 1]


def test_a_folder_whose_name_means_no_label_is_a_class(make):
    with pytest.warns(UserWarning, match="'NA' is a class here, but means no label in a labels file; rename it"):
        source = open_source(str(make({"NA/1.png": png(), "EU/1.png": png()})))
    assert source.splits["train"].classes == ["EU", "NA"]


def test_split_names_are_known_in_other_spellings(make):
    source = open_source(str(make({f"{s}/{i}.png": png(i) for s in ("Training", "VALID", "testing") for i in (1, 2)})))
    assert {k: (v.name, len(v), v.labels) for k, v in source.splits.items()} == {
        "train": ("train", 2, None),
        "val": ("val", 2, None),
        "test": ("test", 2, None),
    }


def test_junk_is_ignored_by_rule_and_counted(make):
    junk = [
        ".hidden.png",
        "__MACOSX/cat/._1.png",
        "cat/Thumbs.db",
        "desktop.ini",
        "dog/9.png.part",
        ".git/x.png",
    ]
    others = {"README.txt": b"hello", "labels.csv": b"a,b", "cat/noext": b"text"}
    source = open_source(str(make(TWO_CLASSES | dict.fromkeys(junk, b"x") | others)))
    assert len(source.splits["train"]) == 6
    ignored = {k: v for k, v in source.notes.items() if "not an image" in k}
    assert ignored == {f"ignored, not an image ({k})": 1 for k in (".txt", ".csv", "no ending")}
    # A hidden folder counts once on disk, and once a file in an archive.
    assert source.notes["ignored, hidden or system file"] == 6


def test_images_without_or_with_wrong_ending_are_used(make):
    source = open_source(str(make({"a": png(1), "b.data": png(2), "c.jpg": png(3)})))
    pixels, _ = load_pixels(source.splits["train"], 8, 1, source)
    assert pixels[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert source.notes == {"extension does not match the format": 1}


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_lone_other_split_is_read_as_train(make, split):
    source = open_source(str(make({f"{split}/{n}": d for n, d in TWO_CLASSES.items()})))
    assert list(source.splits) == ["train"]
    assert source.splits["train"].name == "train"
    assert source.notes == {f"no train split: '{split}' is read as train": 1}


def test_a_class_may_be_called_test(make):
    source = open_source(str(make({"test/1.png": png(), "result/1.png": png()})))
    assert source.splits["train"].classes == ["result", "test"]


def test_images_beside_splits_are_ignored_and_counted(make):
    source = open_source(str(make(SPLITS | {"sample.png": png(), "extra/1.png": png()})))
    assert {k: len(v) for k, v in source.splits.items()} == {"train": 6, "val": 6, "test": 6}
    assert source.notes == {"ignored, outside the train, val and test folders": 2}


def test_one_class_folder_only(make):
    source = open_source(str(make({f"cells/{i}.png": png(i) for i in range(3)})))
    assert source.splits["train"].labels is None
    assert source.notes == {"only one folder, 'cells': read without labels": 1}


def test_nested_one_level_too_deep(make):
    source = open_source(str(make({f"data/images/{n}": d for n, d in TWO_CLASSES.items()})))
    assert source.splits["train"].classes == ["cat", "dog"]
    assert [k for k in source.notes if "further down" in k and "data/images" in k]


def test_splits_one_level_down_and_classes_further_down(make):
    source = open_source(str(make({f"data/{n.replace('/', '/images/', 1)}": d for n, d in SPLITS.items()})))
    assert list(source.splits) == ["train", "val", "test"]
    assert source.splits["val"].classes == ["cat", "dog"]
    assert source.notes == {"classes found further down, in 'images'": 1}


def test_stray_images_beside_class_folders_are_named(make):
    source = open_source(str(make(TWO_CLASSES | {"stray.png": png()})))
    assert len(source.splits["train"]) == 6
    assert [(f.removeprefix("set/"), r) for f, r in source.skipped] == [
        ("stray.png", "outside the class folders (so without a class)")
    ]


def test_mostly_flat_is_read_without_labels(make):
    source = open_source(str(make({f"{i}.png": png() for i in range(9)} | {"a/1.png": png(), "b/1.png": png()})))
    assert (len(source.splits["train"]), source.splits["train"].labels) == (11, None)


def test_deeper_folders_count_to_their_class(make):
    source = open_source(str(make(TWO_CLASSES | {"cat/more/7.png": png()})))
    assert source.splits["train"].labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert source.notes == {"in a deeper folder, counted to the folder above": 1}


def test_unreadable_images_are_skipped_named_and_counted_once(make):
    files = {f"{i:02}.png": png(i) for i in range(40)} | {"00.png": b"", "13.png": png()[:50]}
    source = open_source(str(make(files)))
    train = source.splits["train"]
    for _ in range(2):
        pixels, kept = load_pixels(train, 8, 1, source)
        assert kept.tolist() == [i for i in range(40) if i not in (0, 13)]
        assert pixels[:, 0, 0, 0].tolist() == kept.tolist()
        assert [(f.removeprefix("set/"), r) for f, r in source.skipped] == [
            ("00.png", "empty file"),
            ("13.png", "truncated PNG"),
        ]
        assert source.notes == {"empty file": 1, "truncated PNG": 1}


def test_too_many_unreadable_images_stop(make):
    files = {f"{i:02}.png": png(i) for i in range(20)} | {"03.png": b"no", "07.png": b"no"}
    path = make(files)
    message = user_error(str(path))
    for part in ("2 of the first 8 images", "limit 5.0% of 20", "03.png (not an image)", "07.png"):
        assert part in message
    source = open_source(str(path), max_unreadable=0.1)
    assert len(load_pixels(source.splits["train"], 8, 1, source)[1]) == 18


def test_nothing_readable(make):
    path = make({"a.png": b"", "b.heic": b"\0\0\0\x18ftypheic", "c.dcm": bytes(128) + b"DICM"})
    message = user_error(str(path), max_unreadable=1.0)
    assert "none of the 3 images" in message
    assert "HEIC or AVIF" in message
    assert "DICOM" in message


def test_limits_reach_the_images(make):
    source = open_source(str(make({"a.png": png(), "b.png": png(size=(50, 50))})), limits=DecodeLimits(max_pixels=100))
    assert source.splits["train"].load(0).shape == (8, 8, 1)
    with pytest.raises(Unreadable, match="megapixels"):
        source.splits["train"].load(1)
    source = open_source(str(make({"a.png": png(), "b.png": bytes(3000)})), limits=DecodeLimits(max_bytes=2000))
    with pytest.raises(Unreadable, match=r"over 0\.0019\d* MiB"):
        source.splits["train"].load(1)


def test_fingerprint_sees_every_change_but_not_labels(tmp_path):
    def of(files):
        root = tmp_path / str(len(list(tmp_path.iterdir()))) / "set"
        return fingerprint(open_source(str(write(root, files))).splits["train"])

    base = of(TWO_CLASSES)
    assert of(TWO_CLASSES) == base
    assert len(base) == 64
    removed = dict(list(TWO_CLASSES.items())[1:])
    renamed = removed | {"cat/00.png": TWO_CLASSES["cat/0.png"]}
    edited = TWO_CLASSES | {"cat/0.png": png(99)}
    broken = TWO_CLASSES | {"cat/0.png": "nowhere"}
    changed = [of(f) for f in (removed, renamed, edited, broken, TWO_CLASSES | {"cat/9.png": png()})]
    assert len({base, *changed}) == 6


def test_fingerprint_is_the_same_packed_in_any_way(tmp_path):
    packed = [pack(tmp_path / name, TWO_CLASSES) for name in PACKED]
    found = {fingerprint(open_source(str(p)).splits["train"]) for p in [write(tmp_path / "set", TWO_CLASSES), *packed]}
    assert len(found) == 1


def test_fingerprint_of_arrays_ignores_labels(tmp_path):
    x = np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8)
    np.savez(tmp_path / "a.npz", images=x, labels=np.array([0, 1, 0, 1]))
    np.savez(tmp_path / "b.npz", images=x, labels=np.array([1, 1, 0, 0]))
    np.savez(tmp_path / "c.npz", images=x.transpose(0, 2, 1))
    a, b, c = (fingerprint(open_source(str(tmp_path / f"{k}.npz")).splits["train"]) for k in "abc")
    assert a == b != c


def test_subset(tmp_path):
    train = open_source(str(write(tmp_path / "set", TWO_CLASSES))).splits["train"]
    part = train.subset([4, 0], name="val").subset(np.array([1, 0]))
    assert (part.name, part.files, part.labels.tolist()) == ("val", ["cat/0.png", "dog/1.png"], [0, 1])
    assert [int(part.load(i)[0, 0, 0]) for i in range(2)] == [0, 11]
    assert fingerprint(part) == fingerprint(train.subset([0, 4]))
    assert len(train.subset([])) == 0


def test_load_pixels_enlarges_files_and_says_so(tmp_path):
    files = {f"{n}.png": png(50, (n, n)) for n in (8, 28, 32, 64)} | {"wide.png": png(50, (64, 32))}
    source = open_source(str(write(tmp_path / "set", files)))
    pixels, _ = load_pixels(source.splits["train"], 32, 1, source)
    assert source.notes == {"enlarged to the resolution": 2}
    assert (pixels == 50).all()  # 28 too: only arrays are padded


@pytest.mark.parametrize(("side", "way"), [(28, "padded with zeros"), (25, "enlarged"), (32, None), (40, None)])
def test_load_pixels_pads_arrays(side, way, tmp_path):
    np.savez(tmp_path / "a.npz", images=np.full((3, side, side), 50, np.uint8))
    source = open_source(str(tmp_path / "a.npz"))
    pixels, _ = load_pixels(source.splits["train"], 32, 1, source)
    assert source.notes == ({f"{way} to the resolution": 3} if way else {})
    zeros = 32**2 - 28**2 if side == 28 else 0
    assert (pixels == 0).sum(axis=(1, 2, 3)).tolist() == [zeros] * 3
    assert (pixels[:, :, 2:30, 2:30] == 50).all()


def test_load_pixels_refuses_what_does_not_fit():
    train = open_source("digits").splits["train"]
    with pytest.raises(UserError, match=r"1,438 images of 8192x8192x3 take 269\.6 GiB, limit 16\.0; lower"):
        load_pixels(train, 8192, 3)
    with pytest.raises(UserError, match="limit"):
        load_pixels(train, 8, 1, max_bytes=1000)
    with pytest.raises(UserError, match="channels"):
        load_pixels(train, 8, 2)
    with pytest.raises(UserError, match="none of the 0 images"):
        load_pixels(train.subset([]), 8, 1)


def test_progress_goes_to_stderr(capsys):
    load_pixels(open_source("digits").splits["test"], 8, 1, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "reading test" in err
    assert "359/359" in err


# ---------------------------------------------------------------------------------------------------------
# Specs that are mistakes


MISTAKES = {
    "": "data source is empty",
    "  ": "data source is empty",
    "mnits": "did you mean 'mnist'?",
    "Cifar-10": "did you mean 'cifar10'?",
    "fashion_mnist:data": "did you mean 'fashion-mnist'?",
    "no/such/folder": "no such file or folder",
    "digits:here": "takes no path",
    "mnist:": "no path after the colon",
    "mnist:nowhere": "no such file or folder: nowhere",
    "hf:": "no name after the colon",
    "shards-{000..099}.tar": "no shard exists",
    "~nobody-of-this-name/set": "no such file or folder: ~nobody-of-this-name/set",
    "two\nlines": "no such file or folder: two\\nlines",
    "a\0b": "data source is empty",
}


@pytest.mark.parametrize("spec", MISTAKES)
def test_mistaken_specs(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert MISTAKES[spec] in user_error(spec)


def test_a_data_set_of_hugging_face_needs_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "needs the datasets library: pip install 'bigbigan[hf]'" in user_error("hf:owner/name")


def test_a_label_column_that_is_no_class_label_is_named(monkeypatch):
    """With as much of the library as is asked for; tests/external has the library itself."""

    class Image:
        def __init__(self, decode=True):
            pass

    class Table(list):
        features: ClassVar = {"picture": Image(), "diagnosis": types.SimpleNamespace(dtype="int64")}
        select_columns = cast_column = lambda self, *_: self

    rows = Table({"picture": {"bytes": png(k), "path": None}, "diagnosis": k % 2} for k in range(4))
    library = types.SimpleNamespace(Image=Image, ClassLabel=type(None), load_dataset=lambda name: {"train": rows})
    monkeypatch.setitem(sys.modules, "datasets", library)
    with pytest.warns(
        UserWarning, match=r"column 'diagnosis' \(int64\) is not a ClassLabel and not read; class_encode_column"
    ):
        source = open_source("hf:owner/name")
    assert source.splits["train"].labels is None
    assert source.notes == {"column 'diagnosis' (int64) is not a ClassLabel: read without labels": 1}


X = np.zeros((4, 8, 8), np.uint8)


def npz(**arrays):
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def idx(array, kind=8):
    return bytes((0, 0, kind, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def folder(files):
    return lambda tmp_path: str(write(tmp_path / "set", {"keep/.x": b""} | files))


def file(name, data):
    return lambda tmp_path: str(write(tmp_path, {name: data}) / name)


def named(name, files):
    return lambda tmp_path: f"{name}:{write(tmp_path / 'set', files)}"


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
BROKEN = {
    "empty folder": (folder({}), "no images in"),
    "folder of text": (folder({"a.txt": b"a", "b.txt": b"b"}), "ignored, not an image (.txt): 2"),
    "folder of archives": (folder({"train.tar.gz": b""}), "give one of its archives"),
    "one image": (file("a.png", png()), "is one image; expected a folder"),
    "a table": (file("a.csv", b"a"), "or .npz; labels go to --labels"),
    "other archive": (file("a.tar.xz", b"a"), "or .npz; unpack it"),
    "an array": (file("a.npy", b"a"), "by np.savez as images"),
    "zip that is text": (file("a.zip", b"hello"), "not a readable zip file"),
    "empty zip file": (file("a.zip", b""), "not a readable zip file"),
    "zip without images": (lambda p: str(pack(p / "a.zip", {"a.txt": b"a"})), "no images in"),
    "tar that is text": (file("a.tar", b"hello" * 300), "not a readable tar file"),
    "empty tar file": (file("a.tar", b""), "not a readable tar file"),
    "tar of nothing": (lambda p: str(pack(p / "a.tar", {})), "no images in"),
    "gz that is cut at once": (file("a.tar.gz", gzip.compress(bytes(10))[:12]), "not a readable tar file"),
    "npz that is text": (file("a.npz", b"hello"), "not a readable npz file"),
    "npz cut": (file("a.npz", npz(images=X)[:200]), "not a readable npz file"),
    "npz of a pickle": (file("a.npz", npz(images=np.array([{}], dtype=object))), "never unpickled"),
    "a bare pickle": (file("a.npz", pickle.dumps([1])), "not a readable npz file"),
    "npz, one split twice": (
        file("a.npz", npz(train_images=X, training_images=X)),
        "train_images and training_images are one split; remove or rename one",
    ),
    "npz, other keys": (file("a.npz", npz(x=X, y=X)), "contains x, y; expected train_images"),
    "npz, floats": (file("a.npz", npz(images=X / 255)), "float64 [4, 8, 8]; expected uint8"),
    "npz, 3-D volumes": (
        file("a.npz", npz(images=np.zeros((2, 8, 8, 8), np.uint8))),
        "expected uint8 [N, H, W]",
    ),
    "npz, too few labels": (file("a.npz", npz(images=X, labels=np.arange(3))), "3 labels for 4 images"),
    "npz, labels of text": (file("a.npz", npz(images=X, labels=np.array(list("abcd")))), "not class numbers"),
    "npz, labels below 0": (file("a.npz", npz(images=X, labels=np.arange(4) - 2)), "not class numbers"),
    "npz, no images": (file("a.npz", npz(images=X[:0])), "no images"),
    "idx, wrong magic": (folder({IMAGES: b"\0\0\x0d\x03" + bytes(90)}), "not an idx file of 3 dimensions"),
    "idx, header cut": (folder({IMAGES: idx(X)[:9]}), "not an idx file of 3 dimensions"),
    "idx, data cut": (folder({IMAGES: idx(X)[:-1]}), "fewer bytes than the 256"),
    "idx, data too long": (folder({IMAGES: idx(X) + b"x"}), "more bytes than the 256"),
    "idx, huge claim": (folder({IMAGES: idx(X)[:4] + b"\xff" * 12}), "GiB, limit "),
    "idx, no sides": (folder({IMAGES: idx(X[:, :0])}), "no images"),
    "idx, gz cut": (folder({IMAGES + ".gz": gzip.compress(idx(X))[:-9]}), "damaged or cut short"),
    "idx, not gz": (folder({IMAGES + ".gz": idx(X)}), "damaged or cut short"),
    "idx, label count": (folder({IMAGES: idx(X), LABELS: idx(X[0, 0, :3])}), "3 labels for 4 images"),
    "idx, no images": (folder({IMAGES: idx(X[:0])}), "no images"),
    "cifar10, links": (
        lambda p: f"cifar10:{pack(p / 'a.tar', dict.fromkeys(arrays.CIFAR10_FILES, info(tarfile.SYMTYPE, 'x')))}",
        "is not cifar10",
    ),
    "mnist of nothing": (
        named("mnist", {"a.txt": b""}),
        "mnist needs train-images-idx3-ubyte.gz, train-labels",
    ),
    "mnist of something else": (
        named("mnist", TWO_CLASSES),
        "expected 10 classes in 'train', found 2 classes",
    ),
    "mnist without labels": (named("mnist", {IMAGES: idx(X)}), "found no labels"),
    "cifar10, pickled": (named("cifar10", {"data_batch_1": b""}), "get cifar-10-binary.tar.gz"),
    "cifar10, pickled folder": (
        named("cifar10", {"cifar-10-batches-py/x": b""}),
        "get cifar-10-binary.tar.gz",
    ),
    "cifar10, a part": (named("cifar10", {"data_batch_1.bin": bytes(3073)}), "lacks data_batch_2.bin"),
    "cifar10, cut": (
        named("cifar10", dict.fromkeys(arrays.CIFAR10_FILES, bytes(3072))),
        "3,072 bytes is not a multiple",
    ),
    "cifar10, labels": (
        named("cifar10", dict.fromkeys(arrays.CIFAR10_FILES, b"\x0b" + bytes(3072))),
        "expected 10 classes in 'train', found 12",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_sources_end_in_one_line(name, tmp_path):
    build, words = BROKEN[name]
    assert words in user_error(build(tmp_path))


def test_max_unreadable_is_a_share():
    assert "between 0 and 1" in user_error("digits", max_unreadable=5)


# ---------------------------------------------------------------------------------------------------------
# Odd things on disk


def test_odd_files_in_a_folder(tmp_path):
    good = {f"{i:03}.png": png(i) for i in range(95)}
    root = write(
        tmp_path / "set",
        good | {"dangling.png": "nowhere.png", "loop.png": "loop.png", "link.png": "000.png"},
    )
    write(root, {"self": ".", "sub/back": "..", "elsewhere": str(tmp_path / "other")})
    write(tmp_path / "other", {"linked.png": png(200)})
    os.mkfifo(root / "pipe.png")
    os.mkfifo(root / "pipe")  # no image by its name: not to be opened either
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(root / "socket.png"))
    (root / os.fsdecode(b"bad\xff\nname.png")).write_bytes(png(201))
    source = open_source(str(root))
    train = source.splits["train"]
    _, kept = load_pixels(train, 8, 1, source)
    assert len(kept) == 95 + 3
    assert dict(source.skipped) == {
        "dangling.png": "cannot be read (No such file or directory)",
        "loop.png": "cannot be read (Too many levels of symbolic links)",
        "pipe.png": "cannot be read (not a regular file)",
        "socket.png": "cannot be read (not a regular file)",
    }
    assert source.notes["link back to a folder above, not followed"] == 2
    assert source.notes["ignored, not an image (no ending)"] == 1
    assert "elsewhere/linked.png" in train.files
    assert "bad\\xff\\nname.png" in train.files
    assert all(f.isprintable() for f in train.files)


def test_permission_denied(tmp_path, monkeypatch):
    root = write(tmp_path / "set", {f"{i:02}.png": png(i) for i in range(30)} | {"closed/1.png": png()})

    def refusing(real, ending):
        def opened(path, *args):
            if str(path).endswith(ending):
                raise PermissionError(13, "Permission denied")
            return real(path, *args)

        return opened

    # Tests may run as root, who is denied nothing.
    monkeypatch.setattr(os, "listdir", refusing(os.listdir, "closed"))
    monkeypatch.setattr(os, "scandir", refusing(os.scandir, "closed"))
    monkeypatch.setattr(folders, "open", refusing(open, "07.png"), raising=False)
    source = open_source(str(root))
    assert source.notes == {"folder not read (Permission denied)": 1}
    assert len(load_pixels(source.splits["train"], 8, 1, source)[1]) == 29
    assert source.skipped == [("07.png", "cannot be read (Permission denied)")]
    assert "cannot read" in user_error(str(write(tmp_path / "closed", {"1.png": png()})))


@pytest.mark.parametrize("kind", ["dangling", "loop", "fifo"])
def test_odd_paths(kind, tmp_path):
    path = tmp_path / "set"
    os.mkfifo(path) if kind == "fifo" else path.symlink_to("nowhere" if kind == "dangling" else "set")
    wanted = {"dangling": "No such file", "loop": "symbolic links", "fifo": "neither a folder nor a file"}
    assert wanted[kind] in user_error(str(path))


def test_tilde_and_named_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "pictures", {"a.png": png()})
    source = open_source("~/pictures")
    assert (source.name, source.spec) == ("pictures", "~/pictures")


# ---------------------------------------------------------------------------------------------------------
# Hostile and damaged archives


GOOD = {f"cat/{i:03}.png": png(i) for i in range(100)} | {"dog/1.png": png(200)}
HOSTILE = {
    "../up.png": png(),
    "cat/../../up.png": png(),
    "/absolute.png": png(),
    "C:/drive.png": png(),
    "cat/symlink.png": info(tarfile.SYMTYPE, "/etc/hostname"),
    "cat/hardlink.png": info(tarfile.LNKTYPE, "cat/000.png"),
    "cat/device.png": info(tarfile.CHRTYPE),
    "cat/fifo.png": info(tarfile.FIFOTYPE),
    "etc": info(tarfile.SYMTYPE, "/etc"),
    "etc/passwd.png": png(7),
}


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_hostile_tar_touches_nothing(ending, tmp_path, monkeypatch):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    path = pack(inside / f"set.{ending}", GOOD | HOSTILE)
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    source = open_source(str(path))
    _, kept = load_pixels(source.splits["train"], 8, 1, source)
    assert len(kept) == 102  # etc/passwd.png is only a name
    reasons = dict(source.skipped)
    for name in ("../up.png", "cat/../../up.png", "/absolute.png", "C:/drive.png"):
        assert reasons.pop(name) == "unsafe name in archive"
    assert reasons == dict.fromkeys(
        [f"cat/{k}.png" for k in ("symlink", "hardlink", "device", "fifo")], "link or device in archive"
    )
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


def test_hostile_zip_touches_nothing(tmp_path, monkeypatch):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    link = zipfile.ZipInfo("cat/symlink.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile("set.zip", "w") as z:
        for name, data in GOOD.items():
            z.writestr(name, data)
        for name in ("../up.png", "/absolute.png", "..\\up.png", "C:\\drive.png"):
            z.writestr(name, png())
        z.writestr(link, "/etc/hostname")
        z.writestr("dog\\2.png", png(201))  # as some Windows programs write folders
    before = sorted(tmp_path.rglob("*"))
    source = open_source("set.zip")
    _, kept = load_pixels(source.splits["train"], 8, 1, source)
    assert len(kept) == 102
    assert "dog/2.png" in source.splits["train"].files
    unsafe = ("../up.png", "/absolute.png", "C:/drive.png")
    assert dict(source.skipped) == {"cat/symlink.png": "link or device in archive"} | dict.fromkeys(
        unsafe, "unsafe name in archive"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_zip_members_that_cannot_be_read(tmp_path):
    path = pack(tmp_path / "set.zip", {f"{i:03}.png": png(i) for i in range(100)})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as z:
        members = z.infolist()
    data[members[3].header_offset + 50] ^= 0xFF  # packed data of member 3
    directory = data.index(b"PK\x01\x02")
    data[directory + 8] |= 1  # member 0 says that it is encrypted
    path.write_bytes(data)
    source = open_source(str(path))
    _, kept = load_pixels(source.splits["train"], 8, 1, source)
    assert len(kept) == 98
    reasons = dict(source.skipped)
    assert reasons["000.png"] == "encrypted"
    assert reasons["003.png"].startswith("cannot be read (")
    cut = tmp_path / "cut.zip"
    cut.write_bytes(data[: len(data) // 2])
    assert "not a readable zip file" in user_error(str(cut))


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "zip"])
def test_a_name_twice_is_counted(ending, tmp_path):
    path = tmp_path / f"set.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(path, "w") as z:
            z.writestr("a.png", png(1))
            with pytest.warns(UserWarning, match="Duplicate"):
                z.writestr("a.png", png(2))
    else:
        with tarfile.open(path, "w:gz" if ending == "tar.gz" else "w") as t:
            for value in (1, 2):
                member = tarfile.TarInfo("a.png")
                member.size = len(png(value))
                t.addfile(member, io.BytesIO(png(value)))
    source = open_source(str(path))
    assert source.splits["train"].load(0)[0, 0, 0] == 2  # as unpacking would have it
    assert source.notes == {"name twice in archive, last one read": 1}


def damaged(data, how):
    """A tar of 20 members of 1,024 bytes each (header and one block), damaged."""
    if how == "cut in a member":
        return data[: 10 * 1024 + 600]
    if how == "cut in a header":
        return data[: 10 * 1024 + 100]
    if how == "cut between members":
        return data[: 10 * 1024]
    at = 10 * 1024 + {"smashed header": 148, "endless size": 124, "negative size": 124}[how]
    with_size = {"endless size": b"\x80" + b"\x7f" * 11, "negative size": b"\xff" * 11 + b"\x00"}
    data = data[:at] + with_size.get(how, b"XXXXXXXX") + data[at + len(with_size.get(how, b"XXXXXXXX")) :]
    if how in with_size:  # a valid checksum, so that the size is believed
        header = bytearray(data[10 * 1024 : 10 * 1024 + 512])
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        data = data[: 10 * 1024] + bytes(header) + data[10 * 1024 + 512 :]
    return data


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "how",
    [
        "cut in a member",
        "cut in a header",
        "cut between members",
        "smashed header",
        "endless size",
        "negative size",
    ],
)
def test_a_damaged_tar_never_loses_images_silently(how, packed, tmp_path):
    path = pack(tmp_path / "whole.tar", {f"{i:02}.png": png(i) for i in range(20)})
    assert len(png(1)) < 512
    data = damaged(path.read_bytes(), how)
    path = tmp_path / ("set.tar.gz" if packed else "set.tar")
    path.write_bytes(gzip.compress(data) if packed else data)
    source = open_source(str(path), max_unreadable=0.5)
    _, kept = load_pixels(source.splits["train"], 8, 1, source)
    assert len(kept) in (10, 11)
    assert source.notes["archive damaged or cut short"] == 1
    assert str(path) == source.skipped[0][0]
    assert "archive damaged or cut short (after member" in source.skipped[0][1]


@pytest.mark.parametrize("how", ["cut", "trailer", "middle"])
def test_damaged_gzip_is_noticed(how, tmp_path):
    rng = np.random.default_rng(0)
    files = {f"{i:02}.png": png(i) + rng.bytes(2000) for i in range(20)}
    path = pack(tmp_path / "set.tar.gz", files)
    data = path.read_bytes()
    changed = {
        "cut": data[: len(data) // 2],
        "trailer": data[:-8] + bytes(8),
        "middle": data[: len(data) // 2] + bytes(50) + data[len(data) // 2 + 50 :],
    }
    path.write_bytes(changed[how])
    source = open_source(str(path))
    assert source.notes["archive damaged or cut short"] == 1
    assert len(source.splits["train"]) == 20 if how == "trailer" else len(source.splits["train"]) >= 8


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "zip"])
def test_mutated_archives_never_lose_images_silently(ending, tmp_path):
    rng = np.random.default_rng(0)
    whole = pack(tmp_path / f"whole.{ending}", {f"{i % 3}/{i:02}.png": png(i) + rng.bytes(300) for i in range(20)})
    path = tmp_path / f"set.{ending}"
    reported = 0
    for how in range(150):
        data = bytearray(whole.read_bytes())
        for at in rng.integers(0, len(data), rng.integers(1, 6)):
            data[at] = rng.integers(256)
        path.write_bytes(data[: rng.integers(1, len(data))] if how % 3 == 0 else data)
        try:
            source = open_source(str(path), max_unreadable=1.0)
            kept = sum(len(load_pixels(images, 8, 1, source)[1]) for images in source.splits.values())
        except UserError:
            continue
        reported += bool(source.skipped or source.notes)
        assert kept == 20 or source.skipped or source.notes
    assert reported > 20


def test_long_and_unicode_names_in_tars(tmp_path):
    files = {f"{'x' * 90}/{'y' * 90}/{'z' * 90}.png": png(1), "ü/日本.png": png(2)}
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = tmp_path / f"{format}.tar"
        with tarfile.open(path, "w", format=format) as t:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                t.addfile(member, io.BytesIO(data))
        assert sorted(open_source(str(path)).splits["train"].files) == sorted(files)


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_BOMB_FROM", 2**20)
    path = pack(tmp_path / "bomb.tar.gz", {"a.png": png(), "big.bin": bytes(20 * 2**20)})
    assert path.stat().st_size < 50_000
    message = user_error(str(path))
    assert "unpacks to more than" in message
    assert str(path) in message
    path = pack(tmp_path / "bomb.zip", {"a.png": png(), "b.png": bytes(70 * 2**20)})
    assert path.stat().st_size < 200_000
    source = open_source(str(path), limits=DecodeLimits(max_pixels=10**6))
    with pytest.raises(Unreadable, match="over 64 MiB"):
        source.splits["train"].load(1)


def test_packed_archives_of_too_many_bytes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "memory_free", lambda: 100)
    files = {f"{i}.png": png() for i in range(5)}
    assert "unpack it to a folder" in user_error(str(pack(tmp_path / "a.tar.gz", files)))
    assert len(open_source(str(pack(tmp_path / "a.tar", files))).splits["train"]) == 5  # not held in memory


def test_npz_that_claims_gigabytes_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    path.write_bytes(npz(images=X))
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + 24  # unpacked size in the directory
    data[at : at + 4] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(data)
    monkeypatch.setattr(arrays, "MAX_MEMORY", 2**30)
    assert "unpacks to 4 GiB, limit 1" in user_error(str(path))


def test_a_zip_of_many_files_without_zip64_is_sound(tmp_path):
    with zipfile.ZipFile(tmp_path / "zip64.zip", "w") as archive:
        for i in range(65_600):
            archive.writestr(f"{i:06d}.png", b"")
    data = (tmp_path / "zip64.zip").read_bytes()
    record, end = data.rfind(b"PK\6\6"), bytearray(data[data.rfind(b"PK\5\6") :])
    size, offset = struct.unpack("<QQ", data[record + 40 : record + 56])
    struct.pack_into("<HHII", end, 8, 65_600 % 65_536, 65_600 % 65_536, size, offset)  # as macOS does
    (tmp_path / "many.zip").write_bytes(data[:record] + end)
    source = open_source(str(tmp_path / "many.zip"))
    assert (len(source.splits["train"]), source.skipped) == (65_600, [])
    struct.pack_into("<HH", end, 8, 100, 100)
    (tmp_path / "cut.zip").write_bytes(data[:record] + end)
    assert "lists 65,600 of its 100 members" in open_source(str(tmp_path / "cut.zip")).skipped[0][1]


@pytest.mark.parametrize("said", [True, False])
def test_names_in_utf_8_are_read_even_if_the_zip_does_not_say_so(tmp_path, said):
    """As some programs write them."""
    with zipfile.ZipFile(tmp_path / "fruit.zip", "w") as archive:
        for i in range(8):
            archive.writestr(f"{('Äpfel', 'Birnen')[i % 2]}/{i}é.png", png(i))
    data = bytearray((tmp_path / "fruit.zip").read_bytes())
    for mark, place in ((b"PK", 7), (b"PK", 9)):  # the upper byte of the flags
        for found in re.finditer(re.escape(mark), bytes(data)):
            data[found.start() + place] &= 0xFF if said else ~0x08
    (tmp_path / "fruit.zip").write_bytes(data)
    source = open_source(str(tmp_path / "fruit.zip"))
    assert source.splits["train"].classes == ["Birnen", "Äpfel"]


@pytest.mark.parametrize(("method", "reason"), [(9, "Deflate64"), (95, "XZ"), (98, "PPMd"), (77, "method 77")])
def test_zip_methods_that_are_not_unpacked_are_named(tmp_path, method, reason):
    path = pack(tmp_path / "a.zip", {f"{i}.png": png(i) for i in range(30)})
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, 8, method)  # of the first member, in its header and in the directory
    struct.pack_into("<H", data, data.find(b"PK\1\2") + 10, method)
    path.write_bytes(data)
    source = open_source(str(path))
    load_pixels(source.splits["train"], 8, 1, source)
    again = "pack the archive anew with Deflate, the usual method"
    assert source.skipped == [("0.png", f"compressed by {reason} ({again})")]


def test_arrays_are_bounded_by_free_memory(tmp_path, monkeypatch):
    images = np.zeros((1000, 8, 8), np.uint8)
    np.savez_compressed(tmp_path / "a.npz", images=images)
    folder = write(tmp_path / "idx", {f"{IMAGES}.gz": gzip.compress(idx(images))})
    monkeypatch.setattr(arrays, "memory_free", lambda: 50_000)
    for spec, verb in (("a.npz", "unpacks to"), ("idx", "claims")):
        assert f"{verb} 6e-05 GiB, this machine has 4.7e-05 GiB of memory free" in user_error(str(tmp_path / spec))
    false = bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in (2**14, 2**10, 2**10)) + bytes(10)
    write(folder, {IMAGES: false})
    monkeypatch.setattr(arrays, "memory_free", lambda: 2**40)
    assert "fewer bytes than the 17,179,869,184" in user_error(str(folder))
    assert 0 < image_set.memory_free() <= image_set.MAX_MEMORY


NO = None  # no label
NPZ_LABELS = {
    "one-hot": (np.eye(3, dtype=np.uint8)[[0, 2, 1, 2]], [0, 2, 1, 2]),
    "one-hot floats": (np.eye(2, dtype=np.float32)[[0, 1, 1, 0]], [0, 1, 1, 0]),
    "several": (np.array([[1, 1], [0, 1], [1, 0], [0, 0]]), NO),
    "minus one": (np.array([0, -1, 1, 1]), [0, -1, 1, 1]),
    "floats with NaN": (np.array([0, np.nan, 1, 1]), [0, -1, 1, 1]),
    "none at all": (np.array([-1, -1, -1, -1]), NO),
}


@pytest.mark.parametrize("kind", NPZ_LABELS)
def test_npz_labels_of_all_kinds(tmp_path, kind):
    given, expected = NPZ_LABELS[kind]
    np.savez(tmp_path / "a.npz", train_images=X, train_labels=given, validation_images=X, validation_labels=given)
    splits = open_source(str(tmp_path / "a.npz")).splits
    assert list(splits) == ["train", "val"]
    for images in splits.values():
        assert (images.labels if images.labels is None else images.labels.tolist()) == expected


def test_classes_without_images_are_reported(tmp_path):
    np.savez(tmp_path / "a.npz", images=X, labels=np.array([1, 2, 4, 4]))
    with pytest.warns(UserWarning, match="of 5 classes train has no image of 0, 3"):
        open_source(str(tmp_path / "a.npz"))


def test_zip_is_read_again_after_a_fork(tmp_path):
    path = pack(tmp_path / "set.zip", TWO_CLASSES)
    train = open_source(str(path)).splits["train"]
    assert train.load(4)[0, 0, 0] == 11
    read_end, write_end = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write_end, bytes((train.load(5)[0, 0, 0],)))
        os._exit(0)
    assert os.read(read_end, 1) == bytes((12,))
    os.waitpid(child, 0)


# ---------------------------------------------------------------------------------------------------------
# Arrays


def test_npz_images_are_train_next_to_test_images(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(npz(images=X, labels=np.array([0, 1, 0, 1]), test_images=X[:2], test_labels=np.array([1, 0])))
    splits = open_source(str(path)).splits
    assert {name: images.labels.tolist() for name, images in splits.items()} == {"train": [0, 1, 0, 1], "test": [1, 0]}


def test_npz_arrays_that_are_not_used_are_noted(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(npz(train_images=X, train_label=np.arange(4), images=X))
    source = open_source(str(path))
    assert source.notes == {"arrays not used: train_label, images": 2}
    assert source.splits["train"].labels is None


def test_npz_layouts(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    path = tmp_path / "toy.npz"
    np.savez(path, train_images=x, train_labels=np.array([[0], [1], [2], [1], [0]]), test_images=x[:2])
    source = open_source(str(path))
    train, test = source.splits["train"], source.splits["test"]
    assert (train.files[3], train.labels.tolist(), train.classes) == (
        "train/00003",
        [0, 1, 2, 1, 0],
        ["0", "1", "2"],
    )
    assert (test.labels, test.classes, len(test)) == (None, None, 2)
    np.testing.assert_array_equal(load_pixels(train, 6, 3)[0], x.transpose(0, 3, 1, 2))
    np.savez(path, images=x[..., 0], labels=np.array([True, False, True, True, False]))
    source = open_source(str(path))
    assert (list(source.splits), source.splits["train"].labels.tolist()) == (["train"], [1, 0, 1, 1, 0])
    np.savez(path, train_images=x, train_labels=np.zeros((5, 14), np.uint8))
    source = open_source(str(path))
    assert source.splits["train"].labels is None
    assert source.notes == {"several labels per image: read without labels": 1}


@pytest.mark.parametrize("dash", ["-", "."])
def test_idx_folder(dash, tmp_path):
    x = np.arange(3 * 30, dtype=np.uint8).reshape(3, 5, 6)
    files = {
        f"train-images{dash}idx3-ubyte": idx(x),
        f"train-labels{dash}idx1-ubyte.gz": gzip.compress(idx(x[0, 0, :3])),
    }
    files[f"t10k-images{dash}idx3-ubyte.gz"] = gzip.compress(idx(x[:1]))
    source = open_source(str(write(tmp_path / "letters", files)))
    assert source.name == "letters"
    assert source.splits["train"].labels.tolist() == [0, 1, 2]
    assert source.splits["test"].labels is None
    np.testing.assert_array_equal(source.splits["train"].load(2)[..., 0], x[2])


def cifar10_batches():
    rng = np.random.default_rng(0)
    records = rng.integers(0, 256, (6, 10, 3073), dtype=np.uint8)
    records[:, :, 0] = np.arange(10)
    return records, {name: records[i].tobytes() for i, name in enumerate(arrays.CIFAR10_FILES)}


@pytest.mark.parametrize("where", ["folder", "inner folder", "archive", "inner archive"])
def test_cifar10_binary(where, tmp_path):
    records, files = cifar10_batches()
    packed = {f"cifar-10-batches-bin/{k}": v for k, v in files.items()}
    path = {
        "folder": lambda: write(tmp_path / "c", files),
        "inner folder": lambda: write(tmp_path / "c", packed),
        "archive": lambda: pack(tmp_path / "cifar-10-binary.tar.gz", packed),
        "inner archive": lambda: pack(tmp_path / "cifar-10-binary.tar.gz", packed).parent,
    }[where]()
    source = open_source(f"cifar10:{path}")
    assert source.name == "cifar10"
    assert {k: len(v) for k, v in source.splits.items()} == {"train": 50, "test": 10}
    train = source.splits["train"]
    assert train.classes[:2] == ["airplane", "automobile"]
    assert train.labels[:12].tolist() == [*range(10), 0, 1]
    pixels, _ = load_pixels(train, 32, 3, source)
    np.testing.assert_array_equal(pixels[13], records[1, 3, 1:].reshape(3, 32, 32))


def test_digits():
    source = open_source("digits")
    train, test = source.splits["train"], source.splits["test"]
    assert (source.name, len(train), len(test)) == ("digits", 1438, 359)
    share = np.bincount(test.labels) / (np.bincount(test.labels) + np.bincount(train.labels))
    assert np.abs(share - 0.2).max() < 0.005
    assert not {f.split("/")[1] for f in train.files} & {f.split("/")[1] for f in test.files}
    pixels, kept = load_pixels(train, 8, 1)
    assert pixels.shape == (1438, 1, 8, 8)
    assert len(np.unique(pixels)) == 17
    assert pixels.max() == 255
    # The split and the pixels are promised to stay: results depend on them.
    assert fingerprint(train)[:16] == "7f524a03538d14c9"
    assert fingerprint(test)[:16] == "a3bb4727d12bea77"
    assert len(kept) == 1438


def test_a_path_on_another_drive_of_windows_is_not_made_relative(monkeypatch, tmp_path):
    monkeypatch.setattr(os.path, "relpath", lambda *a: ntpath.relpath("D:\\photos", "C:\\runs"))
    assert relative_source("photos", tmp_path) is None


def test_classes_of_hugging_face_splits_have_one_order():
    store = image_set.ArrayStore(np.zeros((3, 4, 4, 1), dtype=np.uint8))
    splits = {
        name: image_set.ImageSet(name, ["0", "1", "2"], np.array(labels), classes, store, np.arange(3))
        for name, labels, classes in (("train", [0, 1, 1], ["cat", "dog"]), ("test", [0, -1, 1], ["dog", "cat"]))
    }
    huggingface._number_classes_alike(splits)
    assert splits["test"].classes == splits["train"].classes == ["cat", "dog"]
    assert splits["test"].labels.tolist() == [1, -1, 0]


def test_listed_names_the_first_and_counts_the_others():
    assert listed([]) == ""
    assert listed(list("abcde")) == "a, b, c, d, e"
    assert listed(["a\n", *range(6)]) == "a\\n, 0, 1, 2, 3 and 2 more"
    assert listed(range(1_234), limit=1) == "0 and 1,233 more"


def test_idx_files_in_a_folder_next_to_images_are_not_the_source(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / IMAGES).write_bytes(idx(X))
    (tmp_path / "raw" / LABELS).write_bytes(idx(np.arange(len(X), dtype=np.uint8), 8))
    assert len(open_source(str(tmp_path)).splits["train"]) == len(X)
    root = tmp_path / "root"
    shutil.copytree(tmp_path / "raw", root / "MNIST" / "raw")  # as torchvision keeps it
    assert len(open_source(str(root)).splits["train"]) == len(X)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(png(1))
    assert open_source(str(tmp_path)).splits["train"].classes == ["cat", "dog"]


@pytest.mark.parametrize("names", ["{}/0/a.png {}/1/b.png", "{}/images/mug/a.png {}/images/bike/b.png"])
def test_classes_below_folders_of_patients_or_domains_are_named(tmp_path, names):
    for top in ("8863", "8864", "8865"):
        for name in names.format(top, top).split():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(1))
    with pytest.warns(UserWarning, match="classes are 8863, 8864, 8865, and each has folders"):
        open_source(str(tmp_path))


def test_a_folder_for_each_image_is_reported(tmp_path):
    for i in range(6):
        path = tmp_path / f"id{i}" / "images" / f"{i}.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(png(i))
    with pytest.warns(UserWarning, match="each of the 6 classes is a folder with one image"):
        open_source(str(tmp_path))


def test_an_archive_of_unsafe_names_says_what_to_do(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("../1.png")
        info.size = len(png(1))
        tar.addfile(info, io.BytesIO(png(1)))
    with pytest.raises(UserError, match=r"unpack it, or pack it again: tar -C FOLDER"):
        open_source(str(path))


def test_two_sets_of_torchvision_are_not_mixed_up(tmp_path):
    for name, value in (("MNIST", 10), ("FashionMNIST", 200)):
        folder = tmp_path / name / "raw"
        folder.mkdir(parents=True)
        (folder / IMAGES).write_bytes(idx(np.full((20, 8, 8), value, np.uint8)))
        (folder / LABELS).write_bytes(idx(np.arange(20, dtype=np.uint8) % 10))
    for name, value in (("mnist", 10), ("fashion-mnist", 200)):
        assert open_source(f"{name}:{tmp_path}").splits["train"].load(0).max() == value
    with pytest.raises(UserError, match=r"has idx files in .*FashionMNIST/raw, .*MNIST/raw; give one of them"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_of_zip_that_are_unpacked_without_limit_are_refused(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as file:
        file.writestr("a.png", png(1))
        file.writestr("b.png", png(2), zipfile.ZIP_DEFLATED)
    source = open_source(str(tmp_path / "a.zip"), max_unreadable=0.5)
    load_pixels(source.splits["train"], 8, 1, source)
    assert [reason.partition(" (")[0] for _, reason in source.skipped] == [
        f"compressed by {'bzip2' if method == zipfile.ZIP_BZIP2 else 'LZMA'}"
    ]


def test_a_folder_may_be_called_like_the_head_of_a_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("dataset", "python"):
        (tmp_path / name).mkdir()
        assert relative_source(name, tmp_path / "run") == f"../{name}"
        assert not source_exists(f"{name}s")
