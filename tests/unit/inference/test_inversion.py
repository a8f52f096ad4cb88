"""An encoder trained to invert a frozen generator, of ours or not, starts latent optimisation closer to the image."""

import pytest
import torch

from bigbigan.errors import UserError
from bigbigan.inference.inversion import mean_latent, train_inverter
from bigbigan.inference.latents import refine
from bigbigan.models import build
from reproduction.measure.stylegan_shaped import OfW, StyleGAN
from tiny import tiny_config


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(latents, count, seed):
    if callable(latents):
        return latents(count, torch.Generator().manual_seed(seed))
    return random(count, latents, seed=seed)


def ours():
    config = tiny_config()
    G = build(config).generator
    G(random(256, config.latent.dim))  # fills the statistics of batch norm
    return G.eval(), config.latent.dim


def foreign(of_w=False):
    G = StyleGAN(dim=8, widths=(16, 16), layers=3)
    return (OfW(G), OfW(G).sample_latents) if of_w else (G, 8)


@pytest.mark.parametrize("generator", [ours, foreign, lambda: foreign(of_w=True)], ids=["ours", "z", "w"])
def test_start_from_encoder_is_worth_optimisation_steps(generator):
    G, latents = generator()
    E = train_inverter(G, latents, steps=100, batch_size=32)
    with torch.no_grad():
        x = G(drawn(latents, 16, seed=5))
    starts = {
        "E": E(x).mean,
        "mean": mean_latent(latents).expand(16, -1),
        "random": drawn(latents, 16, seed=6),
    }
    errors = {name: refine(G, x, z, 10).errors.mean(1) for name, z in starts.items()}
    assert errors["E"][0] < 0.7 * min(errors["mean"][0], errors["random"][0])
    assert (errors["E"][0] < torch.stack([errors["mean"][:3], errors["random"][:3]])).all()  # three steps saved
    assert errors["E"][-1] < min(errors["mean"][-1], errors["random"][-1])


def test_training_leaves_the_generator_as_it_was():
    G, dim = foreign()
    G.train()
    G.mapping.eval()
    before = {k: v.clone() for k, v in G.state_dict().items()}
    E = train_inverter(G, dim, steps=2, batch_size=4, pixel_weight=1.0)
    assert all(torch.equal(v, before[k]) for k, v in G.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in G.parameters())
    assert (G.training, G.mapping.training, G.synthesis.training) == (True, False, True)
    assert not E.training
    assert not any(p.requires_grad for p in E.parameters())


def test_encoder_starts_at_the_mean_latent_and_follows_its_seed():
    G, latents = foreign(of_w=True)
    losses = []
    one, again, other = (
        train_inverter(G, latents, 3, batch_size=64, seed=seed, after_step=lambda step, loss: losses.append(loss))
        for seed in (0, 0, 1)
    )
    assert losses[0] == pytest.approx(1, abs=0.2)  # relative to the variance of the latents
    assert losses[:3] == losses[3:6]
    x = G(drawn(latents, 4, seed=5)).detach()
    assert torch.equal(one(x).mean, again(x).mean)
    assert not torch.equal(one(x).mean, other(x).mean)


def test_reconstruction_term_helps_where_latents_are_ambiguous():
    """Of G(z) = |z| latent regression can only learn the mean, 0, whose image is wrong."""

    def G(z):
        return z.abs().view(-1, 1, 2, 2)

    x = G(random(64, 4, seed=5))
    errors = [
        (G(train_inverter(G, 4, 60, batch_size=32, pixel_weight=weight)(x).mean) - x).square().mean().item()
        for weight in (0.0, 10.0)
    ]
    assert errors[1] < 0.3 * errors[0]


@pytest.mark.parametrize(
    ("G", "latents", "given", "message"),
    [
        (lambda z: z, 4, {}, r"returns \[2, 4\] for 2 latents; expected square images"),
        (lambda z: z.new_zeros(2, 1, 4, 8), 4, {}, r"returns \[2, 1, 4, 8\]"),
        (lambda z: None, 4, {}, "returns NoneType"),
        (lambda z: z.new_full((len(z), 1, 4, 4), torch.nan), 4, {}, "not finite"),
        (lambda z: z, 0, {}, "latents is 0; expected a whole number, at least 1"),
        (lambda z: z, lambda n, g: torch.zeros(3), {}, r"latents drawn are \[3\]; expected finite numbers \[4096, dim"),
        (lambda z: z, 4, {"steps": 0}, "steps is 0"),
        (lambda z: z, 4, {"rate": 0.0}, "rate is 0.0"),
        (lambda z: z, 4, {"pixel_weight": -1.0}, "pixel_weight -1.0"),
    ],
)
def test_a_generator_that_cannot_be_inverted_is_refused(G, latents, given, message):
    with pytest.raises(UserError, match=message):
        train_inverter(G, latents, **given)
