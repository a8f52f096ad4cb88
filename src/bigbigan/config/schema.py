"""The settings of a run: frozen dataclasses, grouped like the columns of the paper's Table 1.

A `Config` is complete and resolved: nothing else decides what a run does. It is checked when it is constructed
(`bigbigan.config.validate`) and converted from and to JSON (`bigbigan.config.overrides`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import singledispatch
from pathlib import Path
from typing import Any, Literal

from bigbigan.io import write_json

__all__ = [
    "CONVOLUTIONAL",
    "MIRRORING",
    "Config",
    "DataConfig",
    "DiscriminatorConfig",
    "EncoderConfig",
    "GeneratorConfig",
    "LatentConfig",
    "LogConfig",
    "LossConfig",
    "OptimizerConfig",
    "PretextConfig",
    "Task",
    "TrainingConfig",
    "flat",
    "validate",
]


@singledispatch
def validate(settings: object) -> None:
    """Raise ValueError if `settings` are out of range or do not go together.

    `bigbigan.config.validate` registers the check of each class below.
    """


class Settings:
    """Base of the settings classes: they are checked when they are constructed."""

    def __post_init__(self) -> None:
        validate(self)


MIRRORING = ("flip", "resnet_crop")  # augmentations that mirror half of the images


@dataclass(frozen=True, kw_only=True)
class DataConfig(Settings):
    """The training images: how they are read, augmented and labelled."""

    channels: Literal[1, 3] = 3  # of the images as the networks see them: grey or colour
    # Augmentation of training images. flip: mirror half of them left to right. resnet_crop: 8-100 % of the area, aspect
    # 3/4-4/3, and flip (Table 1). square_crop: a square of 50-100 % of the area (Table 3). random_crop: 7/8 of the side
    # (BiGAN). task_crop: each pretext task crops by itself (docs/pretext.md); classifiers are trained on resnet_crop.
    augment: Literal["none", "flip", "resnet_crop", "square_crop", "random_crop", "task_crop"] = "none"
    # Whether augmentation (flip, resnet_crop; the crops of pretext tasks and cpc's patches) may mirror images.
    # auto: if mirror images are as natural as the images, so not for digits or letters (docs/data.md); resolved when
    # training starts. --set data.augment=flip by itself means always.
    mirror: Literal["auto", "always", "never"] = "auto"
    # Label conditioning. single: one shared class embedding in G and D ("Single Label", Table 3). classes: the source's
    # labels, for G and D of a BigGAN, or for E with the task "supervised".
    labels: Literal["none", "single", "classes"] = "none"
    classes: int = 1  # number of classes, found when training starts; 1 without labels
    # Number of training images of each class, found when training starts. G's labels are drawn in proportion. Empty if
    # all classes have the same number.
    class_sizes: tuple[int, ...] = ()
    fraction: float = 1.0  # share of the training images to train on, the same ones for every seed
    memory_gib: float = 8.0  # larger image sets are decoded again for each batch
    # Remote shards, streamed: number of shards shuffled together. Twice as many are cached on disk.
    shuffle_shards: int = 16
    max_unreadable: float = 0.05  # stop when a larger share of the files cannot be read
    max_pixels: int = 25_000_000  # larger image files are not read; JPEG files up to 8 times as large at a reduced size

    @property
    def classifier_augment(self) -> str:
        """The augmentation that linear classifiers on frozen features are trained with, one of `augment`'s values."""
        return "resnet_crop" if self.augment == "task_crop" else self.augment

    @property
    def mirrors(self) -> bool:
        """Whether training images of the networks, or of classifiers on their features, are mirrored at random."""
        return self.classifier_augment in MIRRORING and self.mirror != "never"


@dataclass(frozen=True, kw_only=True)
class LatentConfig(Settings):
    """P_z (Table 1, column P_z)."""

    dim: int = 120
    prior: Literal["normal", "uniform"] = "normal"  # N(0, I) or U(-1, 1)


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(Settings):
    """Table 1, column Generator (G)."""

    network: Literal["biggan", "mlp", "conv"] = "biggan"  # BigGAN's blocks; or BiGAN's two kinds of networks
    # biggan: widths of the 4×4 seed and after each ×2 block. conv: the same, with one more ×2 to the image. mlp: widths
    # of the hidden layers.
    channels: tuple[int, ...] = (64, 64, 32, 16)
    side: int = 0  # of the image in pixels, if the network is an mlp
    attention: tuple[int, ...] = ()  # sides, in pixels, of the maps that self-attention follows
    skip_z: bool = True  # a chunk of z to the seed and to each block; or all of z to the seed alone
    shared_dim: int = 32  # length of the class embedding; with one class a learned vector

    @property
    def resolution(self) -> int:
        """Side of G's images in pixels, which is what D sees."""
        return self.side or 4 * 2 ** (len(self.channels) - (self.network == "biggan"))


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig(Settings):
    """The discriminator D."""

    network: Literal["biggan", "mlp", "conv"] = "biggan"  # F, H and J; or BiGAN's two, which have widths alone
    channels: tuple[int, ...] = (16, 32, 64, 64)  # of F's blocks, the first ones halve the image; or of the layers
    bias: bool = False  # of the first layer of mlp and conv, which no batch norm follows (docs/bigan.md)
    final_size: int = 4  # side of the map, in pixels, at which they stop halving
    attention: tuple[int, ...] = ()  # sides, in pixels, of the maps that self-attention follows
    mlp_width: int = 128  # of H and of J
    mlp_layers: int = 4  # likewise; two to a residual block
    pair_norm: bool = True  # layer normalisation of F(x) and H(z) before J (docs/deviations.md, 2)
    joint_maps: Literal[1, 2] = 1  # of F's last maps, how many J reads (docs/deviations.md, 55)
    projection: bool = False  # a bilinear term of F(x) and H(z) in s_xz (docs/deviations.md, 55)
    # Of all images D sees, drawn and real, with gradient to G (DiffAugment): for sets of few images.
    augment: tuple[Literal["color", "translation", "cutout"], ...] = ()


CONVOLUTIONAL = ("basic", "bottleneck", "reversible")  # trunks of any size of image


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Settings):
    """Table 1, column Encoder (E)."""

    resolution: int = 32  # of the images E sees; D sees them average-pooled to G's resolution
    # Of the trunk: ResNet-v2's two, RevNet's; or BiGAN's trunks, whose layers have the widths below.
    block: Literal["basic", "bottleneck", "reversible", "mlp", "alexnet"] = "basic"
    stem: Literal["small", "imagenet"] = "small"  # 3×3 conv; or 7×7 conv of stride 2 and max pool, a quarter the size
    widths: tuple[int, ...] = (16, 32, 64, 128)  # output channels of each stage; each after the first halves the size
    blocks: int | tuple[int, ...] = 1  # residual blocks of each stage; one number for all
    norm: Literal["batch", "layer"] = "batch"  # of the trunk; layer: over all of an image or patch, blind to the others
    keep_activations: bool = False  # of reversible blocks, rather than recompute them from their outputs
    head_width: int = 128
    head_layers: int = 4  # 0: none, z is read off the trunk's features
    stochastic: bool = True  # z sampled from N(mu, sigma²), or z = the linear output
    stdev_bias: float = -3.0  # where sigma-hat starts: sigma = softplus(-3) = 0.05
    lr_multiplier: float = 1.0  # of G's learning rate (column eta)

    @property
    def blocks_per_stage(self) -> tuple[int, ...]:
        """The number of residual blocks of each stage."""
        return (self.blocks,) * len(self.widths) if isinstance(self.blocks, int) else self.blocks


@dataclass(frozen=True, kw_only=True)
class LossConfig(Settings):
    """The scores of D (Table 1, columns Loss), and loss settings of single systems."""

    s_x: bool = True
    s_z: bool = True
    s_xz: bool = True
    hinge: Literal["each", "sum"] = "each"  # on each score, or on their sum: tried by the authors, and worse
    regression_of_g: float = 0.0  # of a latent regressor: weight of E's error in G's loss; the joint one has 0.25
    pixel: Literal["l1", "l2"] = "l2"  # of an autoencoder
    orthogonal: float = 0.0  # weight of BigGAN's orthogonal regularisation of G (1e-4 there)
    # Of system=bigbigan: weight of E's error on z from G(z), which is not in the paper (docs/deviations.md, 55). It
    # falls by an equal factor each step, to its share `latent_regression_final` after the last one.
    latent_regression: float = 0.0
    latent_regression_final: float = 1.0
    latent_regression_form: Literal["squared", "likelihood"] = "squared"  # (z - mu)²; or -log q(z|G(z))
    latent_regression_in_g: bool = False  # whether G is trained by it as well, or E alone

    @property
    def scores(self) -> tuple[str, ...]:
        """The scores of D by short name, of "x", "z", "xz"."""
        return tuple(name for name in ("x", "z", "xz") if getattr(self, f"s_{name}"))


Task = Literal["rotation", "relative_position", "exemplar", "colorization", "cpc", "supervised"]


@dataclass(frozen=True, kw_only=True)
class PretextConfig(Settings):
    """The pretext tasks of system=pretext (bigbigan.methods.pretext)."""

    tasks: tuple[Task, ...] = ()  # several share one trunk, and their losses are added up
    standardize: bool = False  # each view by itself, to mean 0 and variance 1, before E sees it
    grey: float = 0.66  # share of views without colour: of relative_position, exemplar, and cpc with patch_augment
    gap: bool = True  # of relative_position: patches lie apart, at places of their own; or edge to edge
    embedding: int = 0  # of relative_position: length of a linear embedding of each patch before its head; 0: none
    views: int = 8  # of an image in exemplar
    directions: Literal[1, 2, 4] = 1  # of cpc: from above; also from below; and from both sides
    patch_augment: bool = False  # of cpc: patches are mirrored, or keep one channel, each by itself


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Settings):
    """Adam for all networks."""

    lr_g: float = 2e-4  # of G, and of E times encoder.lr_multiplier
    lr_d: float = 2e-4
    betas: tuple[float, float] = (0.0, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0  # this share of each weight is added to its gradient; gains of batch norms are spared
    lr_final: float = 1.0  # share of the rates left at the end: constant for half the steps, then geometric to this
    lr_by_epoch: bool = False  # rates fall from one epoch to the next (BiGAN) instead of from step to step


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Settings):
    """Length, batches and arithmetic of training."""

    steps: int = 10_000  # joint G and E steps; each is preceded by d_steps of D
    # A budget of time. When training starts, the step is measured and `steps` becomes what fits; 0: `steps` is given.
    minutes: float = 0.0
    batch_size: int = 64
    d_steps: int = 2  # of a BigBiGAN; in the other systems all networks step at once
    ema_decay: float = 0.999  # of G's and E's weights; 0 is no averaging
    seed: int = 0
    accumulate: int = 1  # chunks a batch is computed in, one after the other; batch norm is over a chunk
    precision: Literal["float32", "bf16"] = "float32"  # of the networks' passes; weights, losses, sums are float32
    compile: bool = False  # the networks, by torch.compile: minutes at the start, faster steps, other rounding


@dataclass(frozen=True, kw_only=True)
class LogConfig(Settings):
    """What is logged while training, and how often in steps. None of it changes the weights."""

    every: int = 50  # a line of metrics.jsonl and TensorBoard
    pictures_every: int = 500  # sample and reconstruction grids
    checkpoint_every: int = 500
    keep_checkpoints: int = 2  # newest kept, besides the best
    validate_every: int = 0  # how often the validation metric is measured; 0 is never
    # Names the best step (early stopping). Or top1_table1_F, fid10k_train_NETWORK.
    validation_metric: str = "top1_linear_bn_crelu_10perclass"
    standing_batches: int = 16  # forward passes that fill the batch norm statistics used in evaluation
    # Under torchrun: end the run when one process keeps the others waiting for so long, unless it reads images or
    # measures the validation metric. 0 is never.
    hang_minutes: float = 30.0


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """All settings of a run."""

    experiment: str = "custom"
    # bigbigan.methods
    system: Literal["bigbigan", "bigan", "latent_regressor", "autoencoder", "pretext"] = "bigbigan"
    scale: int = 0  # of a row made smaller: the resolution that stands for the paper's 128 px; 0 is as published
    data: DataConfig = field(default_factory=DataConfig)
    latent: LatentConfig = field(default_factory=LatentConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    pretext: PretextConfig = field(default_factory=PretextConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    log: LogConfig = field(default_factory=LogConfig)

    @property
    def can_mirror(self) -> bool:
        """Whether the augmentation, or a pretext task, mirrors images if `data.mirror` allows it."""
        p = self.pretext
        return self.data.classifier_augment in MIRRORING or "exemplar" in p.tasks or p.patch_augment

    @property
    def has_encoder(self) -> bool:
        """Whether there is an E. If D has no score of z the system is a GAN (Table 1, "No E"; BiGAN's table, "D")."""
        return self.system not in ("bigbigan", "bigan") or self.loss.s_z or self.loss.s_xz

    @property
    def has_generator(self) -> bool:
        """Whether there is a G; then there are latents, and E, if there is one, outputs some."""
        return self.system != "pretext"

    @property
    def has_discriminator(self) -> bool:
        """Whether there is a D."""
        return self.system not in ("autoencoder", "pretext")

    @property
    def additions(self) -> dict[str, Any]:
        """Settings by which this BigBiGAN differs from the paper's, by name; empty if there are none.

        The reasons are in docs/deviations.md, 2, 3 and 55.
        """
        d, e = self.discriminator, self.encoder
        if self.system != "bigbigan" or not self.has_encoder:
            return {}
        found: dict[str, Any] = {}
        if d.network == "biggan" and self.loss.s_xz and d.pair_norm:
            found["discriminator.pair_norm"] = d.pair_norm
        if e.stochastic and e.stdev_bias:
            found["encoder.stdev_bias"] = e.stdev_bias
        if d.joint_maps != 1:
            found["discriminator.joint_maps"] = d.joint_maps
        if d.projection:
            found["discriminator.projection"] = d.projection
        if self.loss.latent_regression:
            found["loss.latent_regression"] = self.loss.latent_regression
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def save(self, path: Path) -> None:
        """Write the settings to a JSON file."""
        write_json(path, self.to_dict())


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a tree of settings by dotted name, such as {"training.steps": 500}."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping) and value
        leaves |= flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return leaves
