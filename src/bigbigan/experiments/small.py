"""Define BigBiGAN at sizes that one computer can train. docs/notes/experiments.md says what was tried.

All share one design: narrow BigGAN blocks that become narrower towards the image; a small ResNet-v2 encoder that learns
faster than G (as in the paper's "up E LR" rows); learning rates several times those of the full-size networks, which
narrow networks tolerate; and an F with a wide last block, because J separates pairs by what F(x) contains, and E learns
only through J. Those for CIFAR-10 update E twice a step, hide a square of each image from it, and start its sigma near
0.7, as in the paper; folder64 hides the square.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from bigbigan.config import (
    Config,
    DataConfig,
    DiscriminatorConfig,
    EncoderConfig,
    GeneratorConfig,
    LatentConfig,
    LogConfig,
    OptimizerConfig,
    TrainingConfig,
)
from bigbigan.experiments.registry import register

__all__: list[str] = []


@register("small", data="digits")
def digits() -> Config:
    """Train on 8×8 handwritten digits that ship with scikit-learn: two to three minutes on two cores."""
    return Config(
        data=DataConfig(channels=1),
        latent=LatentConfig(dim=20),
        generator=GeneratorConfig(channels=(64, 64)),
        discriminator=DiscriminatorConfig(channels=(64, 64)),
        encoder=EncoderConfig(resolution=8, widths=(64, 128, 256), head_width=256, lr_multiplier=2),
        optimizer=OptimizerConfig(lr_g=5e-4, lr_d=1e-3),
        training=TrainingConfig(steps=1200),
        log=LogConfig(every=20, pictures_every=200, checkpoint_every=200, validate_every=200),
    )


def config_32_px(channels: Literal[1, 3]) -> Config:
    """Return the settings for images of 32 px, with the additions of docs/notes/encoder_search.md."""
    return Config(
        data=DataConfig(channels=channels),
        latent=LatentConfig(dim=40),
        generator=GeneratorConfig(channels=(64, 64, 32, 16)),
        discriminator=DiscriminatorConfig(channels=(16, 32, 64, 256), mlp_width=256, joint_maps=2, projection=True),
        encoder=EncoderConfig(resolution=32, widths=(16, 32, 64, 384), head_width=256, lr_multiplier=2),
        optimizer=OptimizerConfig(lr_g=1e-3, lr_d=1e-3),
        training=TrainingConfig(steps=6_000, precision="auto"),
        log=LogConfig(every=50, pictures_every=500, checkpoint_every=500, validate_every=500),
    )


@register("small", data="mnist")
def mnist() -> Config:
    """Train on MNIST, zero-padded to 32 px: an hour on one core; 90 % with 10 labels per class."""
    return config_32_px(channels=1)


@register("small", data="fashion-mnist")
def fashion_mnist() -> Config:
    """Train on Fashion-MNIST, zero-padded to 32 px: three hours on one core; 76 % with 10 labels per class."""
    config = config_32_px(channels=1)
    return replace(config, training=replace(config.training, steps=12_000))


@register("small", data="cifar10")
def cifar10() -> Config:
    """Train on CIFAR-10 in colour at 32 px, twice as wide as small/mnist: a GPU, or nights on two cores."""
    return Config(
        data=DataConfig(channels=3, augment="flip"),
        latent=LatentConfig(dim=80),
        generator=GeneratorConfig(channels=(128, 128, 64, 32)),
        discriminator=DiscriminatorConfig(channels=(32, 64, 128, 512), mlp_width=512, joint_maps=2, projection=True),
        encoder=EncoderConfig(
            resolution=32,
            widths=(32, 64, 128, 768),
            head_width=512,
            lr_multiplier=2,
            augment=("cutout",),
            stdev_bias=0.0,
        ),
        optimizer=OptimizerConfig(lr_g=5e-4, lr_d=5e-4),
        training=TrainingConfig(steps=50_000, e_steps=2, precision="auto"),
        log=LogConfig(every=100, pictures_every=1000, checkpoint_every=1000, validate_every=1000),
    )


@register("small", data="cifar10")
def cifar10_16px() -> Config:
    """Train on CIFAR-10 in colour at 16 px: two hours on one core; 40 % with 10 labels per class."""
    return Config(
        data=DataConfig(channels=3, augment="flip"),
        latent=LatentConfig(dim=60),
        generator=GeneratorConfig(channels=(64, 64, 32)),
        discriminator=DiscriminatorConfig(channels=(24, 48, 192), mlp_width=256, joint_maps=2, projection=True),
        encoder=EncoderConfig(
            resolution=16, widths=(24, 48, 384), head_width=256, lr_multiplier=2, augment=("cutout",), stdev_bias=0.0
        ),
        optimizer=OptimizerConfig(lr_g=5e-4, lr_d=5e-4),
        training=TrainingConfig(steps=12_000, e_steps=2, precision="auto"),
        log=LogConfig(every=100, pictures_every=1000, checkpoint_every=500, validate_every=500),
    )


@register("small")
def folder32() -> Config:
    """Train on any folder or archive of images, in colour at 32 px, for a first answer: half an hour on one core."""
    config = config_32_px(channels=3)
    return replace(
        config,
        data=replace(config.data, augment="flip"),
        training=replace(config.training, steps=3_000),
        log=LogConfig(every=50, pictures_every=250, checkpoint_every=250),
    )


@register("small")
def folder64() -> Config:
    """Train on any folder or archive of images, in colour at 64 px: two hours on two cores.

    On Caltech-101 it reaches 88 % with 10 labels for each of ten classes, after a quarter of the steps 85 %, raw pixels
    59 %.
    """
    return Config(
        data=DataConfig(channels=3, augment="flip"),
        latent=LatentConfig(dim=80),
        generator=GeneratorConfig(channels=(64, 64, 64, 32, 16)),
        discriminator=DiscriminatorConfig(channels=(16, 32, 64, 64, 256), mlp_width=256, joint_maps=2, projection=True),
        encoder=EncoderConfig(
            resolution=64, widths=(16, 32, 64, 128, 320), head_width=256, lr_multiplier=2, augment=("cutout",)
        ),
        optimizer=OptimizerConfig(lr_g=5e-4, lr_d=5e-4),
        training=TrainingConfig(steps=10_000, precision="auto"),
        log=LogConfig(every=50, pictures_every=500, checkpoint_every=500),
    )
