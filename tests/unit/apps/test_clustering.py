"""Clusters as labels: what is written, whether it agrees with classes where features do, that truth changes nothing."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from bigbigan.apps.cluster import agreement, k_means
from bigbigan.apps.train import train
from bigbigan.cli import main
from tiny import tiny_config, write_npz


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_npz(tmp_path_factory.mktemp("clusters") / "rows.npz"))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("clusters") / "run"
    train(tiny_config("training.steps=2"), data, run, progress=False)
    return run


def test_agreement_of_known_clusters():
    truth = np.repeat([0, 1, 2], 4)
    assert agreement(truth, truth) == pytest.approx((1, 100))
    assert agreement(np.array([5, 3, 1])[truth], truth) == pytest.approx((1, 100))  # names do not matter
    assert agreement(np.zeros(12, int), truth) == pytest.approx((0, 100 / 3))
    nmi, purity = agreement(np.arange(12), truth)  # one each: pure, and worth little
    assert purity == 100
    assert 0 < nmi < 0.7


def test_k_means_finds_groups_and_numbers_them_by_size():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [20, 70, 40])
    features = (np.eye(3)[truth] * 8 + rng.normal(size=(130, 3))).astype(np.float32) * 1e-3
    found = k_means(features, 3, 0)
    assert np.array_equal(found, np.array([2, 0, 1])[truth])
    assert np.array_equal(found, k_means(features, 3, 0))


def test_the_command_writes_labels_a_sheet_and_scores(run, data, tmp_path, capsys):
    out, sheet, results = tmp_path / "c" / "clusters.csv", tmp_path / "s" / "sheet.png", tmp_path / "r.jsonl"
    arguments = ["cluster", str(run), "--out", str(out), "--clusters", "4", "--sheet", str(sheet)]
    assert main([*arguments, "--results", str(results), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    rows = list(csv.DictReader(out.open()))
    assert [row["file"] for row in rows] == [f"train/{i:05d}" for i in range(60)]
    sizes = np.bincount([int(row["label"]) for row in rows], minlength=4).tolist()
    assert printed["sizes"] == sizes == sorted(sizes, reverse=True)
    width, height = Image.open(sheet).size  # 12 columns and 4 rows, with the names of the rows
    assert (12 * 64 < width < 16 * 64, 4 * 64 < height < 5 * 64) == (True, True)
    lines = [json.loads(text) for text in results.read_text().splitlines()]
    values = {(x["metric"], x["steps"]): x["value"] for x in lines}
    assert set(values) == {
        (f"{measure}_kmeans4_{feature}", steps)
        for measure in ("nmi", "purity")
        for feature, steps in (("pixels", 0), ("avepool", 0), ("avepool", 2))
    }
    assert values["purity_kmeans4_pixels", 0] > 90  # a bright row tells the class
    assert {x["split"] for x in lines} == {"train"}
    assert {(x["subject"], x["steps"]) for x in lines} == {("pixels", 0), ("untrained", 0), ("trained", 2)}


def test_true_labels_do_not_change_the_clusters(run, data, tmp_path):
    with np.load(data) as arrays:
        np.savez(tmp_path / "bare.npz", **{k: v for k, v in arrays.items() if k.endswith("images")})
    for name, source in (("with", data), ("without", str(tmp_path / "bare.npz"))):
        out = ["--out", str(tmp_path / f"{name}.csv")]
        assert main(["cluster", str(run), "--data", source, *out, "--clusters", "3"]) == 0
    assert (tmp_path / "with.csv").read_text() == (tmp_path / "without.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clusters", "61"], "--clusters 61: there are only 60 images; choose fewer clusters"),
        (["--clusters", "1"], "--clusters 1: expected at least 2"),
        (["--out", "clusters.txt"], "--out clusters.txt: expected a name ending in .csv"),
        (["--sheet", "sheet.jpg"], "--sheet sheet.jpg: expected a name ending in .png"),
    ],
)
def test_mistakes_end_in_one_line(run, arguments, message, tmp_path, capsys):
    given = arguments if "--out" in arguments else ["--out", str(tmp_path / "c.csv"), *arguments]
    assert main(["cluster", str(run), *given]) == 2
    assert capsys.readouterr().err == f"bigbigan: {message}\n"
