"""Use `timm:NAME` with timm itself. Without network, timm loads files that a test wrote as published weights."""

import json
import socket
import time
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bigbigan.cli import main
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features
from bigbigan.evaluation.targets import open_target
from tiny import write_npz

timm = pytest.importorskip("timm", reason="timm is not installed: make test-interop")

FORM = {"input_size": (3, 32, 32), "mean": (0.1, 0.3, 0.6), "std": (0.2, 0.4, 0.5)}


def published(name: str, folder, form=FORM, **options) -> str:
    """A model with random weights saved as timm publishes them; its spec."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics that a wrong mode or lost buffers would show
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    timm.models.save_for_hf(model, folder, safe_serialization=True, data_config=form)
    return f"timm:local-dir:{folder}"


def own_features(spec: str, x: torch.Tensor, mean, std, **options) -> torch.Tensor:
    """What timm gives for images in [-1, 1] without us, its transform's normalisation included."""
    model = timm.create_model(spec.removeprefix("timm:"), pretrained=True, **options).eval()
    normal = timm.data.create_transform(x.shape[-1], mean=mean, std=std, crop_pct=1).transforms[-1]
    with torch.no_grad():
        return model.forward_head(model.forward_features(normal((x + 1) / 2)), pre_logits=True)


@pytest.mark.parametrize(("name", "options"), [
    ("test_resnet", {}), ("test_vit", {"img_size": 32}), ("test_convnext", {}), ("test_efficientnet", {}),
])  # fmt: skip
def test_features_are_those_of_timm(name, options, tmp_path):
    spec = published(name, tmp_path / "model", **options)
    target = open_target(spec)
    assert (target.view.resolution, target.view.channels, target.experiment) == (32, 3, spec)
    assert (tuple(target.frozen.mean), tuple(target.frozen.std)) == (FORM["mean"], FORM["std"])
    assert not any(p.requires_grad or m.training for m in target.frozen.modules() for p in m.parameters())
    x = torch.rand(4, 3, 32, 32) * 2 - 1
    found = target.frozen.features(x)
    assert found.shape == (4, target.frozen.network.num_features)
    torch.testing.assert_close(found, own_features(spec, x, FORM["mean"], FORM["std"]))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_registered_name_brings_its_published_form(name, tmp_path, monkeypatch):
    model = timm.create_model(name)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, pretrained_cfg_overlay=overlay))
    target = open_target(f"timm:{name}")
    form = timm.models.get_pretrained_cfg(name)
    assert (target.view.channels, target.view.resolution) == form.input_size[:2] == (3, 160)
    assert (target.frozen.mean, target.frozen.std) == (form.mean, form.std)
    x = torch.rand(2, 3, 160, 160) * 2 - 1
    torch.testing.assert_close(target.frozen.features(x), own_features(name, x, form.mean, form.std))


@pytest.mark.parametrize(("name", "options"), [("test_resnet", {}), ("test_vit", {"img_size": 32})])
@pytest.mark.parametrize("channels", [1, 3])
def test_evaluate_from_images_to_result_lines(name, options, channels, tmp_path, capsys):
    """Grey images too: they are given to the model in colour."""
    spec = published(name, tmp_path / "model", **options)
    data, out = write_npz(tmp_path / "d.npz", count=90, channels=channels), tmp_path / "r.jsonl"
    call = ["evaluate", spec, "--data", data, "--metrics", "top1_linear_*,knn1_l2_*", "--quiet", "--results", out]
    assert main([str(a) for a in call]) == 0
    lines = [json.loads(text) for text in out.read_text().splitlines()]
    assert {x["experiment"] for x in lines} == {spec}
    found = {x["metric"]: x["value"] for x in lines}
    for metric in ("top1_linear_avepool", "top1_linear_bn_crelu", "knn1_l2_avepool"):
        assert found[metric] > 60, metric  # the bright row separates three classes; random weights see it
    assert "AvePool" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_requested_channels_and_resolution_reach_the_model(name, tmp_path):
    """timm adapts its first layer to the channels, and position embeddings to the resolution."""
    options = {"img_size": 32, "dynamic_img_size": False} if name == "test_vit" else {}
    spec = published(name, tmp_path / "model", **options)
    target = open_target(spec, resolution=48, channels=1)
    assert (target.view.resolution, target.view.channels, tuple(target.frozen.mean)) == (48, 1, (0.1,))
    x = torch.rand(2, 1, 48, 48) * 2 - 1
    ours = {"img_size": 48} if name == "test_vit" else {}
    torch.testing.assert_close(target.frozen.features(x), own_features(spec, x, (0.1,), (0.2,), in_chans=1, **ours))


def test_a_grey_model(tmp_path):
    form = {"input_size": (1, 32, 32), "mean": (0.4,), "std": (0.3,)}
    spec = published("test_resnet", tmp_path / "model", form, in_chans=1)
    target = open_target(spec)
    assert (target.view.channels, target.frozen.mean, target.frozen.std) == (1, [0.4], [0.3])
    x = torch.rand(2, 1, 32, 32) * 2 - 1
    torch.testing.assert_close(target.frozen.features(x), own_features(spec, x, (0.4,), (0.3,)))


def test_a_size_the_model_cannot_take_is_refused_in_one_line(tmp_path, capsys):
    spec = published("mixer_s32_224", tmp_path / "model", None)
    call = ["evaluate", spec, "--data", str(write_npz(tmp_path / "d.npz")), "--resolution", "32", "--quiet"]
    assert main([*call, "--metrics", "knn1_l2_avepool"]) == 2
    output = capsys.readouterr().err
    assert "Input height (32) doesn't match model (224)" in output
    assert "--resolution" in output
    assert output.count("\n") == 1


@pytest.mark.parametrize(("name", "message"), [
    ("no_such_model", "Unknown model"),
    ("resnet18.no_such_weights", "Invalid pretrained tag"),
    ("local-dir:{t}/none", "Config file not found"),
    ("test_resnet.r160_in1k", "cannot be loaded"),  # no network: huggingface_hub is offline
])  # fmt: skip
def test_what_timm_does_not_have_is_refused_in_one_line(name, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    data = str(write_npz(tmp_path / "d.npz"))
    assert main(["evaluate", "timm:" + name.format(t=tmp_path), "--data", data, "--quiet"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("bigbigan: timm:")
    assert message in lines[0]
    with pytest.raises(UserError, match=message):
        open_target("timm:" + name.format(t=tmp_path))


def test_bytes_reach_the_model_as_timm_reads_pictures(tmp_path):
    spec = published("test_resnet", tmp_path / "model", FORM | {"crop_pct": 1.0})
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
    found = encoder_features(open_target(spec).encoder("trained", pixels), pixels)["avepool"]
    model = timm.create_model(spec.removeprefix("timm:"), pretrained=True, num_classes=0).eval()
    read = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.no_grad():
        expected = model(torch.stack([read(Image.fromarray(p.transpose(1, 2, 0))) for p in pixels]))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_without_network_it_says_so_within_seconds(tmp_path, monkeypatch):
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.perf_counter()
    with pytest.raises(UserError, match="timm:resnet18 cannot be loaded: "):
        open_target("timm:resnet18")
    assert time.perf_counter() - start < 20
