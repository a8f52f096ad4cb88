"""BiGAN and its companions (Donahue, Krähenbühl & Darrell 2017): logistic losses, all networks moving at once.

Each batch gives every learner its gradient at the same weights, and then all of them step.

    BiGAN                    D sees (x, E(x)) and (G(z), z)
    its D without latents    a plain GAN, whose D is the feature extractor ("D" in their table)
    latent regressor         the same GAN, and an E that learns z from G(z); jointly: G is to make z easy to find
    autoencoder              G(E(x)) is to be x; no D
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from bigbigan.image import pool_to
from bigbigan.methods.base import Draws, Move, Outcome, System
from bigbigan.methods.losses import (
    latent_regression_loss,
    logistic_discriminator_loss,
    logistic_encoder_generator_loss,
    pixel_loss,
)
from bigbigan.models import Encoder, Posterior

__all__ = ["Autoencoder", "BiGAN", "LatentRegressor"]


class BiGAN(System):
    """With s_xz a BiGAN, with s_x alone a GAN."""

    learners: ClassVar = {"d": "D", "eg": "GE"}

    @property
    def moves(self) -> Sequence[Move]:
        return [self.move]

    def move(self, x: Tensor, draws: Draws) -> Iterator[Outcome]:
        """One pass through each network serves both losses: D's stops at D, the other one goes through it."""
        G, E = self.networks.generator, self.networks.E
        D = self.networks.discriminator
        z = draws["z"]
        q = None if E is None else E(x)
        x_hat = G(z)
        # Two passes: D has batch norm, and images of either kind are normalised among themselves.
        enc = D(self.view(x, draws, "x"), None if q is None else q.mean)
        gen = D(self.view(x_hat, draws, "x_hat"), None if q is None else z)
        eg = logistic_encoder_generator_loss(enc if E is not None else {}, gen)
        yield Outcome({"d": logistic_discriminator_loss(enc, gen), "eg": eg}, enc, gen, q)


class LatentRegressor(System):
    """A GAN, and E trained on its samples. With `loss.regression_of_g` (0.25 in the joint one) G sees E's error too."""

    learners: ClassVar = {"d": "D", "eg": "GE"}

    @property
    def moves(self) -> Sequence[Move]:
        return [self.move]

    def move(self, x: Tensor, draws: Draws) -> Iterator[Outcome]:
        G, D, E = self.networks.generator, self.networks.discriminator, self.networks.encoder
        assert isinstance(E, Encoder)
        weight = self.config.loss.regression_of_g
        z = draws["z"]
        x_hat = G(z)
        enc, gen = D(self.view(x, draws, "x"), None), D(self.view(x_hat, draws, "x_hat"), None)
        error = latent_regression_loss(E(x_hat if weight else x_hat.detach()).logits, z)
        eg = logistic_encoder_generator_loss({}, gen) + (weight or 1.0) * error
        yield Outcome({"d": logistic_discriminator_loss(enc, gen), "eg": eg}, enc, gen)


class Autoencoder(System):
    learners: ClassVar = {"eg": "GE"}
    decodes_alone: ClassVar = True

    @property
    def moves(self) -> Sequence[Move]:
        return [self.move]

    def draw(self, count: int, noise: torch.Generator) -> Draws:
        """Nothing: the batch is all there is."""
        return {}

    def move(self, x: Tensor, draws: Draws) -> Iterator[Outcome]:
        G, E = self.networks.generator, self.networks.encoder
        q: Posterior = E(x)
        yield Outcome({"eg": pixel_loss(pool_to(x, self.resolution), G(q.mean), self.config.loss.pixel)}, posterior=q)
