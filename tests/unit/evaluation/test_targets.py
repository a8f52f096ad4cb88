"""Any frozen encoder on the same scale: Python callables, torch.hub entries, timm models."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bigbigan.cli import main
from bigbigan.data import load_pixels
from bigbigan.errors import UserError
from bigbigan.evaluation import context, runner
from bigbigan.evaluation.targets import Frozen, open_target
from bigbigan.inference.model import Model
from bigbigan.integrations.export import write_folder
from bigbigan.models import build
from tiny import tiny_config, write_npz

MODULE = """
import torch

def rows(x):  # the brightness of each row: solves the data of tiny.write_npz
    return x.mean(dim=(1, 3))
rows.resolution, rows.channels = 8, 1

def maps(x):
    return x

def words(x):
    return "features"

def picky(x):
    raise ValueError("of 32\\npixels only")

broken = None.encoder if False else 3
"""
HUB = """
dependencies = ["torch"]

def tiny(**kwargs):
    import torch
    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 5, 3)
"""


@pytest.fixture
def encoders(tmp_path, monkeypatch):
    (tmp_path / "my_encoders.py").write_text(MODULE)
    (tmp_path / "hubconf.py").write_text(HUB)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_python_callable_is_evaluated_beside_raw_pixels(encoders, capsys):
    data = write_npz(encoders / "d.npz", count=90)
    metrics = "top1_linear_*,knn1_l2_*"
    out = encoders / "r.jsonl"
    call = ["evaluate", "python:my_encoders:rows", "--data", data, "--metrics", metrics, "--quiet", "--results", out]
    assert main([str(a) for a in call]) == 0
    lines = [json.loads(text) for text in out.read_text().splitlines()]
    found = {x["metric"]: x["value"] for x in lines}
    assert {"top1_linear_avepool", "top1_linear_bn_crelu_10perclass", "knn1_l2_pixels"} <= set(found)
    assert found["top1_linear_avepool"] == 100
    assert {x["experiment"] for x in lines} == {"python:my_encoders:rows"}
    assert "AvePool" in capsys.readouterr().out


def test_resolution_channels_and_maps(encoders):
    target = open_target("python:my_encoders:maps", resolution=16, channels=1)
    assert (target.view.resolution, target.view.channels) == (16, 1)
    assert target.frozen.features(torch.ones(2, 1, 16, 16)).shape == (2, 1)
    assert (open_target("python:my_encoders:maps").view.resolution, target.subjects) == (224, ("pixels", "external"))


def test_torch_hub_entry_gets_images_normalised_as_imagenet(encoders):
    target = open_target(f"hub:{encoders}:tiny", resolution=8)
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = ((x + 1) / 2 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(target.frozen.features(x), target.frozen.network(normal).mean((2, 3)))
    assert not any(p.requires_grad for p in target.frozen.parameters())


def test_bn_crelu_standardises_over_training_images():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 1, 4, 4), dtype=np.uint8)
    frozen = Frozen(nn.Flatten(), torch.device("cpu"))
    frozen.fit(pixels)
    x = torch.from_numpy(pixels).float() / 127.5 - 1
    positive, negative = frozen.bn_crelu(frozen.features(x)).chunk(2, dim=1)
    h = positive - negative
    torch.testing.assert_close(h.mean(0), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(h.std(0, correction=0), torch.ones(16), atol=1e-3, rtol=0)
    assert positive.min() == negative.min() == 0


@pytest.mark.parametrize(("spec", "message"), [
    ("python:my_encoders:absent", "my_encoders has no absent"),
    ("python:no_such_module:x", "there is no module no_such_module"),
    ("hub:{t}:absent", "absent"),
    ("hub:{t}/none:tiny", "cannot be loaded"),
])  # fmt: skip
def test_what_cannot_be_loaded_is_refused_in_one_line(encoders, spec, message, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "_get_cache_or_reload", no_network)
    with pytest.raises(UserError, match=message) as error:
        open_target(spec.format(t=encoders))
    assert "\n" not in str(error.value)


def test_an_encoder_that_gives_no_features(encoders, capsys):
    data = str(write_npz(encoders / "d.npz"))
    call = ["evaluate", "python:my_encoders:words", "--data", data, "--resolution", "8", "--quiet"]
    assert main([*call, "--metrics", "knn1_l2_avepool"]) == 2
    assert "expected a tensor [N, d]" in capsys.readouterr().err
    call[1] = "python:my_encoders:picky"
    assert main([*call, "--metrics", "knn1_l2_avepool"]) == 2
    assert "fails on images [60, 3, 8, 8]: ValueError: of 32 pixels only;" in capsys.readouterr().err
    call[1] = "python:my_encoders:words"
    assert main(["evaluate", "python:my_encoders:rows", "--quiet"]) == 2
    assert "--data SOURCE is missing" in capsys.readouterr().err
    assert main([*call, "--metrics", "fid10k_train_encoder"]) == 2
    assert "needs a generator" in capsys.readouterr().err


def test_a_timm_model_brings_its_own_size_and_normalisation(monkeypatch):
    """timm itself needs torchvision and weights; its two functions in use are stood in for."""
    asked = {}

    def create_model(name, **options):
        asked.update(options, name=name)
        return nn.Conv2d(3, 5, 3)

    expected = {"input_size": (3, 48, 48), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    data = SimpleNamespace(resolve_model_data_config=lambda model: expected)
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model, data=data))
    target = open_target("timm:resnet18")
    assert asked == {"name": "resnet18", "pretrained": True, "num_classes": 0}
    assert (target.view.resolution, target.view.channels, target.experiment) == (48, 3, "timm:resnet18")
    x = torch.rand(2, 3, 48, 48) * 2 - 1
    torch.testing.assert_close(target.frozen.features(x), target.frozen.network(2 * x).mean((2, 3)))


def test_a_model_by_name_knows_what_it_was_trained_on():
    target = open_target("small/fashion_mnist")
    assert (target.trained_on, target.steps, target.run) == ("fashion-mnist", 12_000, None)


def test_images_are_read_as_an_exported_model_was_trained(tmp_path):
    config = tiny_config("data.pad=always", "data.window=[0,1000]", "encoder.resolution=8")
    model = Model(config, build(config, torch.device("cpu")), step=1, images_seen=9)
    write_folder(model, tmp_path / "model", {"name": "deep", "images": 3})
    (tmp_path / "images").mkdir()
    for i in range(3):
        pixels = np.full((7, 7), 100 * (i + 1), dtype=np.uint16)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    target = open_target(str(tmp_path / "model"))
    source = target.source(str(tmp_path / "images"), None, "evaluate")
    pixels, _ = load_pixels(source.splits["train"], 8, 1, source)
    assert pixels[:, 0, 4, 4].tolist() == [26, 51, 76]  # 255 · value / 1000
    assert (pixels[:, 0, 7] == 0).all()  # padded


def test_image_quality_by_name_reads_no_image_into_memory(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("images are read")

    monkeypatch.setattr(context, "load_images", refuse)
    monkeypatch.setattr(runner, "enough_references", lambda metric, source: True)
    target = open_target("small/fashion_mnist")
    source = target.source(str(write_npz(tmp_path / "rows.npz")), None, "evaluate")
    e = context.Evaluation(target, source, "evaluation", "", False)
    assert [m.name for m in runner._allowed(e, ["fid10k_train_inception"])] == ["fid10k_train_inception"]
    with pytest.raises(AssertionError, match="images are read"):
        runner._allowed(e, ["top1_linear_avepool"])


@pytest.mark.parametrize("also", ["fid10k_test_inception", "math:fsum"])
def test_a_metric_asked_for_by_name_is_not_dropped(also, tmp_path):
    data = write_npz(tmp_path / "rows.npz", count=30)
    with np.load(data) as arrays:
        bare = {name: arrays[name] for name in arrays.files if name.startswith("train") and "math" not in also}
        bare |= {"images": arrays["train_images"]} if "math" in also else {}
    np.savez(tmp_path / "bare.npz", **bare)
    target = open_target("small/fashion_mnist")
    source = target.source(str(tmp_path / "bare.npz"), None, "evaluate")
    e = context.Evaluation(target, source, "evaluation", "", False)
    with pytest.raises(UserError, match="needs"):
        runner._allowed(e, ["reconstruction_ratio", also])


def test_bn_crelu_of_an_encoder_is_that_of_batch_norm():
    """Features of small variance show the place of epsilon."""

    class Scaled(nn.Module):
        def forward(self, x):
            return x.flatten(1) * torch.logspace(-4, 0, 64)

    pixels = np.random.default_rng(0).integers(0, 256, (300, 1, 8, 8), dtype=np.uint8)
    frozen = Frozen(Scaled(), torch.device("cpu"))
    frozen.fit(pixels)
    features = frozen.features(torch.from_numpy(pixels) / 127.5 - 1)
    h = nn.BatchNorm1d(64, eps=1e-5, affine=False)(features)
    torch.testing.assert_close(frozen.bn_crelu(features), torch.cat([h.relu(), (-h).relu()], 1), rtol=1e-4, atol=1e-5)
