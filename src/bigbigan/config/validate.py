"""Check settings: values out of range, and settings that do not go together.

Every check raises ValueError with one line. A settings class runs its check when it is constructed (`schema.validate`).
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

from bigbigan.config.schema import (
    CONVOLUTIONAL,
    Config,
    DataConfig,
    DiscriminatorConfig,
    EncoderConfig,
    GeneratorConfig,
    LatentConfig,
    LogConfig,
    LossConfig,
    OptimizerConfig,
    PretextConfig,
    TrainingConfig,
    flat,
    validate,
)
from bigbigan.named import is_named

__all__ = ["require"]

LOGGERS = ("tensorboard", "wandb")  # of bigbigan.training.loggers
MAX_WIDTH, MAX_LAYERS = 2**16, 1_000  # far above any network


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def _check_choice(setting: str, value: str, known: Sequence[str]) -> None:
    """Refuse a value that is neither known nor the name of the user's own code."""
    near = difflib.get_close_matches(value, known, n=1)
    require(
        value in known or is_named(value),
        f"{setting}: expected one of {', '.join(known)}, or your own as MODULE:NAME, got {value}"
        + (f"; did you mean {near[0]}?" if near else ""),
    )


@functools.cache
def _choices(group: type, name: str) -> tuple[str, ...]:
    """Return the values that a setting has without the user's own code."""
    return get_args(get_args(get_type_hints(group)[name])[0])


def _check_sizes(network: str, settings: Any) -> None:
    """Refuse widths and numbers of layers that no machine could train: such a file is a mistake or an attack."""
    for name, value in dataclasses.asdict(settings).items():
        limit = MAX_LAYERS if name in ("blocks", "head_layers", "mlp_layers") else MAX_WIDTH
        numbers = [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, int)]
        require(len(numbers) <= MAX_LAYERS, f"{network}.{name} has {len(numbers):,} numbers, limit {MAX_LAYERS:,}")
        require(max(numbers, default=0) <= limit, f"{network}.{name} must not be above {limit:,}")


def _check_attention(network: str, attention: tuple[int, ...], widths: dict[int, int]) -> None:
    for side in attention:
        require(side in widths, f"{network}.attention = {side}: its maps have sides {', '.join(map(str, widths))}")
        require(
            widths[side] >= 8, f"{network}.attention needs 8 channels or more; at {side} px there are {widths[side]}"
        )


def _check_pair(name: str, pair: tuple[float, ...], lowest: float, highest: float) -> None:
    """Refuse limits that are not two finite numbers, black below white; an empty tuple is allowed."""
    in_range = len(pair) == 2 and lowest <= pair[0] < pair[1] <= highest and all(map(math.isfinite, pair))
    between = f" from {lowest:g} to {highest:g}" if math.isfinite(lowest) else ""
    require(not pair or in_range, f"{name} must be empty, or two numbers{between}, black below white")


@validate.register
def _check_data(data: DataConfig) -> None:
    require(data.classes >= 1, "data.classes must be at least 1")
    require(data.classes <= 1_000_000, "data.classes must not be above 1,000,000")
    require(data.labels == "classes" or data.classes == 1, "data.classes goes with data.labels=classes")
    require(
        not data.class_sizes
        or (len(data.class_sizes) == data.classes and min(data.class_sizes) >= 0 and sum(data.class_sizes) > 0),
        f"data.class_sizes must be empty, or {data.classes} numbers of images, one for each class",
    )
    require(0 < data.fraction <= 1, "data.fraction must lie in (0, 1]")
    require(data.memory_gib >= 0, "data.memory_gib must not be negative")
    require(data.shuffle_shards >= 1, "data.shuffle_shards must be at least 1")
    require(0 <= data.max_unreadable < 1, "data.max_unreadable must lie in [0, 1)")
    _check_pair("data.window", data.window, -math.inf, math.inf)
    _check_pair("data.window_percentiles", data.window_percentiles, 0, 100)
    require(0 < data.max_pixels <= 178_000_000, "data.max_pixels must lie in 1 to 178000000")


@validate.register
def _check_latent(latent: LatentConfig) -> None:
    _check_sizes("latent", latent)
    require(latent.dim > 0, "latent.dim must be positive")


@validate.register
def _check_generator(generator: GeneratorConfig) -> None:
    _check_sizes("generator", generator)
    if generator.network != "biggan":
        require(len(generator.channels) > 0 and min(generator.channels) > 0, "generator widths must be positive")
        require(
            not generator.attention, f"generator.attention is for generator.network=biggan, not {generator.network}"
        )
    if generator.network == "mlp":
        require(generator.side > 0, "generator.side must be positive: an mlp's widths do not give the size of images")
    else:
        require(not generator.side, "generator.side is for generator.network=mlp; others make 4·2^n px, n blocks")
    if generator.network != "biggan":
        return
    require(len(generator.channels) >= 2, "generator.channels needs the seed's width and one for each block")
    require(min(generator.channels) > 0 and generator.shared_dim > 0, "generator widths must be positive")
    widths = {8 * 2**i: width for i, width in enumerate(generator.channels[1:])}
    _check_attention("generator", generator.attention, widths)


@validate.register
def _check_discriminator(discriminator: DiscriminatorConfig) -> None:
    _check_sizes("discriminator", discriminator)
    require(min(discriminator.channels, default=0) > 0, "discriminator.channels must be one or more positive widths")
    require(discriminator.final_size > 0, "discriminator.final_size must be positive")
    require(
        len(set(discriminator.augment)) == len(discriminator.augment), "discriminator.augment names something twice"
    )
    require(discriminator.mlp_width > 0, "discriminator.mlp_width must be positive")
    require(
        discriminator.mlp_layers >= 2 and discriminator.mlp_layers % 2 == 0,
        "discriminator.mlp_layers must be even, 2 or more",
    )


@validate.register
def _check_encoder(encoder: EncoderConfig) -> None:
    _check_choice("encoder.block", encoder.block, _choices(EncoderConfig, "block"))
    _check_sizes("encoder", encoder)
    require(len(encoder.widths) > 0 and min(encoder.widths) > 0, "encoder.widths must be positive")
    counts = encoder.blocks_per_stage
    require(len(counts) == len(encoder.widths), f"encoder.blocks must be one number, or {len(encoder.widths)}")
    require(min(counts) > 0, "encoder.blocks must be positive")
    if encoder.block == "bottleneck":
        require(all(w % 4 == 0 for w in encoder.widths), "encoder.widths of bottleneck blocks must be multiples of 4")
    if encoder.block == "reversible":
        require(all(w % 8 == 0 for w in encoder.widths), "encoder.widths of reversible blocks must be multiples of 8")
        require(list(encoder.widths) == sorted(encoder.widths), "encoder.widths of reversible stages must not fall")
    require(
        encoder.block == "reversible" or not encoder.keep_activations,
        "encoder.keep_activations is for encoder.block=reversible; others always keep theirs",
    )
    require(
        encoder.block in CONVOLUTIONAL or encoder.norm == "batch",
        f"encoder.norm is for encoder.block={' or '.join(CONVOLUTIONAL)}, not {encoder.block}",
    )
    require(encoder.head_width > 0, "encoder.head_width must be positive")
    require(
        encoder.head_layers >= 0 and encoder.head_layers % 2 == 0, "encoder.head_layers must be even, or 0 for none"
    )
    require(encoder.lr_multiplier > 0, "encoder.lr_multiplier must be positive")
    if encoder.block == "alexnet":
        fits = len(encoder.widths) == 5 and all(w % 2 == 0 for w in encoder.widths)
        require(fits, "encoder.widths of alexnet must be five even numbers, as in its two groups")
    if encoder.block not in CONVOLUTIONAL:
        return
    halvings = len(encoder.widths) - 1 + (2 if encoder.stem == "imagenet" else 0)
    require(
        encoder.resolution % 2**halvings == 0,
        f"encoder.resolution = {encoder.resolution} cannot be halved {halvings} times",
    )


@validate.register
def _check_loss(loss: LossConfig) -> None:
    require(loss.orthogonal >= 0, "loss.orthogonal must not be negative")
    require(loss.regression_of_g >= 0, "loss.regression_of_g must not be negative")
    require(loss.latent_regression >= 0, "loss.latent_regression must not be negative")
    require(0 < loss.latent_regression_final <= 1, "loss.latent_regression_final must lie in (0, 1]")
    usual = LossConfig.__dataclass_fields__
    for name in ("latent_regression_final", "latent_regression_form", "latent_regression_in_g"):
        changed = getattr(loss, name) != usual[name].default
        require(not changed or loss.latent_regression > 0, f"loss.{name} needs loss.latent_regression above 0")
    require(loss.s_xz or loss.s_x, "loss: at least one of s_x and s_xz must be on: G learns by no other score")


@validate.register
def _check_pretext(pretext: PretextConfig) -> None:
    require(len(set(pretext.tasks)) == len(pretext.tasks), "pretext.tasks names a task twice")
    require(0 <= pretext.grey <= 1, "pretext.grey must lie in [0, 1]")
    require(pretext.views >= 2, "pretext.views must be at least 2")
    require(pretext.embedding >= 0, "pretext.embedding must not be negative")
    default = {f.name: f.default for f in dataclasses.fields(pretext)}
    for name, tasks in (  # a setting that would do nothing is a mistake
        ("grey", ("relative_position", "exemplar", *(("cpc",) if pretext.patch_augment else ()))),
        ("gap", ("relative_position",)),
        ("embedding", ("relative_position",)),
        ("views", ("exemplar",)),
        ("directions", ("cpc",)),
        ("patch_augment", ("cpc",)),
    ):
        needed = getattr(pretext, name) == default[name] or set(tasks) & set(pretext.tasks)
        require(bool(needed), f"pretext.{name} is for the task {' or '.join(tasks)}, not {', '.join(pretext.tasks)}")


@validate.register
def _check_optimizer(optimizer: OptimizerConfig) -> None:
    require(0 < optimizer.lr_final <= 1, "optimizer.lr_final must lie in (0, 1]")
    require(optimizer.lr_g > 0 and optimizer.lr_d > 0, "optimizer.lr_g and optimizer.lr_d must be positive")
    require(all(0 <= b < 1 for b in optimizer.betas), "optimizer.betas must lie in [0, 1)")
    require(optimizer.eps > 0, "optimizer.eps must be positive")
    require(optimizer.weight_decay >= 0, "optimizer.weight_decay must not be negative")


@validate.register
def _check_training(training: TrainingConfig) -> None:
    require(training.steps > 0, "training.steps must be positive")
    require(0 <= training.minutes < math.inf, "training.minutes must not be negative")
    require(training.batch_size > 1, "training.batch_size must be at least 2: batch norm needs a batch")
    require(training.d_steps > 0, "training.d_steps must be positive")
    require(0 <= training.ema_decay < 1, "training.ema_decay must lie in [0, 1)")
    require(training.seed >= 0, "training.seed must not be negative")
    require(
        training.accumulate >= 1
        and training.batch_size % training.accumulate == 0
        and training.batch_size > training.accumulate,
        f"training.accumulate must cut training.batch_size = {training.batch_size} into equal chunks of 2 or more",
    )


@validate.register
def _check_log(log: LogConfig) -> None:
    require(min(log.every, log.pictures_every, log.checkpoint_every) > 0, "log: intervals must be positive")
    require(log.keep_checkpoints >= 1, "log.keep_checkpoints must be at least 1")
    require(log.validate_every >= 0, "log.validate_every must not be negative")
    require(log.standing_batches > 0, "log.standing_batches must be positive")
    require(0 <= log.hang_minutes < math.inf, "log.hang_minutes must not be negative")
    for logger in log.loggers:
        _check_choice("log.loggers", logger, LOGGERS)
    require(len(set(log.loggers)) == len(log.loggers), "log.loggers names something twice")


@validate.register
def _check_config(config: Config) -> None:
    _check_choice("system", config.system, _choices(Config, "system"))
    if config.is_own_system:
        letters = config.networks
        some = len(set(letters)) == len(letters) and set(letters) <= set("GED") and bool({"G", "E"} & set(letters))
        require(some, f"networks: expected letters of G, E and D, at least G or E, got {letters or 'none'}")
    else:
        require(config.networks == "GED", f"networks is for a system of your own, not {config.system}")
    require(
        config.data.mirror != "always" or config.can_mirror,
        f"data.mirror=always does nothing with data.augment={config.data.augment}; set data.augment=flip",
    )
    if config.system == "pretext":
        _check_pretext_fits(config)
        return
    require(config.pretext == PretextConfig(), f"settings of pretext are for system=pretext, not {config.system}")
    require(config.data.augment != "task_crop", f"data.augment=task_crop is for system=pretext, not {config.system}")
    _check_generator_fits(config)
    r_e, r_g = config.encoder.resolution, config.generator.resolution
    both = config.has_encoder and config.has_generator
    require(
        r_e >= r_g or (config.is_own_system and not both),
        f"encoder.resolution = {r_e} must not be below the generator's {r_g}: D sees E's image",
    )
    biggan_networks = config.generator.network == config.discriminator.network == "biggan"
    of_biggan = biggan_networks and (config.system == "bigbigan" or config.is_own_system)
    if config.data.labels == "classes" and config.is_own_system:
        require(of_biggan, "data.labels=classes is for the biggan networks")
    elif config.data.labels == "classes":
        require(
            of_biggan and not config.has_encoder,
            "data.labels=classes is for a BigGAN: loss.s_x alone, biggan networks; or for pretext/supervised",
        )
    if config.data.labels == "single":
        require(of_biggan and config.loss.s_x, "data.labels=single is for loss.s_x and the biggan networks")
    for name, given, system in (  # a setting that would do nothing is a mistake
        ("orthogonal", config.loss.orthogonal > 0, "bigbigan"),
        ("latent_regression", config.loss.latent_regression > 0, "bigbigan"),
        ("regression_of_g", config.loss.regression_of_g > 0, "latent_regressor"),
        ("pixel", config.loss.pixel != "l2", "autoencoder"),
    ):
        applies = config.system == system or config.is_own_system
        require(not given or applies, f"loss.{name} is for system={system}, not {config.system}")
    if config.has_discriminator:
        _check_discriminator_fits(config)
    else:
        require(not config.discriminator.augment, f"discriminator.augment: {config.system} has no discriminator")
    if config.has_encoder:
        _check_encoder_fits(config)
    require(
        not config.loss.latent_regression or config.has_encoder,
        "loss.latent_regression needs an encoder; set loss.s_xz=true",
    )
    require(
        config.loss.latent_regression_form == "squared" or config.encoder.stochastic,
        "loss.latent_regression_form=likelihood needs encoder.stochastic=true",
    )


def _check_generator_fits(config: Config) -> None:
    g = config.generator
    if g.network != "biggan" or not config.has_generator:
        return
    chunks = len(g.channels) if g.skip_z else 1
    nearest = max(1, round(config.latent.dim / chunks)) * chunks
    require(
        config.latent.dim % chunks == 0,
        f"latent.dim = {config.latent.dim} must divide into {chunks} equal chunks, one for the seed of G and "
        f"one for each of its blocks; the nearest that does is {nearest}",
    )


def _check_discriminator_fits(config: Config) -> None:
    d, r_g, scores = config.discriminator, config.generator.resolution, config.loss.scores
    if config.system == "latent_regressor":
        require(scores == ("x",), "system=latent_regressor: D sees images alone; set loss.s_z, loss.s_xz to false")
    joint = (config.system == "bigbigan" or config.is_own_system) and d.network == "biggan" and "xz" in scores
    for name, given in (("joint_maps", d.joint_maps > 1), ("projection", d.projection)):
        require(joint or not given, f"discriminator.{name} is for the score s_xz of discriminator.network=biggan")
    require(d.joint_maps == 1 or len(d.channels) > 1, "discriminator.joint_maps=2 needs two discriminator.channels")
    require(d.network != "biggan" or not d.bias, "discriminator.bias is for networks mlp and conv; biggan has its own")
    if d.network != "biggan":
        require(
            scores in (("x",), ("xz",)),
            f"discriminator.network={d.network} has one score: loss.s_xz alone (BiGAN), or loss.s_x alone (a GAN)",
        )
    if d.network == "conv":
        halvings = len(d.channels)
        require(r_g % 2**halvings == 0, f"discriminator.channels: {r_g} px cannot be halved {halvings} times")
    if d.network != "biggan":
        return
    halvings_to_end = math.log2(r_g / d.final_size)
    require(
        halvings_to_end.is_integer() and halvings_to_end >= 0,
        f"discriminator.final_size = {d.final_size}: {r_g} px cannot be halved to it",
    )
    require(
        len(d.channels) >= halvings_to_end,
        f"discriminator.channels has {len(d.channels)} blocks; "
        f"images of {r_g} px need at least {halvings_to_end:.0f} to reach {d.final_size}×{d.final_size}",
    )
    sides = {r_g // 2 ** (i + 1): width for i, width in enumerate(d.channels[: int(halvings_to_end)])}
    _check_attention("discriminator", d.attention, sides)


def _check_encoder_fits(config: Config) -> None:
    r_e, r_g = config.encoder.resolution, config.generator.resolution
    require(
        not (config.latent.prior == "uniform" and config.encoder.stochastic),
        "latent.prior=uniform goes with encoder.stochastic=false (z squashed to (-1, 1))",
    )
    if config.system == "latent_regressor":
        require(config.latent.prior == "uniform", "system=latent_regressor needs latent.prior=uniform")
        require(r_e == r_g, f"encoder.resolution = {r_e} must be the generator's {r_g}: E learns from G's images")


def _check_pretext_fits(config: Config) -> None:
    """Check a system of E alone: settings of latents, and of networks that do not exist, would do nothing."""
    require(len(config.pretext.tasks) > 0, "system=pretext: pretext.tasks must name a task, such as rotation")
    require(
        config.encoder.block in CONVOLUTIONAL,
        f"system=pretext needs encoder.block={' or '.join(CONVOLUTIONAL)}, not {config.encoder.block}",
    )
    require(not config.training.compile, "training.compile is not for system=pretext")
    require(config.data.labels != "single", "data.labels=single is for loss.s_x and the biggan networks")
    values, default = flat(config.to_dict()), flat(Config().to_dict())
    idle = ("latent.", "generator.", "discriminator.", "loss.", "training.d_steps", "optimizer.lr_d")
    latents = ("encoder.head_layers", "encoder.stochastic", "encoder.stdev_bias")
    for name, value in values.items():
        require(
            value == default[name] or not (name.startswith(idle) or name in latents),
            f"{name} does nothing with system=pretext, which has no generator, discriminator or latents",
        )
    c, e = config.pretext, config.encoder
    if patches := {"relative_position", "cpc"} & set(c.tasks):
        require(e.resolution >= 32, f"the task {min(patches)} needs encoder.resolution of 32 or more: patches")
        min_size = 2 ** (len(e.widths) - 1) * (4 if e.stem == "imagenet" else 1)
        require(e.resolution // 4 >= min_size, f"patches of {e.resolution // 4} px are too small for encoder.widths")
    if {"cpc", "colorization"} & set(c.tasks):
        require(e.resolution % 8 == 0, f"encoder.resolution = {e.resolution} must be a multiple of 8 for these tasks")
    colour = "colorization" not in c.tasks or config.data.channels == 3
    require(colour, "the task colorization needs images in colour: data.channels=3")
    has_labels, needs_labels = config.data.labels == "classes", "supervised" in config.pretext.tasks
    require(has_labels == needs_labels, "data.labels=classes goes with the task supervised, and the task with it")
