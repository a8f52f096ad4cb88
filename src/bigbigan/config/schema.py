"""The settings of a run: frozen dataclasses, grouped like the columns of the paper's Table 1.

A `Config` is complete and resolved: nothing else decides what a run does. It is checked when it is constructed
(`bigbigan.config.validate`, `compatibility`) and converted from and to JSON (`bigbigan.config.overrides`).
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
from bigbigan.user_code import is_named

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

    `bigbigan.config.validate` and `bigbigan.config.compatibility` register the check of each class below.
    """


@dataclass(frozen=True, kw_only=True)  # jsonargparse would accept subclasses by name if this were no dataclass
class Settings:
    """Base of the settings classes: they are checked when they are constructed."""

    def __post_init__(self) -> None:
        validate(self)


MIRRORING = ("flip", "resnet_crop")  # augmentations that mirror half of the images


@dataclass(frozen=True, kw_only=True)
class DataConfig(Settings):
    """The images, and what is done to them."""

    channels: Literal[1, 3] = 3  # channels of the images that the networks see: 1 is grey, 3 is colour
    # Augmentation of training images. flip: mirror half of them left to right. resnet_crop: 8-100 % of the area, aspect
    # 3/4-4/3, and flip (Table 1). square_crop: a square of 50-100 % of the area (Table 3). random_crop: 7/8 of the side
    # (BiGAN). task_crop: each pretext task has its own crops (docs/notes/pretext.md), and classifiers on its features
    # are trained with resnet_crop.
    augment: Literal["none", "flip", "resnet_crop", "square_crop", "random_crop", "task_crop"] = "none"
    # Whether augmentation (flip, resnet_crop, crops of pretext tasks, patches of cpc) may mirror images. auto: the data
    # decide when training starts; digits, letters and grey arrays are not mirrored (docs/your_data.md). With
    # --set data.augment=flip alone it is always.
    mirror: Literal["auto", "always", "never"] = "auto"
    # Whether squares a little smaller than R (more than 0.8 of it) are padded with zeros instead of enlarged, as is
    # usual for MNIST (28 to 32). auto: rows of arrays are, image files are not; training writes what it did. New images
    # are treated alike, also by an exported model.
    pad: Literal["auto", "always", "never"] = "auto"
    # Label conditioning. single: one shared class embedding in G and D ("Single Label", Table 3). classes: the source's
    # labels, for G and D of a BigGAN, or for E with the task "supervised".
    labels: Literal["none", "single", "classes"] = "none"
    classes: int = 1  # number of classes; found when training starts, 1 without labels
    # Number of training images of each class, found when training starts. G's labels are drawn in proportion. Empty if
    # all classes have the same number.
    class_sizes: tuple[int, ...] = ()
    fraction: float = 1.0  # share of the training images to train on; the same images for every seed
    memory_gib: float = 8.0  # limit in GiB: larger image sets are decoded again for each batch
    # Remote shards, streamed: number of shards shuffled together. Twice as many, and two more, are cached on disk.
    shuffle_shards: int = 16
    max_unreadable: float = 0.05  # training stops if a larger share of the files cannot be read
    # Images of more than 8 bits: the values that become black and white, such as [200,3900], in the units of the files;
    # empty: the upper 8 bits. New images are converted by the same values, also in an exported model.
    window: tuple[float, ...] = ()
    # Measure the window when training starts: percentiles of the pixels of the training images, such as [0.1,99.9].
    window_percentiles: tuple[float, ...] = ()
    # Which frames of a TIFF or DICOM file are read: the first, or all of them, each an image called FILE#FRAME.
    frames: Literal["first", "all"] = "first"
    # Maximum pixels of a file; JPEG files up to 8 times larger, at most 178 megapixels, are read at a reduced size.
    max_pixels: int = 25_000_000

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
    """The prior P_z of latents (Table 1, column P_z)."""

    dim: int = 120  # length of z
    prior: Literal["normal", "uniform"] = "normal"  # N(0, I) or U(-1, 1)


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(Settings):
    """The generator G (Table 1, column Generator)."""

    network: Literal["biggan", "mlp", "conv"] = "biggan"  # BigGAN's blocks, or BiGAN's MLP or convolutional network
    # Widths. biggan: of the 4×4 seed, and after each block, which doubles the side. conv: the same, and a last layer
    # doubles it once more. mlp: of the hidden layers.
    channels: tuple[int, ...] = (64, 64, 32, 16)
    side: int = 0  # side of the images in pixels, for network=mlp; other networks: 0, the side follows from channels
    attention: tuple[int, ...] = ()  # sides in pixels of the maps after which self-attention is placed
    skip_z: bool = True  # true: the seed and each block get a chunk of z; false: the seed gets all of z
    shared_dim: int = 32  # length of the class embedding; with one class it is a learned vector

    @property
    def resolution(self) -> int:
        """Side of G's images in pixels, which is what D sees."""
        return self.side or 4 * 2 ** (len(self.channels) - (self.network == "biggan"))


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig(Settings):
    """The discriminator D: F sees the image, H the latent, J both."""

    # biggan: F, H and J. mlp, conv: BiGAN's networks, which use channels and bias only.
    network: Literal["biggan", "mlp", "conv"] = "biggan"
    channels: tuple[int, ...] = (16, 32, 64, 64)  # widths of F's blocks, which halve the side; mlp, conv: of the layers
    bias: bool = False  # whether the first layer of mlp and conv has a bias (docs/notes/bigan.md)
    final_size: int = 4  # side in pixels of the map at which F's blocks stop halving
    attention: tuple[int, ...] = ()  # sides in pixels of the maps after which self-attention is placed
    mlp_width: int = 128  # width of H and J
    mlp_layers: int = 4  # layers of H and J, two in each residual block; an even number
    pair_norm: bool = True  # normalise F(x) and H(z) by layer norm before J (docs/deviations.md, 2)
    joint_maps: Literal[1, 2] = 1  # 2: J also reads the map before F's last block (docs/deviations.md, 55)
    projection: bool = False  # add a bilinear term of F(x) and H(z) to s_xz (docs/deviations.md, 55)
    # Differentiable augmentation of all images that D sees, generated and real (DiffAugment), for small image sets.
    augment: tuple[Literal["color", "translation", "cutout"], ...] = ()


CONVOLUTIONAL = ("basic", "bottleneck", "reversible")  # trunks of any size of image


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Settings):
    """The encoder E: a backbone, then a head that gives z (Table 1, column Encoder)."""

    resolution: int = 32  # side in pixels of the images that E sees; D sees them pooled to G's resolution
    # The backbone's blocks: ResNet-v2's (basic, bottleneck), RevNet's (reversible); or BiGAN's MLP or AlexNet; or a
    # backbone of your own, MODULE:NAME (docs/extending.md).
    block: Literal["basic", "bottleneck", "reversible", "mlp", "alexnet"] | str = "basic"
    stem: Literal["small", "imagenet"] = "small"  # 3×3 convolution; or 7×7 of stride 2 and max pooling
    widths: tuple[int, ...] = (16, 32, 64, 128)  # output channels of each stage; stages after the first halve the side
    blocks: int | tuple[int, ...] = 1  # residual blocks in each stage; one number for all stages, or a list
    norm: Literal["batch", "layer"] = "batch"  # the backbone's normalisation: over a batch, or over one image
    keep_activations: bool = False  # reversible blocks: keep activations instead of recomputing them
    head_width: int = 128  # width of the head
    head_layers: int = 4  # layers of the head, an even number; 0: no head, z is a linear output of the backbone
    stochastic: bool = True  # true: z is sampled from N(mu, sigma²); false: z is the linear output
    stdev_bias: float = -3.0  # sigma = softplus(output + this); softplus(-3) = 0.05 (docs/deviations.md, 3)
    lr_multiplier: float = 1.0  # E's learning rate divided by G's (Table 1, column eta)
    # Augmentation of the images that E is trained on, while D sees them unchanged (docs/deviations.md, 55).
    augment: tuple[Literal["color", "translation", "cutout"], ...] = ()

    @property
    def blocks_per_stage(self) -> tuple[int, ...]:
        """The number of residual blocks of each stage."""
        return (self.blocks,) * len(self.widths) if isinstance(self.blocks, int) else self.blocks


@dataclass(frozen=True, kw_only=True)
class LossConfig(Settings):
    """The losses: the scores of D (Table 1, columns Loss), and settings of single systems."""

    s_x: bool = True  # D scores images
    s_z: bool = True  # D scores latents
    s_xz: bool = True  # D scores pairs of image and latent; without s_z and s_xz there is no encoder
    hinge: Literal["each", "sum"] = "each"  # hinge on each score, or on their sum (docs/theory.md)
    # system=latent_regressor: weight of E's error in the loss that G and E share; 0.25 if joint. 0: G ignores it.
    regression_of_g: float = 0.0
    pixel: Literal["l1", "l2"] = "l2"  # system=autoencoder: absolute or squared error
    orthogonal: float = 0.0  # weight of orthogonal regularisation of G; BigGAN's is 1e-4
    # system=bigbigan: weight of E's error on z from G(z), which is not in the paper (docs/deviations.md, 55).
    latent_regression: float = 0.0
    latent_regression_final: float = 1.0  # share of that weight left at the end; it falls by an equal factor each step
    latent_regression_form: Literal["squared", "likelihood"] = "squared"  # the error: (z - mu)², or -log q(z|G(z))
    latent_regression_in_g: bool = False  # whether G minimises this error too

    @property
    def scores(self) -> tuple[str, ...]:
        """The scores of D by short name, of "x", "z", "xz"."""
        return tuple(name for name in ("x", "z", "xz") if getattr(self, f"s_{name}"))


Task = Literal["rotation", "relative_position", "exemplar", "colorization", "cpc", "supervised"]


@dataclass(frozen=True, kw_only=True)
class PretextConfig(Settings):
    """The pretext tasks of system=pretext (bigbigan.methods.pretext)."""

    tasks: tuple[Task, ...] = ()  # the tasks; several share one backbone, and their losses are added
    standardize: bool = False  # bring each view to mean 0 and variance 1 before E sees it
    grey: float = 0.66  # relative_position, exemplar, cpc with patch_augment: share of views without colour
    gap: bool = True  # relative_position: patches are jittered and do not touch; false: they lie edge to edge
    embedding: int = 0  # relative_position: length of a linear embedding of each patch before the head; 0: none
    views: int = 8  # exemplar: views of each image
    directions: Literal[1, 2, 4] = 1  # cpc: predict from above; from above and below; from all four sides
    patch_augment: bool = False  # cpc: mirror each patch, or keep one of its channels, at random


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Settings):
    """Adam for all networks."""

    lr_g: float = 2e-4  # learning rate of G; E's is this times encoder.lr_multiplier
    lr_d: float = 2e-4  # learning rate of D
    betas: tuple[float, float] = (0.0, 0.999)  # Adam's decay rates
    eps: float = 1e-8  # Adam's epsilon
    weight_decay: float = 0.0  # L2 weight decay, added to the gradient; not for gains of batch norm
    lr_final: float = 1.0  # final rate over the initial one; constant for half the steps, then exponential decay
    lr_by_epoch: bool = False  # rates fall from epoch to epoch (BiGAN) instead of from step to step


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Settings):
    """The training loop."""

    steps: int = 10_000  # training steps: joint updates of G and E, each after d_steps updates of D
    # Time budget: when training starts, a step is timed and `steps` becomes the number that fits. 0: use `steps`.
    minutes: float = 0.0
    batch_size: int = 64  # images of an update, over all chunks and devices
    d_steps: int = 2  # system=bigbigan: updates of D in a step; in other systems all networks step at once
    e_steps: int = 1  # system=bigbigan: updates of E in a step; the last is the one of G, the others are of E alone
    ema_decay: float = 0.999  # decay of the moving averages of G's and E's weights; 0: no averages
    seed: int = 0  # seed of weights, batches and noise
    accumulate: int = 1  # number of chunks that a batch is computed in, to save memory; batch norm is over a chunk
    # Number format of the passes through the networks; weights and losses are float32. auto: bf16 if the device
    # computes in it and steps are faster, as measured when the run begins; the run records which it was.
    precision: Literal["float32", "bf16", "auto"] = "float32"
    compile: bool = False  # compile the networks: minutes at the start, then faster steps on a GPU; other rounding


@dataclass(frozen=True, kw_only=True)
class LogConfig(Settings):
    """What is logged while training, and how often in steps. None of it changes the weights."""

    every: int = 50  # steps between lines of metrics.jsonl and of the loggers
    # Where metrics and pictures are sent, in addition to metrics.jsonl and samples/: tensorboard, wandb, or a logger of
    # your own, MODULE:NAME (docs/extending.md). --log NAME adds one.
    loggers: tuple[str, ...] = ("tensorboard",)
    pictures_every: int = 500  # steps between sample and reconstruction grids
    checkpoint_every: int = 500  # steps between checkpoints
    keep_checkpoints: int = 2  # number of newest checkpoints to keep, besides the best one
    validate_every: int = 0  # steps between measurements of the validation metric; 0: never
    # Chooses the best step (early stopping): top1_linear_F_10perclass, top1_table1_F or fid10k_train_NETWORK.
    validation_metric: str = "top1_linear_bn_crelu_10perclass"
    standing_batches: int = 16  # forward passes that fill the batch norm statistics for evaluation
    # Under torchrun: end the run if one process keeps the others waiting this long, except while it reads images or
    # measures the validation metric. 0: never.
    hang_minutes: float = 30.0


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """All settings of a run."""

    experiment: str = "custom"  # name of the experiment; it cannot be set
    # The training method, see bigbigan.methods; or one of your own, MODULE:NAME (docs/extending.md).
    system: Literal["bigbigan", "bigan", "latent_regressor", "autoencoder", "pretext"] | str = "bigbigan"
    networks: str = "GED"  # for a system of your own: the networks that it trains, of G, E and D, such as GE
    scale: int = 0  # --scale: the resolution that replaces the paper's 128 px; 0: as published
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
    def is_own_system(self) -> bool:
        """Whether the training method is the user's own, MODULE:NAME."""
        return is_named(self.system)

    @property
    def own_code(self) -> tuple[str, ...]:
        """The names of the user's own code in these settings, each "MODULE:NAME" or "python:MODULE:NAME"."""
        return tuple(filter(is_named, (self.system, self.encoder.block, *self.log.loggers)))

    @property
    def code_of_networks(self) -> tuple[str, ...]:
        """Those of `own_code` that the networks are made of, which are imported wherever a trained model is loaded."""
        return tuple(filter(is_named, (self.encoder.block,)))

    @property
    def has_encoder(self) -> bool:
        """Whether there is an E. If D has no score of z the system is a GAN (Table 1, "No E"; BiGAN's table, "D")."""
        if self.is_own_system:
            return "E" in self.networks
        return self.system not in ("bigbigan", "bigan") or self.loss.s_z or self.loss.s_xz

    @property
    def has_generator(self) -> bool:
        """Whether there is a G; then there are latents, and E, if there is one, outputs some."""
        return "G" in self.networks if self.is_own_system else self.system != "pretext"

    @property
    def has_discriminator(self) -> bool:
        """Whether there is a D."""
        if self.is_own_system:
            return "D" in self.networks
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
        if d.augment:
            found["discriminator.augment"] = list(d.augment)
        if e.augment:
            found["encoder.augment"] = list(e.augment)
        if self.training.e_steps > 1:
            found["training.e_steps"] = self.training.e_steps
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def save(self, path: Path) -> None:
        """Write the settings to a JSON file."""
        write_json(path, self.to_dict(), stamp=True)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a tree of settings by dotted name, such as {"training.steps": 500}."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping) and value
        leaves |= flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return leaves
