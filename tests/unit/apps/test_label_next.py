"""Images to label next: they cover the clusters, and teach a classifier more than random ones."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from bigbigan.apps.label_next import choose
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.data import open_source
from bigbigan.data.labels import rows_of
from bigbigan.evaluation.probes.logistic import fit_few
from tiny import tiny_config, write_npz


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("next")
    data = write_npz(folder / "rows.npz")
    with np.load(data) as arrays:
        np.savez(folder / "bare.npz", images=arrays["train_images"])
    train(tiny_config("training.steps=2"), str(folder / "bare.npz"), folder / "run", progress=False)
    return folder / "run"


def groups():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [60, 35, 31])
    return (np.eye(3)[truth] * 20 + rng.normal(size=(126, 3))).astype(np.float32), truth


def test_each_cluster_gives_an_image_largest_first():
    x, truth = groups()
    picks, sizes, labelled = choose(x.copy(), np.zeros(126, bool), 3)
    assert truth[picks].tolist() == [0, 1, 2]
    assert sizes.tolist() == [60, 35, 31]
    assert labelled.tolist() == [0, 0, 0]


def test_clusters_with_labels_are_left_to_the_others():
    x, truth = groups()
    labelled = truth == 0
    labelled[5] = False
    picks, *_ = choose(x.copy(), labelled, 2)
    assert 0 not in truth[picks]
    assert not labelled[picks].any()


def test_no_image_is_chosen_twice_and_all_can_be():
    x, _ = groups()
    picks, *_ = choose(x.copy(), np.zeros(126, bool), 126)
    assert sorted(picks) == list(range(126))


def test_chosen_digits_teach_more_than_random_ones():
    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target
    train_x, train_y, test_x, test_y = x[:1200], y[:1200], x[1200:], y[1200:]

    def accuracy(picks):
        return fit_few(train_x[picks], train_y[picks]).score(test_x, test_y)

    chosen = [accuracy(choose(train_x.copy(), np.zeros(1200, bool), 20, s)[0]) for s in range(4)]
    random = [accuracy(np.random.default_rng(s).permutation(1200)[:20]) for s in range(4)]
    assert np.mean(chosen) > np.mean(random) + 0.1, (chosen, random)


def test_command_writes_a_file_that_labels_reads(run, tmp_path, capsys):
    out, sheet = tmp_path / "a" / "next.csv", tmp_path / "b" / "next.png"
    call = ["label-next", str(run), "--out", str(out), "--sheet", str(sheet), "--quiet"]
    assert main([*call, "--count", "12"]) == 0
    assert "12 images to label; fill in the column label" in capsys.readouterr().out
    rows = list(csv.DictReader(out.open()))
    assert list(rows[0]) == ["file", "label", "stands_for", "labelled"]
    assert len({row["file"] for row in rows}) == 12
    assert {row["label"] for row in rows} == {""}
    width, height = Image.open(sheet).size
    assert (width > 10 * 64, height > 2 * 64) == (True, True)
    for i, row in enumerate(rows):
        row["label"] = "ab"[i % 2]
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    labels = open_source(str(run.parent / "bare.npz"), labels=str(out)).splits["train"].labels
    assert np.bincount(labels + 1).tolist() == [48, 6, 6]
    assert main([*call, "--labels", str(out), "--count", "5", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["images"]
    assert not {row["file"] for row in again} & {row["file"] for row in rows}


def test_the_file_keeps_the_labels_groups_and_splits_so_far(run, tmp_path, capsys):
    data, before, out = str(run.parent / "bare.npz"), tmp_path / "before.csv", tmp_path / "next.csv"
    files = open_source(data).splits["train"].files
    given = [
        f"{file},{'' if i == 9 else '=ab'[i % 3]},P{i // 2},{'test' if i > 6 else ''}"
        for i, file in enumerate(files[:10])
    ]
    before.write_text("\n".join(["file,label,group,split", *given]) + "\n")
    call = ["label-next", str(run), "--labels", str(before), "--count", "4", "--out", str(out), "--quiet"]
    assert main(call) == 0
    said = capsys.readouterr().out
    assert "4 images to label, then the 9 labelled so far" in said
    assert f"use it in place of {before}" in said
    rows = list(csv.DictReader(out.open()))
    assert list(rows[0]) == ["file", "label", "group", "split", "stands_for", "labelled"]
    assert [row["label"] for row in rows[:4]] == [""] * 4
    assert {row["file"] for row in rows[4:]} == set(files[:10])
    first = rows[0]["file"]
    out.write_text(out.read_text().replace(f"{first},,", f"{first},new,", 1))
    old, new = (open_source(data, labels=str(path)).splits for path in (before, out))
    for name, images in old.items():
        labels = dict(zip(new[name].files, new[name].labels, strict=True))
        for file, label in zip(images.files, images.labels, strict=True):
            now = "" if labels[file] < 0 else new[name].classes[labels[file]]
            assert now == ("new" if file == first else "" if label < 0 else images.classes[label])
        assert len(np.unique(images.groups)) == len(np.unique(new[name].groups))


def test_rows_are_made_of_a_source_s_own_labels(tmp_path):
    source = open_source(str(write_npz(tmp_path / "rows.npz")))
    train_split = source.splits["train"]
    train_split.labels[:5] = -1
    rows = rows_of(source)
    assert len(rows) == 55 + 60
    assert rows[train_split.files[5]].label == train_split.classes[train_split.labels[5]]
    assert train_split.files[0] not in rows


def test_it_is_said_that_all_images_are_labelled(tmp_path, capsys):
    data = write_npz(tmp_path / "rows.npz")
    train(tiny_config("training.steps=2"), str(data), tmp_path / "run", progress=False)
    assert main(["label-next", str(tmp_path / "run"), "--out", str(tmp_path / "next.csv"), "--quiet"]) == 2
    assert capsys.readouterr().err == "bigbigan: all 60 training images have a label: none is left to label\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--count", "0", "--out", "n.csv"], "--count 0: expected at least 1"),
        (["--count", "61", "--out", "n.csv"], "only 60 of 60 training images have no label"),
        (["--out", "n.txt"], "expected a name ending in .csv"),
        (["--out", "n.csv", "--sheet", "n.jpg"], "expected a name ending in .png"),
    ],
)
def test_mistakes_are_one_line(run, arguments, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["label-next", str(run), *arguments, "--quiet"]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "n.csv").exists()


def test_what_was_filled_in_is_not_lost(run, tmp_path, capsys):
    out = tmp_path / "next.csv"
    call = ["label-next", str(run), "--count", "5", "--quiet", "--out", str(out)]
    assert main(call) == 0
    assert main(call) == 0  # nothing was filled in
    rows = list(csv.reader(out.read_text().splitlines()))
    rows[1][1] = "cat"
    out.write_text("\n".join(map(",".join, rows)) + "\n")
    before = out.read_bytes()
    assert main(call) == 2
    assert "has 1 label that would be lost; give it to --labels" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main([*call, "--labels", str(out)]) == 0
    noted = tmp_path / "noted.csv"
    noted.write_text(f"file,label,note\n{rows[1][0]},cat,by hand\n")
    assert main([*call[:-1], str(noted), "--labels", str(noted)]) == 2
    assert "would lose its columns note; choose another" in capsys.readouterr().err
