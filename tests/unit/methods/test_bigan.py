"""BiGAN and its baselines: the networks are the published ones, and each player gets the gradient of its own loss."""

from __future__ import annotations

import json
import math
import shutil
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.config import override
from bigbigan.data.batches import Batches
from bigbigan.errors import UserError
from bigbigan.evaluation.probes.knn import bigan_references
from bigbigan.experiments import find
from bigbigan.image import pool_to, reconstruction_distances
from bigbigan.image.crops import fixed_boxes
from bigbigan.methods import make_system
from bigbigan.methods.losses import (
    latent_regression_loss,
    logistic_discriminator_loss,
    logistic_encoder_generator_loss,
    pixel_loss,
)
from bigbigan.models import build, construct
from bigbigan.models.batch_norm import batch_statistics
from bigbigan.training import checkpoint as ck
from bigbigan.training.state import TrainingState, rate_factor
from bigbigan.training.step import training_step
from reproduction.common import Script
from reproduction.external import bigan_authors
from reproduction.train import bigan_starts, table
from tiny import run_update, write_npz

MNIST = [
    "mnist", "discriminator", "latent_regressor", "joint_latent_regressor", "autoencoder_l2", "autoencoder_l1"
]  # fmt: skip
SMALL = ["training.batch_size=8", "log.every=1", "log.standing_batches=2"]
NARROW = ["generator.channels=[16,16]", "discriminator.channels=[16,16]", "encoder.widths=[16,16]", "latent.dim=6"]


def small(name, *settings):
    return override(find(f"bigan/{name}").config(), [*SMALL, *NARROW, *settings])


def images(count=8, side=28, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, side, side, generator=generator) * 2 - 1


def count(network):
    return sum(p.numel() for p in network.parameters())


# -- networks -----------------------------------------------------------------------------------------------


def test_parameters_are_those_of_the_published_networks():
    """jeffdonahue/bigan, train_mnist.sh: no biases, no gains; weights alone."""
    with torch.device("meta"):
        G, E, D = construct(find("bigan/mnist").config())
        of_gan = construct(find("bigan/discriminator").config())
        of_autoencoder = construct(find("bigan/autoencoder_l1").config())
        of_imagenet = construct(find("bigan/imagenet").config())
    square = 1024 * 1024
    assert count(G) == 2 * 50 * 1024 + square + 1024 * 784
    assert count(E) == 784 * 1024 + square + 1024 * 50
    assert count(D) == 784 * 1024 + square + 50 * 1024 + 1024
    assert of_gan.E is None
    assert count(of_gan.D) == 784 * 1024 + square + 1024
    assert of_autoencoder.D is None
    assert [count(n) for n in of_autoencoder[:2]] == [count(G), count(E)]
    assert [count(n) for n in of_imagenet] == [6_050_880, 4_844_064, 4_494_784]


def test_initial_weights_are_normal_and_some_last_layers_zero():
    G, E, D = build(find("bigan/mnist").config())
    for weight in (G.layers[1].main.weight, G.layers[1].of_z.weight, E.trunk.layers[0].main.weight, E.latent.weight):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert not D.head.weight.any()
    assert not build(find("bigan/latent_regressor").config()).E.latent.weight.any()
    imagenet = build(find("bigan/imagenet").config())
    assert float(imagenet.D.trunk.layers[1].of_z.weight.detach().std()) == pytest.approx(0.5, rel=0.02)


def test_z_enters_at_every_layer_but_d_s_first():
    G, _, D = build(small("mnist"))
    torch.nn.init.normal_(D.head.weight)
    x, z = images(), torch.rand(8, 6) * 2 - 1
    assert D.trunk.layers[0].of_z is None
    for network, layer, args in ((G, G.layers[1], (z,)), (D, D.trunk.layers[1], (x, z))):
        before = network(*args)
        with torch.no_grad():
            layer.of_z.weight.zero_()
        after = network(*args)
        if isinstance(before, dict):
            before, after = before["s_xz"], after["s_xz"]
        assert not torch.allclose(before, after)


def test_the_fully_connected_networks_are_permutation_invariant():
    """Permuting pixels, and the weights that meet them alike, changes nothing: images have no geometry here."""
    E = build(small("mnist")).E.eval()
    x, order = images(), torch.randperm(784, generator=torch.Generator().manual_seed(1))
    before = E(x).mean
    with torch.no_grad():
        E.trunk.layers[0].main.weight.copy_(E.trunk.layers[0].main.weight[:, order])
    torch.testing.assert_close(E(x.flatten(1)[:, order].view_as(x)).mean, before)


def test_ranges_of_images_and_latents():
    G, E, _ = build(small("mnist"))
    x = G(torch.rand(8, 6) * 2 - 1)
    assert x.shape == (8, 1, 28, 28)
    assert (x.abs() <= 1).all()
    q = E(images())
    assert q.mean.shape == (8, 6)
    assert (q.mean.abs() < 1).all()
    assert not q.stdev.any()
    torch.testing.assert_close(q.mean, 2 * torch.sigmoid(E(images()).logits) - 1)


# -- losses -------------------------------------------------------------------------------------------------


def test_logistic_losses_are_cross_entropies():
    enc, gen = {"s_xz": torch.tensor([2.0, -1.0])}, {"s_xz": torch.tensor([0.5, 3.0])}
    scores, labels = torch.cat([enc["s_xz"], gen["s_xz"]]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    expected = F.binary_cross_entropy_with_logits(scores, labels)
    torch.testing.assert_close(logistic_discriminator_loss(enc, gen), expected)
    exchanged = F.binary_cross_entropy_with_logits(scores, 1 - labels)
    torch.testing.assert_close(logistic_encoder_generator_loss(enc, gen), exchanged)
    alone = F.binary_cross_entropy_with_logits(gen["s_xz"], torch.ones(2))
    torch.testing.assert_close(logistic_encoder_generator_loss({}, gen), alone)


def test_latent_and_pixel_losses():
    logits, z = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    expected = (math.log(2) + math.log(1 + math.exp(-2))) / 2
    assert latent_regression_loss(logits, z).item() == pytest.approx(expected)
    x, x_hat = torch.ones(3, 1, 2, 2), -torch.ones(3, 1, 2, 2)
    x_hat[:, :, 0] = 0
    assert pixel_loss(x, x_hat, "l1").item() == pytest.approx(2 * 0.5 + 2 * 1)
    assert pixel_loss(x, x_hat, "l2").item() == pytest.approx(2 * 0.25 + 2 * 1)


# -- who learns from what -----------------------------------------------------------------------------------


def gradients(networks):
    return {
        f"{letter}.{name}": p.grad.clone()
        for letter, network in networks._asdict().items()
        if network is not None
        for name, p in network.named_parameters()
        if p.grad is not None
    }


def plain_bigan(networks, x, z):
    """BiGAN's gradients by two passes with everything recomputed, as one would write it down first."""
    G, E, D = networks
    pairs = D(x, E(x).mean.detach())["s_xz"], D(G(z).detach(), z)["s_xz"]
    loss_d = (F.softplus(-pairs[0]).mean() + F.softplus(pairs[1]).mean()) / 2
    loss_d.backward()
    found = {k: v for k, v in gradients(networks).items() if k.startswith("D.")}
    for network in networks:
        network.zero_grad()
    pairs = D(x, E(x).mean)["s_xz"], D(G(z), z)["s_xz"]
    ((F.softplus(pairs[0]).mean() + F.softplus(-pairs[1]).mean()) / 2).backward()
    return found | {k: v for k, v in gradients(networks).items() if not k.startswith("D.")}


def test_one_pass_gives_both_players_their_gradients():
    config = small("mnist")
    networks, reference = build(config), build(config)
    for n in (networks, reference):
        torch.nn.init.normal_(n.D.head.weight, generator=torch.Generator().manual_seed(3))
    system, x = make_system(config, networks), images()
    run_update(system, system.update, x, system.sample_noise(8, torch.Generator().manual_seed(5)))
    z = system.sample_prior(8, torch.Generator().manual_seed(5))
    expected = plain_bigan(reference, x, z)
    found = gradients(networks)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)
        assert gradient.any(), name


@pytest.mark.parametrize("bias", [False, True])
def test_d_of_a_gan_sees_brightness_only_with_a_first_bias(bias):
    """Otherwise batch norm over G's images alone gives darker ones the same scores (docs/notes/bigan.md)."""
    config = small("discriminator", f"discriminator.bias={str(bias).lower()}")
    networks = build(config)
    draws = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(networks.D.head.weight, generator=draws)
    first = networks.D.trunk.layers[0].main
    with torch.no_grad():
        first.weight.mul_(100)  # so that epsilon is nothing
        if bias:
            first.bias.normal_(std=30, generator=draws)
    system, x = make_system(config, networks), images()

    def scores(brightness):
        G = networks.G
        system.networks = networks._replace(G=lambda z: (G(z) + 1) * brightness - 1)
        (outcome,) = system.update(x, system.sample_noise(8, torch.Generator().manual_seed(5)))
        return outcome.gen["s_x"]

    assert torch.allclose(scores(1.0), scores(0.2), rtol=1e-2, atol=1e-3) != bias


def test_d_does_not_see_where_latents_lie_in_the_mean():
    """Its batch norm, over one kind of pairs, takes a constant away: nothing brings the mean of E(x) to that of P_z."""
    D = build(small("mnist")).D
    torch.nn.init.normal_(D.head.weight, generator=torch.Generator().manual_seed(3))
    x, z = images(), torch.rand(8, small("mnist").latent.dim, generator=torch.Generator().manual_seed(4))
    scores = [D(x, latents)["s_xz"].detach() for latents in (z, z + 3, 3 * z)]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-3, atol=1e-4)
    assert (scores[0] - scores[2]).abs().max() > 0.05  # how far they are spread it does see


@pytest.mark.parametrize(("name", "reaches"), [("latent_regressor", False), ("joint_latent_regressor", True)])
def test_e_s_error_reaches_g_only_in_the_joint_regressor(name, reaches):
    config = small(name)
    networks = build(config)
    G, E, D = networks
    torch.nn.init.normal_(E.latent.weight)  # it begins at zero, where nothing passes
    system, x = make_system(config, networks), images()
    run_update(system, system.update, x, system.sample_noise(8, torch.Generator().manual_seed(5)))
    found = gradients(networks)
    z = system.sample_prior(8, torch.Generator().manual_seed(5))
    alone = torch.autograd.grad(F.softplus(-D(G(z), None)["s_x"]).mean(), list(G.parameters()))
    of_g = [found[f"G.{name}"] for name, _ in G.named_parameters()]
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(of_g, alone, strict=True)) != reaches
    error = latent_regression_loss(E(G(z)).logits, z)
    of_e = torch.autograd.grad((0.25 if reaches else 1) * error, list(E.parameters()))
    for (parameter, _), gradient in zip(E.named_parameters(), of_e, strict=True):
        torch.testing.assert_close(found[f"E.{parameter}"], gradient, msg=parameter)


@pytest.mark.parametrize("name", MNIST)
def test_every_method_takes_steps_in_the_one_loop(name):
    state = TrainingState(small(name), torch.device("cpu"))
    pixels = torch.randint(0, 256, (20, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batches, before = Batches(pixels, 8, 0), {k: v.clone() for k, v in state.weights().items()}
    for _ in range(3):  # D's first gradient stops at its zero layer
        values = training_step(state, batches)
    assert all(math.isfinite(float(v)) for v in values.values())
    assert state.images_seen == 3 * 8
    after = state.weights()
    letters = {k.split(".")[0] for k in before}
    assert letters >= {"G"} | ({"D"} if not name.startswith("auto") else set())
    assert ("E" in letters) == ("reconstruction_ratio" in values) == (name != "discriminator")
    for key in before:
        if key.endswith("weight"):
            assert not torch.equal(before[key], after[key]), key
    for key in (k for k in after if k.startswith("G_ema.") and k.endswith("weight")):
        assert torch.equal(after[key], after[key.replace("_ema", "")]), "without averaging the average is the network"


def test_a_latent_regressor_s_gan_is_the_one_that_trains_alone():
    """To the bit, so that the D of either can be scored."""
    pixels = torch.randint(0, 256, (20, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    weights = []
    for name in ("discriminator", "latent_regressor", "joint_latent_regressor"):
        state, batches = TrainingState(small(name), torch.device("cpu")), Batches(pixels, 8, 0)
        for _ in range(4):
            training_step(state, batches)
        weights.append({k: v for k, v in state.weights().items() if k.startswith(("G.", "D."))})
    alone, beside, joint = weights
    assert all(torch.equal(v, beside[k]) for k, v in alone.items())
    assert any(not torch.equal(v, joint[k]) for k, v in alone.items())


def sixteen_bars():
    rows = torch.zeros(16, 1, 28, 28, dtype=torch.uint8)
    for i in range(16):
        rows[i, 0, i : i + 8] = 255
    return Batches(rows, 32, 0)


def sixteen_images(name, steps):
    """A state trained for so many steps on sixteen images, at a rate for narrow networks; and the ratios on the way."""
    wide = ["generator.channels=[64,64]", "discriminator.channels=[64,64]", "encoder.widths=[64,64]", "latent.dim=4"]
    rates = ["optimizer.lr_g=0.003", "optimizer.lr_d=0.003", "training.batch_size=32"]
    state = TrainingState(small(name, *wide, *rates), torch.device("cpu"))
    batches = sixteen_bars()
    return state, [float(training_step(state, batches)["reconstruction_ratio"]) for _ in range(steps)]


def test_autoencoders_learn_to_tell_sixteen_images_apart():
    """The ratio of reconstruction errors falls from 1."""
    _, ratios = sixteen_images("autoencoder_l2", 300)
    assert ratios[0] > 0.95
    assert ratios[-1] < 0.3


def test_an_autoencoder_s_statistics_are_of_what_its_g_is_given():
    """G of an autoencoder never saw P_z: with statistics of z from there its reconstructions would be worse than in
    training, twice as far from their images on MNIST."""
    state, _ = sixteen_images("autoencoder_l2", 150)
    batches = sixteen_bars()
    state.fill_standing_statistics(batches)
    G, E, x = state.G_ema, state.E_ema, batches.images(torch.arange(16))
    with torch.no_grad():
        error, mismatched = (d.mean() for d in reconstruction_distances(x, G(E(x).mean)))
        with batch_statistics(state.networks.E), batch_statistics(state.networks.G):
            in_training, _ = reconstruction_distances(x, state.networks.G(state.networks.E(x).mean))
    assert error < 1.2 * in_training.mean()
    assert error < 0.5 * mismatched


def test_images_left_out_are_scored_on_and_not_trained_on(tmp_path):
    """reproduction/train/table.py --hold-out: as the authors' code does by default."""
    drawn = table.drawn
    source = write_npz(tmp_path / "mnist.npz", side=28)
    made = np.load(drawn(str(source), small("mnist"), 28, tmp_path / "out", None, 20))
    with pytest.raises(UserError, match=r"--hold-out 60: .* has 60 training images"):
        drawn(str(source), small("mnist"), 28, tmp_path / "out", None, 60)
    given = np.load(source)

    def pairs(arrays, split):
        images, labels = (arrays[f"{split}_{kind}"] for kind in ("images", "labels"))
        return {(x.tobytes(), y.item()) for x, y in zip(images, labels, strict=True)}

    train, test = pairs(made, "train"), pairs(made, "test")
    assert (len(train), len(test)) == (40, 20)
    assert train | test == pairs(given, "train")


AUTHORS_LOG = """\
 0) D: 0.6932  E: 0.6932
NND/100: 13.54  NND: 13.44  NNC_e: 10.16%  NNC_e-: 96.64%  NNC_d: 96.84%  EGr: 13.71  EGr_b: 13.70
Brightest pixel: 0.9
Epoch 0: 61.5 seconds (LR = 0.0002)
Epoch 1: 60.5 seconds (LR = 0.0002)
 2) JD: 0.4575  E: 0.6491
NND/100: 5.82  NND: 5.20  NNC_e: 93.45%  NNC_e-: 96.52%  NNC_d: 97.13%  EGr: 5.51  EGr_b: 8.61
"""


def test_scores_of_the_authors_own_code_are_read_from_its_log():
    """reproduction/external/bigan_authors.py"""
    script = Script(bigan_authors.__spec__, bigan_authors.__doc__)
    lines = bigan_authors.result_lines(script, "latent_regressor", 2, 42, AUTHORS_LOG)
    assert {(x.steps, x.metric): x.value for x in lines} == {
        (0, "knn1_euclidean_avepool"): 96.64,
        (0, "knn1_euclidean_discriminator"): 96.84,
        (0, "reconstruction_error"): 13.71,
        (0, "reconstruction_error_mismatched"): 13.70,
        (782, "knn1_euclidean_avepool"): 96.52,
        (782, "knn1_euclidean_discriminator"): 97.13,
        (782, "reconstruction_error"): 5.51,
        (782, "reconstruction_error_mismatched"): 8.61,
    }
    assert {x.seconds for x in lines} == {0, 122.0}
    assert {(x.subject, x.steps) for x in lines} == {("untrained", 0), ("trained", 782)}


def test_the_spread_of_samples_tells_a_lost_generator():
    """reproduction/train/bigan_starts.py"""
    spread = bigan_starts.spread
    x = torch.zeros(3, 1, 2, 2)
    assert spread(x) == 0
    x[0] = 1  # two of three pairs are at a distance of 2
    assert spread(x) == pytest.approx(4 / 3)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="lib2to3 is in Python 3.12 and older")
def test_other_code_is_not_taken_for_the_authors(tmp_path):
    for name in ("train_gan", "data", "dist", "gan", "load", "net", "lib/vis"):
        (tmp_path / f"code/{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"code/{name}.py").write_text("print 'hello'\n")
    with pytest.raises(
        UserError, match=r"lib/vis\.py does not contain 'j = n/nw'; expected the code of jeffdonahue/bigan"
    ):
        bigan_authors.port(tmp_path / "code", tmp_path, tmp_path / "work")


@pytest.mark.slow
def test_bigan_learns_mnist(shared, tmp_path):
    """The real system on the real images, six of its epochs."""
    settings = ["training.steps=3000", "log.every=100", "log.pictures_every=3000", "log.standing_batches=20"]
    config = override(find("bigan/mnist").config(), settings)
    train(config, f"mnist:{shared / 'mnist'}", tmp_path / "run", progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["reconstruction_ratio"] > 0.95
    assert lines[-1]["reconstruction_ratio"] < 0.9


@pytest.mark.parametrize("name", ["latent_regressor", "joint_latent_regressor"])
def test_regressors_learn_to_find_z(name):
    """E(G(z)) comes nearer to z than 0, the best guess without looking, whose squared error is 1/3."""
    errors = []
    for steps in (1, 300):
        state, _ = sixteen_images(name, steps)
        z = torch.rand(256, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
        with torch.no_grad():
            errors.append(float((state.networks.E(state.networks.G(z)).mean - z).square().mean()))
    assert errors[0] > 0.3
    assert errors[1] < 0.2


def test_weight_decay_spares_the_gains_of_batch_norms():
    state = TrainingState(override(find("bigan/imagenet").config(), ["training.batch_size=2"]), torch.device("cpu"))
    groups = [g for o in state.optimizers.values() for g in o.param_groups]
    gains = {
        p for n in state.networks for m in n.modules() for k, p in m.named_parameters(recurse=False)
        if isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d) and k == "weight"
    }  # fmt: skip
    assert gains
    for group in groups:
        assert group["weight_decay"] == (0 if set(group["params"]) <= gains else 2.5e-5)
    assert sum(len(g["params"]) for g in groups) == sum(len(list(n.parameters())) for n in state.networks)


# -- runs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnist", "joint_latent_regressor", "autoencoder_l2"])
def test_a_continued_run_ends_as_an_uninterrupted_one(name, tmp_path):
    """Falling rates, weight decay, batch norms in D and a step of one update, all across a checkpoint."""
    data = str(write_npz(tmp_path / "rows.npz", side=28))
    # Four epochs of two steps: rates have not fallen before the checkpoint.
    length = ["training.steps=8", "training.batch_size=30"]
    config = small(name, *length, "log.checkpoint_every=4", "log.pictures_every=1000")
    run = tmp_path / "run"
    train(config, data, run, progress=False)
    whole = {f: ck.newest_checkpoint(run).tensors(f) for f in ("weights.safetensors", "optimizer.safetensors")}
    shutil.rmtree(run / "checkpoints" / "step-00000008")
    train(config, data, run, progress=False)
    for file, tensors in whole.items():
        again = ck.newest_checkpoint(run).tensors(file)
        assert tensors.keys() == again.keys()
        assert all(torch.equal(tensors[k], again[k]) for k in tensors)


def test_rates_fall_from_epoch_to_epoch_as_published():
    """The authors' log has 2e-4 in epochs 0 to 199; epoch 200 is the first of 200 that fall, and the last has 2e-6."""
    steps = 400 * 469
    factors = {epoch: rate_factor(epoch * 469, steps, 0.01, 469) for epoch in (0, 199, 200, 201, 399)}
    assert factors == pytest.approx({0: 1, 199: 1, 200: 0.01 ** (1 / 200), 201: 0.01 ** (2 / 200), 399: 0.01})
    assert rate_factor(200 * 469 + 468, steps, 0.01, 469) == rate_factor(200 * 469, steps, 0.01, 469)
    fifteen = [rate_factor(epoch * 469, 15 * 469, 0.01, 469) for epoch in range(15)]
    assert fifteen[:7] == [1] * 7  # half, rounded down, as reproduction/external/bigan_authors.py asks of their code
    assert fifteen[7:] == pytest.approx([0.01 ** (k / 8) for k in range(1, 9)])
    assert [rate_factor(step, 300, 0.01, 469) for step in (0, 299)] == [1, 1]  # less than an epoch


def test_an_epoch_of_rates_is_one_of_the_images():
    """40 images in batches of 8 are five steps: of four epochs the last two have rates of their own."""
    state = TrainingState(small("mnist", "training.steps=20", "optimizer.lr_d=3e-4"), torch.device("cpu"))
    pixels = torch.randint(0, 256, (40, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batches, rates = Batches(pixels, 8, 0), []
    for _ in range(20):
        training_step(state, batches)
        rates.append([state.optimizers[player].param_groups[0]["lr"] for player in ("eg", "d")])
    factors = [1] * 10 + [0.1] * 5 + [0.01] * 5
    assert np.array(rates) == pytest.approx(np.array([[2e-4 * f, 3e-4 * f] for f in factors]))
    assert Batches(pixels, 12, 0).steps_per_epoch() == 4  # a batch that is not full counts
    assert Batches(pixels, 8, 0).steps_per_epoch(updates=3) == 2


def test_bigan_s_1nn_has_50_000_references(tmp_path, capsys, monkeypatch):
    """As the authors' code with --use_test_set, and the line says so; other distances have all images."""
    monkeypatch.setattr("bigbigan.evaluation.probes.knn.BIGAN_REFERENCES", 50)
    data, run = str(write_npz(tmp_path / "rows.npz", side=28)), str(tmp_path / "run")
    settings = [*SMALL, *NARROW]
    train = ["train", "bigan/mnist", "--data", data, "--out", run, "--quiet", "--steps", "2", "--set", *settings]
    assert main(train) == 0
    capsys.readouterr()
    names = "knn1_euclidean_pixels,knn1_l2_pixels,knn1_euclidean_z_mean"
    assert main(["evaluate", run, "--quiet", "--json", "--metrics", names]) == 0
    protocols = {line["metric"]: line["protocol"] for line in json.loads(capsys.readouterr().out)}
    assert protocols == {
        "knn1_euclidean_pixels": {"references": 50, "train_images": 60},
        "knn1_euclidean_z_mean": {"references": 50, "train_images": 60},
        "knn1_l2_pixels": {"references": 60},
    }
    x, y = np.arange(120.0).reshape(60, 2), np.arange(60)
    among, labels = bigan_references(x, y)
    assert len(among) == len(np.unique(labels)) == 50
    assert np.array_equal(among, x[labels])
    assert np.array_equal(labels, bigan_references(x, y)[1])


@pytest.mark.parametrize("name", ["mnist", "autoencoder_l1"])
def test_every_verb_works_on_a_run(name, tmp_path, capsys):
    data, run = str(write_npz(tmp_path / "rows.npz", side=28)), str(tmp_path / "run")
    settings = [*SMALL, *NARROW, "log.pictures_every=2"]
    train = ["train", f"bigan/{name}", "--data", data, "--out", run, "--quiet", "--steps", "4", "--set", *settings]
    assert main(train) == 0
    assert main(["generate", run, "--count", "4", "--out", str(tmp_path / "g.png")]) == 0
    assert main(["reconstruct", run, "--count", "4", "--out", str(tmp_path / "r.png")]) == 0
    assert main(["encode", run, "--out", str(tmp_path / "f.npz")]) == 0
    capsys.readouterr()
    names = "knn1_euclidean_pixels,knn1_euclidean_avepool,knn1_euclidean_z_mean,reconstruction_*"
    assert main(["evaluate", run, "--quiet", "--json", "--metrics", names]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert {line["metric"] for line in lines if line["metric"].startswith("recon")} == {
        "reconstruction_error", "reconstruction_error_mismatched", "reconstruction_ratio"
    }  # fmt: skip
    nearest = {(line["metric"], line["steps"]): line for line in lines if line["metric"].startswith("knn")}
    assert len(nearest) == 5  # pixels; two features, untrained and trained
    assert nearest["knn1_euclidean_z_mean", 4]["protocol"] == {"references": 60}
    assert main(["report", run]) == 0
    capsys.readouterr()
    for metric, what in (("knn1_l2_discriminator", "images alone"), ("knn1_l2_conv3", "AlexNet")):
        assert main(["evaluate", run, "--metrics", metric]) == 2
        assert what in capsys.readouterr().err


# -- photographs --------------------------------------------------------------------------------------------


def test_imagenet_takes_a_step_on_photographs(shared, tmp_path):
    """Real photographs, the networks at their full size: E sees crops of 112 px, D the same ones at 64."""
    from bigbigan.data import open_source
    from bigbigan.data.loading import load_pixels, stored_side

    source = open_source(str(shared / "caltech101" / "caltech101-128.tar.gz"))
    train = source.splits["train"]
    side = stored_side(train, 112, "random_crop")
    assert side == 128
    picked = train.subset(range(12))
    pixels, _ = load_pixels(picked, side, 3, source)
    config = override(find("bigan/imagenet").config(), SMALL)
    state = TrainingState(config, torch.device("cpu"))
    batches = Batches(torch.from_numpy(pixels), 8, 0, config.data.augment, config.encoder.resolution)
    seen = []
    state.networks.D.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    state.networks.E.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    values = training_step(state, batches)
    assert all(math.isfinite(float(v)) for v in values.values())
    x, at_64 = seen[0], seen[1]
    assert x.shape == (8, 3, 112, 112)
    torch.testing.assert_close(at_64, pool_to(x, 64))


def test_random_crops_are_exact_windows():
    pixels = torch.randint(0, 256, (5, 3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x = Batches(pixels, 5, 0, "random_crop", 112).batch(0)
    assert x.shape == (5, 3, 112, 112)
    restored = ((x + 1) * 127.5).round().to(torch.uint8)
    for i, source in enumerate(Batches(pixels, 5, 0, "random_crop", 112).indices(0)):
        windows = pixels[source].unfold(1, 112, 1).unfold(2, 112, 1)
        assert (windows == restored[i][:, None, None]).flatten(3).all(3).all(0).any()
    boxes = fixed_boxes(2000, 128, torch.Generator().manual_seed(0))
    assert (boxes.top.min(), boxes.top.max()) == (0, 16)
    assert not boxes.mirrored.any()


def test_a_view_that_is_no_multiple_is_resized_without_aliasing():
    stripes = torch.ones(1, 1, 112, 112)
    stripes[..., ::2] = -1
    assert pool_to(stripes, 64)[..., 8:-8].abs().max() < 0.35  # finer than 64 px can show: nearly grey
    assert pool_to(stripes, 56).abs().max() == 0
    x = F.interpolate(torch.rand(1, 1, 8, 8) * 2 - 1, size=(112, 112), mode="bicubic").clamp(-1, 1)
    expected = F.interpolate(x, size=(64, 64), mode="area")
    assert (pool_to(x, 64) - expected).abs().mean() < 0.02


# -- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mnist", ["loss.s_x=true"], "one score"),
        ("mnist", ["generator.side=0"], "generator.side must be positive"),
        ("mnist", ["encoder.resolution=14"], "must not be below the generator's 28"),
        ("mnist", ["encoder.stochastic=true"], "encoder.stochastic=false"),
        ("mnist", ["generator.attention=[16]"], "is for generator.network=biggan"),
        ("latent_regressor", ["loss.s_xz=true", "loss.s_x=false"], "D sees images alone"),
        ("latent_regressor", ["latent.prior=normal"], "needs latent.prior=uniform"),
        ("imagenet", ["encoder.widths=[8,8]"], "five even numbers"),
        ("imagenet", ["discriminator.channels=[8,8,8,8,8,8,8]"], "cannot be halved 7 times"),
        ("imagenet", ["encoder.resolution=32"], "must not be below"),
        ("imagenet", ["generator.side=64"], "is for generator.network=mlp"),
        ("mnist", ["loss.orthogonal=0.1"], "is for system=bigbigan"),
        ("mnist", ["loss.regression_of_g=0.25"], "is for system=latent_regressor"),
        ("discriminator", ["loss.pixel=l1"], "is for system=autoencoder"),
        ("mnist", ["optimizer.weight_decay=-1"], "must not be negative"),
    ],
)
def test_settings_that_do_not_go_together_end_in_one_line(name, settings, message):
    with pytest.raises(UserError, match=message):
        override(find(f"bigan/{name}").config(), settings)
