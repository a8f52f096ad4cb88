"""Names in CSV files: no spreadsheet takes them for formulas, and `--labels` reads them back unchanged."""

import csv
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.data import open_source
from bigbigan.data.csv_cells import cell, text_of
from tiny import tiny_config

NASTY = ["=1+1", "+a", "-x", "@SUM(1)", "'=q", "''@q", "\uff1dwide", " =x", "\t=x"]
PLAIN = ["a", "'a", "it's", "a=b", "-1", "+2.5", "-1e-3", "", "7", "\u2212x"]


@pytest.mark.parametrize("text", NASTY)
def test_formulas_become_text_and_come_back(text):
    assert cell(text) == f"'{text}"
    assert text_of(cell(text)) == text


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_and_numbers_stay(text):
    assert cell(text) == text
    assert text_of(text) == text


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="'=+-@ \t1.eE\uff1dx" + string.ascii_letters, max_size=8))
def test_every_text_comes_back(text):
    written = cell(text)
    assert text_of(written) == text
    assert cell(text_of(written)) == written
    if written.lstrip()[:1] in tuple("=+-@"):  # what begins like a formula is a number
        float(written)


CLASSES = ["=1+1", "@SUM(1)", "-x"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells") / "photos"
    rng = np.random.default_rng(0)
    for k, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 60, (8, 8)) + 180 * (np.arange(8)[:, None] == 2 * k)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{'=+'[i % 2]}{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(folder):
    train(tiny_config("training.steps=2"), str(folder), folder.parent / "run", progress=False)
    return folder.parent / "run"


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def formulas(table):
    return [value for row in table for value in row.values() if value and value[0] in "=+-@" and not _number(value)]


def _number(value):
    try:
        float(value)
    except ValueError:
        return False
    return True


VERBS = {
    "classify": ["--labels-per-class", "3", "--trials", "1"],
    "encode": ["--features", "z_mean"],
    "cluster": ["--clusters", "2"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_writes_formulas_unless_told_to(run, tmp_path, verb):
    out = tmp_path / "out.csv"
    words = [verb, str(run), "--out", str(out), *VERBS[verb]]
    assert main(words) == 0
    assert formulas(safe := rows(out)) == []
    assert main([*words, "--raw-cells"]) == 0
    raw = rows(out)
    assert formulas(raw)
    for column in ("file", "label", "predicted", "class"):
        if column in raw[0]:
            assert [text_of(row[column]) for row in safe] == [row[column] for row in raw]


def test_labels_of_clusters_and_of_nasty_classes_are_read_back(run, folder, tmp_path):
    assert main(["cluster", str(run), "--out", str(tmp_path / "c.csv"), "--clusters", "2"]) == 0
    source = open_source(str(folder), labels=tmp_path / "c.csv")
    assert source.splits["train"].classes == ["0", "1"]
    assert (source.splits["train"].labels >= 0).all()
    true = open_source(str(folder)).splits["train"]
    names = [true.classes[k] for k in true.labels]
    with (tmp_path / "n.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "group", "split"])
        writer.writerows([cell(f), cell(n), cell(n), "train"] for f, n in zip(true.files, names, strict=True))
    found = open_source(str(folder), labels=tmp_path / "n.csv").splits["train"]
    assert [found.classes[k] for k in found.labels] == names
