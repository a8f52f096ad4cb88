"""The validation metric: it changes no weight, uses no test image, and names the best step."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bigbigan.apps.train import train
from bigbigan.config import override
from bigbigan.data import fraction_of, open_source
from bigbigan.data.batches import Batches
from bigbigan.data.streaming import StreamedPixels
from bigbigan.errors import UserError
from bigbigan.evaluation import early_stopping
from bigbigan.evaluation.early_stopping import ValidationMetric
from bigbigan.evaluation.image_quality.feature_extractors import classifier_file
from bigbigan.evaluation.probes import linear_heads as linear
from bigbigan.evaluation.splits import View, load_images
from bigbigan.experiments import find
from bigbigan.training import checkpoint as ck
from bigbigan.training.state import TrainingState
from bigbigan.training.training_data import load_training_data
from tiny import tiny_config, write_npz


def make_validation(tmp_path, metric, *settings):
    source = open_source(str(write_npz(tmp_path / "d.npz", count=120)))
    config = tiny_config(f"log.validation_metric={metric}", "log.validate_every=2", *settings)
    images = source.splits["train"]
    stored = np.stack([images.load(i).transpose(2, 0, 1) for i in range(len(images))])
    batches = Batches(torch.from_numpy(stored), 16, 0, config.data.augment, 8)
    state = TrainingState(config, torch.device("cpu"))
    state.fill_standing_statistics(batches)
    return ValidationMetric(config, batches, images, source, tmp_path), state


def test_validation_leaves_out_what_evaluation_tests_on(tmp_path):
    """Of a source without a test split."""
    source = open_source(str(write_npz(tmp_path / "d.npz", count=120)))
    del source.splits["test"]
    config = tiny_config("training.seed=3")
    images = source.splits["train"]
    stored = np.stack([images.load(i).transpose(2, 0, 1) for i in range(len(images))])
    validation = ValidationMetric(config, Batches(torch.from_numpy(stored), 16, 0), images, source, tmp_path)
    evaluated = load_images(source, View.from_config(config))
    assert len(evaluated.test) == 24
    assert {images.files[i] for i in [*validation.validation_images, *validation.training_images]} == set(
        evaluated.train.files
    )


@pytest.mark.parametrize("memory_gib", [0.0, 1.0])
def test_unreadable_images_do_not_move_test_images_into_validation(tmp_path, memory_gib):
    """Training that decodes images as needed does not know which are unreadable; evaluation does."""
    rng = np.random.default_rng(0)
    for i in range(120):
        path = tmp_path / "photos" / f"{i % 3}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    (tmp_path / "photos" / "0" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    config = tiny_config(f"data.memory_gib={memory_gib}")
    source = open_source(str(tmp_path / "photos"))
    images = source.splits["train"]
    data = load_training_data(config, source, images, "photos", tmp_path, torch.device("cpu"), False)
    assert isinstance(data.batches.pixels, StreamedPixels) == (memory_gib == 0)
    validation = ValidationMetric(config, data.batches, data.images, source, tmp_path)
    used = {data.images.files[i] for i in [*validation.validation_images, *validation.training_images]}
    tested = load_images(source, View.from_config(config)).test.files
    assert len(tested) in (23, 24)
    assert len(used) in (95, 96)
    assert not used & set(tested)
    data.close()


def test_validation_of_a_fraction_leaves_out_test_images_too(tmp_path):
    source = open_source(str(write_npz(tmp_path / "d.npz", count=240)))
    del source.splits["test"]
    config = tiny_config("data.fraction=0.5")
    images = fraction_of(source.splits["train"], 0.5)
    stored = np.stack([images.load(i).transpose(2, 0, 1) for i in range(len(images))])
    validation = ValidationMetric(config, Batches(torch.from_numpy(stored), 16, 0), images, source, tmp_path)
    used = {images.files[i] for i in [*validation.validation_images, *validation.training_images]}
    evaluated = load_images(source, View.from_config(config))
    assert len(used) > 60
    assert not used & set(evaluated.test.files)


def test_validation_needs_three_groups(tmp_path):
    """One for the test split, one for train_val, one for training."""
    source = open_source(str(write_npz(tmp_path / "d.npz", count=120)))
    del source.splits["test"]
    images = source.splits["train"]
    stored = np.stack([images.load(i).transpose(2, 0, 1) for i in range(len(images))])
    batches = Batches(torch.from_numpy(stored), 16, 0)
    config = tiny_config()
    for count in (1, 2):
        grouped = replace(images, groups=np.arange(120) % count)
        with pytest.warns(
            UserWarning, match=f"120 labelled training images are of {count} groups?; expected 3 or more"
        ):
            validation = ValidationMetric(config, batches, grouped, source, tmp_path)
        assert not validation.possible
    grouped = replace(images, groups=np.arange(120) % 12)
    assert ValidationMetric(config, batches, grouped, source, tmp_path).possible
    with warnings.catch_warnings():  # images without labels are not validated on anyway
        warnings.simplefilter("error")
        grouped = replace(images, labels=None, groups=np.zeros(120, int))
        assert not ValidationMetric(config, batches, grouped, source, tmp_path).possible


@pytest.mark.parametrize("augment", ["none", "flip", "resnet_crop"])
@pytest.mark.parametrize("metric", ["top1_linear_bn_crelu_10perclass", "top1_table1_avepool"])
def test_accuracies_are_on_train_val_and_change_nothing(tmp_path, monkeypatch, metric, augment):
    monkeypatch.setitem(early_stopping.PROTOCOLS, "table1", 60)
    monkeypatch.setattr(linear, "BATCH", 32)
    validation, state = make_validation(tmp_path, metric, f"data.augment={augment}")
    assert len(validation.validation_images) == 12
    assert not set(validation.validation_images) & set(validation.training_images)
    before = {k: v.clone() for k, v in state.E_ema.state_dict().items()}
    first = validation(state)
    assert first == validation(state)
    assert 0 <= first <= 100
    assert (first * 12 / 100) % 1 == pytest.approx(0, abs=1e-6) or "few" in validation.metric.kind  # twelve images
    after = state.E_ema.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("metric", ["top1_linear_bn_crelu_10perclass", "top1_table1_avepool"])
def test_validation_skips_unreadable_images(tmp_path, monkeypatch, metric):
    """Their substitutes have other labels."""
    monkeypatch.setitem(early_stopping.PROTOCOLS, "table1", 60)
    rng = np.random.default_rng(0)
    for i in range(90):
        pixels = rng.integers(0, 80, (8, 8), dtype=np.uint8)
        pixels[2 * (i % 3)] += 150
        path = tmp_path / "photos" / f"{i % 3}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    config = tiny_config(f"log.validation_metric={metric}")
    state = TrainingState(config, torch.device("cpu"))

    def validation():
        source = open_source(str(tmp_path / "photos"), max_unreadable=1.0)
        images = source.splits["train"]
        streamed = StreamedPixels(images, 8, 1, source, torch.device("cpu"))
        return ValidationMetric(config, Batches(streamed, 16, 0), images, source, tmp_path), images.files

    whole, files = validation()
    state.fill_standing_statistics(whole.batches)
    lost = [*whole.training_images[::5], *whole.validation_images[::3]]
    whole.training_images, whole.validation_images = (
        np.setdiff1d(indices, lost) for indices in (whole.training_images, whole.validation_images)
    )
    values = []
    for i in lost:
        (tmp_path / "photos" / files[i]).write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    partly, _ = validation()
    for v in (whole, partly):
        monkeypatch.setattr(early_stopping, "few_label_trials", lambda *a, v=v: [np.arange(len(v.training_images))])
        values.append(v(state))
    assert values[0] == values[1]


def test_validation_measures_g_by_the_encoders_features(tmp_path):
    validation, state = make_validation(tmp_path, "fid10k_train_encoder")
    value = validation(state)
    assert value > 0
    assert validation.lower_is_better
    assert validation(state) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(("metric", "message"), [
    ("fid10k_test_encoder", "test split must not"),
    ("knn5_l2_avepool", "expected top1_linear_F_10perclass"),
    ("top1_table1_pixels", "expected top1_linear_F_10perclass"),
    ("top1_linear_pca_pixels_10perclass", "expected top1_linear_F_10perclass"),
    ("accuracy", "log.validation_metric=accuracy: expected one metric"),
    ("top1_*", "expected one metric"),
])  # fmt: skip
def test_validation_refuses_other_metrics(tmp_path, metric, message):
    with pytest.raises(UserError, match=message):
        make_validation(tmp_path, metric)


@pytest.mark.parametrize(("metric", "values", "best"), [
    ("top1_linear_avepool_10perclass", [50.0, 70.0, 60.0], 4), ("fid10k_train_encoder", [9.0, 3.0, 5.0], 4),
])  # fmt: skip
def test_best_step_has_highest_accuracy_or_lowest_distance(tmp_path, monkeypatch, metric, values, best):
    measured = iter(values)
    monkeypatch.setattr(ValidationMetric, "__call__", lambda self, state: next(measured))
    data = str(write_npz(tmp_path / "d.npz"))
    settings = ["training.steps=6", "log.validate_every=2", f"log.validation_metric={metric}", "log.checkpoint_every=6"]
    train(tiny_config(*settings), data, tmp_path / "run", progress=False)
    record = ck.best_record(tmp_path / "run")
    assert (record["step"], record["metric"], record["value"]) == (best, metric, values[1])
    lines = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line[metric] for line in lines if metric in line] == values


def test_interrupted_validation_is_repeated(tmp_path, monkeypatch):
    name = "top1_linear_avepool_10perclass"
    data, run = str(write_npz(tmp_path / "d.npz")), tmp_path / "run"
    config = tiny_config("training.steps=4", "log.validate_every=4", f"log.validation_metric={name}")

    def killed(self, state):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ValidationMetric, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, data, run, progress=False)
    assert ck.best_record(run) is None
    for _ in range(2):  # the second time nothing is missing
        assert train(config, data, run, progress=False) is None
        lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if name in line] == [4]
        assert ck.best_record(run)["step"] == 4


def test_a_kill_while_the_best_is_saved_loses_no_better_step(tmp_path, monkeypatch):
    name = "top1_linear_avepool_10perclass"
    data, run = str(write_npz(tmp_path / "d.npz")), tmp_path / "run"
    settings = ["log.validate_every=2", "log.checkpoint_every=2", "log.keep_checkpoints=1"]
    config = tiny_config("training.steps=6", *settings, f"log.validation_metric={name}")
    monkeypatch.setattr(ValidationMetric, "__call__", lambda self, state: {2: 50.0, 4: 70.0, 6: 60.0}[state.step])
    save = ck.save_best

    def killed(run, step, metric, value):
        if step == 4:
            raise KeyboardInterrupt
        save(run, step, metric, value)

    with monkeypatch.context() as patch:
        patch.setattr(ck, "save_best", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, data, run, progress=False)
    train(config, data, run, progress=False)
    assert (ck.best_record(run)["step"], ck.best_record(run)["value"]) == (4, 70.0)
    assert 4 in [checkpoint.step for checkpoint in ck.checkpoints(run)]


def test_validation_needs_labels_or_a_feature_extractor(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGBIGAN_CACHE", str(tmp_path / "cache"))
    validation, _ = make_validation(tmp_path, "top1_table1_avepool")
    validation.labels = None
    assert not validation.possible
    validation, _ = make_validation(tmp_path, "fid10k_train_mnist-cnn")
    assert not validation.possible
    file = classifier_file("mnist-cnn", validation.source.name)
    file.parent.mkdir(parents=True)
    file.touch()
    assert validation.possible


def test_auroc_of_one_class_is_not_measured(tmp_path):
    validation, _ = make_validation(tmp_path, "auroc_linear_avepool_10perclass")
    assert validation.possible
    validation.validation_images = validation.validation_images[:1]
    assert not validation.possible


def test_a_value_that_is_not_a_number_is_not_logged(tmp_path, monkeypatch):
    monkeypatch.setattr(ValidationMetric, "__call__", lambda self, state: float("nan"))
    data = str(write_npz(tmp_path / "d.npz", count=120))
    train(tiny_config("training.steps=4", "log.validate_every=2"), data, tmp_path / "run", progress=False)
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert ck.best_record(tmp_path / "run") is None


def test_validation_says_that_it_knows_the_labels_of_the_task(tmp_path):
    source = open_source("digits")
    config = override(find("pretext/supervised").config(32), ["encoder.resolution=8", "data.channels=1"])
    images = source.splits["train"]
    batches = Batches(torch.zeros(len(images), 1, 8, 8, dtype=torch.uint8), 16, 0)
    with pytest.warns(UserWarning, match="too good for the task supervised"):
        ValidationMetric(config, batches, images, source, tmp_path)
