"""G gets each class as often as the training images have it: in training, statistics, samples and exports."""

import shutil
from functools import partial

import numpy as np
import pytest
import torch

from bigbigan import load
from bigbigan.apps.train import train
from bigbigan.config import override
from bigbigan.errors import UserError
from bigbigan.evaluation.image_quality import sampling as samples
from bigbigan.inference import model as of_model
from bigbigan.integrations.export import export
from bigbigan.io import read_json, write_json
from bigbigan.methods import generate, sample_labels
from bigbigan.training import state
from bigbigan.training.run_folder import changed_settings, read_config
from bigbigan.training.state import TrainingState
from tiny import tiny_config, write_npz

CONDITIONAL = ("loss.s_z=false", "loss.s_xz=false", "data.labels=classes", "training.batch_size=50")
SIZES = (40, 0, 15, 5)  # no image is of class 1


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = write_npz(tmp_path_factory.mktemp("sizes") / "rows.npz")
    with np.load(path) as arrays:
        labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), SIZES))
        np.savez(path, **dict(arrays) | {"train_labels": labels, "test_labels": labels})
    return str(path)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("sizes") / "run"
    train(tiny_config("training.steps=2", *CONDITIONAL), data, run, progress=False)
    return run


def follows_the_sizes(y: torch.Tensor) -> bool:
    """Whether labels have the frequencies of the training images, up to chance."""
    shares, expected = np.bincount(y.numpy(), minlength=4) / len(y), np.array(SIZES) / sum(SIZES)
    return bool((abs(shares - expected) <= 5 * np.sqrt(expected / len(y))).all())


@pytest.fixture
def given_labels(monkeypatch):
    """Collect the labels that G gets from any caller."""
    labels: list[torch.Tensor] = []

    def spy(G, z, y):
        labels.append(y)
        return generate(G, z, y)

    for module in (state, of_model, samples):
        monkeypatch.setattr(module, "generate", spy)
    return labels


def test_a_run_records_how_many_images_each_class_has(run):
    config = read_config(run)
    assert (config.data.classes, config.data.class_sizes) == (4, SIZES)
    assert changed_settings(config).keys().isdisjoint({"data.class_sizes"})


def test_classes_of_one_size_need_no_record(tmp_path):
    data = str(write_npz(tmp_path / "rows.npz"))
    train(tiny_config("training.steps=1", *CONDITIONAL), data, tmp_path / "run", progress=False)
    config = read_config(tmp_path / "run")
    assert (config.data.classes, config.data.class_sizes) == (3, ())
    y = sample_labels(6000, config.data, torch.Generator().manual_seed(0))
    assert abs(np.bincount(y.numpy()) - 2000).max() < 200


def test_labels_are_drawn_in_proportion_while_training(run, given_labels):
    trained = TrainingState(read_config(run), torch.device("cpu"))
    assert follows_the_sizes(trained.system.sample_noise(4000, torch.Generator().manual_seed(0))["y"])
    images = torch.zeros(128, 1, 8, 8)

    class Batches:
        draw = staticmethod(lambda *a: torch.arange(128))
        images = staticmethod(lambda indices: images)

    for step in range(5):
        trained.step = step
        trained.fill_standing_statistics(Batches())
    assert sum(map(len, given_labels)) == 5 * 2 * 128
    assert follows_the_sizes(torch.cat(given_labels))


def test_labels_are_drawn_in_proportion_for_samples(run, tmp_path, given_labels):
    def labels_of(draw):
        given_labels.clear()
        draw()
        return list(given_labels)

    export(run, tmp_path / "model")
    for model in (load(run), load(tmp_path / "model")):
        assert model.config.data.class_sizes == SIZES
        drawn = [
            torch.cat(labels_of(draw))
            for draw in (
                partial(model.generate, 4000),
                partial(samples.draw_samples, model.generator, model.config, 1000),
                partial(model.generate, 1000, truncation=0.5),  # and before it the statistics of truncated latents
            )
        ]
        assert [len(y) for y in drawn] == [4000, 1000, 256 + 1000]
        assert all(follows_the_sizes(y) for y in [*drawn[:2], drawn[2][:256], drawn[2][256:]])
    given_labels.clear()
    load(run).generate(5, label=1)
    assert given_labels[0].tolist() == [1] * 5


def test_a_run_of_unequal_classes_continues_exactly(data, tmp_path):
    ends = []
    for name, stops in (("once", (4,)), ("twice", (2, 4))):
        for steps in stops:
            train(tiny_config(f"training.steps={steps}", *CONDITIONAL), data, tmp_path / name, progress=False)
        ends.append((tmp_path / name / "checkpoints/step-00000004/weights.safetensors").read_bytes())
    assert ends[0] == ends[1]


def test_a_run_of_an_earlier_version_still_draws_evenly(data, tmp_path):
    run = tmp_path / "run"
    train(tiny_config("training.steps=2", *CONDITIONAL), data, run, progress=False)
    tree = read_json(run / "config.json")
    del tree["data"]["class_sizes"]
    write_json(run / "config.json", tree)
    train(tiny_config("training.steps=3", *CONDITIONAL), data, run, progress=False)
    config = read_config(run)
    assert config.data.class_sizes == ()
    y = sample_labels(4000, config.data, torch.Generator().manual_seed(0))
    assert np.bincount(y.numpy()).min() > 800


def test_changed_sizes_of_a_continued_run_are_reported(data, run, tmp_path):
    """A run that goes on takes them from its config.json."""
    copy = shutil.copytree(run, tmp_path / "run")
    text = (copy / "config.json").read_text()
    assert text.count("40,") == 1
    (copy / "config.json").write_text(text.replace("40,", "47,"))
    with pytest.warns(
        UserWarning, match=r"the checkpoint \(data.class_sizes was \[40, 0, 15, 5\], now \[47, 0, 15, 5\]\)"
    ):
        train(tiny_config("training.steps=3", *CONDITIONAL), data, copy, progress=False)


def test_other_classes_are_refused_in_one_line(data, tmp_path):
    run = tmp_path / "run"
    train(tiny_config("training.steps=2", *CONDITIONAL), data, run, progress=False)
    with np.load(data) as arrays:
        fewer = {k: np.minimum(v, 1) if "labels" in k else v for k, v in arrays.items()}
    np.savez(tmp_path / "fewer.npz", **fewer)
    with pytest.raises(UserError, match="classes was 4, now 2") as error:
        train(tiny_config("training.steps=3", *CONDITIONAL), str(tmp_path / "fewer.npz"), run, progress=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sizes", ["[1,2]", "[1,-1,3]", "[0,0,0]"])
def test_sizes_that_are_not_of_the_classes_are_refused(sizes):
    settings = [*CONDITIONAL, "data.classes=3", f"data.class_sizes={sizes}"]
    with pytest.raises(UserError, match="3 numbers of images, one for each class"):
        override(tiny_config(), settings)
