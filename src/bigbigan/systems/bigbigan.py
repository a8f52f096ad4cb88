"""BigBiGAN's game (Donahue & Simonyan 2019, Section 2).

    encoder pairs    (x, E(x))   x from the data
    generator pairs  (G(z), z)   z from P_z

D scores both kinds; the losses are in `bigbigan.losses`. A step is `d_steps` moves of D, then one of G and E together.
Without E it is a GAN: BigGAN, where G and D are told labels (`data.labels`), or the paper's "No E".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from bigbigan.losses import discriminator_loss, encoder_generator_loss, orthogonal_penalty
from bigbigan.models import Posterior
from bigbigan.systems.base import Draws, Move, Outcome, System, generate, sample_labels

__all__ = ["BigBiGAN"]


class Pairs(NamedTuple):
    """Without E (a GAN) there are images alone, and no latents; labels y of x_hat where G is told them."""

    x_hat: Tensor  # G(z)
    y: Tensor | None
    z: Tensor | None
    z_hat: Tensor | None  # of E(x)
    posterior: Posterior | None


class BigBiGAN(System):
    learners: ClassVar = {"d": "D", "eg": "GE"}

    @property
    def moves(self) -> Sequence[Move]:
        return [self.discriminator_move] * self.config.training.d_steps + [self.encoder_generator_move]

    def draw(self, count: int, noise: torch.Generator) -> Draws:
        """z ~ P_z, and eps ~ N(0, I) of q(z|x); without E classes y for G, where there are several."""
        draws = super().draw(count, noise)
        if self.networks.E is not None:
            return draws | {"eps": torch.randn(draws["z"].shape, generator=noise, device=noise.device)}
        y = sample_labels(count, self.config.data.classes, noise)
        return draws if y is None else draws | {"y": y}

    def _pairs(self, x: Tensor, draws: Draws) -> Pairs:
        G, E = self.networks.generator, self.networks.E
        z = draws["z"]
        if E is None:
            y = draws.get("y")
            return Pairs(generate(G, z, y), y, None, None, None)
        q = E(x)
        return Pairs(G(z), None, z, q.sample(draws["eps"]), q)

    def discriminator_move(self, x: Tensor, draws: Draws, y: Tensor | None = None) -> Outcome:
        """L_D of one batch; y int64 [N] are the labels of x, where D is told them."""
        D = self.networks.discriminator
        with torch.no_grad():  # pairs are made without gradient to G and E
            x_hat, y_hat, z, z_hat, _ = self._pairs(x, draws)
        labels = None if y is None or y_hat is None else torch.cat([y, y_hat])
        images = torch.cat([self.view(x, draws, "x"), self.view(x_hat, draws, "x_hat")])
        latents = None if z is None or z_hat is None else torch.cat([z_hat, z])
        scores = D(images, latents, labels)  # no batch norm in D: one pass equals two
        enc = {name: s[: len(x)] for name, s in scores.items()}
        gen = {name: s[len(x) :] for name, s in scores.items()}
        return Outcome({"d": discriminator_loss(enc, gen, self.config.loss.hinge == "sum")}, enc, gen)

    def encoder_generator_move(self, x: Tensor, draws: Draws, y: Tensor | None = None) -> Outcome:
        """L_EG of one batch. D is used as it is and gets no gradient.

        E's gradient comes through encoder pairs only, G's through generator pairs only. As x and z are given,
        F(x) and H(z) need no graph; two passes through D let autograd see that.
        """
        D = self.networks.discriminator
        D.eval().requires_grad_(False)  # eval: the power iteration belongs to D's own moves
        x_hat, y_hat, z, z_hat, q = self._pairs(x, draws)
        enc = {} if z_hat is None else D(self.view(x, draws, "x"), z_hat)
        gen = D(self.view(x_hat, draws, "x_hat"), z, y_hat)
        D.train().requires_grad_(True)
        loss = encoder_generator_loss(enc, gen)
        if weight := self.config.loss.orthogonal:
            loss = loss + weight * orthogonal_penalty(self.networks.generator)
        return Outcome({"eg": loss}, posterior=q)
