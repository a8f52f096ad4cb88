"""A method: which networks are trained, by which losses."""

from typing import ClassVar

import torch

from bigbigan.image import pool_to
from bigbigan.methods import Outcome, System
from bigbigan.methods.losses import pixel_loss


class Denoising(System):
    """G(E(x + noise)) reconstructs x."""

    players: ClassVar = {"eg": "GE"}  # one optimizer for G and E
    generator_is_decoder: ClassVar = True  # G is only ever given E(x)

    @property
    def updates(self):
        """The updates of one training step, each on a batch of its own."""
        return [self.update]

    def sample_noise(self, count, generator):
        """Draw the noise of an update: one row for each image, from this generator only, so that runs can resume."""
        side = self.config.encoder.resolution
        shape = (count, self.config.data.channels, side, side)
        return {"eps": torch.randn(shape, generator=generator, device=generator.device)}

    def update(self, x, noise):
        """Yield the losses of images x [N, C, R, R] in [-1, 1], each a mean over images."""
        q = self.networks.encoder(x + 0.3 * noise["eps"])
        x_hat = self.networks.generator(q.mean)
        loss = pixel_loss(pool_to(x, self.resolution), x_hat, "l2")
        yield Outcome({"eg": loss}, posterior=q, metrics={"latent_norm": q.mean.detach().norm(dim=1).mean()})
