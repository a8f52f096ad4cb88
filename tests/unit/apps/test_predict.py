"""A kept classifier: `classify --save`, `predict`, and the head in an exported model."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bigbigan import load
from bigbigan.apps.predict import summary
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.data import load_view, open_source
from bigbigan.errors import UserError
from bigbigan.evaluation.records import read_results
from bigbigan.inference.head import Head
from bigbigan.integrations.export import export
from reproduction.measure import unlike
from tiny import tiny_config, write_npz

CLASSES = ["=1+1", "apple", "pear"]


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def ask(*words):
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """20 images of each class, class k with a bright row; and labels for the first 15 of each."""
    folder, rng = tmp_path_factory.mktemp("predict") / "photos", np.random.default_rng(0)
    folder.mkdir()
    lines = ["file,label"]
    for i in range(60):
        pixels = rng.integers(0, 60, (9, 12))
        pixels[2 * (i % 3) : 2 * (i % 3) + 2] += 180
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02d}.png")
        lines += [f"{i:02d}.png,{CLASSES[i % 3]}"] if i < 45 else []
    folder.with_suffix(".csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(photos):
    out = photos.parent / "run"
    train(tiny_config("training.steps=4"), str(photos), out, progress=False, labels=str(photos.with_suffix(".csv")))
    return out


@pytest.fixture(scope="module")
def head(run):
    path = run.parent / "head.safetensors"
    assert ask("classify", run, "--save", path, "--quiet") == 0
    return path


@pytest.fixture(scope="module")
def exported(run, head):
    assert ask("export", run, "--head", head, "--out", run.parent / "model", "--quiet") == 0
    return run.parent / "model"


# -- classify --save --------------------------------------------------------------------------------------------


def test_all_labelled_images_are_used_and_measured_on_folds(run, head):
    kept = Head.load(head)
    assert kept.classes == tuple(CLASSES)
    assert kept.images == 45
    assert kept.step == 4
    assert kept.preprocessing.resolution == 8
    lines = {x["metric"]: x for x in read_results(run / "results.jsonl") if x["split"] == "folds"}
    assert {"top1_head", "balanced_head", "auroc_head", "ece_head"} == set(lines)
    assert {(x["n"], x["subject"], x["study"]) for x in lines.values()} == {(45, "trained", "classification")}
    assert lines["top1_head"]["value"] > 90


def test_a_given_test_split_is_kept_for_measuring(tmp_path, capsys):
    data, run = write_npz(tmp_path / "d.npz"), tmp_path / "run"
    train(tiny_config("training.steps=2"), str(data), run, progress=False)
    results = tmp_path / "r.jsonl"
    assert ask("classify", run, "--save", tmp_path / "h.safetensors", "--results", results, "--quiet", "--json") == 0
    printed = {x["metric"]: x["value"] for x in json.loads(capsys.readouterr().out)}
    assert Head.load(tmp_path / "h.safetensors").images == 60
    lines = read_results(results)
    assert {x["metric"] for x in lines} == set(printed) >= {"top1_head", "unlike_head"}
    assert {(x["split"], x["n"]) for x in lines} == {("test", 60)}
    images = open_source(str(data)).splits["test"]
    pixels, _ = load_view(images, 8, 1, "none")
    found = load(run).predict(pixels, tmp_path / "h.safetensors")
    assert printed["top1_head"] == pytest.approx(100 * np.mean(found.probabilities.argmax(1).numpy() == images.labels))
    assert printed["unlike_head"] == pytest.approx(100 * found.unlike_training.float().mean())


def test_copies_among_labelled_images_are_named(run, photos, tmp_path, capsys):
    """One image in four is there twice; with its copy in one group it does no harm."""
    new, groups = shutil.copytree(photos, tmp_path / "new"), tmp_path / "groups.csv"
    for i in range(0, 45, 3):
        shutil.copy(new / f"{i:02d}.png", new / f"again{i:02d}.png")
    table = photos.with_suffix(".csv").read_text() + "".join(f"again{i:02d}.png,=1+1\n" for i in range(0, 45, 3))
    (tmp_path / "new.csv").write_text(table)
    words = ["classify", run, "--data", new, "--save", tmp_path / "h.safetensors", "--quiet", "--labels"]
    assert ask(*words, tmp_path / "new.csv") == 0
    assert "15 of 60 labelled images are copies of others, and in other groups" in capsys.readouterr().err
    assert ask("data", "inspect", new, "--labels", tmp_path / "new.csv", "--groups", groups) == 0
    assert ask(*words, groups) == 0
    assert "copies" not in capsys.readouterr().err


def test_measuring_and_saving_in_one_command(run, tmp_path, capsys):
    out, head = tmp_path / "p.csv", tmp_path / "h.safetensors"
    few = ["--labels-per-class", 5, "--trials", 1]
    assert ask("classify", run, *few, "--out", out, "--save", head, "--quiet") == 0
    assert out.exists()
    printed = capsys.readouterr().out
    assert "5 labels per class" in printed
    assert f"{head}: 3 classes, 45 labelled images" in printed


MISTAKES = {
    "nothing": ([], "nothing to do"),
    "no out": (["--labels-per-class", "3"], "--out is required"),
    "out alone": (["--save", "h.safetensors", "--out", "p.csv"], "--out needs --labels-per-class"),
    "finetune": (["--save", "h.safetensors", "--finetune"], "--finetune needs"),
    "trials": (["--save", "h.safetensors", "--trials", "2"], "--trials needs"),
    "raw cells": (["--save", "h.safetensors", "--raw-cells"], "--raw-cells needs"),
    "ending": (["--save", "h.pt"], "ending in .safetensors"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes_in_saving(kind, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words, message = MISTAKES[kind]
    assert ask("classify", run, "--quiet", *words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


# -- predict ----------------------------------------------------------------------------------------------------


def test_each_image_has_a_row_with_its_class(run, head, photos, tmp_path, capsys):
    out = tmp_path / "p.csv"
    words = ["predict", run, "--head", head, "--data", photos, "--out", out, "--quiet"]
    assert ask(*words, "--probabilities", "--json") == 0
    found, said = rows(out), json.loads(capsys.readouterr().out)
    probabilities = [f"probability_{name}" for name in CLASSES]
    assert list(found[0]) == ["file", "class", "confidence", "unlike_training", *probabilities]
    images = open_source(str(photos)).splits["train"]
    assert [row["file"] for row in found] == images.files
    expected = load(run).predict(load_view(images, 8, 1, "none")[0], head)
    assert [row["class"].removeprefix("'") for row in found] == expected.names
    assert [row["unlike_training"] == "true" for row in found] == expected.unlike_training.tolist()
    for column, values in zip(probabilities, expected.probabilities.T, strict=True):
        np.testing.assert_allclose([float(row[column]) for row in found], values, atol=1e-4)
    np.testing.assert_allclose([float(row["confidence"]) for row in found], expected.confidence, atol=1e-4)
    right = np.mean([name == CLASSES[i % 3] for i, name in enumerate(expected.names)])
    assert right > 0.9
    assert said["images"] == 60
    assert said["classes"] == {name: expected.names.count(name) for name in CLASSES}
    assert said["unlike_training"] == int(expected.unlike_training.sum())
    assert f"60 images: =1+1 {said['classes']['=1+1']}, apple" in summary(said)


def test_predictions_are_compared_with_labels(run, head, photos, tmp_path, capsys):
    """The labels of the last ten images: two are wrong, one is of a class that the head lacks."""
    names = {i: CLASSES[i % 3] for i in range(50, 60)} | {50: "apple", 51: "pear", 52: "plum"}
    labels, out = tmp_path / "new.csv", tmp_path / "p.csv"
    labels.write_text("file,label\n" + "".join(f"{i}.png,{name}\n" for i, name in names.items()))
    words = ["predict", run, "--head", head, "--data", photos, "--labels", labels, "--out", out, "--quiet"]
    assert ask(*words, "--json") == 0
    said = json.loads(capsys.readouterr().out)["scores"]
    found = [row for row in rows(out) if row["truth"]]
    assert [row["truth"] for row in found] == ["'=1+1" if name == "=1+1" else name for name in names.values()]
    right = np.array([row["class"] == row["truth"] for row in found])
    assert (said["n"], said["of_other_classes"]) == (10, 1)
    assert said["top1"] == pytest.approx(100 * right.mean())
    recalls = [right[[row["truth"] == name for row in found]].mean() for name in {row["truth"] for row in found}]
    assert said["balanced"] == pytest.approx(100 * np.mean(recalls))
    assert 0 <= said["auroc"] <= 1
    assert ask(*words) == 0
    line = f"10 labelled images (1 of classes that the head lacks): accuracy {said['top1']:.1f} %, balanced"
    assert line in capsys.readouterr().out


def test_class_folders_are_compared_with_if_asked_for(run, head, photos, tmp_path, capsys):
    for i in range(12):
        (tmp_path / "new" / CLASSES[i % 3]).mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / f"{i:02d}.png", tmp_path / "new" / CLASSES[i % 3])
    words = ["predict", run, "--head", head, "--data", tmp_path / "new", "--out", tmp_path / "p.csv", "--quiet"]
    assert ask(*words, "--json") == 0
    assert "scores" not in json.loads(capsys.readouterr().out)
    assert ask(*words, "--score", "--json") == 0
    said = json.loads(capsys.readouterr().out)["scores"]
    right = np.mean([row["class"] == row["truth"] for row in rows(tmp_path / "p.csv")])
    assert (said["n"], said["of_other_classes"]) == (12, 0)
    assert said["top1"] == pytest.approx(100 * right)


def test_images_of_the_run_are_scored_with_a_warning(run, head, photos, tmp_path, capsys):
    words = ["predict", run, "--head", head, "--out", tmp_path / "p.csv", "--quiet", "--data"]
    assert ask(*words, photos, "--labels", photos.with_suffix(".csv")) == 0
    assert (
        f"has the images of {run}: if the head was trained on them, the accuracy is too good" in capsys.readouterr().err
    )
    new = shutil.copytree(photos, tmp_path / "new")
    (new / "00.png").unlink()
    assert ask(*words, new, "--labels", photos.with_suffix(".csv")) == 0
    assert "too good" not in capsys.readouterr().err


NO_SCORE = {
    "no labels": (["--data", "{photos}", "--score"], "has no labels; give --labels FILE.csv"),
    "one folder": (["--data", "{photos}", "--score"], "a single one is not read as a class"),
    "other classes": (["--data", "{photos}", "--labels", "other.csv"], "the labels are plum, the classes =1+1, apple"),
    "no data": (["--score"], "--score and --labels need --data"),
}


@pytest.mark.parametrize("kind", NO_SCORE)
def test_what_cannot_be_compared_is_refused(kind, run, head, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    new = shutil.copytree(photos, tmp_path / "new")
    (tmp_path / "other.csv").write_text("file,label\n50.png,plum\n")
    words, message = NO_SCORE[kind]
    words = [word.format(photos=new) for word in words]
    assert ask("predict", run, "--head", head, "--out", "p.csv", "--quiet", *words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "p.csv").exists()


def test_names_are_no_formulas_unless_asked_for(run, head, photos, tmp_path):
    words = ["predict", run, "--head", head, "--data", photos, "--quiet", "--out"]
    assert ask(*words, tmp_path / "safe.csv") == 0
    assert ask(*words, tmp_path / "raw.csv", "--raw-cells") == 0
    assert "'=1+1" in {row["class"] for row in rows(tmp_path / "safe.csv")}
    assert "=1+1" in {row["class"] for row in rows(tmp_path / "raw.csv")}


def test_small_batches_and_unreadable_files(run, head, photos, tmp_path, capsys):
    """Images are counted and named in spite of a file that cannot be read, in batches of seven."""
    new = shutil.copytree(photos, tmp_path / "new")
    (new / "03.png").write_bytes(b"no image")
    for name, words in {"a": [], "b": ["--batch-size", "7"]}.items():
        assert ask("predict", run, "--head", head, "--data", new, "--out", tmp_path / f"{name}.csv", *words) == 0
    first, second = rows(tmp_path / "a.csv"), rows(tmp_path / "b.csv")
    assert len(first) == 59
    assert [(r["file"], r["class"]) for r in first] == [(r["file"], r["class"]) for r in second]
    assert "03.png" not in {row["file"] for row in first}
    err = capsys.readouterr().err
    assert "predict: 100%" in err
    assert "cannot be read" in err


def test_of_few_new_images_those_that_can_be_read_are_classified(run, head, photos, tmp_path, capsys):
    (tmp_path / "week").mkdir()
    for i in range(5):
        shutil.copy(photos / f"{i:02d}.png", tmp_path / "week")
    (tmp_path / "week" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    for words in (["predict", run, "--head", head], ["encode", run]):
        out = tmp_path / f"{words[0]}.csv"
        assert ask(*words, "--data", tmp_path / "week", "--out", out, "--quiet") == 0
        assert len(rows(out)) == 5
        assert "1 of the 6 images in 'train' cannot be read and are skipped: phone.heic" in capsys.readouterr().err


def test_files_are_padded_as_the_arrays_of_training(tmp_path):
    data, run = write_npz(tmp_path / "d.npz", side=7), tmp_path / "run"
    train(tiny_config("training.steps=2"), str(data), run, progress=False)
    head = tmp_path / "h.safetensors"
    assert ask("classify", run, "--save", head, "--quiet") == 0
    assert Head.load(head).preprocessing.pads
    (tmp_path / "files").mkdir()
    with np.load(data) as arrays:
        for i, pixels in enumerate(arrays["test_images"][:20]):
            Image.fromarray(pixels).save(tmp_path / "files" / f"{i:02d}.png")
        np.savez(tmp_path / "rows.npz", images=arrays["test_images"][:20])
    for name, source in {"a": tmp_path / "files", "b": tmp_path / "rows.npz"}.items():
        words = ["--data", source, "--out", tmp_path / f"{name}.csv", "--probabilities", "--quiet"]
        assert ask("predict", run, "--head", head, *words) == 0
    first, second = ([[*row.values()][1:] for row in rows(tmp_path / f"{name}.csv")] for name in "ab")
    assert first == second


@pytest.mark.parametrize("of", ["predict", "encode"])
def test_files_written_are_read_as_labels(of, run, head, photos, tmp_path):
    out = tmp_path / "l.csv"
    words = ["--head", head] if of == "predict" else ["--features", "z_mean"]
    assert ask(of, run, "--data", photos, "--labels" if of == "encode" else "--quiet",
               *([photos.with_suffix(".csv")] if of == "encode" else []), *words, "--out", out) == 0  # fmt: skip
    found = open_source(str(photos), labels=out).splits["train"]
    assert found.classes == CLASSES
    named = ["" if k < 0 else found.classes[k] for k in found.labels]
    if of == "encode":
        assert named == [CLASSES[i % 3] if i < 45 else "" for i in range(60)]
    else:
        assert np.mean([name == CLASSES[i % 3] for i, name in enumerate(named)]) > 0.9


def test_a_head_of_another_encoder_is_refused(run, head, photos, tmp_path, capsys):
    other = tmp_path / "other"
    train(tiny_config("training.steps=2", "training.seed=1"), str(photos), other, progress=False)
    capsys.readouterr()
    out = tmp_path / "out"
    for words in (
        ["predict", other, "--head", head, "--data", photos, "--out", out / "p.csv"],
        ["export", other, "--head", head, "--out", out / "model"],
    ):
        assert ask(*words, "--quiet") == 2
        err = capsys.readouterr().err
        assert f"{head} does not belong to the encoder of {other}" in err
        assert "after 4 steps" in err
        assert err.count("\n") == 1
    assert not any(path.is_file() or path.name == "model" for path in out.rglob("*"))


@pytest.mark.parametrize(("words", "message"), [
    (["--out", "p.csv"], "has no saved head; give one: --head"),
    (["--out", "p.txt", "--head", "h"], "ending in .csv"),
    (["--out", "p.csv", "--head", "nowhere.safetensors"], "no such file; write one"),
])  # fmt: skip
def test_mistakes_in_predicting(words, message, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ask("predict", run, "--quiet", *words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


# -- the head in an exported model ------------------------------------------------------------------------------


def test_an_exported_model_predicts_without_the_run(run, head, exported, photos, tmp_path):
    card = (exported / "README.md").read_text()
    assert "=1+1, apple, pear (a linear classifier, 45 labelled images)" in card
    words = ["--data", photos, "--quiet", "--out"]
    assert ask("predict", exported, *words, tmp_path / "a.csv") == 0
    assert ask("predict", run, "--head", head, *words, tmp_path / "b.csv") == 0
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert torch.equal(load(exported).predict(images).distance, load(run).predict(images, head).distance)
    again = export(exported, tmp_path / "again")
    assert load(again).head.classes == tuple(CLASSES)
    assert load(run).head is None


def test_the_card_has_the_accuracy_of_the_exported_head(run, head, photos, tmp_path):
    few = tmp_path / "few.csv"
    few.write_text("\n".join(photos.with_suffix(".csv").read_text().splitlines()[:31]) + "\n")
    assert ask("classify", run, "--labels", few, "--save", tmp_path / "few.safetensors", "--quiet") == 0
    for name, given, n in (("a", head, 45), ("b", tmp_path / "few.safetensors", 30)):
        folder = export(run, tmp_path / name, head=given)
        lines = [x for x in read_results(folder / "results.jsonl") if x["metric"].endswith("_head")]
        assert {(x["n"], x["protocol"]["head"]) for x in lines} == {(n, Head.load(given).digest)}
        card = (folder / "README.md").read_text()
        assert re.findall(r"held-out folds of its (\d+) labelled images", card) == [str(n)]
        assert card.count("- the saved classifier, accuracy in %: ") == 1
    assert "the saved classifier" not in (export(run, tmp_path / "none") / "README.md").read_text()


def test_an_exported_head_that_does_not_fit_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model")
    save_file({"x": torch.zeros(1)}, folder / "head.safetensors")
    with pytest.raises(UserError, match="is not a saved head"):
        load(folder)


def test_the_script_flags_what_predict_flags(tmp_path):
    data, run, results = write_npz(tmp_path / "d.npz"), tmp_path / "run", tmp_path / "u.jsonl"
    train(tiny_config("training.steps=2"), str(data), run, progress=False)
    assert ask("classify", run, "--save", tmp_path / "h.safetensors", "--quiet") == 0
    (expected,) = (x["value"] for x in read_results(run / "results.jsonl") if x["metric"] == "unlike_head")
    words = [run, "--data", data, "--others", "digits", "--results", results]
    assert unlike.main([str(word) for word in words]) == 0
    found = {x["metric"]: x for x in read_results(results)}
    assert found["unlike_test_avepool"]["value"] == pytest.approx(expected, abs=0.01)
    assert found["unlike_digits_pixels"]["value"] > 90
    assert found["unlike_digits_pixels"]["protocol"] == {"images": "digits", "labelled": 60}
    assert len(found) == 18  # three features, six kinds of images


# -- real images ------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_digits_are_known_and_other_images_are_unlike(shared, tmp_path):
    """Nearly no test digit is unlike the training digits; noise and clothes are, by an encoder of 60 steps."""
    run, head = tmp_path / "run", tmp_path / "h.safetensors"
    train(tiny_config("training.steps=60", "encoder.widths=[32,64]"), "digits", run, progress=False)
    assert ask("classify", run, "--save", head, "--quiet") == 0
    measured = {x["metric"]: x["value"] for x in read_results(run / "results.jsonl")}
    assert measured["top1_head"] > 85
    assert measured["unlike_head"] < 5
    assert measured["ece_head"] < 6
    noise = np.random.default_rng(0).integers(0, 256, (200, 8, 8), dtype=np.uint8)
    clothes = open_source(f"fashion-mnist:{shared / 'fashion-mnist'}").splits["test"]
    others = {"noise": noise, "clothes": np.stack([clothes.load(i)[..., 0] for i in range(200)])}
    for name, images in others.items():
        np.savez(tmp_path / f"{name}.npz", images=images)
        out = tmp_path / f"{name}.csv"
        assert ask("predict", run, "--head", head, "--data", tmp_path / f"{name}.npz", "--out", out, "--quiet") == 0
        share = np.mean([row["unlike_training"] == "true" for row in rows(out)])
        print(name, share, measured)
        assert share > {"noise": 0.9, "clothes": 0.3}[name]
