"""`export --onnx`: in ONNX Runtime the files compute what the networks do in torch, for any batch size."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bigbigan
import bigbigan.integrations.onnx as ours
from bigbigan import load
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.config import override
from bigbigan.data import load_pixels, open_source
from bigbigan.experiments import find
from bigbigan.inference.head import Head
from bigbigan.integrations.onnx import encoder_outputs, write_onnx
from tiny import tiny_config, write_npz

onnx = pytest.importorskip("onnx", reason="onnx is not installed: make test-interop")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: make test-interop")

# At rates that move in few steps what begins at zero: biases, and the weight of attention.
FEW = ["training.steps=3", "training.batch_size=16", "log.standing_batches=2", "optimizer.lr_g=0.02"]
KINDS = {
    "basic": tiny_config(*FEW),
    "bottleneck, deterministic": tiny_config(*FEW, "encoder.block=bottleneck", "encoder.stochastic=false"),
    "reversible, high-res E": tiny_config(*FEW, "encoder.block=reversible", "encoder.resolution=16"),
    "imagenet stem": tiny_config(*FEW, "encoder.stem=imagenet", "encoder.resolution=16"),
    "uniform prior": tiny_config(*FEW, "latent.prior=uniform", "encoder.stochastic=false"),
    "attention": tiny_config(*FEW, "generator.attention=[8]"),
    "z to the seed alone": tiny_config(*FEW, "generator.skip_z=false"),
    "gan": tiny_config(*FEW, "loss.s_z=false", "loss.s_xz=false"),
    "conditional": tiny_config(*FEW, "loss.s_z=false", "loss.s_xz=false", "data.labels=classes"),
    "conditional, z to the seed alone": tiny_config(
        *FEW, "loss.s_z=false", "loss.s_xz=false", "data.labels=classes", "generator.skip_z=false"
    ),
    "bigan": override(find("bigan/mnist").config(0), [
        *FEW, "generator.channels=[16,16]", "generator.side=8", "discriminator.channels=[16,16]",
        "encoder.widths=[16,16]", "encoder.resolution=8",
    ]),
    "convolutional bigan": override(find("bigan/imagenet").config(0), [
        *FEW, "generator.channels=[8,8,8]", "discriminator.channels=[8,8]", "encoder.widths=[8,8,8,8,8]",
        "encoder.resolution=32",
    ]),
}  # fmt: skip


def trained(config, folder: Path) -> Path:
    data = write_npz(folder / "rows.npz", channels=config.data.channels)
    train(config, str(data), folder / "run", progress=False)
    return folder / "run"


def run_onnx(path: Path, **given: torch.Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {k: v.numpy() for k, v in given.items()}), strict=True))


def agree(theirs: np.ndarray, ours: torch.Tensor) -> None:
    assert theirs.dtype == np.float32
    assert theirs.shape == ours.shape
    assert np.abs(theirs - ours.numpy()).max() <= 1e-4 * ours.abs().max()


def test_window_is_part_of_the_encoder(tmp_path):
    """Its input are the values of the files, and its outputs those of `Model.encode`."""
    run, out = trained(tiny_config(*FEW, "data.window=[200,3900]"), tmp_path), tmp_path / "out"
    assert main(["export", str(run), "--out", str(out), "--onnx"]) == 0
    values = np.random.default_rng(0).integers(0, 4096, (3, 1, 8, 8), dtype=np.uint16)
    found = run_onnx(out / "encoder.onnx", values=torch.from_numpy(values.astype(np.float32)))
    agree(found["bn_crelu_feat"], load(run).encode(values).bn_crelu_feat)
    unknown = values.astype(np.float32)
    unknown[0, 0, 2] = np.nan  # black, as in `Window`
    values[0, 0, 2] = 0
    found = run_onnx(out / "encoder.onnx", values=torch.from_numpy(unknown))
    agree(found["bn_crelu_feat"], load(run).encode(values).bn_crelu_feat)
    assert "`values` float32 [N, 1, 8, 8] in the units of the files" in (out / "README.md").read_text()


def test_window_is_part_of_the_classifier(tmp_path):
    """It takes the values of the files, of any size, and says of them what `Model.predict` says of the files."""
    run, out, head = (
        trained(tiny_config(*FEW, "data.window=[200,3900]"), tmp_path),
        tmp_path / "out",
        tmp_path / "h.safetensors",
    )
    assert main(["classify", str(run), "--save", str(head), "--quiet"]) == 0
    assert main(["export", str(run), "--head", str(head), "--out", str(out), "--onnx", "--quiet"]) == 0
    values = np.random.default_rng(0).integers(0, 4096, (4, 1, 24, 20), dtype=np.uint16)
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path, pixels in zip(paths, values, strict=True):
        Image.fromarray(pixels[0]).save(path)
    found = run_onnx(out / "classifier.onnx", values=torch.from_numpy(values.astype(np.float32)))
    expected = load(out).predict(paths)
    agree(found["probabilities"], expected.probabilities)
    agree(found["distance"], expected.distance)
    card = (out / "README.md").read_text()
    assert "`values` float32 [N, 1, H, W] of any size in the units of the files (the graph applies the window)," in card


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_runtime_gives_what_torch_gives(kind, tmp_path):
    run, out = trained(KINDS[kind], tmp_path), tmp_path / "out"
    assert main(["export", str(run), "--out", str(out), "--onnx"]) == 0
    model = load(run)
    card = (out / "README.md").read_text()
    assert "`generator.onnx`" in card
    assert ("`y` int64 [N], 0 to 2" in card) == (model.config.data.classes == 3)
    assert ("`encoder.onnx`" in card) == (out / "encoder.onnx").exists() == (model.networks.E is not None)
    rows = torch.from_numpy(np.load(tmp_path / "rows.npz")["test_images"][:5])
    pixels = rows[:, None] if rows.ndim == 3 else rows.permute(0, 3, 1, 2)
    for n in (1, 5):
        z = model.sample_prior(n, seed=n)
        if model.config.data.classes > 1:
            said = [model.generate(z, label=k) for k in range(3)]
            assert not torch.equal(said[0], said[1])
            for k in range(3):
                agree(run_onnx(out / "generator.onnx", z=z, y=torch.full((n,), k))["images"], said[k])
        else:
            agree(run_onnx(out / "generator.onnx", z=z)["images"], model.generate(z))
        if model.networks.E is not None:
            x = model.prepare(pixels[:n])
            found, said = run_onnx(out / "encoder.onnx", images=x), model.encode(x)
            assert tuple(found) == encoder_outputs(model)
            for name, value in found.items():
                agree(value, getattr(said, name))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run of small/digits at its own size, of few steps, and its export."""
    folder = tmp_path_factory.mktemp("secret-project")
    train(override(find("small/digits").config(0), ["training.steps=20"]), "digits", folder / "run", progress=False)
    assert main(["export", str(folder / "run"), "--out", str(folder / "out"), "--onnx"]) == 0
    return folder


def test_digits_encoded_and_reconstructed_without_torch(digits):
    model, out = load(digits / "run"), digits / "out"
    pixels, _ = load_pixels(open_source("digits").splits["test"], 8, 1)
    x = model.prepare(torch.from_numpy(pixels))
    found = run_onnx(out / "encoder.onnx", images=x)
    for name, value in found.items():
        agree(value, getattr(model.encode(x), name))
    agree(run_onnx(out / "generator.onnx", z=torch.from_numpy(found["z_mean"]))["images"], model.reconstruct(x))


def test_the_files_are_small_and_name_no_local_path(digits):
    for name, given, outputs in (
        ("encoder.onnx", ["images"], ["z_mean", "z_stdev", "avepool_feat", "bn_crelu_feat"]),
        ("generator.onnx", ["z"], ["images"]),
    ):  # fmt: skip
        path = digits / "out" / name
        onnx.checker.check_model(path, full_check=True)
        graph = onnx.load(path).graph
        assert [x.name for x in graph.input] == given
        assert [x.name for x in graph.output] == outputs
        assert {x.type.tensor_type.shape.dim[0].dim_param for x in (*graph.input, *graph.output)} == {"N"}
        # Spectral norms, and whatever else does not depend on the input, are done with.
        fixed = {x.name for x in graph.initializer}
        assert not [node.name for node in graph.node if fixed.issuperset(node.input)]
        written = path.read_bytes()
        for place in ("secret-project", "stack_trace", str(Path(bigbigan.__file__).parent), str(Path.home())):
            assert place.encode() not in written, place


def test_an_exported_folder_is_exported_again_with_onnx(digits, tmp_path):
    assert main(["export", str(digits / "out"), "--out", str(tmp_path / "again"), "--onnx"]) == 0
    model = load(digits / "run")
    z = model.sample_prior(3)
    agree(run_onnx(tmp_path / "again" / "generator.onnx", z=z)["images"], model.generate(z))


def test_the_live_model_stays_as_it_was(digits, tmp_path):
    model = load(digits / "run")
    x, z = torch.rand(3, 1, 8, 8) * 2 - 1, model.sample_prior(3)
    before = (
        model.encode(x).bn_crelu_feat,
        model.generate(z),
        [p.clone() for p in model.generator.state_dict().values()],
    )
    write_onnx(model, tmp_path)
    assert torch.equal(before[0], model.encode(x).bn_crelu_feat)
    assert torch.equal(before[1], model.generate(z))
    for a, b in zip(before[2], model.generator.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("form", ["arrays", "crops", "colour"])
def test_the_classifier_takes_images_of_any_size(form, tmp_path):
    """uint8 in, probabilities out: as `predict` reads files, for shapes that are cropped, reduced, and padded."""
    settings = {"crops": ["encoder.resolution=16", "data.augment=random_crop"], "colour": ["data.channels=3"]}
    settings = settings.get(form, [])
    config = tiny_config(*FEW, *settings)
    channels, side = config.data.channels, 7 if form == "arrays" else 8
    run, data = tmp_path / "run", write_npz(tmp_path / "rows.npz", side=side, channels=channels)
    if form == "crops":  # of files, since arrays are not cropped
        with np.load(data) as arrays:
            data = as_files(arrays["train_images"], arrays["train_labels"][:, 0], tmp_path / "photos")
    train(config, str(data), run, progress=False)
    head = tmp_path / "h.safetensors"
    assert main(["classify", str(run), "--save", str(head), "--quiet"]) == 0
    out = tmp_path / "out"
    assert main(["export", str(run), "--head", str(head), "--out", str(out), "--onnx", "--quiet"]) == 0
    assert f"`images` uint8 [N, {channels}, H, W] of any size" in (out / "README.md").read_text()
    session = onnxruntime.InferenceSession(out / "classifier.onnx", providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    kept = Head.load(head)
    assert json.loads(about["classes"]) == list(kept.classes)
    assert json.loads(about["max_distance"]) == kept.max_distance
    onnx.checker.check_model(out / "classifier.onnx", full_check=True)
    graph = onnx.load(out / "classifier.onnx").graph  # onnxruntime warns of what no node uses
    assert {x.name for x in graph.initializer} <= {name for node in graph.node for name in node.input}
    for place in (str(tmp_path), str(Path(bigbigan.__file__).parent)):
        assert place.encode() not in (out / "classifier.onnx").read_bytes()
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate([(7, 7), (8, 8), (16, 16), (31, 20), (40, 90)]):
        images = rng.integers(0, 256, (5, channels, height, width), dtype=np.uint8)
        files = as_files(images.transpose(0, 2, 3, 1), np.arange(5) * 0, tmp_path / f"new{number}")
        predictions = tmp_path / f"{number}.csv"
        words = ["predict", str(out), "--data", str(files), "--out", str(predictions), "--probabilities", "--quiet"]
        assert main(words) == 0
        with predictions.open() as text:
            expected = [[float(row[f"probability_{name}"]) for name in kept.classes] for row in csv.DictReader(text)]
        found, distance = session.run(["probabilities", "distance"], {"images": images})
        assert found.dtype == distance.dtype == np.float32
        exact = height >= 20 or (form != "crops" and height >= 7 + (form != "arrays"))  # not enlarged
        np.testing.assert_allclose(found, expected, atol=1.5e-4 if exact else 0.02)  # 4 decimals are written
        by_array = bigbigan.load(out).predict(images).probabilities.numpy()
        np.testing.assert_allclose(by_array, expected, atol=1e-4)


def as_files(images: np.ndarray, labels: np.ndarray, folder: Path) -> Path:
    """Images [N, H, W] or [N, H, W, C] as PNG files in a folder for each class."""
    for i, (pixels, k) in enumerate(zip(images, labels, strict=True)):
        (folder / str(k)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(folder / str(k) / f"{i:03d}.png")
    return folder


def spoil(proto):
    weights = max(proto.graph.initializer, key=lambda x: x.ByteSize())
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) * 1.01, weights.name))
    return proto


def fix_batch(proto):
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    return proto


@pytest.mark.parametrize(("change", "message"), [(spoil, "computes another"), (fix_batch, "does not run")])
def test_a_file_that_does_something_else_is_not_written(change, message, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ours, "_without_metadata", change)
    capsys.readouterr()
    assert main(["export", str(digits / "run"), "--out", str(tmp_path / "out"), "--onnx", "--quiet"]) == 1
    assert not list(tmp_path.iterdir())
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_network_that_cannot_be_exported_ends_in_one_line(digits, tmp_path, monkeypatch, capsys):
    def fix_its_batch(self, z):
        return self.to_image(z.new_zeros(len(z), self.to_image.in_channels, 8, 8))

    monkeypatch.setattr("bigbigan.models.generator.Generator.forward", fix_its_batch)
    capsys.readouterr()
    assert main(["export", str(digits / "run"), "--out", str(tmp_path / "out"), "--onnx", "--quiet"]) == 1
    assert not list(tmp_path.iterdir())
    said = capsys.readouterr().err
    assert "generator.onnx cannot be written" in said
    assert said.count("\n") == 1


def test_without_onnxruntime_files_are_written_with_a_note(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export", str(digits / "run"), "--out", str(tmp_path / "out"), "--onnx"]) == 0
    assert (tmp_path / "out" / "generator.onnx").exists()
    assert "encoder.onnx was not checked: onnxruntime is not installed" in capsys.readouterr().err
