"""BigBiGAN's game (Donahue & Simonyan 2019, Section 2): who sees what, and what each side minimises.

    encoder pairs    (x, E(x))   x from the data
    generator pairs  (G(z), z)   z from P_z

D scores both kinds; the losses are in `bigbigan.losses`. Everything random comes from the generator handed in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bigbigan.config import Config
from bigbigan.data.batches import pool_to
from bigbigan.losses import Scores, discriminator_loss, encoder_generator_loss
from bigbigan.models import Networks, Posterior

__all__ = ["BigBiGAN", "sample_prior"]


def sample_prior(count: int, dim: int, prior: str, generator: torch.Generator) -> Tensor:
    """z ~ P_z: [count, dim], N(0, I) for "normal", U(-1, 1) for "uniform"."""
    if prior == "normal":
        return torch.randn(count, dim, generator=generator, device=generator.device)
    return torch.rand(count, dim, generator=generator, device=generator.device) * 2 - 1


class BigBiGAN:
    """The two losses of a training step. Both take x [N, C, R_E, R_E] in [-1, 1] and a random generator.

    Without E (a GAN) there are scores of images alone: encoder pairs are (x, nothing).
    """

    def __init__(self, config: Config, networks: Networks) -> None:
        self.config = config
        self.G, self.E, self.D = networks
        self.resolution = config.generator.resolution

    def sample_prior(self, count: int, noise: torch.Generator) -> Tensor:
        return sample_prior(count, self.config.latent.dim, self.config.latent.prior, noise)

    def _pairs(
        self, x: Tensor, noise: torch.Generator
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Posterior | None]:
        z = self.sample_prior(len(x), noise)
        if self.E is None:
            return self.G(z), None, None, None
        q = self.E(x)
        z_hat = q.sample(torch.randn(q.mean.shape, generator=noise, device=x.device))
        return self.G(z), z, z_hat, q

    def discriminator_loss(self, x: Tensor, noise: torch.Generator) -> tuple[Tensor, Scores, Scores]:
        """L_D of one batch, with the scores of encoder and of generator pairs."""
        with torch.no_grad():  # pairs are made without gradient to G and E
            x_hat, z, z_hat, _ = self._pairs(x, noise)
        images = torch.cat([pool_to(x, self.resolution), x_hat])
        latents = None if z is None or z_hat is None else torch.cat([z_hat, z])
        scores = self.D(images, latents)  # no batch norm in D: one pass equals two
        enc = {name: s[: len(x)] for name, s in scores.items()}
        gen = {name: s[len(x) :] for name, s in scores.items()}
        return discriminator_loss(enc, gen, self.config.loss.hinge == "sum"), enc, gen

    def encoder_generator_loss(
        self, x: Tensor, noise: torch.Generator
    ) -> tuple[Tensor, Scores, Scores, Posterior | None]:
        """L_EG of one batch, with the scores and q(z|x). D is used as it is and gets no gradient.

        E's gradient comes through encoder pairs only, G's through generator pairs only. As x and z are given,
        F(x) and H(z) need no graph; two passes through D let autograd see that.
        """
        self.D.eval().requires_grad_(False)  # eval: the power iteration belongs to D's own steps
        x_hat, z, z_hat, q = self._pairs(x, noise)
        enc = {} if z_hat is None else self.D(pool_to(x, self.resolution), z_hat)
        gen = self.D(x_hat, z)
        self.D.train().requires_grad_(True)
        return encoder_generator_loss(enc, gen), enc, gen, q
