"""Few-label classification: known answers, calibrated confidence, and predictions a person can use."""

import csv
import json

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from bigbigan.apps import classify as c
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.config import override
from bigbigan.data import open_source
from bigbigan.data.held_out import hold_out
from bigbigan.errors import UserError
from bigbigan.evaluation import runner
from bigbigan.evaluation.features import digest
from bigbigan.evaluation.probes.calibration import calibration_error, fit_temperature
from bigbigan.evaluation.records import read_results
from bigbigan.evaluation.splits import load_images
from bigbigan.evaluation.targets import open_target
from bigbigan.io import read_json
from tiny import blobs, tiny_config, write_npz


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classify")
    data = write_npz(folder / "d.npz", count=90)
    train(override(tiny_config(), ["training.steps=2"]), str(data), folder / "run", progress=False)
    return folder / "run"


def test_a_draw_has_so_many_of_each_class_or_such_a_share():
    labels = np.repeat(np.arange(3), [50, 20, 4])
    assert np.bincount(labels[c.Labels(per_class=5).sample(labels, 1)[0]]).tolist() == [5, 5, 4]
    assert np.bincount(labels[c.Labels(fraction=0.1).sample(labels, 1)[0]]).tolist() == [5, 2, 1]
    a, b = c.Labels(fraction=0.1).sample(labels, 2)
    assert not np.array_equal(a, b)
    (everything,) = c.Labels(fraction=1.0).sample(labels, 5)  # nothing to choose: one trial
    assert len(everything) == 74
    assert len(c.Labels(per_class=50).sample(labels, 5)) == 1
    assert c.Labels(per_class=5).name == "5perclass"
    assert c.Labels(fraction=0.025).name == "2.5percent"


def test_the_temperature_undoes_overconfidence():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4)) * 2
    labels = (np.exp(log_softmax(logits, 1)).cumsum(1) < rng.random((20_000, 1))).sum(1)  # drawn as the logits say
    assert fit_temperature(logits, labels) == pytest.approx(1, abs=0.05)
    assert fit_temperature(5 * logits, labels) == pytest.approx(5, rel=0.05)
    assert calibration_error(logits, labels) < 0.015
    assert calibration_error(5 * logits, labels) > 0.1


def test_calibration_error_of_a_known_case():
    """Confidence 0.8 throughout, right in half of the cases: off by 0.3."""
    logits = np.tile([np.log(0.8), np.log(0.2)], (10, 1))
    assert calibration_error(logits, np.array([0, 1] * 5)) == pytest.approx(0.3)


def test_logits_from_few_labels_are_right_and_calibrated():
    (x, y), (xt, yt) = blobs(200, 3, 0), blobs(4000, 3, 1)
    logits = c.frozen_logits(np.concatenate([x, xt]), np.arange(200), y)[200:]
    assert (logits.argmax(1) == yt).mean() > 0.9
    assert calibration_error(logits, yt) < 0.06


def test_two_classes_and_classes_without_a_label():
    x, y = blobs(60, 6, 0, classes=2)
    assert (c.frozen_logits(x, np.arange(60), y).argmax(1) == y).mean() > 0.95
    x, y = blobs(60, 6, 0, classes=3)
    known = np.flatnonzero(y != 1)
    predicted = c.frozen_logits(x, known, y[known]).argmax(1)
    assert 1 not in predicted
    assert (predicted[known] == y[known]).mean() > 0.95


@pytest.mark.parametrize("finetune", [False, True])
def test_predictions_name_each_image_that_was_not_labelled(run, tmp_path, finetune, capsys, monkeypatch):
    monkeypatch.setattr(c, "MAX_EPOCHS", 3)
    monkeypatch.setattr(c, "MIN_STEPS", 2)
    out, results = tmp_path / "p.csv", tmp_path / "r.jsonl"
    call = ["classify", run, "--labels-per-class", 8, "--trials", 2, "--out", out, "--results", results, "--quiet"]
    assert main([str(a) for a in call] + ["--finetune", "--scratch"] * finetune) == 0
    read = read_results(results)
    lines = {(x["metric"], x["steps"]): x for x in read}
    subjects = {x["metric"].removeprefix("top1_"): x["subject"] for x in read if x["steps"] == 0}
    baselines = {"frozen_pixels_8perclass": "pixels", "frozen_pca_pixels_8perclass": "pca_pixels",
                 "frozen_bn_crelu_8perclass": "untrained"}  # fmt: skip
    assert subjects | baselines == subjects
    assert {x["subject"] for x in read if x["steps"]} == {"trained"}
    assert {x["study"] for x in read} == {"classification"}
    asked = {("top1_frozen_pixels_8perclass", 0), ("top1_frozen_bn_crelu_8perclass", 0),
             ("top1_frozen_bn_crelu_8perclass", 2), ("ece_frozen_bn_crelu_8perclass", 2)}  # fmt: skip
    asked |= {("auroc_frozen_bn_crelu_8perclass", 2), ("balanced_frozen_bn_crelu_8perclass", 0)}
    asked |= {("auroc_frozen_pca_pixels_8perclass", 0)}
    asked |= {("top1_scratch_8perclass", 0), ("auroc_finetuned_8perclass", 2)} if finetune else set()
    assert asked <= set(lines)
    assert lines["top1_frozen_pixels_8perclass", 0]["value"] > 95  # the bright row gives the class away
    assert lines["auroc_frozen_pixels_8perclass", 0]["value"] > 0.99
    assert len(lines["top1_frozen_pixels_8perclass", 0]["trials"]) == 2
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 90 + 90 - 24
    assert len({r["file"] for r in rows}) == len(rows)
    assert all(0 < float(r["confidence"]) <= 1 and r["predicted"] in {"0", "1", "2"} for r in rows)
    right = np.mean([r["label"] == r["predicted"] for r in rows if r["split"] == "test"])
    last = lines["top1_finetuned_8perclass" if finetune else "top1_frozen_bn_crelu_8perclass", 2]
    assert 100 * right == pytest.approx(last["trials"][0], abs=0.01)
    said = capsys.readouterr().out
    assert "8 labels per class" in said
    assert {"raw pixels", "untrained E", "trained E"} <= {line[:24].strip() for line in said.splitlines()}


def test_a_network_from_scratch_learns_from_few_images(run):
    """Of images whose bright row tells the class; and the encoder it begins as stays as it is."""
    target = open_target(str(run))
    images = load_images(open_source(read_json(run / "data.json")["spec"]), target.view)
    pixels, y = np.concatenate([images.train.pixels, images.test.pixels]), images.train.labels
    encoder = target.encoder("untrained", images.training_pixels)
    before = digest(encoder)
    logits = c._tuner(encoder, pixels, y, None, target, 3e-3)(np.arange(60), 0, slice(90, None))
    assert digest(encoder) == before
    assert (logits.argmax(1) == images.test.labels).mean() > 0.8
    tuned = c._Tuned(encoder, 3, False, 0, 1e-3)
    steps = []
    tuned.optimizer.step = lambda: steps.append(1)
    tuned.epoch(torch.from_numpy(pixels[:20]), torch.from_numpy(y[:20]))
    assert len(steps) == c.MIN_STEPS


def test_early_stopping_uses_whole_groups(run, monkeypatch):
    target = open_target(str(run))
    images = load_images(open_source(read_json(run / "data.json")["spec"]), target.view)
    asked, epochs = [], []
    monkeypatch.setattr(c, "hold_out", lambda *a: asked.append(hold_out(*a)) or asked[-1])
    monkeypatch.setattr(c._Tuned, "epoch", lambda self, x, y: epochs.append(len(x)))  # learns nothing
    groups = np.arange(90) // 9
    c._tuner(
        target.encoder("trained", images.training_pixels),
        images.train.pixels,
        images.train.labels,
        groups,
        target,
        1e-3,
    )(np.arange(90), 0, slice(None))
    kept, held = asked[0]
    assert not set(groups[kept]) & set(groups[held])
    assert epochs == [len(kept)] * (c.PATIENCE + 1) + [90]


def test_the_encoder_of_the_run_is_not_changed_by_finetuning(run, tmp_path, monkeypatch):
    monkeypatch.setattr(c, "MAX_EPOCHS", 2)
    before = {p: p.read_bytes() for p in run.rglob("*.safetensors")}
    c.classify(str(run), None, c.Labels(fraction=0.5), tmp_path / "p.csv", "", finetune=True, trials=1, progress=False)
    assert before == {p: p.read_bytes() for p in run.rglob("*.safetensors")}


@pytest.mark.parametrize(("arguments", "message"), [
    (["--labels-per-class", "0", "--out", "p.csv"], "expected at least 1"),
    (["--label-fraction", "1.5", "--out", "p.csv"], "above 0 and up to 1"),
    (["--labels-per-class", "2", "--trials", "0", "--out", "p.csv"], "expected at least 1"),
    (["--labels-per-class", "2", "--out", "p.txt"], "ending in .csv"),
    (["--labels-per-class", "2", "--label-fraction", "0.1", "--out", "p.csv"], "not allowed with"),
    (["--out", "p.csv"], "is required"),
])  # fmt: skip
def test_mistakes(run, arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["classify", str(run), *arguments, "--quiet"]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_more_labels_than_a_class_has_are_reported(run, capsys, tmp_path):
    few = ["--labels-per-class", "99", "--trials", "1"]
    assert main(["classify", str(run), *few, "--out", str(tmp_path / "p.csv"), "--quiet"]) == 0
    assert "has only 30 labelled training images" in capsys.readouterr().err


def test_an_error_leaves_no_progress_bar_open(run, tmp_path, monkeypatch):
    bars = []

    class Bar(c.Bar):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            bars.append(self)

    def fail(*args):
        raise UserError("not possible")

    for module, function in ((c, "scores"), (runner, "measure_features")):
        monkeypatch.setattr(module, "Bar", Bar)
        monkeypatch.setattr(module, function, fail)
    with pytest.raises(UserError, match="not possible"):
        c.classify(str(run), None, c.Labels(per_class=2), tmp_path / "p.csv", "")
    with pytest.raises(UserError, match="not possible"):
        runner.evaluate(run, None, ["knn1_l2_avepool"], "")
    assert [bar.disable for bar in bars] == [True, True]  # as tqdm's bars are once they are closed


def test_unlabelled_images_cannot_be_classified(run, capsys, tmp_path):
    np.savez(tmp_path / "u.npz", images=np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
    call = ["classify", str(run), "--data", str(tmp_path / "u.npz"), "--labels-per-class", "3", "--quiet"]
    assert main([*call, "--out", str(tmp_path / "p.csv")]) == 2
    assert "no labels of two or more classes" in capsys.readouterr().err
    assert json.loads((run / "data.json").read_text())["images"] == 90
