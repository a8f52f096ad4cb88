"""The networks. `build` is the only place where a config meets a constructor."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from bigbigan.config import Config, EncoderConfig
from bigbigan.models.discriminator import Discriminator, ImageTrunk
from bigbigan.models.encoder import Encoder, Posterior
from bigbigan.models.generator import Generator
from bigbigan.models.layers import init_orthogonal
from bigbigan.models.resnet import BasicBlock, Bottleneck, ResNetV2
from bigbigan.models.revnet import RevNet
from bigbigan.randomness import keyed_generator

__all__ = ["Discriminator", "Encoder", "Generator", "Networks", "Posterior", "build", "construct"]


class Networks(NamedTuple):
    G: Generator
    E: Encoder | None  # None in a GAN
    D: Discriminator


def build(config: Config, device: str | torch.device = "cpu") -> Networks:
    """G, E and D as the config describes them, initialised from its seed, in training mode on `device`."""
    networks = construct(config)
    for name, network in networks._asdict().items():
        if network is not None:
            # Drawn on the CPU, so that a seed means the same weights on every device.
            init_orthogonal(network, keyed_generator(config.training.seed, f"init/{name}"))
            network.to(device=device, memory_format=torch.channels_last)
    return networks


def construct(c: Config) -> Networks:
    """The networks as the config describes them, weights not yet drawn."""
    g, d = c.generator, c.discriminator
    G = Generator(c.latent.dim, g.channels, c.data.channels, g.shared_dim, g.attention, skip_z=g.skip_z)
    F = ImageTrunk(c.data.channels, d.channels, g.resolution, d.final_size, d.attention)
    D = Discriminator(F, c.latent.dim, d.mlp_width, d.mlp_layers, c.loss.scores, d.pair_norm)
    if not c.loss.has_encoder:
        return Networks(G, None, D)
    E = Encoder(
        _trunk(c.data.channels, c.encoder),
        c.latent.dim,
        c.encoder.head_width,
        c.encoder.head_layers,
        output="normal" if c.encoder.stochastic else "uniform" if c.latent.prior == "uniform" else "deterministic",
        stdev_bias=c.encoder.stdev_bias,
    )
    return Networks(G, E, D)


def _trunk(image_channels: int, e: EncoderConfig) -> nn.Module:
    if e.block == "reversible":
        return RevNet(image_channels, e.widths, e.blocks_per_stage, e.stem, recompute=not e.keep_activations)
    block = Bottleneck if e.block == "bottleneck" else BasicBlock
    return ResNetV2(image_channels, e.widths, e.blocks_per_stage, block, e.stem)
