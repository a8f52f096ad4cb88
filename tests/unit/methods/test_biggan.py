"""Class-conditional BigGAN: D and G get the right labels, samples follow the label, mistakes end in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from bigbigan import load
from bigbigan.apps import visualize
from bigbigan.apps.sheet import sheet
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.config import override
from bigbigan.data.batches import Batches
from bigbigan.errors import UserError
from bigbigan.experiments import find
from bigbigan.image import to_uint8
from bigbigan.inference.loading import class_names
from bigbigan.methods import make_system
from bigbigan.methods.losses import orthogonal_penalty
from bigbigan.models import build, construct
from bigbigan.training.state import TrainingState
from bigbigan.training.step import training_step
from tiny import TINY, run_update, tiny_config, write_npz

GAN = ("loss.s_z=false", "loss.s_xz=false")
CONDITIONAL = (*GAN, "data.labels=classes", "data.classes=3")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_npz(tmp_path_factory.mktemp("biggan") / "rows.npz"))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("biggan") / "run"
    train(tiny_config("training.steps=8", *GAN, "data.labels=classes"), data, run, progress=False)
    return run


def count(network):
    return sum(p.numel() for p in network.parameters())


# -- networks and losses ------------------------------------------------------------------------------------


def test_experiments_have_the_published_networks():
    with torch.device("meta"):
        sizes = {name: construct(find(f"biggan/{name}").config()) for name in ("32_pytorch", "128", "256")}
    assert (count(sizes["32_pytorch"].G), count(sizes["32_pytorch"].D)) == (4_304_387, 4_207_361)
    assert (count(sizes["128"].G), count(sizes["128"].D)) == (70_433_988, 87_982_370)
    assert count(sizes["256"].G) == 82_097_604
    assert all(s.E is None for s in sizes.values())


def test_orthogonal_penalty_is_of_rows_without_the_embedding():
    G = build(tiny_config(*CONDITIONAL)).G
    before = orthogonal_penalty(G)
    expected = 0.0
    for name, weight in G.named_parameters():
        if weight.ndim >= 2 and not name.startswith("shared"):
            w = weight.detach().flatten(1)
            off = (w @ w.t()) * (1 - torch.eye(len(w)))
            expected += float(off.square().sum())
    assert before.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    with torch.no_grad():
        G.shared.weight.add_(3.0)
    assert torch.equal(orthogonal_penalty(G), before)
    optimizer = torch.optim.SGD(G.parameters(), lr=0.01)
    with torch.no_grad():
        G.blocks[0].conv1.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    start = orthogonal_penalty(G).item()
    for _ in range(50):
        optimizer.zero_grad()
        orthogonal_penalty(G).backward()
        optimizer.step()
    assert orthogonal_penalty(G).item() < 0.2 * start


def test_the_penalty_is_part_of_g_s_loss_alone():
    plain, regular = (tiny_config(*CONDITIONAL, f"loss.orthogonal={w}") for w in (0, 10))
    x, y = torch.rand(6, 1, 8, 8) * 2 - 1, torch.tensor([0, 1, 2, 0, 1, 2])
    found = []
    for config in (plain, regular):
        networks = build(config)
        system = make_system(config, networks)
        generator = torch.Generator().manual_seed(0)
        (d,) = system.discriminator_update(x, system.sample_noise(6, generator), y)
        (eg,) = system.encoder_generator_update(x, system.sample_noise(6, generator), y)
        found.append((d.losses["d"].item(), eg.losses["eg"].item(), networks))
    assert found[0][0] == found[1][0]
    assert found[1][1] - found[0][1] == pytest.approx(10 * orthogonal_penalty(found[0][2].G).item(), rel=1e-3)


# -- labels -------------------------------------------------------------------------------------------------


def test_d_gets_the_labels_of_its_images():
    config = tiny_config(*CONDITIONAL)
    networks, labels = build(config), torch.arange(40) % 3
    pixels = (labels * 100).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    batches = Batches(pixels, 16, 0, labels=labels)
    seen = []
    networks.D.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    system = make_system(config, networks)
    for number in range(3):
        noise = system.sample_noise(16, torch.Generator().manual_seed(number))
        list(system.discriminator_update(batches.batch(number), noise, batches.labels(number)))
    for x, _, y in seen:
        brightness = ((x[:16, 0, 0, 0] + 1) * 127.5).round()
        assert torch.equal(brightness, y[:16] * 100.0)
        assert y[16:].min() >= 0
        assert y[16:].max() <= 2
    assert len(set(torch.cat([y[16:] for *_, y in seen]).tolist())) == 3


def test_what_g_draws_depends_on_the_label(run):
    model = load(run)
    z = model.sample_prior(30, seed=1)
    images = torch.stack([model.generate(z, label=k) for k in range(3)])
    assert not torch.allclose(images[0], images[1])
    same = torch.isclose(model.generate(z)[None], images, atol=1e-5).flatten(2).all(2)
    assert same.any(0).all()  # each is of one class or another,
    assert same.any(1).all()  # and all classes come up


@pytest.fixture
def drawn(monkeypatch):
    """The rows of tiles of the last picture."""
    tiles = []

    def kept(rows, *arguments, **named):
        tiles[:] = rows
        return sheet(rows, *arguments, **named)

    monkeypatch.setattr(visualize, "sheet", kept)
    return tiles


def test_walks_between_latents_keep_to_a_class(run, tmp_path, drawn):
    out = tmp_path / "walks.png"
    assert main(["interpolate", str(run), "--latents", "--count", "4", "--steps", "5", "--out", str(out)]) == 0
    model = load(run)
    z = model.sample_prior(8, seed=0)
    for row, y in ((0, 0), (3, 0), (1, 1)):
        for column, k in ((0, row), (4, row + 4)):
            alone = to_uint8(model.generate(z[k : k + 1], label=y)).numpy()[0].astype(int)
            assert np.abs(drawn[row][column].pixels - alone).max() <= 1


def test_classes_come_from_the_source_and_a_run_continues(run, data, tmp_path):
    assert json.loads((run / "config.json").read_text())["data"]["classes"] == 3
    config = tiny_config("training.steps=8", *GAN, "data.labels=classes")
    assert train(config, data, run, progress=False) is None  # nothing left to do, and no change of settings
    with np.load(data) as arrays:
        unlabelled = {k: v for k, v in arrays.items() if k.endswith("images")}
    np.savez(tmp_path / "bare.npz", **unlabelled)
    with pytest.raises(UserError, match="no labels of two or more classes"):
        train(config, str(tmp_path / "bare.npz"), tmp_path / "none", progress=False)
    assert not (tmp_path / "none").exists()


def test_a_resumed_conditional_run_equals_an_uninterrupted_one(data, tmp_path):
    from bigbigan.training import checkpoint as ck

    config = tiny_config("training.steps=8", *GAN, "data.labels=classes", "loss.orthogonal=0.0001")
    train(config, data, tmp_path / "run", progress=False)
    whole = ck.newest_checkpoint(tmp_path / "run").tensors("weights.safetensors")
    import shutil

    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000008")
    train(config, data, tmp_path / "run", progress=False)
    again = ck.newest_checkpoint(tmp_path / "run").tensors("weights.safetensors")
    assert all(torch.equal(whole[k], again[k]) for k in whole)


def test_a_class_is_named_or_numbered(tmp_path, capsys):
    """A conditional run on class folders: 1 is the name of the first class."""
    for name, k in (("1", 0), ("cat", 1)):
        for i in range(8):
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), 200 * k + i, np.uint8)).save(tmp_path / "photos" / name / f"{i}.png")
    run = tmp_path / "run"
    train(tiny_config("training.steps=2", *GAN, "data.labels=classes"), str(tmp_path / "photos"), run, progress=False)
    for given, k in {"1": 0, "cat": 1, "0": 0}.items():
        assert main(["generate", str(run), "--count", "2", "--label", given, "--out", str(tmp_path / given)]) == 0
        expected = to_uint8(load(run).generate(2, label=k)).numpy()
        for i in range(2):
            with Image.open(tmp_path / given / f"{i:05d}.png") as image:
                assert np.array_equal(np.asarray(image.convert("L")), expected[i, 0])


def test_a_model_trained_without_labels_has_no_class_to_generate(tmp_path, data, capsys):
    train(tiny_config("training.steps=2"), data, tmp_path / "run", progress=False)
    for given in ("cat", "0"):
        assert main(["generate", str(tmp_path / "run"), "--label", given, "--out", str(tmp_path / "x.png")]) == 2
        assert "expected none: this model was trained without labels" in capsys.readouterr().err


def test_verbs_on_a_conditional_run(run, tmp_path, capsys):
    out = tmp_path / "two.png"
    assert main(["generate", str(run), "--count", "4", "--label", "2", "--truncation", "0.5", "--out", str(out)]) == 0
    for arguments, message in [
        (["--label", "3"], "label is 3; expected 0 to 2"),
        (["--label", "-1"], "label is -1; expected 0 to 2"),
    ]:
        assert main(["generate", str(run), "--out", str(out), *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main(["generate", str(run), "--out", str(out), "--label", "cat"]) == 2
    assert "--label cat: no such class; expected 0, 1, 2, or a number" in capsys.readouterr().err
    assert main(["export", str(run), "--out", str(tmp_path / "model")]) == 0
    config = load(run).config
    assert class_names(run, config) == class_names(tmp_path / "model", config) == ["0", "1", "2"]
    assert torch.equal(load(tmp_path / "model").generate(4, label=1), load(run).generate(4, label=1))
    assert main(["evaluate", str(run), "--quiet", "--json", "--metrics", "knn1_l2_discriminator"]) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.labels=classes"], "is for a BigGAN: loss.s_x alone"),
        ([*GAN, "data.classes=4"], "data.classes goes with data.labels=classes"),
        ([*GAN, "data.labels=classes", "data.classes=0"], "data.classes"),
        ([*GAN, "data.labels=clusters"], "clusters"),
        (["loss.orthogonal=-1"], "must not be negative"),
    ],
)
def test_settings_that_do_not_go_together_end_in_one_line(settings, message):
    with pytest.raises(UserError, match=message):
        override(find("small/digits").config(), [*TINY, *settings])


def test_a_label_for_a_model_without_classes_is_refused(data, tmp_path):
    train(tiny_config("training.steps=2"), data, tmp_path / "run", progress=False)
    with pytest.raises(UserError, match="trained without labels"):
        load(tmp_path / "run").generate(2, label=0)


# -- truncation ---------------------------------------------------------------------------------------------


def test_batch_norm_statistics_are_computed_for_each_truncation(run):
    model = load(run)
    before = {k: v.clone() for k, v in model.generator.state_dict().items()}
    narrow = model._truncated_generator(0.3)
    assert model._truncated_generator(0.3) is narrow
    assert model._truncated_generator(1.0) is model.generator
    assert all(torch.equal(v, before[k]) for k, v in model.generator.state_dict().items())
    name = next(k for k in before if k.endswith("running_var"))
    assert not torch.allclose(narrow.state_dict()[name], before[name])
    inside = []
    hook = narrow.norm.register_forward_pre_hook(lambda module, inputs: inside.append(inputs[0]))
    model.generate(400, truncation=0.3, label=0)
    hook.remove()
    normalised = (inside[0] - narrow.norm.running_mean[None, :, None, None]) / (
        narrow.norm.running_var[None, :, None, None] + narrow.norm.eps
    ).sqrt()
    assert normalised.mean().abs() < 0.5
    assert 0.3 < normalised.std() < 2


def test_every_experiment_takes_a_step_in_small():
    config = override(
        find("biggan/32").config(),
        [
            "generator.channels=[16,16,16,16]",
            "discriminator.channels=[16,16,16,16]",
            "training.batch_size=4",
            "log.every=1",
        ],
    )
    state = TrainingState(config, torch.device("cpu"))
    pixels = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    values = training_step(state, Batches(pixels, 4, 0, "flip", labels=torch.arange(8)))
    assert {"loss_d", "loss_eg", "grad_norm_g", "grad_norm_d", "s_x_enc", "s_x_gen"} <= values.keys()


@pytest.mark.slow
def test_samples_of_a_class_are_of_that_class(tmp_path):
    """Digits: a nearest-neighbour classifier names most samples by the label that they were drawn with."""
    from sklearn.datasets import load_digits
    from sklearn.neighbors import KNeighborsClassifier

    settings = [*GAN, "data.labels=classes", "training.steps=800", "log.validate_every=0"]
    train(override(find("small/digits").config(), settings), "digits", tmp_path / "run", progress=False)
    model = load(tmp_path / "run")
    digits = load_digits()
    judge = KNeighborsClassifier(3).fit(digits.data, digits.target)
    right = []
    for label in range(10):
        x = (model.generate(50, label=label).flatten(1).numpy() + 1) * 8
        right.append((judge.predict(x) == label).mean())
    assert np.mean(right) > 0.8


# -- one class for all: Single Label ------------------------------------------------------------------------


def test_table_3_has_the_published_networks_with_one_class():
    with torch.device("meta"):
        G, _, D = construct(find("table3/biggan_sl").config())
        clustering = construct(find("table3/biggan_clustering").config())
    assert (count(G), count(D)) == (70_306_116, 86_447_906)
    assert count(clustering.D) - count(D) == 49 * 1536  # a row of the embedding for each further cluster
    assert find("table3/bigbigan_high_res_e_sl").config().encoder.resolution == 256


def test_one_class_adds_one_vector_to_d_and_needs_no_labels():
    config = tiny_config("data.labels=single")
    networks = build(config)
    assert networks.D.embed.weight.shape == (1, 8)
    x, z = torch.rand(6, 1, 8, 8) * 2 - 1, torch.randn(6, 8)
    D = networks.D.eval()
    with torch.no_grad():
        scores, f = D(x, z), D.features(x)
        expected = D.head_x(f).squeeze(1) + f @ D.embed.normalised_weight()[0]
    assert torch.allclose(scores["s_x"], expected, atol=1e-5)
    system = make_system(config, networks)
    D.train()
    noise = system.sample_noise(6, torch.Generator().manual_seed(0))
    run_update(system, system.discriminator_update, x, noise)
    assert D.embed.weight.grad.abs().sum() > 0


def test_one_class_trains_with_and_without_an_encoder(data, tmp_path):
    for name, settings in {"bigbigan": [], "biggan": GAN}.items():
        run = tmp_path / name
        train(tiny_config("training.steps=2", "data.labels=single", *settings), data, run, progress=False)
        assert load(run).generate(3).shape == (3, 1, 8, 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.labels=single", "data.classes=3"], "data.classes goes with data.labels=classes"),
        (["data.labels=single", "loss.s_x=false"], "data.labels=single is for loss.s_x"),
        (["data.labels=classes"], "data.labels=classes is for a BigGAN"),
        (["data.fraction=0"], r"data.fraction must lie in \(0, 1\]"),
        (["discriminator.augment=[cutout,cutout]"], "names something twice"),
        (["discriminator.augment=[rotation]"], "discriminator.augment"),
    ],
)
def test_settings_that_do_not_go_together_are_reported(settings, message):
    with pytest.raises(UserError, match=message):
        tiny_config(*settings)


def test_scores_and_inversion_need_a_class(run):
    model = load(run)
    x, z = model.generate(3, label=1), model.sample_prior(3)
    for call in (lambda **label: model.discriminate(x, None, **label), lambda **label: model.refine(x, 0, z, **label)):
        with pytest.raises(UserError, match="label is missing; expected the class of the images, 0 to 2"):
            call()
        with pytest.raises(UserError, match="label is 3; expected 0 to 2"):
            call(label=3)
    with torch.no_grad():
        expected = model.discriminator(x, None, torch.full((3,), 2))["s_x"]
        errors = (x - model.generator(z, torch.full((3,), 2))).flatten(1).norm(dim=1) / 2
    torch.testing.assert_close(model.discriminate(x, None, label=2).score_x, expected)
    torch.testing.assert_close(model.refine(x, 0, z, label=2).errors[0], errors)
    with pytest.raises(ValueError, match="y is None"):
        model.generator(z)
    with pytest.raises(ValueError, match="y is None"):
        model.discriminator(x, None)
