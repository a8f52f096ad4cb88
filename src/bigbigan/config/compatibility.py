"""Check that settings of different groups go together: system, networks, losses, data, latents.

Every check raises ValueError with one line (`bigbigan.config.schema.validate`).
"""

from __future__ import annotations

import math

from bigbigan.config.schema import CONVOLUTIONAL, Config, LossConfig, PretextConfig, TrainingConfig, flat, validate
from bigbigan.config.validate import check_attention, check_choice, choices, require

__all__: list[str] = []


@validate.register
def _check_config(config: Config) -> None:
    check_choice("system", config.system, choices(Config, "system"))
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
        ("hinge", config.loss.hinge != LossConfig.hinge, "bigbigan"),
    ):
        applies = config.system == system or config.is_own_system
        require(not given or applies, f"loss.{name} is for system={system}, not {config.system}")
    require(
        config.loss.hinge == LossConfig.hinge or len(config.loss.scores) > 1,
        f"loss.hinge={config.loss.hinge} does nothing with one score",
    )
    require(
        config.training.d_steps == TrainingConfig.d_steps or config.system == "bigbigan" or config.is_own_system,
        f"training.d_steps is for system=bigbigan; with system={config.system} all networks step at once",
    )
    require(
        config.training.e_steps == 1 or (config.has_encoder and (config.system == "bigbigan" or config.is_own_system)),
        "training.e_steps is for the encoder of system=bigbigan",
    )
    if config.has_discriminator:
        _check_discriminator_fits(config)
    else:
        require(not config.discriminator.augment, f"discriminator.augment: {config.system} has no discriminator")
    require(
        not config.encoder.augment or (config.has_encoder and (config.system == "bigbigan" or config.is_own_system)),
        "encoder.augment is for the encoder of system=bigbigan",
    )
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
    if config.system == "bigbigan":
        require(
            d.network == "biggan",
            f"discriminator.network={d.network} is for system=bigan; system=bigbigan needs biggan, without batch norm",
        )
    if config.system == "latent_regressor":
        require(scores == ("x",), "system=latent_regressor: D sees images alone; set loss.s_z, loss.s_xz to false")
    joint = (config.system == "bigbigan" or config.is_own_system) and d.network == "biggan" and "xz" in scores
    for name, given in (("joint_maps", d.joint_maps > 1), ("projection", d.projection)):
        require(joint or not given, f"discriminator.{name} is for the score s_xz of discriminator.network=biggan")
    require(d.joint_maps == 1 or len(d.channels) > 1, "discriminator.joint_maps=2 needs two discriminator.channels")
    require(d.network != "biggan" or not d.bias, "discriminator.bias is for networks mlp and conv; biggan has its own")
    if d.network != "biggan":
        require(
            len(d.channels) > 1 or "xz" not in scores,
            f"discriminator.network={d.network} needs two discriminator.channels or more: z enters at the second layer",
        )
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
    check_attention("discriminator", d.attention, sides)


def _check_encoder_fits(config: Config) -> None:
    r_e, r_g = config.encoder.resolution, config.generator.resolution
    require(
        not (config.latent.prior == "uniform" and config.encoder.stochastic),
        "latent.prior=uniform goes with encoder.stochastic=false (z squashed to (-1, 1))",
    )
    require(
        not config.encoder.stochastic or config.system not in ("bigan", "autoencoder"),
        f"system={config.system} draws no z from E(x): set encoder.stochastic=false",
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
    idle = ("latent.", "generator.", "discriminator.", "loss.")
    of_bigbigan = {"encoder.head_layers", "encoder.stochastic", "encoder.stdev_bias", "encoder.augment"}
    of_bigbigan |= {"training.d_steps", "training.e_steps", "optimizer.lr_d"}
    for name, value in values.items():
        require(
            value == default[name] or not (name.startswith(idle) or name in of_bigbigan),
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
