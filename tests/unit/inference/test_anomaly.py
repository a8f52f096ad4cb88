"""Anomaly scores: the formula, its direction, and how they are written."""

import csv

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bigbigan import load
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.config import override
from bigbigan.errors import UserError
from bigbigan.experiments import find
from bigbigan.inference.model import Model
from bigbigan.models import build
from tiny import tiny_config, write_npz

AUTOENCODER = ("system=autoencoder", "encoder.stochastic=false", "latent.prior=uniform")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("anomaly") / "rows.npz")


@pytest.fixture(scope="module")
def run(data):
    out = data.parent / "run"
    train(tiny_config("training.steps=30"), str(data), out, progress=False)
    return out


@pytest.fixture
def images():
    return torch.randint(0, 256, (5, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_the_score_is_that_of_the_paper(run, images):
    model = load(run)
    x, out = images.float() / 127.5 - 1, model.encode(images)
    reconstruction = (x - model.reconstruct(images)).abs().sum(dim=(1, 2, 3))
    d = model.discriminate(images, out.z_mean)
    entropies = [F.binary_cross_entropy_with_logits(s, torch.ones(5), reduction="none") for s in vars(d).values()]
    ours = model.anomaly_score(images)
    torch.testing.assert_close(ours, 0.9 * reconstruction + 0.1 * sum(entropies) / 3, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.anomaly_score(images, alpha=1), reconstruction, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.anomaly_score(images, alpha=0), sum(entropies) / 3)
    alone = model.anomaly_score(images[2:3])
    torch.testing.assert_close(alone[0], ours[2], rtol=1e-4, atol=1e-4)  # company plays no part


def test_it_is_high_where_d_or_the_reconstruction_are_low(run, images, monkeypatch):
    model = load(run)
    x = images.float() / 127.5 - 1
    s = torch.tensor([3.0, -3.0, 0.0, 1.0, 2.0])
    monkeypatch.setattr(model.discriminator, "forward", lambda x, z: {"s_xz": s})
    assert model.anomaly_score(images, alpha=0).argsort().tolist() == [0, 4, 3, 2, 1]
    blend = torch.linspace(0, 1, 5).view(5, 1, 1, 1)
    monkeypatch.setattr(model.generator, "forward", lambda z: x + blend)
    assert model.anomaly_score(images, alpha=1).argsort().tolist() == [0, 1, 2, 3, 4]


def test_it_is_reported_if_unavailable(run, data, images, tmp_path, capsys):
    with pytest.raises(UserError, match=r"alpha is 1\.5; expected a number from 0 to 1"):
        load(run).anomaly_score(images, alpha=1.5)
    out = tmp_path / "autoencoder"
    train(tiny_config("training.steps=2", *AUTOENCODER), str(data), out, progress=False)
    model = load(out)
    assert model.anomaly_score(images, alpha=1).shape == (5,)
    with pytest.raises(UserError, match="this model has no discriminator: expected 1"):
        model.anomaly_score(images)
    asked = ["--features", "anomaly_score", "--out", str(tmp_path / "s.csv")]
    assert main(["encode", str(out), *asked]) == 2
    assert "this model has no such score; it has reconstruction_error" in capsys.readouterr().err


def test_encode_writes_scores_as_columns_of_their_own(run, tmp_path, capsys):
    names = ["anomaly_score", "reconstruction_error", "score_x", "score_z", "score_xz"]
    out = tmp_path / "scores.csv"
    assert main(["encode", str(run), "--features", ",".join([*names, "z_mean"]), "--out", str(out)]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "split", "class", "class_number", *names, *(f"z_mean_{i}" for i in range(8))]
    with np.load(run.parent / "rows.npz") as arrays:
        images = torch.from_numpy(arrays["train_images"])[:, None]
    model = load(run)
    x, scores = images.float() / 127.5 - 1, model.discriminate(images, model.encode(images).z_mean)
    expected = {
        "anomaly_score": model.anomaly_score(images),
        "reconstruction_error": (x - model.reconstruct(images)).flatten(1).norm(dim=1) / 2,
        **vars(scores),
    }
    for name, values in expected.items():
        written = [float(row[name]) for row in rows if row["split"] == "train"]
        np.testing.assert_allclose(written, values, rtol=1e-4, atol=1e-4, err_msg=name)
    out = tmp_path / "scores.npz"
    assert main(["encode", str(run), "--features", "anomaly_score", "--out", str(out)]) == 0
    with np.load(out) as arrays:
        assert arrays["anomaly_score"].shape == (120,)


def test_encode_names_the_scores_there_are(data, tmp_path, capsys):
    out = tmp_path / "run"
    train(tiny_config("training.steps=2", "loss.s_z=false"), str(data), out, progress=False)
    features = ["--features", "score_z", "--out", str(tmp_path / "s.csv")]
    assert main(["encode", str(out), *features]) == 2
    message = "--features score_z: this model has no such score; it has reconstruction_error, score_x, score_xz"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "s.csv").exists()


def test_a_model_without_a_generator_has_no_anomaly_score(images):
    settings = ["encoder.widths=[8,16]", "encoder.resolution=8", "data.channels=1", "data.augment=none"]
    config = override(find("pretext/rotation").config(32), [*settings, "encoder.blocks=1", "encoder.block=basic"])
    model = Model(config, build(config, torch.device("cpu")), 1, 1)
    with pytest.raises(UserError, match="no generator"):
        model.anomaly_score(images, alpha=1)


def test_a_truncated_decoder_keeps_the_statistics_of_its_training(data, tmp_path):
    train(tiny_config("training.steps=4", *AUTOENCODER), str(data), tmp_path / "run", progress=False)
    model = load(tmp_path / "run")
    z = model.sample_prior(4)
    assert model.generate(z, truncation=0.5).equal(model.generate(z))
