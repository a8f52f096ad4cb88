"""Define Table 1 of the paper: 19 systems on ImageNet. `base` is complete; each other row is its difference from it.

A `Row` has the columns of the table. `config` turns it into settings: as published, or scaled down (`--scale 32`),
with 32 px in place of 128, 64 in place of 256, and widths, batch size and rates to match. `--scale 16` has half the
resolution of `--scale 32` and its widths, but for F: narrower networks learn too little to be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from bigbigan.config import (
    Config,
    DataConfig,
    DiscriminatorConfig,
    EncoderConfig,
    GeneratorConfig,
    LatentConfig,
    LogConfig,
    LossConfig,
    OptimizerConfig,
    TrainingConfig,
)
from bigbigan.experiments.biggan import CHUNK, STANDING, biggan_discriminator, biggan_generator
from bigbigan.experiments.registry import register

__all__ = ["BASE", "HIGH_RES_E", "NO_ENCODER", "Row", "config"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """Hold a row of Table 1. Defaults are those of its first row, Base."""

    # Encoder (E): A., D., C., R., Var., eta
    architecture: Literal["resnet", "revnet"] = "resnet"
    depth: Literal[50, 101] = 50
    width: int = 1
    encoder_resolution: int = 128
    stochastic: bool = True
    lr_multiplier: float = 1
    # Generator (G): C., R.
    ch: int = 96
    resolution: int = 128
    # Loss: s_xz, s_x, s_z; and, not in the table, whether the hinge is applied to each score or to their sum
    s_xz: bool = True
    s_x: bool = True
    s_z: bool = True
    hinge: Literal["each", "sum"] = "each"
    prior: Literal["normal", "uniform"] = "normal"


BASE = Row()
NO_ENCODER = replace(BASE, s_xz=False, s_z=False)


def config(row: Row, scale: int) -> Config:
    """Return the settings of a row: as published (`scale` 0), or with `scale` px (16, 32 or 64) in place of 128."""
    width = max(scale, 32)
    loss = LossConfig(s_x=row.s_x, s_z=row.s_z, s_xz=row.s_xz, hinge=row.hinge)
    as_published = not scale
    encoder = EncoderConfig(
        resolution=row.encoder_resolution if as_published else row.encoder_resolution * scale // 128,
        block="reversible" if row.architecture == "revnet" else "bottleneck",
        stem="imagenet" if as_published else "small",
        widths=tuple(row.width * (w if as_published else w * width // 256) for w in (256, 512, 1024, 2048)),
        blocks=(3, 4, 6, 3) if row.depth == 50 else (3, 4, 23, 3),
        head_width=4096 if as_published else 16 * width,
        head_layers=4,
        stochastic=row.stochastic,
        stdev_bias=0.0,  # sigma = softplus(sigma-hat), as in the paper
        lr_multiplier=row.lr_multiplier,
    )
    if as_published:
        generator, discriminator = biggan_generator(row.resolution, row.ch), biggan_discriminator(row.resolution, 96)
        data = DataConfig(channels=3, augment="resnet_crop")
        optimizer = OptimizerConfig(lr_g=5e-5, lr_d=2e-4)
        training = TrainingConfig(steps=500_000, batch_size=2048, ema_decay=0.9999)
        log = LogConfig(
            every=100, pictures_every=1000, checkpoint_every=1000, validate_every=5000, standing_batches=STANDING
        )
    else:
        generator, discriminator = small_networks(row.resolution * scale // 128, scale, row.ch / 96)
        data = DataConfig(channels=3, augment="flip")
        optimizer = OptimizerConfig(lr_g=2e-4, lr_d=8e-4)
        training = TrainingConfig(steps=20_000, batch_size=4 * scale, ema_decay=0.999)
        log = LogConfig(every=50, pictures_every=500, checkpoint_every=500, validate_every=1000)
    log = replace(log, validation_metric="top1_table1_avepool")  # the paper's early stopping (Appendix A)
    return Config(
        scale=scale,
        data=data,
        latent=LatentConfig(dim=CHUNK * len(generator.channels), prior=row.prior),
        generator=generator,
        discriminator=discriminator,
        encoder=encoder,
        loss=loss,
        optimizer=optimizer,
        training=training,
        log=log,
    )


def small_networks(resolution: int, scale: int, share: float) -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """Return G and D of a row that is scaled down.

    Like BigGAN's, G halves its width towards the image, and F ends many times as wide as it begins. The widest maps of
    G have 2·scale channels (64 at scale 16), and `share` of that in the rows with a small G. Unlike the full-size
    networks, J reads F(x) and H(z) through a layer norm (docs/deviations.md, 2).
    """
    blocks = (resolution // 4).bit_length() - 1
    top, end = 2 * max(scale, 32), 8 * scale
    G = ([top] * max(2, blocks - 1) + [top // 2, top // 4])[-blocks - 1 :]
    F = [min(top // 4 * 2**i, end) for i in range(blocks)] + [end]
    return (
        GeneratorConfig(channels=tuple(max(4, 4 * round(share * w / 4)) for w in G), shared_dim=top // 2),
        DiscriminatorConfig(channels=tuple(F), mlp_width=4 * top, mlp_layers=8),
    )


def row(make: Callable[[], Row]) -> Callable[[], Row]:
    """Enter a function that returns a `Row` as the experiment table1/FUNCTION (a decorator)."""

    def settings(scale: int = 0) -> Config:
        return config(make(), scale)

    settings.__name__, settings.__doc__ = make.__name__, make.__doc__
    register("table1", scales=(16, 32, 64))(settings)
    return make


@row
def base() -> Row:
    """Train a ResNet-50 encoder and BigGAN-128, all at 128 px, with three scores."""
    return BASE


@row
def deterministic_encoder() -> Row:
    """Use E's linear output as z, without sampling."""
    return replace(BASE, stochastic=False)


@row
def uniform_prior() -> Row:
    """Draw z from U(-1, 1); E is deterministic and ends in tanh."""
    return replace(BASE, stochastic=False, prior="uniform")


@row
def x_unary_only() -> Row:
    """Score pairs and images: s_xz and s_x."""
    return replace(BASE, s_z=False)


@row
def z_unary_only() -> Row:
    """Score pairs and latents: s_xz and s_z."""
    return replace(BASE, s_x=False)


@row
def no_unaries() -> Row:
    """Score only pairs, s_xz: BiGAN with a modern G and D."""
    return replace(BASE, s_x=False, s_z=False)


@row
def small_g_32() -> Row:
    """Use a third of G's width."""
    return replace(BASE, ch=32)


@row
def small_g_64() -> Row:
    """Use two thirds of G's width."""
    return replace(BASE, ch=64)


@row
def no_encoder() -> Row:
    """Train an unconditional BigGAN: s_x only, and no encoder."""
    return NO_ENCODER


HIGH_RES_E = replace(BASE, encoder_resolution=256)  # all rows below see 256 px


@row
def high_res_e() -> Row:
    """Show E 256 px, and D the same crop at 128 px."""
    return HIGH_RES_E


@row
def low_res_g() -> Row:
    """Use G and D at 64 px; the FID is of 64-px images and does not compare with the other rows."""
    return replace(HIGH_RES_E, resolution=64)


@row
def high_res_g() -> Row:
    """Use G, D and E at 256 px."""
    return replace(HIGH_RES_E, resolution=256)


@row
def resnet101() -> Row:
    """Use a deeper E, ResNet-101."""
    return replace(HIGH_RES_E, depth=101)


@row
def resnet_x2() -> Row:
    """Use an E of twice the width."""
    return replace(HIGH_RES_E, width=2)


@row
def revnet() -> Row:
    """Use a RevNet-50 as E, with a quarter of ResNet-50's parameters."""
    return replace(HIGH_RES_E, architecture="revnet")


@row
def revnet_x2() -> Row:
    """Use a RevNet-50 of twice the width as E."""
    return replace(HIGH_RES_E, architecture="revnet", width=2)


@row
def revnet_x4() -> Row:
    """Use a RevNet-50 of four times the width as E."""
    return replace(HIGH_RES_E, architecture="revnet", width=4)


@row
def resnet_up_encoder_lr() -> Row:
    """Train E ten times as fast as G."""
    return replace(HIGH_RES_E, lr_multiplier=10)


@row
def revnet_x4_up_encoder_lr() -> Row:
    """Train the widest E, ten times as fast as G: the paper's best."""
    return replace(HIGH_RES_E, architecture="revnet", width=4, lr_multiplier=10)


@row
def hinge_of_sum() -> Row:
    """Apply one hinge to the sum of the three scores, which the authors tried and found clearly worse."""
    return replace(BASE, hinge="sum")
