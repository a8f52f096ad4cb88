"""Labels of your own: which image a row names, what a file may get wrong, and that no group is on both sides."""

from __future__ import annotations

import csv
import json
import shutil
import time
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bigbigan.cli import main
from bigbigan.data import ImageSet, Source, inspect, open_source
from bigbigan.data.copies import grouped_rows
from bigbigan.data.held_out import hold_out
from bigbigan.data.image_set import FileStore
from bigbigan.data.labels import apply_labels, rows_of
from bigbigan.data.labels_table import Row, read_table
from bigbigan.errors import UserError
from bigbigan.evaluation.records import read_results
from bigbigan.evaluation.splits import View, lacks_classes, load_images, train_val
from tiny import TINY, write_npz

CLASSES = ("benign", "unclear", "malign")


def picture(path, brightness, seed):
    pixels = np.random.default_rng(seed).integers(0, 60, (8, 8), dtype=np.uint8)
    pixels[brightness * 2] += 180
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Sixty images in two folders that are not classes; the place of a bright row shows an image's class."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(60):
        picture(folder / ("left" if i % 2 else "right") / f"{i:03d}.png", i % 3, i)
    return folder


def write_csv(path, rows, header=("file", "label")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def some(photos, tmp_path_factory):
    """Labels of the first 42 of the images, by their base names."""
    return write_csv(tmp_path_factory.mktemp("csv") / "some.csv", [(f"{i:03d}.png", CLASSES[i % 3]) for i in range(42)])


def by_file(source):
    return {
        file: (split.name, None if split.labels is None or k < 0 else split.classes[k])
        for split in source.splits.values()
        for file, k in zip(split.files, [-1] * len(split) if split.labels is None else split.labels, strict=True)
    }


# -- which image a row names --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["left/001.png", "001.png", "./left/001.png", "left\\001.png", "photos/left/001.png",
                                  "/data/photos/left/001.png"])  # fmt: skip
def test_a_row_names_an_image_by_its_path_or_the_end_of_it(photos, tmp_path, name):
    source = open_source(str(photos), labels=write_csv(tmp_path / "l.csv", [(name, "x"), ("right/000.png", "y")]))
    found = by_file(source)
    assert found["left/001.png"] == ("train", "x")
    assert found["right/000.png"] == ("train", "y")
    assert len(found) == 60
    assert source.notes["without a label"] == 58


def test_a_file_labels_an_image_of_each_array(tmp_path):
    data = write_npz(tmp_path / "d.npz", count=6)
    rows = [(f"{split}/{i:05d}", "ab"[i % 2]) for split in ("train", "test") for i in range(6)]
    source = open_source(str(data), labels=write_csv(tmp_path / "l.csv", rows))
    for split in source.splits.values():
        assert split.labels.tolist() == [0, 1] * 3  # not the file's own 0, 1, 2
        assert split.classes == ["a", "b"]


def test_class_folders_next_to_images_are_no_classes(photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    picture(folder / "beside.png", 0, 0)
    assert "beside.png" not in by_file(open_source(str(folder)))
    source = open_source(str(folder), labels=write_csv(tmp_path / "l.csv", [("beside.png", "x"), ("001.png", "y")]))
    assert by_file(source)["beside.png"] == ("train", "x")
    assert not source.skipped


def test_names_of_classes_are_sorted_and_numbers_by_their_value(photos, tmp_path):
    rows = [(f"{i:03d}.png", k) for i, k in enumerate(["10", "9", "-2", "2.5"])]
    assert open_source(str(photos), labels=write_csv(tmp_path / "n.csv", rows)).splits["train"].classes == [
        "-2", "2.5", "9", "10"
    ]  # fmt: skip
    rows = [(f"{i:03d}.png", k) for i, k in enumerate(["b", "10", "a", "inf"])]
    classes = open_source(str(photos), labels=write_csv(tmp_path / "t.csv", rows)).splits["train"].classes
    assert classes == ["10", "a", "b", "inf"]


@pytest.mark.parametrize("cell", ["NaN", "nan", "NA", "N/A", "-1", "null", " ", ""])
def test_what_stands_for_no_label(photos, tmp_path, cell):
    rows = [("000.png", "x"), ("001.png", "y"), ("002.png", cell), ("003.png", cell)]
    source = open_source(str(photos), labels=write_csv(tmp_path / "l.csv", rows))
    assert source.splits["train"].classes == ["x", "y"]
    assert source.notes["without a label"] == 58
    assert source.notes.get(f"labels read as none: {cell}", 0) == (2 if cell.strip() else 0)


NAMES = {
    "narrow no-break space": "Screenshot 2024-01-01 at 1.23.45\u202fPM.png",  # of macOS
    "no-break space": "obrazovka v\u00a013.05.png",
    "ideographic space": "写真\u3000.png",
    "joined emoji": "family \U0001f468\u200d\U0001f469.png",
    "backslash": "left\\0.png",
    "newline": "two\nlines.png",
    "composed here, decomposed on disk": "Sni\u0301mek.png",
    "not UTF-8": "caf\udce9.png",
    "right to left": "\u202egnp.exe.png",
}


@pytest.mark.parametrize("kind", NAMES)
def test_any_name_can_be_labelled(tmp_path, kind):
    name, folder = NAMES[kind], tmp_path / "photos"
    picture(folder / name, 0, 0)
    picture(folder / "other.png", 1, 1)
    written = "caf\\xe9.png" if kind == "not UTF-8" else name
    rows = [(unicodedata.normalize("NFC", written), "a"), ("other.png", "b")]
    with (tmp_path / "l.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "label"), *rows])
    train = open_source(str(folder), labels=tmp_path / "l.csv").splits["train"]
    found = dict(zip(train.files, (train.classes[k] for k in train.labels), strict=True))
    kept = next(f for f in found if f != "other.png")
    assert found[kept] == "a"
    if kind not in ("newline", "not UTF-8", "right to left"):  # which are escaped: they break lines and terminals
        assert kept == name
    with (tmp_path / "l.csv").open("w", newline="", encoding="utf-8") as file:  # and by the name as we write it
        csv.writer(file).writerows([("file", "label"), (kept, "a"), ("other.png", "b")])
    assert open_source(str(folder), labels=tmp_path / "l.csv").splits["train"].labels.tolist() == train.labels.tolist()


def test_spaces_around_a_name_are_part_of_it_if_a_file_has_them(tmp_path):
    for k, name in enumerate((" a.png", "a.png", "b.png", "c.png")):
        picture(tmp_path / "photos" / name, 0, k)
    (tmp_path / "photos" / "b.png").rename(tmp_path / "photos" / "b.png ")
    rows = [(" a.png", "x"), ("b.png ", "y"), (" c.png", "z")]
    source = open_source(str(tmp_path / "photos"), labels=write_csv(tmp_path / "l.csv", rows))
    labels = {file: label for file, (_, label) in by_file(source).items()}
    assert labels == {" a.png": "x", "a.png": None, "b.png ": "y", "c.png": "z"}


def test_labels_of_one_name_are_one_however_it_is_composed(tmp_path):
    for k in range(4):
        picture(tmp_path / "photos" / f"{k}.png", 0, k)
    rows = [("0.png", "caf\u00e9"), ("1.png", "cafe\u0301"), ("2.png", "tea"), ("3.png", "NA")]
    train = open_source(str(tmp_path / "photos"), labels=write_csv(tmp_path / "l.csv", rows)).splits["train"]
    assert (train.labels.tolist(), train.classes) == ([0, 0, 1, -1], ["caf\u00e9", "tea"])


LOOSE = dict.fromkeys(("left/001", "001", "001.PNG", "photos/left/001"), True)
LOOSE |= dict.fromkeys(("001.jpg", "01", "1", "eft/001"), False)


@pytest.mark.parametrize("row", LOOSE)
def test_a_name_without_its_ending_fits_one_image(photos, tmp_path, row):
    fits, path = LOOSE[row], tmp_path / "l.csv"
    path = write_csv(tmp_path / "l.csv", [(row, "x"), ("000.png", "y")])
    if not fits:
        with pytest.raises(UserError, match="1 of 2 rows name no image"):
            open_source(str(photos), labels=path)
        return
    assert by_file(open_source(str(photos), labels=path))["left/001.png"] == ("train", "x")


def test_common_headers_are_read_in_any_case(photos, tmp_path):
    files = open_source(str(photos)).splits["train"].files[:2]
    path = tmp_path / "l.csv"
    for head in ("Image_ID,DX,age", "sep=;\nid_code;diagnosis;age", "# by hand\n# of 2020\nFile,Label,age"):
        cells = [f"{file};{'ab'[k]};70" for k, file in enumerate(files)]
        path.write_text("\n".join([head, *(c if ";" in head else c.replace(";", ",") for c in cells)]))
        source = open_source(str(photos), labels=path)
        assert [by_file(source)[file][1] for file in files] == ["a", "b"]
        assert source.notes["columns of the labels file that are not used: age"] == 1


def test_rows_of_absent_images_are_ignored_if_most_images_are_there(photos, tmp_path):
    files = open_source(str(photos)).splits["train"].files[:4]
    path = write_csv(tmp_path / "l.csv", [*((file, "ab"[k % 2]) for k, file in enumerate(files)), ("absent.png", "a")])
    with pytest.warns(UserWarning, match="1 of 5 rows name no image of .*, the first is absent.png; these rows are"):
        source = open_source(str(photos), labels=path)
    assert sum(label is not None for _, label in by_file(source).values()) >= 4


def test_a_file_that_is_no_table_is_not_printed_whole(photos, tmp_path):
    (tmp_path / "big.json").write_text(json.dumps({f"image_{i}.png": "a" for i in range(10_000)}))
    with pytest.raises(UserError) as error:
        open_source(str(photos), labels=tmp_path / "big.json")
    assert len(str(error.value)) < 1_000


def test_a_name_without_its_ending_is_not_guessed(tmp_path):
    for ending in ("png", "gif"):
        picture(tmp_path / "photos" / f"a.{ending}", 0, 0)
    path = write_csv(tmp_path / "l.csv", [("a", "x")])
    with pytest.raises(UserError, match=r"a may be a\.\w+ or a\.\w+; give the whole name"):
        open_source(str(tmp_path / "photos"), labels=path)


def test_many_images_of_one_base_name_are_matched_in_time(tmp_path):
    files = [f"patient_{i:06d}/image.png" for i in range(20_000)]
    images = ImageSet("train", files, None, None, FileStore(files, files, lambda h: b"", None), np.arange(len(files)))
    path = write_csv(tmp_path / "l.csv", [("photos/" + name, "ab"[i % 2]) for i, name in enumerate(files)])
    start = time.process_time()
    source = Source("x", "x", {"train": images})
    apply_labels(source, read_table(path))
    assert time.process_time() - start < 10  # in quadratic time, over a minute
    assert source.splits["train"].labels.tolist() == [i % 2 for i in range(20_000)]


@pytest.mark.parametrize("header", ["file,class,confidence", "file,class,label"])
def test_label_column_may_be_called_class(photos, header):
    """A column called label comes first."""
    files = open_source(str(photos)).splits["train"].files
    rows = "".join(f"{file},x{i % 2},y{i % 3}\n" for i, file in enumerate(files))
    path = photos.parent / "classes.csv"
    path.write_text(f"{header}\n{rows}")
    expected = ["y0", "y1", "y2"] if "label" in header else ["x0", "x1"]
    assert open_source(str(photos), labels=path).splits["train"].classes == expected


@pytest.mark.parametrize("column", ["filename", "file_name", "path", "image"])
def test_the_column_of_names_may_be_called_otherwise(photos, tmp_path, column):
    rows = [("a", "000.png", "x"), ("b", "001.png", "y")]
    source = open_source(str(photos), labels=write_csv(tmp_path / "l.csv", rows, ("id", column, "label")))
    assert by_file(source)["right/000.png"] == ("train", "x")


def test_splits_are_spelled_in_many_ways(photos, tmp_path):
    said = ("Train", "TEST", "validation", "dev", "held_out", "training", "valid", "test_set", "")
    rows = [(f"{i:03d}.png", i % 2, said[i % 9]) for i in range(60)]
    source = open_source(str(photos), labels=write_csv(tmp_path / "l.csv", rows, ("file", "label", "split")))
    meant = ("train", "test", "val", "val", "train", "train", "val", "test", "train")
    assert {f: s for f, (s, _) in by_file(source).items()} == {
        f"{'left' if i % 2 else 'right'}/{i:03d}.png": meant[i % 9] for i in range(60)
    }


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_spreadsheet_s_dialects_are_read(photos, tmp_path, delimiter):
    """A byte order mark, CRLF, quotes, spaces, other columns, empty lines."""
    lines = [["note", " file ", "label", "split"], ["a", "000.png", '"x, ""y"""' if delimiter == "," else "x", "test"],
             ["", "", "", ""], ["b", "001.png", " ", ""], ["c", "002.png", "z", ""]]  # fmt: skip
    path = tmp_path / "l.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(delimiter.join(cells) for cells in lines).encode())
    found = by_file(open_source(str(photos), labels=path))
    assert found["right/000.png"] == ("test", 'x, "y"' if delimiter == "," else "x")
    assert found["left/001.png"] == ("train", None)
    assert found["right/002.png"] == ("train", "z")


def test_a_split_column_rearranges_the_images(photos, tmp_path):
    rows = [(f"{i:03d}.png", i % 2, ("train", "val", "test", "")[i % 4]) for i in range(60)]
    source = open_source(str(photos), labels=write_csv(tmp_path / "l.csv", rows, ("file", "label", "split")))
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 30, "val": 15, "test": 15}
    for split in source.splits.values():
        for i, file in enumerate(split.files):
            number = int(file[-7:-4])
            assert split.labels[i] == number % 2
            assert split.load(i)[number % 3 * 2].mean() > 150  # the pixels went along


def test_class_folders_keep_their_classes_if_the_file_gives_only_groups_and_splits(tmp_path):
    for i in range(12):
        picture(tmp_path / "photos" / CLASSES[2 - i % 3] / f"{i:03d}.png", i % 3, i)
    rows = [(f"{i:03d}.png", f"P{i // 4}", "test" if i >= 8 else "") for i in range(11)]
    path = write_csv(tmp_path / "l.csv", rows, ("file", "group", "split"))
    source = open_source(str(tmp_path / "photos"), labels=path)
    found = by_file(source)
    assert len(found) == 12
    for file, (split, name) in found.items():
        assert name == file.split("/")[0]
        assert split == ("test" if 8 <= int(file[-7:-4]) < 11 else "train")
    train = source.splits["train"]
    group_of = {int(file[-7:-4]): group for file, group in zip(train.files, train.groups.tolist(), strict=True)}
    assert len({group_of[i] for i in range(4)}) == len({group_of[i] for i in range(4, 8)}) == 1
    assert len(set(group_of.values())) == 3  # the image without a row is alone
    known = rows_of(source)
    assert known["malign/000.png"] == Row("malign", "P0", "")
    assert known["benign/011.png"] == Row("benign", "", "")


def test_arrays_keep_their_labels_if_the_file_gives_only_splits(tmp_path):
    data = write_npz(tmp_path / "d.npz", count=6)
    before = by_file(open_source(str(data)))
    rows = [(f"train/{i:05d}", f"P{i // 2}") for i in range(6)]
    source = open_source(str(data), labels=write_csv(tmp_path / "l.csv", rows, ("file", "group")))
    assert by_file(source) == before
    assert source.splits["train"].groups.tolist()[:4] == [0, 0, 1, 1]


def test_a_column_of_names_is_no_class(photos, tmp_path):
    path = write_csv(tmp_path / "l.csv", [(f"{i:03d}.png", f"P{i}") for i in range(60)], ("File Name", "Label"))
    with pytest.warns(UserWarning, match="gives 60 classes to 60 images: is its column 'label' a class"):
        open_source(str(photos), labels=path)


def test_a_misspelt_label_column_is_named(tmp_path):
    for i in range(6):
        picture(tmp_path / "photos" / CLASSES[i % 3] / f"{i:03d}.png", i % 3, i)
    path = write_csv(tmp_path / "l.csv", [("000.png", "x", "P1")], ("file", "lable", "group"))
    text = "has no column 'label' but lable, which is not used: the images keep the labels of .*photos"
    with pytest.warns(UserWarning, match=text):
        source = open_source(str(tmp_path / "photos"), labels=path)
    assert source.splits["train"].classes == ["benign", "malign", "unclear"]


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("1.0", "0.0"), ("TRUE", "FALSE")])
def test_one_hot_columns_are_labels(photos, tmp_path, yes, no):
    def cells(k):
        return [yes if k == j else no for j in range(3)]

    rows = [(f"{i:03d}", f"P{i}", i, *cells(i % 3)) for i in range(50)] + [("050", "P50", 7, "", "", "")]
    path = write_csv(tmp_path / "l.csv", rows, ("image", "group", "age", *CLASSES))
    source = open_source(str(photos), labels=path)
    found = by_file(source)
    assert [found[f"{'left' if i % 2 else 'right'}/{i:03d}.png"][1] for i in range(50)] == [
        CLASSES[i % 3] for i in range(50)
    ]
    assert found["right/050.png"] == ("train", None)
    assert source.notes["label of an image is the column that holds its 1, of benign, unclear, malign"] == 1
    assert source.notes["columns of the labels file that are not used: age"] == 1


@pytest.mark.parametrize("rows", [["0,0", "0,1"], ["1,1", "0,1"], ["0,1", "2,0"], ["0,1", "1,"], ["1,0", "1,0"]])
def test_columns_that_give_no_or_several_classes_are_not_one_hot(tmp_path, rows):
    path = tmp_path / "l.csv"
    path.write_text("file,group,cat,dog\n" + "".join(f"{i}.png,P,{row}\n" for i, row in enumerate(rows)))
    table = read_table(path)
    assert (table.labelled, table.one_hot, table.unused) == (False, [], ["cat", "dog"])


def test_a_file_without_labels_for_images_without_labels_gives_a_warning(tmp_path):
    for i in range(4):
        picture(tmp_path / "photos" / f"{i:03d}.png", 0, i)
    path = write_csv(tmp_path / "l.csv", [("000.png", "test")], ("file", "split"))
    with pytest.warns(UserWarning, match="has no column 'label', and .* no labels of its own: no image has a label"):
        source = open_source(str(tmp_path / "photos"), labels=path)
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 3, "test": 1}
    assert source.splits["train"].labels is None


def test_images_of_one_split_are_read_as_train(photos, tmp_path):
    """Such as those of a later batch, whose labels are all of the test split."""
    rows = [(f"{i:03d}.png", i % 2, "test") for i in range(60)]
    path = write_csv(tmp_path / "l.csv", rows, ("file", "label", "split"))
    source = open_source(str(photos), labels=path)
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 60}
    assert source.splits["train"].name == "train"
    assert source.notes["no train split: 'test' is read as train"] == 1


# -- what a file may get wrong ------------------------------------------------------------------------------

WRONG = {
    "no such file": (None, "cannot be read: No such file"),
    "empty": (b"", "is empty; expected a header line with file,label"),
    "header alone": (b"file,label\n", "has a header and no rows"),
    "no column label": (b"file,kind\na.png,1\n", "has no column 'label' but file, kind"),
    "two columns label": (b"file,label,label\n000.png,1,2\n", "has two columns 'label'"),
    "no header": (b"000.png,1\n001.png,2\n", "has no column 'file'"),
    "no text": (b"file,label\n000.png,gut\n001.png,sch\x81dlich\n", "is not text (byte 34)"),
    "binary": (b"file,label\n000.png,\xff\x00\n", "is not text (byte 19)"),
    "open quote": (b'file,label\n000.png,"x\n001.png,y\n', "is not a readable CSV file"),
    "a cell too many": (b"file,label\n000.png,x,y\n", "row 2 has 3 cells, the header 2"),
    "no name": (b"file,label\n000.png,x\n,y\n", "row 3 names no file"),
    "unknown images": (b"file,label\n000.png,x\nz.png,y\nzz.png,y\n", "2 of 3 rows name no image of "),
    "first unknown": (b"file,label\n000.png,x\nz.png,y\nzz.png,y\n", "the first is z.png; an image there is called"),
    "other folder": (b"file,label\nright/001.png,x\n", "1 of 1 rows name no image"),
    "twice": (b"file,label\n000.png,x\nright/000.png,y\n", "right/000.png has two rows, with different labels"),
    "split": (b"file,label,split\n000.png,x,third\n", "row 2: split is third; expected train, val, test"),
    "predictions": (b"filename,split,label,predicted\n000.png,train,,x\n", "call their column label"),
    "no labels": (b"file,label\n000.png,\n001.png,\n", "(without this column, the images"),
}  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_labels_are_read_as_spreadsheets_save_them(photos, tmp_path, encoding, separator):
    rows = [("file", "label", "note"), ("000.png", "schädlich", "1,5 µm"), ("001.png", "gut", "")]
    text = "\r\n".join(separator.join(f'"{cell}"' if separator in cell else cell for cell in row) for row in rows)
    (tmp_path / "l.csv").write_bytes(text.encode(encoding))
    found = by_file(open_source(str(photos), labels=tmp_path / "l.csv"))
    assert found["right/000.png"] == ("train", "schädlich")
    assert found["left/001.png"] == ("train", "gut")


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_file_is_refused_in_one_line(photos, tmp_path, case, capsys):
    content, message = WRONG[case]
    path = tmp_path / "l.csv"
    if content is not None:
        path.write_bytes(content)
    assert main(["data", "inspect", str(photos), "--labels", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "--labels" in error


def test_a_name_that_fits_two_images_is_refused(tmp_path):
    data = write_npz(tmp_path / "d.npz", count=6)
    with pytest.raises(UserError, match="00001 may be train/00001 or test/00001; give the whole name"):
        open_source(str(data), labels=write_csv(tmp_path / "l.csv", [("00001", "x")]))


def test_arrays_of_their_own_keep_their_images(tmp_path):
    data = write_npz(tmp_path / "d.npz", count=6)
    header = ("file", "label", "split")
    stay = open_source(str(data), labels=write_csv(tmp_path / "l.csv", [("train/00001", "x", "train")], header))
    assert stay.splits["train"].classes == ["x"]
    assert stay.splits["test"].labels is None
    with pytest.raises(UserError, match=r"puts train/00001 into test; .* remove the column 'split'"):
        open_source(str(data), labels=write_csv(tmp_path / "l.csv", [("train/00001", "x", "test")], header))


# -- images without a label ---------------------------------------------------------------------------------


def test_images_without_a_label_are_not_measured_on_but_kept(photos, some):
    images = load_images(open_source(str(photos), labels=some), View(8, 1), everything=True)
    assert (len(images.train), len(images.test), [len(s) for s in images.others]) == (34, 8, [18])
    assert images.train.labels.min() == images.test.labels.min() == 0
    assert len(images.training_pixels) == 34 + 18
    files = [f for s in (images.train, images.test, *images.others) for f in s.files]
    assert len(set(files)) == 60


def test_a_test_split_without_labels_scores_nothing(photos, tmp_path):
    rows = [(f"{i:03d}.png", CLASSES[i % 3] if i < 40 else "", "train" if i < 40 else "test") for i in range(60)]
    source = open_source(str(photos), labels=write_csv(tmp_path / "l.csv", rows, ("file", "label", "split")))
    images = load_images(source, View(8, 1), everything=True)
    assert (len(images.train), images.test.name, len(images.test)) == (32, "held_out", 8)
    assert [(s.name, len(s)) for s in images.others] == [("test", 20)]


@pytest.fixture(scope="module")
def run(photos, some, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "small/digits", "--data", str(photos), "--labels", str(some), "--out", str(out), "--quiet",
                 "--steps", "4", "--set", *TINY, "log.validate_every=4"]) == 0  # fmt: skip
    return out


def test_a_run_remembers_its_labels(run, photos, some, capsys, tmp_path):
    card = json.loads((run / "data.json").read_text())
    assert card["labels"]["path"] == str(some)
    assert len(card["labels"]["sha256"]) == 64
    assert card["images"] == 60
    assert card["notes"]["without a label"] == 18
    assert "top1_linear_bn_crelu_10perclass" in (run / "metrics.jsonl").read_text()  # the probe along the way
    same = [
        "train",
        "small/digits",
        "--out",
        str(run),
        "--quiet",
        "--steps",
        "4",
        "--set",
        *TINY,
        "log.validate_every=4",
    ]
    assert main(same) == 0
    other = write_csv(tmp_path / "other.csv", [("000.png", "x"), ("001.png", "y")])
    capsys.readouterr()
    assert main([*same, "--labels", str(other)]) == 2
    assert f"were those of {some}, now they are those of {other}; continue with the same --labels" in (
        capsys.readouterr().err
    )


def test_a_run_without_a_file_is_not_continued_with_one(tmp_path, capsys):
    data, out = write_npz(tmp_path / "d.npz", count=30), tmp_path / "run"
    call = ["train", "small/digits", "--data", str(data), "--out", str(out), "--quiet", "--steps", "4", "--set", *TINY]
    call += ["log.validate_every=2"]
    assert main(call) == 0
    rows = [(f"train/{i:05d}", i % 2) for i in range(30)]
    assert main([*call, "--labels", str(write_csv(tmp_path / "l.csv", rows))]) == 2
    assert "were the source's own, now they are those of" in capsys.readouterr().err


def test_labels_may_change_where_training_does_not_use_them(tmp_path):
    data, out, labels = write_npz(tmp_path / "d.npz", count=30), tmp_path / "run", tmp_path / "l.csv"
    call = ["train", "small/digits", "--data", str(data), "--out", str(out), "--quiet", "--labels", str(labels)]
    for step, classes in ((2, 2), (4, 3)):
        write_csv(labels, [(f"train/{i:05d}", i % classes) for i in range(30)])
        assert main([*call, "--steps", str(step), "--set", *TINY]) == 0
    assert json.loads((out / "data.json").read_text())["classes"] == ["0", "1", "2"]
    write_csv(
        labels, [(f"train/{i:05d}", i % 2, "test" if i < 9 else "train") for i in range(30)], ("file", "label", "split")
    )
    assert main([*call, "--steps", "6", "--set", *TINY]) == 2


def test_every_verb_takes_the_labels_of_the_run(run, photos, capsys, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    capsys.readouterr()
    metrics = "top1_linear_bn_crelu,top1_linear_pixels,knn5_l2_avepool,top1_linear_pixels_10perclass"
    assert main(["evaluate", str(copy), "--quiet", "--metrics", metrics]) == 0
    assert "skipped 18 images without a label" in capsys.readouterr().out
    lines = read_results(copy / "results.jsonl")
    assert {line["n"] for line in lines if line["split"] == "held_out"} == {8}
    assert all(line["labels"]["without"] == 18 and len(line["labels"]["sha256"]) == 12 for line in lines)
    assert next(line["value"] for line in lines if line["metric"] == "top1_linear_pixels") > 80

    assert main(["classify", str(copy), "--labels-per-class", "8", "--trials", "2", "--quiet",
                 "--out", str(tmp_path / "p.csv")]) == 0  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert len(rows) == 60 - 24  # whatever has a label or none, but for those that were learned from
    assert sum(row["label"] == "" for row in rows) == 18
    assert {row["predicted"] for row in rows} <= set(CLASSES)

    for suffix in ("csv", "npz"):
        assert main(["encode", str(copy), "--out", str(tmp_path / f"f.{suffix}"), "--features", "z_mean"]) == 0
    rows = list(csv.DictReader((tmp_path / "f.csv").open()))
    assert sum(row["class"] == "" for row in rows) == 18
    assert {row["class_number"] for row in rows} == {"", "0", "1", "2"}
    assert {row["class"] for row in rows} == {"", *CLASSES}
    assert (np.load(tmp_path / "f.npz")["class_number"] < 0).sum() == 18
    assert main(["report", str(copy)]) == 0
    page = (copy / "report.html").read_text()
    assert "labels file" in page
    assert "without a label" in page
    assert main(["neighbours", str(copy), "--out", str(tmp_path / "n.png")]) == 0

    elsewhere = write_npz(tmp_path / "d.npz", count=30)  # its labels go with its own source alone
    assert main(["encode", str(copy), "--data", str(elsewhere), "--out", str(tmp_path / "e.csv"),
                 "--features", "z_mean"]) == 0  # fmt: skip
    assert "" not in {row["class"] for row in csv.DictReader((tmp_path / "e.csv").open())}


def test_clusters_and_shards_take_a_file_of_labels(run, photos, some, capsys, tmp_path):
    shards, csv_of = tmp_path / "shards", tmp_path / "clusters.csv"
    assert main(["data", "shard", str(photos), "--labels", str(some), "--out", str(shards), "--quiet"]) == 0
    expected = by_file(open_source(str(photos), labels=some))
    found = by_file(open_source(str(shards)))
    assert {f: label for f, (_, label) in found.items()} == {f: label for f, (_, label) in expected.items()}
    capsys.readouterr()

    plain = write_npz(tmp_path / "d.npz", count=60)
    wrong = write_csv(tmp_path / "wrong.csv", [(f"train/{i:05d}", "xy"[i % 2], "train") for i in range(60)],
                      ("file", "label", "split"))  # fmt: skip
    call = ["cluster", str(run), "--data", str(plain), "--clusters", "3", "--out", str(csv_of), "--json"]
    nmi = []
    for more in ([], ["--labels", str(wrong)]):
        assert main([*call, *more]) == 0
        lines = json.loads(capsys.readouterr().out)["results"]
        nmi.append(next(x["value"] for x in lines if x["metric"] == "nmi_kmeans3_pixels"))
    assert nmi[0] > 0.5 > nmi[1]  # the bright row is the class, and has nothing to do with the other labels


def test_a_conditional_gan_needs_all_of_them(photos, some, tmp_path, capsys):
    call = ["train", "small/digits", "--data", photos, "--labels", some, "--out", tmp_path / "run", "--quiet",
            "--steps", "2", "--set", *TINY, "loss.s_z=false", "loss.s_xz=false", "data.labels=classes"]  # fmt: skip
    assert main([str(a) for a in call]) == 2
    assert "18 of 60 training images have no label; data.labels=classes needs all" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    rows = [(f"{i:03d}.png", CLASSES[i % 3]) for i in range(60)]
    call[5] = write_csv(tmp_path / "all.csv", rows)
    assert main([str(a) for a in call]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["classes"] == 3


def test_inspect_counts_what_has_no_label(photos, some, capsys):
    assert main(["data", "inspect", str(photos), "--labels", str(some)]) == 0
    assert "labels: benign (14), malign (14), unclear (14); 18 without a label" in capsys.readouterr().out
    facts = inspect(open_source(str(photos), labels=some))
    assert facts["splits"]["train"]["unlabelled"] == 18


# -- groups -------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 12), min_size=10, max_size=80).filter(lambda g: len(set(g)) > 1), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_no_group_is_on_both_sides_of_a_split_made_here(members, seed):
    groups = np.array(members)
    kept, held = hold_out(len(groups), len(groups) // 5, seed, groups)
    assert sorted([*kept, *held]) == list(range(len(groups)))
    assert len(kept)
    assert len(held)
    assert not set(groups[kept]) & set(groups[held])
    chosen = train_val(len(groups), groups=groups)
    assert not set(groups[chosen]) & set(np.delete(groups, chosen))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=4, max_size=60),
    st.booleans(),
    st.integers(0, 5),
)
@settings(max_examples=100, deadline=None)
def test_every_class_is_trained_on_and_tested_if_it_can_be(members, grouped, seed):
    labels, groups = (np.array(x) for x in zip(*members, strict=True))
    given = groups if grouped and len(set(groups.tolist())) > 1 else None
    units = np.arange(len(labels)) if given is None else given
    size = max(1, len(labels) // 5)
    kept, held = hold_out(len(labels), size, seed, given, labels)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert not set(units[kept].tolist()) & set(units[held].tolist())
    assert len(held)
    lost = set(labels.tolist()) - set(labels[kept].tolist())
    assert not lost or len(set(units[held].tolist())) == 1  # the last unit to test on is not taken
    if not lost and given is None:
        counts = np.bincount(labels)
        assert set(np.flatnonzero(counts > 1).tolist()) <= set(labels[held].tolist())
    before = hold_out(len(labels), size, seed, given)
    if not any(set(labels.tolist()) - set(labels[part].tolist()) for part in before):
        assert all(np.array_equal(a, b) for a, b in zip(before, (kept, held), strict=True))


def rare(folder, **counts):
    """Return a source of as many images of each class."""
    for k, (name, count) in enumerate(counts.items()):
        for i in range(count):
            picture(folder / name / f"{i}.png", k, 100 * k + i)
    return open_source(str(folder))


def test_a_class_with_one_image_is_trained_on_and_reported(tmp_path):
    source = rare(tmp_path / "cells", common=20, rare=1, few=2)
    with pytest.warns(UserWarning, match="the held-out fifth has no image of rare: too few labelled images, or groups"):
        images = load_images(source, View(8, 1, "none"))
    assert np.bincount(images.train.labels).min() >= 1
    assert np.bincount(images.test.labels, minlength=3).tolist()[1:] == [1, 0]


def test_why_no_classifier_can_be_trained_is_said(tmp_path):
    view = View(8, 1, "none")

    def reason(source):
        images = load_images(source, view)
        return lacks_classes(source, images.train, images.test)

    assert reason(rare(tmp_path / "both", a=6, b=6)) is None
    pair = rare(tmp_path / "pair", a=1, b=1)
    assert "too few labelled images, or groups of them: without the fifth that is held out" in reason(pair)
    for name, classes in (("train", ("good",)), ("test", ("good", "broken"))):
        rare(tmp_path / "parts" / name, **dict.fromkeys(classes, 3))
    assert "training images of one class only, good; to find images unlike" in reason(
        open_source(str(tmp_path / "parts"))
    )
    with (tmp_path / "labels.csv").open("w") as file:
        file.writelines(["file,label\n", *(f"a/{i}.png,sick\n" for i in range(5))])
    one = open_source(str(tmp_path / "both"), labels=tmp_path / "labels.csv")
    assert reason(one).endswith("has no labels of two or more classes: all labelled images are of sick")


def test_groups_stay_together_and_other_images_are_alone(photos, tmp_path):
    rows = [(f"{i:03d}.png", CLASSES[i % 3], f"P{i // 5}" if i < 50 else "") for i in range(60)]
    source = open_source(str(photos), labels=write_csv(tmp_path / "l.csv", rows, ("file", "label", "group")))
    train = source.splits["train"]
    of = {int(file[-7:-4]): g for file, g in zip(train.files, train.groups, strict=True)}
    assert len(set(of.values())) == 10 + 10
    assert len({of[i] for i in range(5)}) == 1
    images = load_images(source, View(8, 1))
    assert images.test.name == "held_out"
    assert not set(images.train.groups) & set(images.test.groups)
    assert len(images.train) + len(images.test) == 60


def test_a_single_group_is_divided_with_a_warning(photos, tmp_path):
    rows = [(f"{i:03d}.png", CLASSES[i % 3], "P0") for i in range(60)]
    source = open_source(str(photos), labels=write_csv(tmp_path / "l.csv", rows, ("file", "label", "group")))
    with pytest.warns(UserWarning, match="all 60 training images to choose from are of one group, which is divided"):
        images = load_images(source, View(8, 1))
    assert (len(images.train), len(images.test)) == (48, 12)
    assert not set(images.train.files) & set(images.test.files)


def test_given_splits_that_share_groups_are_reported(photos, tmp_path, capsys):
    rows = [(f"{i:03d}.png", CLASSES[i % 3], f"P{i // 6}", "test" if i % 3 == 0 else "train") for i in range(60)]
    path = write_csv(tmp_path / "l.csv", rows, ("file", "label", "group", "split"))
    assert main(["data", "inspect", str(photos), "--labels", str(path)]) == 0
    output = capsys.readouterr()
    assert "10 groups have images in both train and test: metrics on test will be too good" in output.err
    assert "note: groups with images in both train and test: 10" in output.out


def test_a_recorded_train_val_that_splits_groups_is_replaced(tmp_path):
    alone = train_val(40, tmp_path)
    groups = np.arange(40) // 4
    held = train_val(40, tmp_path, groups)
    assert not np.array_equal(alone, held)
    assert not set(groups[held]) & set(np.delete(groups, held))
    assert np.array_equal(train_val(40, tmp_path), alone)


def test_a_test_split_without_a_label_is_no_test_split(tmp_path):
    source = rare(tmp_path / "cells", a=10, b=10)
    unlabelled = ImageSet("test", *vars_of(source.splits["train"].subset(np.arange(4))))
    source.splits["test"] = unlabelled
    images = load_images(source, View(8, 1, "none"))
    assert (images.test.name, len(images.test)) == ("held_out", 4)


def vars_of(images):
    """Return the arguments of an image set of the same images, none of which has a label."""
    return images.files, np.full(len(images), -1), images.classes, images.store, images.index


def test_a_table_of_another_format_is_named(photos, tmp_path, capsys):
    for content, expected in (
        (b"PK\x03\x04...", "is an Excel workbook or a zip archive; expected a CSV file"),
        (b'{"images": []}', "is JSON; expected a CSV file"),
        (b"file|label\na|b\n", "separated by commas, semicolons or tabs"),
        (b"file,cat,dog\na.png,1,1\nb.png,0,1\n", "row 2 has 1 in several columns; several classes for one image"),
    ):
        (tmp_path / "l.csv").write_bytes(content)
        with pytest.raises(UserError, match=expected):
            open_source(str(photos), labels=str(tmp_path / "l.csv"))


def test_labels_filled_in_are_not_overwritten(photos, tmp_path, capsys):
    """By the groups of copies, or by the next images to label."""
    out = write_csv(tmp_path / "mine.csv", [(open_source(str(photos)).splits["train"].files[0], "cat")])
    before = out.read_bytes()
    assert main(["data", "inspect", str(photos), "--groups", str(out)]) == 2
    assert "mine.csv has 1 label that would be lost; give it to --labels" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_a_name_with_a_dot_and_capitals_needs_no_extension(tmp_path):
    for i in range(4):
        picture(tmp_path / "photos" / f"TCGA-{i}.F6E9.png", i % 2, i)
    labels = write_csv(tmp_path / "l.csv", [(f"TCGA-{i}.F6E9", i % 2) for i in range(4)])
    assert open_source(str(tmp_path / "photos"), labels=str(labels)).splits["train"].labels.tolist() == [0, 1, 0, 1]


def test_new_groups_of_copies_have_new_names(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1), ("d", 1)):
        picture(tmp_path / "photos" / f"{name}.png", 0, seed)
    rows = [("c.png", "copies-0"), ("d.png", "copies-0")]
    source = open_source(str(tmp_path / "photos"), labels=str(write_csv(tmp_path / "l.csv", rows, ("file", "group"))))
    found = grouped_rows(source, [["a.png", "b.png"], ["c.png", "d.png"]])
    assert {file: row.group for file, row in found.items()} == {
        "a.png": "copies-1", "b.png": "copies-1", "c.png": "copies-0", "d.png": "copies-0",
    }  # fmt: skip


def test_a_labels_file_is_not_replaced_by_its_groups(photos, some, capsys):
    before = some.read_bytes()
    assert main(["data", "inspect", str(photos), "--labels", str(some), "--groups", str(some)]) == 2
    assert "is the file given by --labels" in capsys.readouterr().err
    assert some.read_bytes() == before


def test_without_labels_a_file_of_splits_gives_no_labels(photos, tmp_path):
    rows = [(f"{i:03d}.png", i % 3, "test" if i < 20 else "train") for i in range(60)]
    labels = write_csv(tmp_path / "l.csv", rows, ("file", "label", "split"))
    source = open_source(str(photos), labels=str(labels), labelled=False)
    assert {name: images.classes for name, images in source.splits.items()} == {"train": None, "test": None}
