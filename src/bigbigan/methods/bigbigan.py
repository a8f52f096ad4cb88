"""Train BigBiGAN (Donahue & Simonyan 2019, Section 2).

    encoder pairs    (x, E(x))   x from the data
    generator pairs  (G(z), z)   z from P_z

With `encoder.augment` E sees an augmented x, and D the pair of x itself and that latent (docs/theory.md).

D scores both kinds; the losses are in `bigbigan.methods.losses`. A training step is `d_steps` updates of D, then one of
G and E together. With `e_steps` above 1, which the paper does not have, updates of E alone precede it. Without E the
system is a GAN: BigGAN if G and D are conditioned on labels (`data.labels`), or the paper's "No E".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from bigbigan.methods.base import Noise, Outcome, System, Update, generate, sample_labels
from bigbigan.methods.losses import discriminator_loss, encoder_generator_loss, orthogonal_penalty, posterior_error
from bigbigan.models.batch_norm import batch_statistics

__all__ = ["BigBiGAN"]


class BigBiGAN(System):
    """BigBiGAN, or a GAN if there is no E; see the module."""

    players: ClassVar = {"d": "D", "eg": "GE"}

    @property
    def updates(self) -> Sequence[Update]:
        t = self.config.training
        of_d, of_e = [self.discriminator_update] * t.d_steps, [self.encoder_update] * (t.e_steps - 1)
        return [*of_d, *of_e, self.encoder_generator_update]

    def sample_noise(self, count: int, generator: torch.Generator) -> Noise:
        """Draw z ~ P_z and eps ~ N(0, I) of q(z|x); without E, classes y for G if there are several."""
        noise = super().sample_noise(count, generator)
        if self.networks.E is not None:
            return noise | {"eps": torch.randn(noise["z"].shape, generator=generator, device=generator.device)}
        y = sample_labels(count, self.config.data, generator)
        return noise if y is None else noise | {"y": y}

    def discriminator_update(self, x: Tensor, noise: Noise, y: Tensor | None = None) -> Iterator[Outcome]:
        """Return L_D of one batch; y int64 [N] are the labels of x if D is conditioned on them."""
        G, D, E = self.networks.generator, self.networks.discriminator, self.networks.E
        z, y_hat = noise["z"], noise.get("y")
        with torch.no_grad():  # no gradient to G and E
            x_hat = generate(G, z, y_hat)
            latents = None if E is None else torch.cat([E(self.e_input(x, noise)).sample(noise["eps"]), z])
        labels = None if y is None or y_hat is None else torch.cat([y, y_hat])
        images = torch.cat([self.d_input(x, noise, "x"), self.d_input(x_hat, noise, "x_hat")])
        scores = D(images, latents, labels)  # no batch norm in D: one pass equals two
        enc = {name: s[: len(x)] for name, s in scores.items()}
        gen = {name: s[len(x) :] for name, s in scores.items()}
        yield Outcome({"d": discriminator_loss(enc, gen, self.config.loss.hinge == "sum")}, enc, gen)

    def encoder_update(self, x: Tensor, noise: Noise, y: Tensor | None = None) -> Iterator[Outcome]:
        """Return E's term of L_EG of one batch; E alone is updated. D is frozen."""
        q = self.networks.encoder(self.e_input(x, noise))
        with frozen(self.networks.discriminator):
            enc = self.networks.discriminator(self.d_input(x, noise, "x"), q.sample(noise["eps"]))
        yield Outcome({"eg": encoder_generator_loss(enc, {})}, enc, posterior=q)

    def encoder_generator_update(self, x: Tensor, noise: Noise, y: Tensor | None = None) -> Iterator[Outcome]:
        """Return L_EG of one batch, E's term and then G's. D is frozen.

        E's gradient comes through encoder pairs only, G's through generator pairs only. As x and z are inputs, F(x)
        and H(z) need no graph; two passes through D let autograd see that.
        """
        G, D, E = self.networks.generator, self.networks.discriminator, self.networks.E
        z, y_hat = noise["z"], noise.get("y")
        if E is not None:
            yield from self.encoder_update(x, noise)
        x_hat = generate(G, z, y_hat)
        with frozen(D):
            gen = D(self.d_input(x_hat, noise, "x_hat"), None if E is None else z, y_hat)
        loss, metrics = encoder_generator_loss({}, gen), {}
        if self.config.loss.latent_regression:
            error = self.latent_regression_error(x_hat, z)
            loss, metrics = loss + self.latent_regression_weight * error, {"latent_regression": error.detach()}
        if weight := self.config.loss.orthogonal:
            loss = loss + weight * orthogonal_penalty(G)
        yield Outcome({"eg": loss}, gen=gen, metrics=metrics)

    @property
    def latent_regression_weight(self) -> float:
        """The weight at this step: loss.latent_regression, decayed to its share `latent_regression_final`."""
        c = self.config.loss
        return c.latent_regression * c.latent_regression_final**self.progress

    def latent_regression_error(self, x_hat: Tensor, z: Tensor) -> Tensor:
        """Return E's error on z [N, dim_z] from x_hat = G(z) [N, C, R_G, R_G]; see `posterior_error`.

        E's running statistics of batch norm remain those of real images. With `latent_regression_in_g` the gradient
        also reaches G.
        """
        c, E, resolution = self.config.loss, self.networks.encoder, self.config.encoder.resolution
        x_hat = x_hat if c.latent_regression_in_g else x_hat.detach()
        if x_hat.shape[-1] != resolution:
            x_hat = interpolate(x_hat, size=(resolution, resolution), mode="bilinear")
        with batch_statistics(E):
            return posterior_error(E(x_hat), z, c.latent_regression_form)


@contextmanager
def frozen(D: nn.Module) -> Iterator[None]:
    """Freeze D: no gradients for its weights, and no power iterations, which belong to its own updates."""
    D.eval().requires_grad_(False)
    try:
        yield
    finally:
        D.train().requires_grad_(True)
