"""inspect: what is said about a source is true, and can be written as JSON."""

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bigbigan.cli import main
from bigbigan.data import fingerprint, inspect, open_source


@pytest.fixture
def source(tmp_path):
    """Two splits, classes and sizes, grey and colour, a duplicate, a shared and a broken image."""

    def image(colour, size=(8, 8)):
        out = io.BytesIO()
        Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(out, "PNG")
        return out.getvalue()

    files = {
        "train/cat/1.png": image(1),
        "train/cat/2.png": image(1),
        "train/cat/3.png": image(9, (20, 10)),
        "train/dog/1.png": image((1, 2, 3)),
        "train/dog/2.png": b"broken",
        "test/cat/1.png": image((1, 2, 3)),
        "test/dog/1.png": image(77),
    }
    for name, data in files.items():
        path = tmp_path / "pets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return open_source(str(tmp_path / "pets"))


def test_inspect(source):
    found = inspect(source)
    assert json.loads(json.dumps(found)) == found
    train = found["splits"]["train"]
    assert train == {
        "count": 5,
        "labelled": True,
        "unlabelled": 0,
        "classes": {"cat": 3, "dog": 2},
        "sizes": {
            "min": [8, 8],
            "median": [8, 8],
            "max": [20, 10],
            "most_common": {"size": [8, 8], "count": 3},
            "different": 2,
        },
        "channels": {"grey": 3, "colour": 1},
        "without_colour": 0,
        "unreadable": 1,
        "duplicates": 1,
        "fingerprint": fingerprint(source.splits["train"]),
    }
    assert (found["name"], found["shared"]) == ("pets", {"train, test": 1})
    assert (found["skipped_count"], found["skipped"]) == (1, [["train/dog/2.png", "not an image"]])
    assert found["notes"] == {"not an image": 1}
    assert inspect(source) == found  # counted once, however often it is read


def test_inspect_describes_an_empty_split(source):
    source.splits["val"] = source.splits["train"].subset([], "val")
    found = inspect(source)["splits"]["val"]
    assert (found["count"], found["sizes"], found["unreadable"], found["duplicates"]) == (0, None, 0, 0)


def test_inspect_lists_all_unreadable_images_and_prints_20(tmp_path, capsys):
    for i in range(30):
        (tmp_path / f"{i}.png").write_bytes(b"x")
    found = inspect(open_source(str(tmp_path)))
    assert (len(found["skipped"]), found["skipped_count"]) == (30, 30)
    assert main(["data", "inspect", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.count("skipped: ") == 20 + 1
    assert "skipped: 10 more; --json lists all of them" in text
    assert "100.0% of the images in 'train' cannot be read, and training stops above 5%: repair" in text
    assert found["splits"]["train"]["sizes"] is None
    assert found["splits"]["train"]["labelled"] is False


def test_copies_are_put_into_one_group(tmp_path, capsys):
    """Eight images, of which 0 and 4, 1 and 5 are equal; and a labels file in which 4 and 6 are of one patient."""
    photos, groups = tmp_path / "photos", tmp_path / "groups.csv"
    for i in range(8):
        (photos / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), i % 4 if i < 6 else i).save(photos / "ab"[i % 2] / f"{i}.png")
    assert main(["data", "inspect", str(photos), "--groups", str(groups)]) == 0
    said = capsys.readouterr().out
    assert "remedy: copies of other images: 2." in said
    assert f"wrote {groups}: 2 groups of images" in said
    source = open_source(str(photos), labels=groups)
    assert source.splits["train"].classes == ["a", "b"]

    def together(source):
        train = source.splits["train"]
        of = dict(zip((Path(file).stem for file in train.files), train.groups.tolist(), strict=True))
        return sorted("".join(sorted(i for i in of if of[i] == group)) for group in set(of.values()))

    assert together(source) == ["04", "15", "2", "3", "6", "7"]
    mine = tmp_path / "mine.csv"
    mine.write_text("file,label,group,split\n4.png,x,P1,\n6.png,x,P1,\n1.png,y,,\n7.png,y,,test\n")
    assert main(["data", "inspect", str(photos), "--labels", str(mine), "--groups", str(groups)]) == 0
    source = open_source(str(photos), labels=groups)
    assert together(source) == ["046", "15", "2", "3"]
    assert source.splits["test"].files == ["b/7.png"]
    train = source.splits["train"]
    assert {Path(f).stem for f, k in zip(train.files, train.labels, strict=True) if k >= 0} == {*"146"}


def test_grey_images_stored_in_colour_are_named(tmp_path):
    for i in range(20):
        Image.new("RGB", (8, 8), (i, i, i if i else 9)).save(tmp_path / f"{i}.png")
    found = inspect(open_source(str(tmp_path)))
    assert found["splits"]["train"]["channels"] == {"grey": 0, "colour": 20}
    assert found["splits"]["train"]["without_colour"] == 19
    assert found["remedies"] == ["19 of 20 colour images are grey: --set data.channels=1 trains faster on one channel"]


def test_a_share_of_unreadable_images_has_a_setting(tmp_path):
    for i in range(20):
        if i % 5:
            Image.new("L", (8, 8), i).save(tmp_path / f"{i}.png")
        else:
            (tmp_path / f"{i}.png").write_bytes(b"x")
    (remedy,) = inspect(open_source(str(tmp_path)))["remedies"]
    assert remedy.startswith("20.0% of the images in 'train' cannot be read, and training stops above 5%")
    assert remedy.endswith("or train with --set data.max_unreadable=0.2")


def test_pictures_that_are_not_read_and_white_shapes_are_named(tmp_path, capsys):
    for i in range(8):
        alpha = np.zeros((8, 8), np.uint8)
        alpha[i] = 255
        shape = Image.fromarray(np.full((8, 8), 255 if i < 2 else 30, np.uint8))
        shape.putalpha(Image.fromarray(alpha))
        shape.save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.svg").write_text("<svg/>")
    (tmp_path / "about.txt").write_text("icons")
    found = inspect(open_source(str(tmp_path)))
    assert found["remedies"][:2] == [
        "8 .svg files are pictures in a format that is not read: convert them to PNG",
        "all white, as white shapes on a transparent background: 2. Give them another background",
    ]
    assert main(["data", "inspect", str(tmp_path)]) == 0
    assert "note: ignored, not an image: 8 .svg, 1 .txt" in capsys.readouterr().out


def test_16_bit_colour_tiff_without_tifffile_has_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("bigbigan.data.tiff.read_by_tifffile", lambda *_: None)
    side, at = 8, 8 + 2 + 12 * 10 + 4  # of the image; where the bits and the pixels begin
    tags = {256: side, 257: side, 258: at, 259: 1, 262: 2, 273: at + 6, 277: 3, 278: side, 279: 6 * side**2, 284: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 3 if tag == 258 else 1, v) for tag, v in tags.items())
    entries = entries.replace(struct.pack("<HHI", 258, 4, 3), struct.pack("<HHI", 258, 3, 3))
    pixels = np.arange(3 * side**2, dtype="<u2").tobytes()
    content = b"II*\0" + struct.pack("<IH", 8, 10) + entries + bytes(4) + struct.pack("<3H", 16, 16, 16) + pixels
    (tmp_path / "deep.tif").write_bytes(content)
    found = inspect(open_source(str(tmp_path)))
    assert found["notes"] == {"16-bit scaled to 8": 1}
    assert "pip install 'bigbigan[tiff]'" in found["remedies"][0]


def test_an_interrupted_inspection_leaves_no_window(tmp_path, monkeypatch):
    Image.fromarray(np.full((4, 4), 999, dtype=np.uint16)).save(tmp_path / "a.png")
    source = open_source(str(tmp_path))
    images = source.splits["train"]

    def interrupted(i):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(images, "load", interrupted)
        with pytest.raises(KeyboardInterrupt):
            inspect(source)
    assert images.store.limits.window is None
