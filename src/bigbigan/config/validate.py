"""Check the settings of each group: values out of range, and settings of a group that do not go together.

`bigbigan.config.compatibility` checks groups against each other. Every check raises ValueError with one line. A
settings class runs its check when it is constructed (`schema.validate`).
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

from bigbigan.config.schema import (
    CONVOLUTIONAL,
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
    validate,
)
from bigbigan.user_code import is_named

__all__ = ["LOGGERS", "check_attention", "check_choice", "choices", "require"]

LOGGERS = ("tensorboard", "wandb")  # of bigbigan.training.loggers
MAX_WIDTH, MAX_LAYERS, MAX_BATCH = 2**16, 1_000, 2**24  # far above any network and batch


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def _check_finite(group: str, settings: Any, except_for: Sequence[str] = ()) -> None:
    """Refuse infinite numbers and NaN."""
    for name, value in dataclasses.asdict(settings).items():
        numbers = [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, float)]
        finite = name in except_for or all(map(math.isfinite, numbers))
        require(finite, f"{group}.{name} must be finite, got {value}")


def check_choice(setting: str, value: str, known: Sequence[str]) -> None:
    """Refuse a value that is neither known nor the name of the user's own code."""
    near = difflib.get_close_matches(value, known, n=1)
    require(
        value in known or is_named(value),
        f"{setting}: expected one of {', '.join(known)}, or your own as MODULE:NAME, got {value}"
        + (f"; did you mean {near[0]}?" if near else ""),
    )


def _refuse_idle(group: str, settings: Any, names: Sequence[str], where: str) -> None:
    """Refuse settings that are changed and would do nothing."""
    for name in names:
        usual = type(settings).__dataclass_fields__[name].default
        require(
            getattr(settings, name) == usual,
            f"{group}.{name} does nothing with {where}; leave it at {json.dumps(usual)}",
        )


@functools.cache
def choices(group: type, name: str) -> tuple[str, ...]:
    """Return the values that a setting has without the user's own code."""
    return get_args(get_args(get_type_hints(group)[name])[0])


def _check_sizes(network: str, settings: Any) -> None:
    """Refuse widths and numbers of layers that no machine could train: such a file is a mistake or an attack."""
    for name, value in dataclasses.asdict(settings).items():
        limit = MAX_LAYERS if name in ("blocks", "head_layers", "mlp_layers") else MAX_WIDTH
        numbers = [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, int)]
        require(len(numbers) <= MAX_LAYERS, f"{network}.{name} has {len(numbers):,} numbers, limit {MAX_LAYERS:,}")
        require(max(numbers, default=0) <= limit, f"{network}.{name} must not be above {limit:,}")


def check_attention(network: str, attention: tuple[int, ...], widths: dict[int, int]) -> None:
    """Refuse attention at a side of maps that a network does not have; `widths` are its channels by side."""
    for side in attention:
        require(side > 1, f"{network}.attention = {side}: maps of 1 px have nothing to attend to")
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
    _check_finite("data", data, except_for=("memory_gib", "window", "window_percentiles"))
    require(data.classes >= 1, "data.classes must be at least 1")
    require(data.classes <= 1_000_000, "data.classes must not be above 1,000,000")
    require(data.labels == "classes" or data.classes == 1, "data.classes goes with data.labels=classes")
    require(
        not data.class_sizes
        or (len(data.class_sizes) == data.classes and min(data.class_sizes) >= 0 and sum(data.class_sizes) > 0),
        f"data.class_sizes must be empty, or {data.classes} numbers of images, one for each class",
    )
    require(0 < data.fraction <= 1, "data.fraction must lie in (0, 1]")
    require(data.memory_gib >= 0, f"data.memory_gib must be 0 or more, got {data.memory_gib}")
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
        _refuse_idle("generator", generator, ("skip_z", "shared_dim"), f"generator.network={generator.network}")
        return
    require(len(generator.channels) >= 2, "generator.channels needs the seed's width and one for each block")
    require(min(generator.channels) > 0 and generator.shared_dim > 0, "generator widths must be positive")
    widths = {8 * 2**i: width for i, width in enumerate(generator.channels[1:])}
    check_attention("generator", generator.attention, widths)


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
    if discriminator.network != "biggan":
        idle = ("final_size", "attention", "mlp_width", "mlp_layers", "pair_norm")
        _refuse_idle("discriminator", discriminator, idle, f"discriminator.network={discriminator.network}")


@validate.register
def _check_encoder(encoder: EncoderConfig) -> None:
    check_choice("encoder.block", encoder.block, choices(EncoderConfig, "block"))
    _check_sizes("encoder", encoder)
    _check_finite("encoder", encoder)
    require(len(set(encoder.augment)) == len(encoder.augment), "encoder.augment names something twice")
    require(encoder.resolution > 0, f"encoder.resolution must be positive, got {encoder.resolution}")
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
    if encoder.block in ("mlp", "alexnet"):
        _refuse_idle("encoder", encoder, ("stem", "blocks"), f"encoder.block={encoder.block}")
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
    _check_finite("loss", loss)
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
    _check_finite("pretext", pretext)
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
    _check_finite("optimizer", optimizer)
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
    require(training.batch_size <= MAX_BATCH, f"training.batch_size must not be above {MAX_BATCH:,}")
    require(training.d_steps > 0, "training.d_steps must be positive")
    require(training.e_steps > 0, "training.e_steps must be positive")
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
        check_choice("log.loggers", logger, LOGGERS)
    require(len(set(log.loggers)) == len(log.loggers), "log.loggers names something twice")
