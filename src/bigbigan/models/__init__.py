"""The networks. `build` is the only place where a config meets a constructor."""

from __future__ import annotations

from typing import NamedTuple

import torch

from bigbigan.config import Config
from bigbigan.models.discriminator import Discriminator, ImageTrunk
from bigbigan.models.encoder import Encoder, Posterior
from bigbigan.models.generator import Generator
from bigbigan.models.layers import init_orthogonal
from bigbigan.models.resnet import ResNetV2
from bigbigan.randomness import keyed_generator

__all__ = ["Discriminator", "Encoder", "Generator", "Networks", "Posterior", "build"]


class Networks(NamedTuple):
    G: Generator
    E: Encoder
    D: Discriminator


def build(config: Config, device: str | torch.device = "cpu") -> Networks:
    """G, E and D as the config describes them, initialised from its seed, in training mode on `device`."""
    c = config
    G = Generator(c.latent.dim, c.generator.channels, c.data.channels, c.generator.shared_dim)
    E = Encoder(
        ResNetV2(c.data.channels, c.encoder.widths, c.encoder.blocks),
        c.latent.dim,
        c.encoder.head_width,
        c.encoder.head_layers,
        output="normal" if c.encoder.stochastic else "uniform" if c.latent.prior == "uniform" else "deterministic",
        stdev_bias=c.encoder.stdev_bias,
    )
    D = Discriminator(
        ImageTrunk(c.data.channels, c.discriminator.channels, downsamples=len(c.generator.channels) - 1),
        c.latent.dim,
        c.discriminator.mlp_width,
        c.discriminator.mlp_layers,
        c.loss.scores,
        c.discriminator.pair_norm,
    )
    networks = Networks(G, E, D)
    for name, network in networks._asdict().items():
        # Drawn on the CPU, so that a seed means the same weights on every device.
        init_orthogonal(network, keyed_generator(c.training.seed, f"init/{name}"))
        network.to(device=device, memory_format=torch.channels_last)
    return networks
