"""BigBiGAN's game (Donahue & Simonyan 2019, Section 2).

    encoder pairs    (x, E(x))   x from the data
    generator pairs  (G(z), z)   z from P_z

D scores both kinds; the losses are in `bigbigan.methods.losses`. A step is `d_steps` moves of D, then one of
G and E together. Without E it is a GAN: BigGAN, where G and D are told labels (`data.labels`), or the paper's "No E".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from bigbigan.methods.base import Draws, Move, Outcome, System, generate, sample_labels
from bigbigan.methods.losses import discriminator_loss, encoder_generator_loss, orthogonal_penalty

__all__ = ["BigBiGAN"]


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
        y = sample_labels(count, self.config.data, noise)
        return draws if y is None else draws | {"y": y}

    def discriminator_move(self, x: Tensor, draws: Draws, y: Tensor | None = None) -> Iterator[Outcome]:
        """L_D of one batch; y int64 [N] are the labels of x, where D is told them."""
        G, D, E = self.networks.generator, self.networks.discriminator, self.networks.E
        z, y_hat = draws["z"], draws.get("y")
        with torch.no_grad():  # pairs are made without gradient to G and E
            x_hat = generate(G, z, y_hat)
            latents = None if E is None else torch.cat([E(x).sample(draws["eps"]), z])
        labels = None if y is None or y_hat is None else torch.cat([y, y_hat])
        images = torch.cat([self.view(x, draws, "x"), self.view(x_hat, draws, "x_hat")])
        scores = D(images, latents, labels)  # no batch norm in D: one pass equals two
        enc = {name: s[: len(x)] for name, s in scores.items()}
        gen = {name: s[len(x) :] for name, s in scores.items()}
        yield Outcome({"d": discriminator_loss(enc, gen, self.config.loss.hinge == "sum")}, enc, gen)

    def encoder_generator_move(self, x: Tensor, draws: Draws, y: Tensor | None = None) -> Iterator[Outcome]:
        """L_EG of one batch, E's term and then G's. D is used as it is and gets no gradient.

        E's gradient comes through encoder pairs only, G's through generator pairs only. As x and z are given,
        F(x) and H(z) need no graph; two passes through D let autograd see that.
        """
        G, D, E = self.networks.generator, self.networks.discriminator, self.networks.E
        z, y_hat = draws["z"], draws.get("y")
        if E is not None:
            q = E(x)
            with held_fixed(D):
                enc = D(self.view(x, draws, "x"), q.sample(draws["eps"]))
            yield Outcome({"eg": encoder_generator_loss(enc, {})}, enc, posterior=q)
        x_hat = generate(G, z, y_hat)
        with held_fixed(D):
            gen = D(self.view(x_hat, draws, "x_hat"), None if E is None else z, y_hat)
        loss = encoder_generator_loss({}, gen)
        if weight := self.config.loss.orthogonal:
            loss = loss + weight * orthogonal_penalty(G)
        yield Outcome({"eg": loss}, gen=gen)


@contextmanager
def held_fixed(D: nn.Module) -> Iterator[None]:
    """Freeze D: no gradients for its weights, and no power iterations, which belong to its own updates."""
    D.eval().requires_grad_(False)
    try:
        yield
    finally:
        D.train().requires_grad_(True)
