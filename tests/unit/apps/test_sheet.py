"""Sheets: every image where it belongs, names and captions that fit, and what the commands write into them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from bigbigan.apps import sheet as module
from bigbigan.apps import visualize
from bigbigan.apps.contact_sheet import class_sheet, contact_sheet
from bigbigan.apps.sheet import Tile, sheet, tiles_of
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.data import open_source
from bigbigan.integrations.export import export
from tiny import tiny_config, write_npz


@pytest.fixture
def texts(monkeypatch):
    """All texts that are written into pictures."""
    found = []
    write = module.ImageDraw.ImageDraw.text

    def text(self, xy, words, *rest):
        found.append(words)
        return write(self, xy, words, *rest)

    monkeypatch.setattr(module.ImageDraw.ImageDraw, "text", text)
    return found


def flat(value, side=8):
    return Tile(np.full((1, side, side), value, dtype=np.uint8))


def test_images_are_enlarged_and_in_their_places():
    picture = np.asarray(sheet([[flat(10), flat(20)], [flat(30), None]]))[..., 0]
    for value in (10, 20, 30):
        ys, xs = np.nonzero(picture == value)
        assert (np.ptp(ys) + 1, np.ptp(xs) + 1) == (64, 64)
    first, second, third = (np.argwhere(picture == value)[0] for value in (10, 20, 30))
    assert first[0] == second[0] < third[0]
    assert first[1] == third[1] < second[1]


def test_columns_that_are_set_apart_have_a_wider_gap():
    def gaps(apart):
        picture = np.asarray(sheet([[flat(10), flat(20), flat(30)]], apart=apart))[..., 0]
        ends = [np.nonzero((picture == value).any(0))[0] for value in (10, 20, 30)]
        return ends[1][0] - ends[0][-1], ends[2][0] - ends[1][-1]

    assert gaps(0)[0] == gaps(0)[1]
    assert gaps(1)[0] == gaps(0)[0] + module.APART
    assert gaps(1)[1] == gaps(0)[1]


def test_names_do_not_cover_images(texts):
    tiles = [[Tile(flat(10).pixels, "below"), flat(10)]]
    picture = np.asarray(sheet(tiles, ["a long name"], ["x", "y"], "the title"))[..., 0]
    assert (picture == 10).sum() == 2 * 64 * 64
    assert texts == ["the title", "x", "y", "a long name", "below", ""]


def test_long_captions_are_shortened(texts):
    sheet([[Tile(flat(10).pixels, "a caption that is far too long for its image")]])
    assert texts[-1].startswith("a capt")
    assert texts[-1].endswith("…")
    assert module._font().getlength(texts[-1]) <= 64 + module.GAP


def test_framed_images_have_a_frame():
    plain, framed = (np.asarray(sheet([[Tile(flat(10).pixels, "", f)]])) for f in (False, True))
    assert not np.array_equal(plain, framed)
    ys, xs = np.nonzero((plain != framed).any(2))
    assert (np.ptp(ys) + 1, np.ptp(xs) + 1) == (64, 64)
    assert (framed[ys.min() + 32, xs.min() + 32] == 10).all()  # the middle of the image


def test_tiles_are_the_bytes_of_images():
    assert tiles_of(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1))[1].pixels.tolist() == [[[255]]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sheet")
    train(tiny_config("training.steps=2"), str(write_npz(folder / "rows.npz")), folder / "run", progress=False)
    return folder / "run"


def test_neighbours_name_the_query_its_class_and_distances(run, texts):
    _, listed = visualize.neighbours(run, None, 3, 2)
    assert texts[1:4] == ["test image", "1", "2"]
    captions = [text for text in texts[4:] if " " in text]
    assert len(captions) == 6
    similarities = [n["similarity"] for row in listed for n in row["neighbours"]]
    assert [float(text.split()[0]) for text in captions] == pytest.approx(similarities, abs=0.006)
    assert {text.split()[1] for text in captions} <= {"0", "1", "2"}


def test_new_images_are_looked_up_among_those_of_the_run(run, texts, tmp_path):
    images = open_source(str(run.parent / "rows.npz")).splits["test"]
    for i in range(4):
        Image.fromarray(images.load(i)[..., 0]).save(tmp_path / f"{i}.png")
    _, listed = visualize.neighbours(run, str(tmp_path), 4, 2)
    assert texts[0].startswith("nearest training images")
    assert texts[1:4] == ["image", "1", "2"]
    assert [row["file"] for row in listed] == [f"{i}.png" for i in range(4)]
    assert all(near["file"].startswith("train/") for row in listed for near in row["neighbours"])
    export(run, tmp_path / "model")
    _, listed = visualize.neighbours(tmp_path / "model", str(tmp_path), 2, 1)
    assert all(near["file"].endswith(".png") for row in listed for near in row["neighbours"])


def test_interpolations_name_their_steps(run, texts):
    visualize.interpolations(run, None, 2, 3).picture()
    assert texts[1:6] == ["x", "0.00", "0.50", "1.00", "x′"]


def test_reconstructions_name_their_rows(run, texts):
    visualize.reconstructions(run, None, 14, refine=1)
    title, *names = [text for text in texts if text]
    assert title == "test images x, and their reconstructions G(E(x))"
    assert names == ["x", "G(E(x))", "G(z), z refined", "for 1 step"] * 2  # two groups of rows


@pytest.fixture
def pets(tmp_path):
    """Two classes and a file that is not an image."""
    for name, value in (("cat/1", 1), ("cat/2", 2), ("dog/1", 3)):
        path = tmp_path / "pets" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), value).save(path)
    (tmp_path / "pets" / "dog" / "2.png").write_bytes(b"broken")
    return tmp_path / "pets"


def test_contact_sheet_has_gaps_a_title_and_classes(pets, texts):
    picture = np.asarray(contact_sheet(open_source(str(pets)), rows=2, columns=3))[..., 0]
    assert sorted(texts) == ["cat", "cat", "dog", "pets: 3 of 4 train images, drawn at random"]
    for value in (1, 2, 3):
        assert (picture == value).sum() >= 64 * 64
    digits = open_source("digits")
    sheets = [contact_sheet(digits, rows=3, columns=4, tile=16).tobytes() for _ in range(2)]
    assert sheets[0] == sheets[1]


def test_class_sheet_names_the_class_of_each_row(pets, texts):
    class_sheet(open_source(str(pets)).splits["train"], tile=8)
    assert [text for text in texts if text] == ["cat", "dog"]


def test_contact_sheet_of_broken_files(tmp_path, texts):
    (tmp_path / "1.png").write_bytes(b"broken")
    contact_sheet(open_source(str(tmp_path)))
    assert texts[-1].startswith("none re")


def test_data_inspect_says_that_it_wrote_the_sheet(pets, tmp_path, capsys):
    assert main(["data", "inspect", str(pets), "--out", str(tmp_path / "s.png")]) == 0
    assert f"wrote {tmp_path / 's.png'}: training images" in capsys.readouterr().out
    assert main(["data", "inspect", str(pets), "--out", str(tmp_path / "s.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sheet"] == str(tmp_path / "s.png")
