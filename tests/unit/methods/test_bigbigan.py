"""BigBiGAN's additions to the paper: latent regression on generated pairs, two joint maps, the projection term,
augmented images for E."""

import math

import pytest
import torch
from torch.nn.functional import layer_norm

from bigbigan.errors import UserError
from bigbigan.methods import make_system
from bigbigan.methods.diffaugment import augmented
from bigbigan.methods.losses import posterior_error
from bigbigan.models import Posterior, build
from bigbigan.models.batch_norm import batch_norms
from tiny import ADDITIONS, run_update, tiny_config


def system_with(*settings):
    config = tiny_config(*settings)
    return make_system(config, build(config))


def gradients(*settings, progress=0.0):
    """The gradients of G and E after one update, and what it logged."""
    system = system_with(*settings)
    system.progress = progress
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(16, 1, 8, 8, generator=generator) * 2 - 1
    outcomes = run_update(system, system.encoder_generator_update, x, system.sample_noise(16, generator))
    metrics = {name: value for outcome in outcomes for name, value in outcome.metrics.items()}
    of = {
        name: torch.cat([p.grad.flatten() for p in n.parameters()])
        for name, n in zip("GE", system.networks[:2], strict=True)
    }
    return of["G"], of["E"], metrics, system


def test_posterior_error_has_its_closed_forms():
    z, mean, stdev = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 1.0]])
    q = Posterior(mean, stdev, mean)
    assert posterior_error(q, z, "squared") == 0.5
    log_density = torch.distributions.Normal(mean, stdev).log_prob(z).mean()
    expected = -log_density - math.log(2 * math.pi) / 2  # without the constant
    assert posterior_error(q, z, "likelihood") == pytest.approx(float(expected), abs=1e-6)


def test_latent_regression_trains_e_alone_unless_asked():
    g, e, metrics, _ = gradients()
    assert "latent_regression" not in metrics
    g_alone, e_alone, metrics, _ = gradients("loss.latent_regression=1")
    assert torch.equal(g, g_alone)
    assert not torch.allclose(e, e_alone)
    assert metrics["latent_regression"] > 0
    g_too, e_too, _, _ = gradients("loss.latent_regression=1", "loss.latent_regression_in_g=true")
    assert not torch.allclose(g, g_too)
    assert torch.allclose(e_alone, e_too)


def test_latent_regression_weight_falls_by_equal_factors():
    settings = ["loss.latent_regression=2", "loss.latent_regression_final=0.01"]
    _, e, _, _ = gradients()
    _, start, _, _ = gradients(*settings)
    _, halfway, _, system = gradients(*settings, progress=0.5)
    torch.testing.assert_close(halfway - e, (start - e) * 0.1, rtol=1e-3, atol=1e-5)
    assert system.latent_regression_weight == pytest.approx(0.2)


def test_latent_regression_leaves_running_statistics_alone():
    *_, plain = gradients()
    *_, added = gradients("loss.latent_regression=1")
    for ours, theirs in zip(batch_norms(added.networks.E), batch_norms(plain.networks.E), strict=True):
        assert torch.equal(ours.running_mean, theirs.running_mean)
        assert ours.num_batches_tracked == theirs.num_batches_tracked


def test_latent_regression_enlarges_images_for_a_larger_encoder():
    system = system_with("loss.latent_regression=1", "encoder.resolution=16")
    seen = []
    system.networks.E.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[-1]))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(16, 1, 16, 16) * 2 - 1
    run_update(system, system.encoder_generator_update, x, system.sample_noise(16, generator))
    assert seen == [16, 16]


def test_projection_adds_the_bilinear_term():
    D = system_with("discriminator.projection=true").networks.D.eval()
    x, z = torch.rand(5, 1, 8, 8) * 2 - 1, torch.randn(5, 8)
    f, h = D.features(x), D.H(z)
    f, h = layer_norm(f, f.shape[1:]), layer_norm(h, h.shape[1:])
    term = torch.einsum("nk,nk->n", D.project_x(f), D.project_z(h)) / math.sqrt(16)
    whole = D(x, z)["s_xz"]
    D.project_x = None
    torch.testing.assert_close(whole - D(x, z)["s_xz"], term)
    assert term.abs().min() > 0


def test_second_joint_map_reaches_s_xz_and_not_s_x():
    D = system_with("discriminator.joint_maps=2").networks.D.eval()
    assert D.F.joint_features == (8, 32)
    x, z = torch.rand(5, 1, 8, 8) * 2 - 1, torch.randn(5, 8)
    before = D(x, z)
    original = D.F.forward
    D.F.forward = lambda x: [original(x)[0], original(x)[1].flip(1)]
    after = D(x, z)
    assert torch.equal(before["s_x"], after["s_x"])
    assert not torch.allclose(before["s_xz"], after["s_xz"])


def test_second_joint_map_keeps_positions():
    F = system_with("discriminator.joint_maps=2").networks.D.F.eval()
    x = torch.zeros(1, 1, 8, 8)
    x[..., :4, :4] = 1
    summed, regions = F(x)
    regions = regions.view(1, 8, 2, 2)
    assert summed.shape == (1, 8)
    assert not torch.allclose(regions[..., 0, 0], regions[..., 1, 1])


def test_e_sees_augmented_images_and_d_the_images_themselves():
    system = system_with("encoder.augment=[cutout]", "encoder.stochastic=false")
    seen = {"E": [], "D": []}
    for name, network in (("E", system.networks.E), ("D", system.networks.D)):
        network.register_forward_pre_hook(lambda module, inputs, name=name: seen[name].append(inputs[0].detach()))
    x, generator = torch.ones(16, 1, 8, 8), torch.Generator().manual_seed(0)
    for update in (system.discriminator_update, system.encoder_generator_update):
        noise = system.sample_noise(16, generator)
        run_update(system, update, x, noise)
        assert torch.equal(seen["E"][-1], augmented(x, ["cutout"], noise["augmentation of x for E"]))
        assert (seen["E"][-1] == 0).flatten(1).any(1).all()  # each image has a hidden part
    assert len(seen["E"]) == 2  # latents of the pairs are those of augmented images
    real = [seen["D"][0][:16], seen["D"][1]]  # the first updates D, on both kinds of images in one pass
    assert all(torch.equal(images, x) for images in real)


def test_further_updates_of_e_train_e_alone():
    system = system_with("training.e_steps=3")
    assert [update.__name__ for update in system.updates] == [
        "discriminator_update", "discriminator_update", "encoder_update", "encoder_update", "encoder_generator_update",
    ]  # fmt: skip
    x, noise = torch.rand(8, 1, 8, 8) * 2 - 1, system.sample_noise(8, torch.Generator().manual_seed(0))
    trained = []
    for update in system.updates[3:]:
        run_update(system, update, x, noise)
        players = system.networks_of("eg").items()
        trained.append({letter for letter, network in players if any(p.grad is not None for p in network.parameters())})
    assert trained == [{"E"}, {"E", "G"}]


def test_additions_are_off_by_default_and_named():
    plain, added = tiny_config(), tiny_config(*ADDITIONS)
    names = {"discriminator.joint_maps", "discriminator.projection", "loss.latent_regression"}
    names |= {"encoder.augment", "training.e_steps"}
    assert not names & plain.additions.keys()
    assert names <= added.additions.keys()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["loss.latent_regression=-1"], "loss.latent_regression"),
        (["loss.latent_regression_in_g=true"], "loss.latent_regression_in_g"),
        (["loss.latent_regression=1", "loss.latent_regression_final=0"], "loss.latent_regression_final"),
        (["loss.latent_regression=1", "loss.s_xz=false", "loss.s_z=false"], "loss.latent_regression"),
        (["discriminator.joint_maps=2", "loss.s_xz=false", "loss.s_z=false"], "discriminator.joint_maps"),
        (["discriminator.projection=true", "loss.s_xz=false", "loss.s_z=false"], "discriminator.projection"),
        (["encoder.augment=[cutout]", "loss.s_xz=false", "loss.s_z=false"], "encoder.augment"),
        (["encoder.augment=[cutout]", "system=bigan", "encoder.stochastic=false"], "encoder.augment"),
        (["training.e_steps=2", "system=bigan", "encoder.stochastic=false"], "training.e_steps"),
        (["training.e_steps=2", "loss.s_xz=false", "loss.s_z=false"], "training.e_steps"),
        (["encoder.augment=[cutout,cutout]"], "encoder.augment names something twice"),
        (
            ["loss.latent_regression=1", "loss.latent_regression_form=likelihood", "encoder.stochastic=false"],
            "likelihood",
        ),
    ],
)
def test_additions_that_would_do_nothing_are_refused(settings, named):
    with pytest.raises(UserError, match=named):
        tiny_config(*settings)
