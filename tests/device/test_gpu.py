"""Training and the uses of a model on a GPU: exact when resumed, and close to what the CPU computes."""

import shutil

import numpy as np
import pytest
import torch

from bigbigan.apps.encode import encode
from bigbigan.apps.train import train
from bigbigan.inference.loading import load
from bigbigan.training import loop
from bigbigan.training.devices import default_device
from bigbigan.training.state import TrainingState
from tiny import tiny_config, write_npz


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_npz(tmp_path_factory.mktemp("gpu") / "rows.npz"))


@pytest.fixture(scope="module")
def run(data, device, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu") / "run"
    train(tiny_config("training.steps=8"), data, folder, progress=False)
    return folder


def weights(run):
    return (sorted((run / "checkpoints").glob("step-*"))[-1] / "weights.safetensors").read_bytes()


def test_training_takes_the_device(device):
    assert default_device() == device
    state = TrainingState(tiny_config(), device)
    assert {t.device.type for t in state.weights().values()} == {device.type}


def test_a_resumed_run_is_exact(run, data, tmp_path, monkeypatch):
    step = loop.training_step

    def interrupted(state, batches):
        if state.step == 6:
            raise KeyboardInterrupt
        return step(state, batches)

    monkeypatch.setattr(loop, "training_step", interrupted)
    config = tiny_config("training.steps=8")
    with pytest.raises(KeyboardInterrupt):
        train(config, data, tmp_path / "run", progress=False)
    monkeypatch.setattr(loop, "training_step", step)
    train(config, data, tmp_path / "run", progress=False)
    assert weights(tmp_path / "run") == weights(run)


@pytest.mark.parametrize("settings", [("training.precision=bf16",), ("encoder.block=reversible",), ("loss.s_x=false",)])
def test_variants_of_a_step_run(data, device, tmp_path, settings):
    train(tiny_config("training.steps=3", *settings), data, tmp_path / "run", progress=False)
    assert weights(tmp_path / "run")


def test_the_model_computes_what_it_does_on_the_cpu(run, device):
    images = torch.rand(20, 1, 8, 8) * 2 - 1
    ours, theirs = load(run, device=device), load(run)
    z = theirs.encode(images).z_mean
    assert torch.allclose(ours.encode(images).z_mean.cpu(), z, atol=1e-2, rtol=1e-2)
    assert torch.allclose(ours.generate(z).cpu(), theirs.generate(z), atol=1e-2, rtol=1e-2)
    scores, expected = ours.discriminate(images, z).score_xz, theirs.discriminate(images, z).score_xz
    assert torch.allclose(scores.cpu(), expected, atol=1e-2, rtol=1e-2)


def test_encode_runs_on_the_device(run, data, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    assert encode(copy, data, tmp_path / "f.npz") == 120
    with np.load(tmp_path / "f.npz") as found:
        assert all(np.isfinite(found[name]).all() for name in ("avepool_feat", "bn_crelu_feat", "z_mean"))
