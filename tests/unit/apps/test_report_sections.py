"""Sections of the report: classes, map of features, memorisation, interpolations; and the label curve."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_report import few, line

from bigbigan.apps.report import classes, curves, feature_map, memorisation, probe, shown_images
from bigbigan.apps.report.contents import gather
from bigbigan.apps.report.interpolations import interpolations
from bigbigan.apps.report.markup import Html
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.data.image_set import fraction_of
from bigbigan.evaluation.records import append_results, newest_results
from bigbigan.evaluation.splits import View
from bigbigan.image import to_float
from bigbigan.integrations import model_card
from tiny import tiny_config, write_npz


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sections")
    data = write_npz(folder / "rows.npz")
    train(tiny_config("training.steps=2"), str(data), folder / "run", progress=False)
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def brightness(monkeypatch):
    """Features that are the rows' brightness, which tells the class."""
    monkeypatch.setattr(shown_images, "encoder_features", lambda e, x: {"bn_crelu": x.mean((1, 3)) / 255})


def words(html):
    return " ".join(re.sub("<[^>]*>", " ", html).split())


# -- classes and mistakes -----------------------------------------------------------------------------------


def test_classes_that_features_tell_apart_are_not_confused(run, brightness):
    text = words(classes.classes(gather(run, None)))
    assert "60 labelled training images, tried on 60 others: 100.0 % are right" in text
    assert "No image is misclassified" in text
    assert "0 20 · · 20 100 % 100 %" in text


def test_mistakes_are_the_most_confident_ones(run, brightness):
    known = gather(run, None)
    wrong = known.images.unseen.labels
    wrong[:4] = (wrong[:4] + 1) % 3  # labels of the images are wrong, not the predictions
    text = classes.classes(known)
    captions = re.findall(r"<span>(\d) → (\d), (\d+) %</span>", text)
    assert len(captions) == 4
    assert all((int(a) - int(b)) % 3 == 1 for a, b, _ in captions)
    confidences = [int(c) for *_, c in captions]
    assert confidences == sorted(confidences, reverse=True)
    assert "Confused most often:" in words(text)


def test_many_classes_show_those_found_worst():
    confusion = np.diag(np.arange(1, 31))
    confusion[7, 8] = 100
    text = words(classes._matrix(confusion, [f"c{i}" for i in range(30)]))
    assert "The 20 classes found worst" in text
    assert text.index("c7 108 7 % 100 %") < text.index("c0 1 100 %")
    assert "c29" not in text


def test_images_without_labels_have_no_classes(run, tmp_path):
    np.savez(tmp_path / "bare.npz", images=np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
    assert "no labels of two or more classes" in classes.classes(gather(run, str(tmp_path / "bare.npz")))


def test_unseen_images_are_held_out_of_the_training_split(run, tmp_path):
    np.savez(tmp_path / "bare.npz", images=np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
    images = gather(run, str(tmp_path / "bare.npz")).images
    assert (len(images.unseen), len(images.known), images.split) == (8, 32, None)
    assert not set(images.unseen.files) & set(images.known.files)


# -- map of features ----------------------------------------------------------------------------------------


def test_map_takes_class_names_as_they_are():
    """matplotlib would read a dollar sign as mathematics."""
    drawn = feature_map._scatter("x", np.eye(4)[:, :2], np.arange(4) % 2, [r"$\frac$", "b"])
    assert r"$\frac$" in drawn


def test_principal_plane_of_points_on_a_plane():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(50, 2)) * [3, 1]
    places, share = feature_map.principal_plane(np.concatenate([flat, np.zeros((50, 3))], axis=1) + 5)
    assert share == pytest.approx(1)
    apart = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    np.testing.assert_allclose(np.linalg.norm(places[:, None] - places[None], axis=2), apart, atol=1e-9)


def test_map_names_the_classes_and_draws_umap_if_asked(run, monkeypatch):
    drawn = []
    monkeypatch.setattr(feature_map, "svg", lambda draw, label, height: drawn.append(label) or Html())
    asked = []
    fake = SimpleNamespace(UMAP=lambda **k: asked.append(k) or SimpleNamespace(fit_transform=lambda x: x[:, :2]))
    monkeypatch.setitem(sys.modules, "umap", fake)
    assert "report --umap" in feature_map.feature_map(gather(run, None))
    assert len(drawn) == 1
    assert not asked
    feature_map.feature_map(gather(run, None, umap=True))
    assert drawn[1:] == [drawn[0], "Map of features by UMAP"]
    assert asked == [{"n_neighbors": 15, "metric": "cosine", "random_state": 0}]


def test_umap_that_is_not_installed_is_one_line(run, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["report", str(run), "--umap"]) == 2
    assert "pip install 'bigbigan[umap]'" in capsys.readouterr().err
    assert not (run / "report.html").exists()


# -- memorisation and interpolations ------------------------------------------------------------------------


def test_nearest_images_are_found_with_their_distance():
    known = torch.zeros(3, 1, 2, 2)
    known[1] = 1
    near, which = memorisation.nearest_images(torch.full((1, 1, 2, 2), 0.75), known)
    assert which.tolist() == [1]
    assert near.item() == pytest.approx(0.25)  # four pixels, each 0.25 away in [-1, 1]


def test_copies_of_training_images_are_reported(run, monkeypatch):
    known = gather(run, None)
    copies = to_float(torch.from_numpy(known.images.y[:40]))
    monkeypatch.setattr(known.model, "generate", lambda count, seed: copies)
    text = words(memorisation.memorisation(known))
    assert "median 0.00" in text
    assert "100 % of the samples are nearer than the nearest 1 %" in text
    assert "Many samples are very near a training image" in text


def test_samples_like_unseen_images_raise_no_alarm(run, monkeypatch):
    known = gather(run, None)
    unseen = to_float(torch.from_numpy(known.images.x))
    monkeypatch.setattr(known.model, "generate", lambda count, seed: unseen)
    text = words(memorisation.memorisation(known))
    assert "(ratio 1.00)" in text
    assert "Many samples" not in text


def test_interpolations_are_drawn(run):
    text = interpolations(gather(run, None))
    assert "images of the test split" in text
    assert text.count("<img") == 1


# -- numbers ------------------------------------------------------------------------------------------------


def test_label_curve_is_drawn_with_its_advice(run, monkeypatch):
    labels = []
    monkeypatch.setattr(probe, "svg", lambda draw, label, height: labels.append(label) or Html())
    assert "--metrics curve" in probe.probe(_with(run, few((80.2, 1), (80, 1), (70, 1))))
    lines = [line(f"top1_linear_bn_crelu_{n}perclass", v, 1.0) for n, v in ((1, 50), (5, 80), (20, 80.5))]
    text = words(probe.probe(_with(run, lines)))
    assert "Beyond 5 per class (80.0 %), more labels are hardly worth having: up to 20" in text
    assert "Accuracy over labels per class; last: trained E 80.5" in labels
    assert "top1_linear_bn_crelu_5perclass" not in text  # it is in the table of the curve


def test_external_encoders_have_rows_and_not_their_pixels(run):
    other = {"experiment": "timm:resnet18", "dataset": "rows", "split": "test"}
    own = {"experiment": "small/digits", "dataset": "rows", "split": "test"}
    lines = [
        own | {"metric": "top1_linear_pixels", "subject": "pixels", "value": 80.0},
        other | {"metric": "top1_linear_pixels", "subject": "pixels", "value": 10.0},
        other | {"metric": "top1_linear_bn_crelu", "subject": "external", "value": 91.0},
        other | {"metric": "top1_linear_bn_crelu", "subject": "external", "value": 92.0},
    ]
    results, others, external = newest_results(lines, "rows")
    assert results["top1_linear_pixels", "pixels"]["value"] == 80.0
    assert [x["value"] for x in external] == [92.0]
    assert not others
    text = words(probe._probe_table(results, external))
    assert "timm:resnet18, BN+CReLU 92.0 not run" in text


def test_lines_of_other_labels_are_not_in_the_same_table(tmp_path):
    """The run was evaluated with one labels file, and then with another one."""
    own = {"experiment": "small/digits", "dataset": "rows", "split": "held_out", "n": 50}
    old, new = (own | {"labels": {"sha256": sha}} for sha in ("aa", "bb"))
    lines = [
        old | {"metric": "top1_linear_pixels", "subject": "pixels", "value": 80.0},
        old | {"metric": "knn5_l2_pixels", "subject": "pixels", "value": 70.0},
        old | {"metric": "reconstruction_ratio", "subject": "trained", "value": 0.5},
        old | {"metric": "top1_head", "subject": "trained", "value": 75.0, "split": "folds"},
        new | {"metric": "top1_linear_pixels", "subject": "pixels", "value": 20.0},
    ]
    results, others, _ = newest_results(lines, "rows")
    assert {key: line["value"] for key, line in results.items()} == {
        ("top1_linear_pixels", "pixels"): 20.0,
        ("reconstruction_ratio", "trained"): 0.5,
    }
    assert sorted(line["value"] for line in others) == [70.0, 75.0, 80.0]
    card = "\n".join(model_card._results(lines))
    newest, earlier = card.split("On rows, held-out, 50 images:")[1], card.split("50 images, with other labels:")[1]
    assert "20.0" in newest
    assert "80.0" not in newest.split("On rows")[0]
    assert "80.0" in earlier
    assert "70.0" in earlier
    results, _, _ = newest_results(lines[:4], "rows")
    assert len(results) == 4


def test_few_points_are_too_early_for_curves(run):
    known = gather(run, None)
    assert "Too early for curves: 1 of at least 4 points" in curves.curves(known)
    known.metrics = [{"step": i, "loss_d": 1.0, "loss_eg": 1.0} for i in range(4)]
    assert "Too early" not in curves.curves(known)


def _with(run, lines):
    append_results(run / "results.jsonl", lines)
    return gather(run, None)


def test_images_that_a_fraction_left_out_are_not_shown_as_training_images(run):
    gathered = gather(run, None)
    whole = gathered.source.splits["train"]
    gathered.config = replace(gathered.config, data=replace(gathered.config.data, fraction=0.1))
    trained_on = set(fraction_of(whole, 0.1).files)
    shown = shown_images.shown_images(gathered.source, View.from_config(gathered.config), None, gathered.fraction)
    assert set(shown.known.files) <= trained_on
    assert shown.total == len(trained_on) < len(whole)
    other = gather(run, str(run.parent / "other.npz"))
    assert other.fraction == 1
