"""Train an encoder that inverts a frozen generator, to start latent optimisation from (GAN inversion).

The generator may be any module that turns latents into images, such as a StyleGAN. Each step draws latents, generates
their images, and trains E on them: latent regression on generated pairs, and on request reconstruction of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bigbigan.errors import UserError
from bigbigan.inference.arguments import check_at_least
from bigbigan.methods.losses import posterior_error
from bigbigan.models import Encoder
from bigbigan.models.batch_norm import standing_statistics
from bigbigan.models.layers import init_weights
from bigbigan.models.resnet import ResNetV2
from bigbigan.randomness import keyed_generator

__all__ = ["LatentSampler", "latent_sampler", "mean_latent", "train_inverter"]

LatentSampler = Callable[[int, torch.Generator], Tensor]  # of a count: latents [count, dim]
SAMPLES = 4096  # latents whose mean and spread are computed
WIDTHS = (32, 64, 128, 256, 256, 256)


def train_inverter(
    G: Callable[[Tensor], Tensor],
    latents: int | LatentSampler,
    steps: int = 2000,
    *,
    batch_size: int = 64,
    rate: float = 1e-3,
    pixel_weight: float = 0.0,
    seed: int = 0,
    after_step: Callable[[int, float], object] | None = None,
) -> Encoder:
    """Train an encoder E that finds the latent of an image of G: `E(x).mean` is [N, dim] for x [N, C, R, R].

    The loss is E's squared error on z from G(z), relative to the variance of z: 1 is no better than the mean latent,
    where E starts. It is that of `loss.latent_regression`. G is not changed.

    Args:
        G: maps latents [N, dim] to square images [N, C, R, R], usually in [-1, 1]; used in evaluation mode.
        latents: the length of z ~ N(0, I); or a function that draws latents, such as `w` of a StyleGAN's mapping.
        steps: of Adam.
        batch_size: images in each step.
        rate: Adam's learning rate; it falls to zero over the second half of the steps.
        pixel_weight: of the mean squared error of G(E(x)), if it is to be trained on too.
        seed: of E's weights and of the latents.
        after_step: called after each step with the number of steps done and the loss.

    Raises:
        UserError: a number out of range, or outputs of G that are not finite square images.
    """
    check_at_least(1, steps=steps)
    check_at_least(2, batch_size=batch_size)
    if not rate > 0 or not pixel_weight >= 0:
        raise UserError(f"rate is {rate}, pixel_weight {pixel_weight}; expected a rate above 0, a weight of 0 or more")
    device = _device(G)
    sample = latent_sampler(latents)
    generator = keyed_generator(seed, "inversion", 0, str(device))
    known = sample(SAMPLES, keyed_generator(seed, "inversion/mean", 0, str(device))).float()
    mean, variance = known.mean(0), known.var(0).mean()
    with _evaluating(G):
        E = _encoder(_images(G, sample(2, generator)), known.shape[1], seed).to(device)
        with torch.no_grad():
            E.latent.weight.zero_()
            E.latent.bias.copy_(mean)
        optimizer = torch.optim.Adam(E.parameters(), lr=rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 - 2 * step / steps))
        for step in range(steps):
            z = sample(batch_size, generator)
            x = _images(G, z)
            q = E(x)
            loss = posterior_error(q, z, "squared") / variance
            if pixel_weight:
                loss = loss + pixel_weight * (G(q.mean) - x).square().mean()
            optimizer.zero_grad()
            loss.backward(inputs=list(E.parameters()))  # gradients of G's weights are not even computed
            optimizer.step()
            schedule.step()
            if after_step is not None:
                after_step(step + 1, loss.item())

        def passes() -> Iterator[Callable[[], object]]:
            for _ in range(16):
                x = _images(G, sample(max(128, batch_size), generator))
                yield partial(E.all_outputs, x)

        standing_statistics(E, E, passes())
    return E.requires_grad_(False)


@torch.no_grad()
def mean_latent(latents: int | LatentSampler, device: str = "cpu") -> Tensor:
    """Return the mean of drawn latents, [dim]: the usual start of latent optimisation without an encoder."""
    return latent_sampler(latents)(SAMPLES, keyed_generator(0, "inversion/mean", 0, device)).float().mean(0)


def latent_sampler(latents: int | LatentSampler) -> LatentSampler:
    """Return a function that draws latents, of the length of z ~ N(0, I) or as given; what it draws is checked.

    Raises:
        UserError: the length is below 1; and from the function, if it does not draw finite latents [count, dim].
    """
    if callable(latents):
        drawn = latents

        @torch.no_grad()
        def checked(count: int, generator: torch.Generator) -> Tensor:
            z = drawn(count, generator)
            if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != count or not bool(z.isfinite().all()):
                got = list(z.shape) if isinstance(z, Tensor) else type(z).__name__
                raise UserError(f"the latents drawn are {got}; expected finite numbers [{count}, dim]")
            return z

        return checked
    check_at_least(1, latents=latents)
    dim = latents
    return lambda count, generator: torch.randn(count, dim, generator=generator, device=generator.device)


@torch.no_grad()
def _images(G: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Return G(z), checked."""
    x = G(z)
    if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[0] != len(z) or x.shape[2] != x.shape[3]:
        got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise UserError(f"the generator returns {got} for {len(z)} latents; expected square images [N, C, R, R]")
    if not bool(x.isfinite().all()):
        raise UserError("the generator outputs numbers that are not finite")
    return x.float()


def _encoder(x: Tensor, dim: int, seed: int) -> Encoder:
    """Return an untrained E for images like x [N, C, R, R]: a small ResNet that halves them down to 4 px or so."""
    side = x.shape[-1]
    stem = "imagenet" if side >= 128 else "small"
    stages = max(1, (side // (4 if stem == "imagenet" else 1)).bit_length() - 2)
    widths = (WIDTHS + (WIDTHS[-1],) * stages)[:stages]
    E = Encoder(ResNetV2(x.shape[1], widths, (1,) * stages, stem=stem), dim, 256, 4, "deterministic")
    init_weights(E, keyed_generator(seed, "inversion/E"))
    return E


def _device(G: Any) -> torch.device:
    first = next(G.parameters(), None) if isinstance(G, nn.Module) else None
    return torch.device("cpu") if first is None else first.device


@contextmanager
def _evaluating(G: Any) -> Iterator[None]:
    """Put G into evaluation mode, and each of its modules back into its own mode after."""
    modes = {module: module.training for module in G.modules()} if isinstance(G, nn.Module) else {}
    if isinstance(G, nn.Module):
        G.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
