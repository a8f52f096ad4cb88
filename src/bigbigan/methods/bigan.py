"""Train BiGAN and its baselines (Donahue, Krähenbühl & Darrell 2017): logistic losses, all networks updated at once.

Each batch gives every player its gradient at the same weights, and then all players step.

    BiGAN                    D sees (x, E(x)) and (G(z), z)
    its D without latents    a plain GAN, whose D is the feature extractor ("D" in the paper's table)
    latent regressor         the same GAN, and an E that predicts z from G(z); joint version: G minimises E's error too
    autoencoder              G(E(x)) reconstructs x; no D
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from bigbigan.image import pool_to
from bigbigan.methods.base import Noise, Outcome, System, Update
from bigbigan.methods.losses import (
    latent_regression_loss,
    logistic_discriminator_loss,
    logistic_encoder_generator_loss,
    pixel_loss,
)
from bigbigan.models import Encoder, Posterior

__all__ = ["Autoencoder", "BiGAN", "LatentRegressor"]


class BiGAN(System):
    """BiGAN if D has the score s_xz, a GAN if it has only s_x."""

    players: ClassVar = {"d": "D", "eg": "GE"}

    @property
    def updates(self) -> Sequence[Update]:
        return [self.update]

    def update(self, x: Tensor, noise: Noise) -> Iterator[Outcome]:
        """Return both losses of one pass through each network: L_D trains only D, L_EG trains G and E through D."""
        G, E = self.networks.generator, self.networks.E
        D = self.networks.discriminator
        z = noise["z"]
        q = None if E is None else E(x)
        x_hat = G(z)
        # Two passes: D has batch norm, and real and generated images are normalised by their own statistics.
        enc = D(self.d_input(x, noise, "x"), None if q is None else q.mean)
        gen = D(self.d_input(x_hat, noise, "x_hat"), None if q is None else z)
        eg = logistic_encoder_generator_loss(enc if E is not None else {}, gen)
        yield Outcome({"d": logistic_discriminator_loss(enc, gen), "eg": eg}, enc, gen, q)


class LatentRegressor(System):
    """A GAN, and E trained on its samples.

    With `loss.regression_of_g` (0.25 in the joint latent regressor) G minimises E's error too.
    """

    players: ClassVar = {"d": "D", "eg": "GE"}

    @property
    def updates(self) -> Sequence[Update]:
        return [self.update]

    def update(self, x: Tensor, noise: Noise) -> Iterator[Outcome]:
        """Return the GAN's losses, and E's error on G's samples in the loss of G and E."""
        G, D, E = self.networks.generator, self.networks.discriminator, self.networks.encoder
        assert isinstance(E, Encoder)
        weight = self.config.loss.regression_of_g
        z = noise["z"]
        x_hat = G(z)
        enc = D(self.d_input(x, noise, "x"), None)
        gen = D(self.d_input(x_hat, noise, "x_hat"), None)
        error = latent_regression_loss(E(x_hat if weight else x_hat.detach()).logits, z)
        eg = logistic_encoder_generator_loss({}, gen) + (weight or 1.0) * error
        yield Outcome({"d": logistic_discriminator_loss(enc, gen), "eg": eg}, enc, gen)


class Autoencoder(System):
    """G(E(x)) trained to reconstruct x in pixels; see `pixel_loss`."""

    players: ClassVar = {"eg": "GE"}
    generator_is_decoder: ClassVar = True

    @property
    def updates(self) -> Sequence[Update]:
        return [self.update]

    def sample_noise(self, count: int, generator: torch.Generator) -> Noise:
        """Return no noise: nothing is random but the batch."""
        return {}

    def update(self, x: Tensor, noise: Noise) -> Iterator[Outcome]:
        """Return the reconstruction loss of one batch."""
        G, E = self.networks.generator, self.networks.encoder
        q: Posterior = E(x)
        yield Outcome({"eg": pixel_loss(pool_to(x, self.resolution), G(q.mean), self.config.loss.pixel)}, posterior=q)
