"""Build the networks G, E and D from a config. No other module of this package reads a config."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bigbigan.config import Config, EncoderConfig
from bigbigan.errors import UserError
from bigbigan.models import pretext_views as views
from bigbigan.models.bigan import (
    STD,
    AlexNet,
    ConvDiscriminator,
    ConvGenerator,
    MLPDiscriminator,
    MLPGenerator,
    MLPTrunk,
)
from bigbigan.models.discriminator import Discriminator, ImageTrunk
from bigbigan.models.encoder import Encoder, FeatureEncoder, Posterior
from bigbigan.models.generator import Generator
from bigbigan.models.layers import init_weights
from bigbigan.models.pretext_heads import ColourHead, ContextHead, PretextEncoder, pair_head
from bigbigan.models.resnet import BasicBlock, Bottleneck, ResNetV2
from bigbigan.models.revnet import RevNet
from bigbigan.randomness import keyed_generator
from bigbigan.user_code import import_named, is_named, message_and_place

__all__ = [
    "ColourHead",
    "Discriminator",
    "Encoder",
    "FeatureEncoder",
    "Generator",
    "Networks",
    "Posterior",
    "PretextEncoder",
    "build",
    "construct",
]


class Networks(NamedTuple):
    """G: z [N, dim_z] to images in [-1, 1]. E: see `Encoder`. D: images and z (or None) to scores by name."""

    G: nn.Module | None  # None if E is trained by pretext tasks
    E: FeatureEncoder | None  # None in a GAN, and in a model that was exported without E
    D: nn.Module | None  # None in an autoencoder, without G, and in a model that was exported without D

    def present(self) -> dict[str, nn.Module]:
        """Return the networks that are not None, by letter."""
        return {letter: network for letter, network in self._asdict().items() if network is not None}

    @property
    def generator(self) -> nn.Module:
        """G. Raises UserError if there is none."""
        if self.G is None:
            raise UserError("this model has no generator to sample or reconstruct: it is an encoder alone")
        return self.G

    @property
    def encoder(self) -> FeatureEncoder:
        """E. Raises UserError if there is none."""
        if self.E is None:
            raise UserError("this model has no encoder to encode or reconstruct: it is a GAN, or only a generator")
        return self.E

    @property
    def discriminator(self) -> nn.Module:
        """D. Raises UserError if there is none."""
        if self.D is None:
            kind = "an autoencoder, or was exported without one" if self.G else "an encoder alone"
            raise UserError(f"this model has no discriminator: it is {kind}")
        return self.D


def build(config: Config, device: str | torch.device = "cpu") -> Networks:
    """Build G, E and D of a config, initialised from its seed, in training mode on `device`."""
    with _seeded(config) if is_named(config.encoder.block) else nullcontext():
        networks = construct(config)
    for name, network in networks._asdict().items():
        if network is not None:
            # Weights are drawn on the CPU, so that a seed gives the same weights on every device.
            init_weights(network, keyed_generator(config.training.seed, f"init/{name}"))
            network.to(device=device, memory_format=torch.channels_last)
    return networks


@contextmanager
def _seeded(config: Config) -> Iterator[None]:
    """Seed torch's global generator, from which layers of the user's own draw their first weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        yield


def construct(config: Config) -> Networks:
    """Construct the networks of a config, without initialising their weights from its seed."""
    return Networks(
        _generator(config) if config.has_generator else None,
        _encoder(config) if config.has_encoder else None,
        _discriminator(config) if config.has_discriminator else None,
    )


def _generator(c: Config) -> nn.Module:
    g = c.generator
    if g.network == "mlp":
        return MLPGenerator(c.latent.dim, g.channels, c.data.channels, g.resolution)
    if g.network == "conv":
        return ConvGenerator(c.latent.dim, g.channels, c.data.channels)
    classes = c.data.classes
    return Generator(c.latent.dim, g.channels, c.data.channels, g.shared_dim, g.attention, classes, g.skip_z)


def _discriminator(c: Config) -> nn.Module:
    d, resolution = c.discriminator, c.generator.resolution
    if d.network == "biggan":
        F = ImageTrunk(c.data.channels, d.channels, resolution, d.final_size, d.attention, d.joint_maps)
        classes = 0 if c.data.labels == "none" else c.data.classes
        return Discriminator(
            F, c.latent.dim, d.mlp_width, d.mlp_layers, c.loss.scores, d.pair_norm, classes, d.projection
        )
    kind = MLPDiscriminator if d.network == "mlp" else ConvDiscriminator
    return kind(c.data.channels, d.channels, resolution, c.latent.dim if c.loss.s_xz else 0, d.bias)


def _encoder(c: Config) -> FeatureEncoder:
    e = c.encoder
    if c.system == "pretext":
        return _pretext_encoder(c)
    bigan_networks = c.system != "bigbigan" and not c.is_own_system
    if e.stochastic:
        output = "normal"
    else:
        output = "deterministic" if c.latent.prior == "normal" else "sigmoid" if bigan_networks else "tanh"
    latent_std = (0.0 if c.system == "latent_regressor" else STD) if bigan_networks else None
    return Encoder(_trunk(c), c.latent.dim, e.head_width, e.head_layers, output, e.stdev_bias, latent_std)


def _pretext_encoder(c: Config) -> PretextEncoder:
    """Build E with a head for each task.

    Tasks that share a trunk see the same inputs: grey if one of them is colorization. If the only task uses patches,
    evaluation uses patches too.
    """
    tasks, d, e = list[str](c.pretext.tasks), c.encoder.widths[-1], c.encoder
    stride = 2 ** (len(e.widths) - 1) * (4 if e.stem == "imagenet" else 1)
    heads: dict[str, Callable[[], nn.Module]] = {
        "rotation": lambda: nn.Linear(d, 4),
        "relative_position": lambda: pair_head(d, e.head_width, c.pretext.embedding),
        "exemplar": lambda: nn.Linear(d, 1000),
        "colorization": lambda: ColourHead(d, stride),
        "cpc": lambda: ContextHead(d, c.pretext.directions),
        "supervised": lambda: nn.Linear(d, c.data.classes),
    }

    def enter(x: Tensor) -> Tensor:
        x = views.lightness(x) if "colorization" in tasks else x
        return views.standardized(x) if c.pretext.standardize else x

    def nine(x: Tensor) -> Tensor:
        return views.grid_of_nine(x, gap=c.pretext.gap)

    patches = {"relative_position": nine, "cpc": views.overlapping_grid}.get(tasks[0]) if len(tasks) == 1 else None
    return PretextEncoder(_trunk(c), {task: heads[task]() for task in tasks}, enter, patches)


def _trunk(c: Config) -> nn.Module:
    e, image_channels = c.encoder, c.data.channels
    if is_named(e.block):
        return _own_trunk(e, image_channels)
    if e.block == "mlp":
        return MLPTrunk(image_channels, e.widths, e.resolution)
    if e.block == "alexnet":
        return AlexNet(image_channels, e.widths, e.resolution)
    if e.block == "reversible":
        return RevNet(image_channels, e.widths, e.blocks_per_stage, e.stem, not e.keep_activations, e.norm)
    block = Bottleneck if e.block == "bottleneck" else BasicBlock
    return ResNetV2(image_channels, e.widths, e.blocks_per_stage, block, e.stem, e.norm)


def _own_trunk(e: EncoderConfig, image_channels: int) -> nn.Module:
    """Return the user's own backbone, with the weights that it was constructed with."""
    expected = "a function of (channels, EncoderConfig) that returns an nn.Module with num_features"
    make = import_named(e.block, expected)
    try:
        trunk = make(image_channels, e)
    except Exception as error:  # the user's code may raise anything
        raise UserError(f"encoder.block={e.block}: {message_and_place(error)}") from error
    if not isinstance(trunk, nn.Module) or not isinstance(getattr(trunk, "num_features", None), int):
        raise UserError(f"encoder.block={e.block} returns a {type(trunk).__name__}; expected {expected}")
    for module in trunk.modules():
        module.keeps_weights = True  # type: ignore[assignment]
    return trunk
