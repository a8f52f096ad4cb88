"""What a run is made of, as data: frozen dataclasses shaped like the column groups of the paper's Table 1.

A `Config` is complete and resolved; nothing else decides what a run does. It goes to JSON and back, refuses
unknown keys, and checks what can be checked before any work is done.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

from bigbigan.errors import UserError
from bigbigan.io import write_json

__all__ = [
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
    "TrainingConfig",
    "config_from_dict",
    "flat",
    "override",
]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


MOST_WIDTH, MOST_LAYERS = 2**16, 1_000  # far above any network; beyond them a file of settings is a mistake or a trap


def _check_sizes(network: str, settings: Any) -> None:
    for name, value in dataclasses.asdict(settings).items():
        most = MOST_LAYERS if name in ("blocks", "head_layers", "mlp_layers") else MOST_WIDTH
        numbers = [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, int)]
        _require(len(numbers) <= MOST_LAYERS, f"{network}.{name} has {len(numbers):,} numbers, limit {MOST_LAYERS:,}")
        _require(max(numbers, default=0) <= most, f"{network}.{name} must not be above {most:,}")


def _check_attention(network: str, attention: tuple[int, ...], widths: dict[int, int]) -> None:
    for side in attention:
        _require(side in widths, f"{network}.attention = {side}: its maps have sides {', '.join(map(str, widths))}")
        _require(
            widths[side] >= 8, f"{network}.attention needs 8 channels or more; at {side} px there are {widths[side]}"
        )


MIRRORING = ("flip", "resnet_crop")  # augmentations that mirror half of the images


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    channels: Literal[1, 3] = 3  # of the images as the networks see them: grey or colour
    # Of training images. flip: left to right, half of them. resnet_crop: 8-100 % of the area, 3/4-4/3, and flip
    # (Table 1). square_crop: a square of 50-100 % of the area (Table 3). random_crop: 7/8 of the side (BiGAN).
    # task_crop: each pretext task crops by itself (docs/pretext.md); classifiers are trained on resnet_crop.
    augment: Literal["none", "flip", "resnet_crop", "square_crop", "random_crop", "task_crop"] = "none"
    # Whether augmentation (flip, resnet_crop; the crops of pretext tasks and cpc's patches) may mirror images.
    # auto: where mirror images are as natural as the images, so not digits or letters (docs/data.md). It is resolved
    # when training starts. --set data.augment=flip by itself means always.
    mirror: Literal["auto", "always", "never"] = "auto"
    # What is told: nothing; one class for all images, a learned vector in D as there is in G ("Single Label", Table 3);
    # or the classes of the source (to G and D of a BigGAN; to E with the task "supervised").
    labels: Literal["none", "single", "classes"] = "none"
    classes: int = 1  # how many there are: found when training starts; without labels all images are of one class
    # How many training images each class has: found when training starts. G's labels are drawn in proportion. Empty:
    # all classes alike.
    class_sizes: tuple[int, ...] = ()
    fraction: float = 1.0  # share of the training images that is trained on, the same ones whatever the seed
    memory_gib: float = 8.0  # sets whose pixels take more are decoded anew for each batch
    # Of sets that are decoded anew and lie in shards elsewhere: so many are shuffled together, twice as many held here.
    shuffle_shards: int = 16
    max_unreadable: float = 0.05  # stop when a larger share of the files cannot be read
    max_pixels: int = 25_000_000  # larger image files are not read; JPEG files up to 8 times as large at a reduced size

    def __post_init__(self) -> None:
        _require(self.classes >= 1, "data.classes must be at least 1")
        _require(self.classes <= 1_000_000, "data.classes must not be above 1,000,000")
        _require(self.labels == "classes" or self.classes == 1, "data.classes goes with data.labels=classes")
        _require(
            not self.class_sizes
            or (len(self.class_sizes) == self.classes and min(self.class_sizes) >= 0 and sum(self.class_sizes) > 0),
            f"data.class_sizes must be empty, or {self.classes} numbers of images, one for each class",
        )
        _require(0 < self.fraction <= 1, "data.fraction must lie in (0, 1]")
        _require(self.memory_gib >= 0, "data.memory_gib must not be negative")
        _require(self.shuffle_shards >= 1, "data.shuffle_shards must be at least 1")
        _require(0 <= self.max_unreadable < 1, "data.max_unreadable must lie in [0, 1)")
        _require(0 < self.max_pixels <= 178_000_000, "data.max_pixels must lie in 1 to 178000000")

    @property
    def classifier_augment(self) -> str:
        """The augmentation that linear classifiers on frozen features are trained with, one of `augment`'s values."""
        return "resnet_crop" if self.augment == "task_crop" else self.augment

    @property
    def mirrors(self) -> bool:
        """Whether training images of the networks, or of classifiers on their features, are mirrored at random."""
        return self.classifier_augment in MIRRORING and self.mirror != "never"


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """P_z (Table 1, column P_z)."""

    dim: int = 120
    prior: Literal["normal", "uniform"] = "normal"  # N(0, I) or U(-1, 1)

    def __post_init__(self) -> None:
        _check_sizes("latent", self)
        _require(self.dim > 0, "latent.dim must be positive")


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    network: Literal["biggan", "mlp", "conv"] = "biggan"  # BigGAN's blocks; or BiGAN's two kinds of networks
    # biggan: of the 4×4 seed, then after each ×2 block. conv: the same, and one more ×2 leads to the image. mlp: of the
    # hidden layers.
    channels: tuple[int, ...] = (64, 64, 32, 16)
    side: int = 0  # of the image in pixels, where the network is an mlp
    attention: tuple[int, ...] = ()  # sides, in pixels, of the maps that self-attention follows
    skip_z: bool = True  # a chunk of z to the seed and to each block; or all of z to the seed alone
    shared_dim: int = 32  # length of the class embedding; with one class a learned vector

    def __post_init__(self) -> None:
        _check_sizes("generator", self)
        if self.network != "biggan":
            _require(len(self.channels) > 0 and min(self.channels) > 0, "generator widths must be positive")
            _require(not self.attention, f"generator.attention is for generator.network=biggan, not {self.network}")
        if self.network == "mlp":
            _require(self.side > 0, "generator.side must be positive: an mlp's widths do not tell the size of images")
        else:
            _require(not self.side, "generator.side is for generator.network=mlp; others make 4·2^n px, n blocks")
        if self.network != "biggan":
            return
        _require(len(self.channels) >= 2, "generator.channels needs the seed's width and one for each block")
        _require(min(self.channels) > 0 and self.shared_dim > 0, "generator widths must be positive")
        widths = {8 * 2**i: width for i, width in enumerate(self.channels[1:])}
        _check_attention("generator", self.attention, widths)

    @property
    def resolution(self) -> int:
        """Side of G's images in pixels, which is what D sees."""
        return self.side or 4 * 2 ** (len(self.channels) - (self.network == "biggan"))


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    network: Literal["biggan", "mlp", "conv"] = "biggan"  # F, H and J; or BiGAN's two, which have widths alone
    channels: tuple[int, ...] = (16, 32, 64, 64)  # of F's blocks, the first ones halve the image; or of the layers
    bias: bool = False  # of the first layer of mlp and conv, which no batch norm follows (docs/bigan.md)
    final_size: int = 4  # side of the map, in pixels, at which they stop halving
    attention: tuple[int, ...] = ()  # sides, in pixels, of the maps that self-attention follows
    mlp_width: int = 128  # of H and of J
    mlp_layers: int = 4  # likewise; two to a residual block
    pair_norm: bool = True  # layer normalisation of F(x) and H(z) before J (docs/deviations.md, 2)
    # Of all images D sees, drawn and real, with gradient to G (DiffAugment): for sets of few images.
    augment: tuple[Literal["color", "translation", "cutout"], ...] = ()

    def __post_init__(self) -> None:
        _check_sizes("discriminator", self)
        _require(min(self.channels) > 0, "discriminator.channels must be positive")
        _require(self.final_size > 0, "discriminator.final_size must be positive")
        _require(len(set(self.augment)) == len(self.augment), "discriminator.augment names something twice")
        _require(self.mlp_width > 0, "discriminator.mlp_width must be positive")
        _require(
            self.mlp_layers >= 2 and self.mlp_layers % 2 == 0,
            "discriminator.mlp_layers must be even, 2 or more",
        )


CONVOLUTIONAL = ("basic", "bottleneck", "reversible")  # trunks of any size of image


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
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

    def __post_init__(self) -> None:
        _check_sizes("encoder", self)
        _require(len(self.widths) > 0 and min(self.widths) > 0, "encoder.widths must be positive")
        counts = self.blocks_per_stage
        _require(len(counts) == len(self.widths), f"encoder.blocks must be one number, or {len(self.widths)}")
        _require(min(counts) > 0, "encoder.blocks must be positive")
        if self.block == "bottleneck":
            _require(all(w % 4 == 0 for w in self.widths), "encoder.widths of bottleneck blocks must be multiples of 4")
        if self.block == "reversible":
            _require(all(w % 8 == 0 for w in self.widths), "encoder.widths of reversible blocks must be multiples of 8")
            _require(list(self.widths) == sorted(self.widths), "encoder.widths of reversible stages must not fall")
        _require(
            self.block == "reversible" or not self.keep_activations,
            "encoder.keep_activations is for encoder.block=reversible; others always keep theirs",
        )
        _require(
            self.block in CONVOLUTIONAL or self.norm == "batch",
            f"encoder.norm is for encoder.block={' or '.join(CONVOLUTIONAL)}, not {self.block}",
        )
        _require(self.head_width > 0, "encoder.head_width must be positive")
        _require(self.head_layers >= 0 and self.head_layers % 2 == 0, "encoder.head_layers must be even, or 0 for none")
        _require(self.lr_multiplier > 0, "encoder.lr_multiplier must be positive")
        if self.block == "alexnet":
            fits = len(self.widths) == 5 and all(w % 2 == 0 for w in self.widths)
            _require(fits, "encoder.widths of alexnet must be five even numbers, as in its two groups")
        if self.block not in CONVOLUTIONAL:
            return
        halvings = len(self.widths) - 1 + (2 if self.stem == "imagenet" else 0)
        _require(
            self.resolution % 2**halvings == 0,
            f"encoder.resolution = {self.resolution} cannot be halved {halvings} times",
        )

    @property
    def blocks_per_stage(self) -> tuple[int, ...]:
        return (self.blocks,) * len(self.widths) if isinstance(self.blocks, int) else self.blocks


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Which scores D has (Table 1, columns Loss), and what is particular to some systems."""

    s_x: bool = True
    s_z: bool = True
    s_xz: bool = True
    hinge: Literal["each", "sum"] = "each"  # on each score, or on their sum: tried by the authors, and worse
    regression_of_g: float = 0.0  # of a latent regressor: weight of E's error in G's loss; the joint one has 0.25
    pixel: Literal["l1", "l2"] = "l2"  # of an autoencoder
    orthogonal: float = 0.0  # weight of BigGAN's orthogonal regularisation of G (1e-4 there)

    def __post_init__(self) -> None:
        _require(self.orthogonal >= 0, "loss.orthogonal must not be negative")
        _require(self.regression_of_g >= 0, "loss.regression_of_g must not be negative")
        _require(self.s_xz or self.s_x, "loss: at least one of s_x and s_xz must be on: G learns by no other score")

    @property
    def scores(self) -> tuple[str, ...]:
        return tuple(name for name in ("x", "z", "xz") if getattr(self, f"s_{name}"))


Task = Literal["rotation", "relative_position", "exemplar", "colorization", "cpc", "supervised"]


@dataclass(frozen=True, kw_only=True)
class PretextConfig:
    """Of system=pretext: what E is asked about images (bigbigan.methods.pretext)."""

    tasks: tuple[Task, ...] = ()  # several share one trunk, and their losses are added up
    standardize: bool = False  # each view by itself, to mean 0 and variance 1, before E sees it
    grey: float = 0.66  # share of views without colour: of relative_position, exemplar, and cpc with patch_augment
    gap: bool = True  # of relative_position: patches lie apart, at places of their own; or edge to edge
    embedding: int = 0  # of relative_position: length of a linear embedding of each patch before its head; 0: none
    views: int = 8  # of an image in exemplar
    directions: Literal[1, 2, 4] = 1  # of cpc: from above; also from below; and from both sides
    patch_augment: bool = False  # of cpc: patches are mirrored, or keep one channel, each by itself

    def __post_init__(self) -> None:
        _require(len(set(self.tasks)) == len(self.tasks), "pretext.tasks names a task twice")
        _require(0 <= self.grey <= 1, "pretext.grey must lie in [0, 1]")
        _require(self.views >= 2, "pretext.views must be at least 2")
        _require(self.embedding >= 0, "pretext.embedding must not be negative")
        usual = {f.name: f.default for f in dataclasses.fields(self)}
        for name, tasks in (  # a setting that would do nothing is a mistake
            ("grey", ("relative_position", "exemplar", *(("cpc",) if self.patch_augment else ()))),
            ("gap", ("relative_position",)),
            ("embedding", ("relative_position",)),
            ("views", ("exemplar",)),
            ("directions", ("cpc",)),
            ("patch_augment", ("cpc",)),
        ):
            needed = getattr(self, name) == usual[name] or set(tasks) & set(self.tasks)
            _require(bool(needed), f"pretext.{name} is for the task {' or '.join(tasks)}, not {', '.join(self.tasks)}")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam for all networks."""

    lr_g: float = 2e-4  # of G, and of E times encoder.lr_multiplier
    lr_d: float = 2e-4
    betas: tuple[float, float] = (0.0, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0  # this share of each weight is added to its gradient; gains of batch norms are spared
    lr_final: float = 1.0  # share of the rates left at the end: constant for half the steps, then geometric to this
    lr_by_epoch: bool = False  # rates fall from one epoch to the next (BiGAN) instead of from step to step

    def __post_init__(self) -> None:
        _require(0 < self.lr_final <= 1, "optimizer.lr_final must lie in (0, 1]")
        _require(self.lr_g > 0 and self.lr_d > 0, "optimizer.lr_g and optimizer.lr_d must be positive")
        _require(all(0 <= b < 1 for b in self.betas), "optimizer.betas must lie in [0, 1)")
        _require(self.eps > 0, "optimizer.eps must be positive")
        _require(self.weight_decay >= 0, "optimizer.weight_decay must not be negative")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    steps: int = 10_000  # joint G and E steps; each is preceded by d_steps of D
    batch_size: int = 64
    d_steps: int = 2  # of a BigBiGAN; in the other systems all networks step at once
    ema_decay: float = 0.999  # of G's and E's weights; 0 is no averaging
    seed: int = 0
    accumulate: int = 1  # chunks a batch is computed in, one after the other; batch norm is over a chunk
    precision: Literal["float32", "bf16"] = "float32"  # of the networks' passes; weights, losses, sums are float32
    compile: bool = False  # the networks, by torch.compile: minutes at the start, faster steps, other rounding

    def __post_init__(self) -> None:
        _require(self.steps > 0, "training.steps must be positive")
        _require(self.batch_size > 1, "training.batch_size must be at least 2: batch norm needs a batch")
        _require(self.d_steps > 0, "training.d_steps must be positive")
        _require(0 <= self.ema_decay < 1, "training.ema_decay must lie in [0, 1)")
        _require(self.seed >= 0, "training.seed must not be negative")
        _require(
            self.accumulate >= 1 and self.batch_size % self.accumulate == 0 and self.batch_size > self.accumulate,
            f"training.accumulate must cut training.batch_size = {self.batch_size} into equal chunks of 2 or more",
        )


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What is written along the way, in steps. None of it changes the weights."""

    every: int = 50  # a line of metrics.jsonl and TensorBoard
    pictures_every: int = 500  # sample and reconstruction grids
    checkpoint_every: int = 500
    keep_checkpoints: int = 2  # newest kept, besides the best
    probe_every: int = 0  # how often `watch` is measured; 0 is never
    watch: str = "top1_linear_bn_crelu_10perclass"  # or top1_table1_F, fid10k_train_NETWORK: names the best step
    standing_batches: int = 16  # forward passes that fill the batch norm statistics used in evaluation
    # Under torchrun: end when one process keeps the others waiting so long, unless it reads images or measures `watch`.
    # 0 is never.
    hang_minutes: float = 30.0

    def __post_init__(self) -> None:
        _require(min(self.every, self.pictures_every, self.checkpoint_every) > 0, "log: intervals must be positive")
        _require(self.keep_checkpoints >= 1, "log.keep_checkpoints must be at least 1")
        _require(self.probe_every >= 0, "log.probe_every must not be negative")
        _require(self.standing_batches > 0, "log.standing_batches must be positive")
        _require(0 <= self.hang_minutes < math.inf, "log.hang_minutes must not be negative")


@dataclass(frozen=True, kw_only=True)
class Config:
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

    def __post_init__(self) -> None:
        _require(
            self.data.mirror != "always" or self.can_mirror,
            f"data.mirror=always does nothing with data.augment={self.data.augment}; set data.augment=flip",
        )
        if self.system == "pretext":
            self._check_pretext()
            return
        _require(self.pretext == PretextConfig(), f"settings of pretext are for system=pretext, not {self.system}")
        _require(self.data.augment != "task_crop", f"data.augment=task_crop is for system=pretext, not {self.system}")
        self._check_generator()
        r_e, r_g = self.encoder.resolution, self.generator.resolution
        _require(r_e >= r_g, f"encoder.resolution = {r_e} must not be below the generator's {r_g}: D sees E's image")
        of_biggan = self.generator.network == self.discriminator.network == "biggan" and self.system == "bigbigan"
        if self.data.labels == "classes":
            _require(
                of_biggan and not self.has_encoder,
                "data.labels=classes is for a BigGAN: loss.s_x alone, biggan networks; or for pretext/supervised",
            )
        if self.data.labels == "single":
            _require(of_biggan and self.loss.s_x, "data.labels=single is for loss.s_x and the biggan networks")
        for name, given, system in (  # a setting that would do nothing is a mistake
            ("orthogonal", self.loss.orthogonal > 0, "bigbigan"),
            ("regression_of_g", self.loss.regression_of_g > 0, "latent_regressor"),
            ("pixel", self.loss.pixel != "l2", "autoencoder"),
        ):
            _require(not given or self.system == system, f"loss.{name} is for system={system}, not {self.system}")
        if self.has_discriminator:
            self._check_discriminator()
        else:
            _require(not self.discriminator.augment, f"discriminator.augment: {self.system} has no discriminator")
        if self.has_encoder:
            self._check_encoder()

    def _check_generator(self) -> None:
        g = self.generator
        if g.network != "biggan":
            return
        chunks = len(g.channels) if g.skip_z else 1
        nearest = max(1, round(self.latent.dim / chunks)) * chunks
        _require(
            self.latent.dim % chunks == 0,
            f"latent.dim = {self.latent.dim} must divide into {chunks} equal chunks, one for the seed of G and "
            f"one for each of its blocks; the nearest that does is {nearest}",
        )

    def _check_discriminator(self) -> None:
        d, r_g, scores = self.discriminator, self.generator.resolution, self.loss.scores
        if self.system == "latent_regressor":
            _require(scores == ("x",), "system=latent_regressor: D sees images alone; set loss.s_z, loss.s_xz to false")
        _require(
            d.network != "biggan" or not d.bias, "discriminator.bias is for networks mlp and conv; biggan has its own"
        )
        if d.network != "biggan":
            _require(
                scores in (("x",), ("xz",)),
                f"discriminator.network={d.network} has one score: loss.s_xz alone (BiGAN), or loss.s_x alone (a GAN)",
            )
        if d.network == "conv":
            halvings = len(d.channels)
            _require(r_g % 2**halvings == 0, f"discriminator.channels: {r_g} px cannot be halved {halvings} times")
        if d.network != "biggan":
            return
        halvings_to_end = math.log2(r_g / d.final_size)
        _require(
            halvings_to_end.is_integer() and halvings_to_end >= 0,
            f"discriminator.final_size = {d.final_size}: {r_g} px cannot be halved to it",
        )
        _require(
            len(d.channels) >= halvings_to_end,
            f"discriminator.channels has {len(d.channels)} blocks; "
            f"images of {r_g} px need at least {halvings_to_end:.0f} to reach {d.final_size}×{d.final_size}",
        )
        sides = {r_g // 2 ** (i + 1): width for i, width in enumerate(d.channels[: int(halvings_to_end)])}
        _check_attention("discriminator", d.attention, sides)

    def _check_encoder(self) -> None:
        r_e, r_g = self.encoder.resolution, self.generator.resolution
        _require(
            not (self.latent.prior == "uniform" and self.encoder.stochastic),
            "latent.prior=uniform goes with encoder.stochastic=false (z squashed to (-1, 1))",
        )
        if self.system == "latent_regressor":
            _require(self.latent.prior == "uniform", "system=latent_regressor needs latent.prior=uniform")
            _require(r_e == r_g, f"encoder.resolution = {r_e} must be the generator's {r_g}: E learns from G's images")

    def _check_pretext(self) -> None:
        """E alone: settings of networks that are not there, and of latents, would do nothing."""
        _require(len(self.pretext.tasks) > 0, "system=pretext: pretext.tasks must name a task, such as rotation")
        _require(
            self.encoder.block in CONVOLUTIONAL,
            f"system=pretext needs encoder.block={' or '.join(CONVOLUTIONAL)}, not {self.encoder.block}",
        )
        _require(
            self.training.precision == "float32" and not self.training.compile,
            "training.precision=bf16 and training.compile are not for system=pretext",
        )
        _require(self.data.labels != "single", "data.labels=single is for loss.s_x and the biggan networks")
        ours, usual = flat(self.to_dict()), flat(_USUAL)
        idle = ("latent.", "generator.", "discriminator.", "loss.", "training.d_steps", "optimizer.lr_d")
        latents = ("encoder.head_layers", "encoder.stochastic", "encoder.stdev_bias")
        for name, value in ours.items():
            _require(
                value == usual[name] or not (name.startswith(idle) or name in latents),
                f"{name} does nothing with system=pretext, which has no generator, discriminator or latents",
            )
        c, e = self.pretext, self.encoder
        if patches := {"relative_position", "cpc"} & set(c.tasks):
            _require(e.resolution >= 32, f"the task {min(patches)} needs encoder.resolution of 32 or more: patches")
            least = 2 ** (len(e.widths) - 1) * (4 if e.stem == "imagenet" else 1)
            _require(e.resolution // 4 >= least, f"patches of {e.resolution // 4} px are too small for encoder.widths")
        if {"cpc", "colorization"} & set(c.tasks):
            _require(
                e.resolution % 8 == 0, f"encoder.resolution = {e.resolution} must be a multiple of 8 for these tasks"
            )
        colour = "colorization" not in c.tasks or self.data.channels == 3
        _require(colour, "the task colorization needs images in colour: data.channels=3")
        told, asks = self.data.labels == "classes", "supervised" in self.pretext.tasks
        _require(told == asks, "data.labels=classes goes with the task supervised, and the task with it")

    @property
    def can_mirror(self) -> bool:
        """Whether the augmentation, or a pretext task, mirrors images where `data.mirror` lets it."""
        p = self.pretext
        return self.data.classifier_augment in MIRRORING or "exemplar" in p.tasks or p.patch_augment

    @property
    def has_encoder(self) -> bool:
        """Where nothing looks at z there is no E: a GAN (Table 1, "No E"; BiGAN's table, "D")."""
        return self.system not in ("bigbigan", "bigan") or self.loss.s_z or self.loss.s_xz

    @property
    def has_generator(self) -> bool:
        """Where there is a G there are latents, and E, if there is one, gives some."""
        return self.system != "pretext"

    @property
    def has_discriminator(self) -> bool:
        return self.system not in ("autoencoder", "pretext")

    @property
    def additions(self) -> dict[str, Any]:
        """Settings by which this BigBiGAN differs from the paper's, by name; empty where it is as published. The
        reasons are in docs/deviations.md, 2 and 3."""
        d, e = self.discriminator, self.encoder
        if self.system != "bigbigan" or not self.has_encoder:
            return {}
        found: dict[str, Any] = {}
        if d.network == "biggan" and self.loss.s_xz and d.pair_norm:
            found["discriminator.pair_norm"] = d.pair_norm
        if e.stochastic and e.stdev_bias:
            found["encoder.stdev_bias"] = e.stdev_bias
        return found

    def to_dict(self) -> dict[str, Any]:
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def save(self, path: Path) -> None:
        write_json(path, self.to_dict(), stamp=True)


_USUAL: dict[str, Any] = Config().to_dict()


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of settings by dotted name, such as {"training.steps": 500}."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping) and value
        leaves |= flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return leaves


def _resolve(tree: Mapping[str, Any], settings: list[str], file: str = "") -> Config:
    """Typed settings from a tree, that of `file` if any, and from "a.b=value" on top; jsonargparse checks the types."""
    arguments = [f"--config.{setting}" for setting in settings]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", type=Config)
    try:
        namespace = parser.parse_object({"config": dict(tree)})
        namespace = parser.parse_args(arguments, namespace=namespace)
        return parser.instantiate(namespace).config
    except (ArgumentError, ValueError, TypeError) as error:
        text = " ".join(str(error).replace("config.", "").split())
        concerned = [s for s in settings if s.partition("=")[0] in text] or settings
        given = file or "--set " + " ".join(concerned)
        raise UserError(f"{given}: {_in_words(text, keys=len(concerned) != 1)}") from None


KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "tuple": "a list, such as [1,2]"}


def _in_words(text: str, keys: bool) -> str:
    """What jsonargparse says of a value of the wrong type, without the names of types; `keys`: say of which setting."""
    text = re.sub(r'Parser key "([^"]*)": ', r"\1: " if keys else "", text)
    text = re.sub(r"Expected a <class '(\w+)'>", lambda m: f"expected {KINDS.get(m[1], m[1])}", text)
    return re.sub(r"Expected a typing\.Literal\[(.*?)\]", r"expected one of \1", text).replace(". Got value:", ", got")


def override(config: Config, settings: list[str]) -> Config:
    """`config` with settings such as "training.steps=500" put in.

    Raises:
        UserError: unknown setting (the nearest known one is named), a value of the wrong type or range, or
            settings that do not go together.
    """
    known = list(flat(config.to_dict()))
    for setting in settings:
        name, equals, _ = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: expected name=value, for example training.steps=500")
        if name not in known or name in ("experiment", "scale"):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "--dry-run prints all settings"
            raise UserError(f"--set {setting}: there is no setting {name}; {hint}")
    tree, given = config.to_dict(), dict(setting.split("=", 1) for setting in settings)
    if "data.augment" in given and "data.mirror" not in given:  # a flip that is asked for by name is done
        tree["data"]["mirror"] = "always" if given["data.augment"] == "flip" else "auto"
    return _resolve(tree, settings)


def config_from_dict(tree: Any, origin: str) -> Config:
    """The `Config` that `Config.to_dict` wrote; `origin` names the file in messages.

    Raises:
        UserError: not such a tree: unknown keys, wrong types, values out of range.
    """
    if not isinstance(tree, Mapping):
        raise UserError(f"{origin}: expected a JSON object with the settings of a run")
    whole = Config().to_dict()
    if unknown := sorted(set(flat(tree)) - set(flat(whole))):
        raise UserError(f"{origin}: there is no setting {unknown[0]}, or it is not of the right shape")
    config = _resolve(tree, [], origin)
    if "mirror" not in tree.get("data", {}) and config.can_mirror:
        # Of a version without this setting, whose augmentations always mirrored.
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, mirror="always"))
    return config
