"""Define Table 2's other methods: pretext tasks, which learn features without a generator, on any backbone.

As published, each has the backbone of its row. Scaled down (`--scale 32`), all have the backbone, images, batch size
and number of images seen of `table1/base` at that scale, so that they compare with BigBiGAN and with each other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bigbigan.config import (
    Config,
    DataConfig,
    EncoderConfig,
    LogConfig,
    OptimizerConfig,
    PretextConfig,
    TrainingConfig,
)
from bigbigan.experiments.registry import register
from bigbigan.experiments.table1 import BASE
from bigbigan.experiments.table1 import config as table1_config

__all__: list[str] = []

IMAGENET = 1_281_167  # training images


def _trunk(resolution: int, block: str, widths: tuple[int, ...], blocks: tuple[int, ...], **more: Any) -> EncoderConfig:
    return EncoderConfig(resolution=resolution, block=block, stem="imagenet", widths=widths, blocks=blocks, **more)


REVNET50_X4 = _trunk(224, "reversible", (1024, 2048, 4096, 8192), (3, 4, 6, 3))
RESNET50 = _trunk(224, "bottleneck", (256, 512, 1024, 2048), (3, 4, 6, 3))
# Cut after the third stage (Doersch & Zisserman 2017, van den Oord et al. 2018)
RESNET101 = _trunk(256, "bottleneck", (256, 512, 1024), (3, 4, 23), head_width=4096)
# A third stage of 46 blocks, bottlenecks of 512 (Hénaff et al. 2019)
RESNET161 = _trunk(256, "bottleneck", (256, 512, 2048), (3, 4, 46))


def _config(scale: int, encoder: EncoderConfig, batch: int, epochs: int, pretext: PretextConfig, **data: Any) -> Config:
    """Return the settings of a method.

    As published they are `encoder`, and `epochs` of ImageNet in batches of `batch` images, which the task itself crops.
    At a scale they are table1/base's backbone with the norm of `encoder`, and its images.
    """
    optimizer = OptimizerConfig(lr_g=2e-4 if not scale else 1e-3, betas=(0.9, 0.999), lr_final=0.01)
    if not scale:
        return Config(
            system="pretext",
            data=DataConfig(channels=3, augment="task_crop", **data),
            pretext=pretext,
            encoder=encoder,
            optimizer=optimizer,
            training=TrainingConfig(steps=epochs * IMAGENET // batch, batch_size=batch, ema_decay=0.9999),
            log=LogConfig(every=100, pictures_every=1000, checkpoint_every=1000, validate_every=5000),
        )
    base = table1_config(BASE, scale)
    updates = base.training.d_steps + 1  # in a step of `base`, each on a batch of its own; here there is one
    return Config(
        system="pretext",
        scale=scale,
        data=replace(base.data, **data),
        pretext=pretext,
        encoder=replace(base.encoder, norm=encoder.norm, stdev_bias=EncoderConfig.stdev_bias),  # it has no sigma
        optimizer=optimizer,
        training=replace(base.training, steps=updates * base.training.steps, d_steps=TrainingConfig().d_steps),
        log=base.log,
    )


_method = register("pretext", scales=(32, 64))


def _embedding(scale: int) -> int:
    """Return the published length; none at a scale: features are so short that a linear layer would copy them."""
    return 0 if scale else 1000


@_method
def rotation(scale: int = 0) -> Config:
    """Predict by how far the image was turned: all four ways in a batch, on a RevNet-50 ×4."""
    return _config(scale, REVNET50_X4, 64, 35, PretextConfig(tasks=("rotation",)))


@_method
def relative_position(scale: int = 0) -> Config:
    """Predict where a patch lies relative to another: eight places around the middle of a 3×3 grid, on ResNet-101."""
    pretext = PretextConfig(tasks=("relative_position",), standardize=True, embedding=_embedding(scale))
    return _config(scale, RESNET101, 128, 35, pretext)


@_method
def exemplar(scale: int = 0) -> Config:
    """Match the views of one image: eight of each, distinguished by triplets, on ResNet-101."""
    return _config(scale, RESNET101, 64, 35, PretextConfig(tasks=("exemplar",), standardize=True))


@_method
def colorization(scale: int = 0) -> Config:
    """Predict the colours of a grey image: a distribution at each place, rare colours weighted more, on ResNet-101."""
    return _config(scale, RESNET101, 64, 35, PretextConfig(tasks=("colorization",)))


@_method
def combination(scale: int = 0) -> Config:
    """Combine exemplar, relative position and colorization on one backbone that sees grey; not motion segmentation."""
    pretext = PretextConfig(
        tasks=("exemplar", "relative_position", "colorization"),
        standardize=True,
        grey=0.0,
        embedding=_embedding(scale),
    )
    return _config(scale, RESNET101, 64, 35, pretext)


@_method
def cpc(scale: int = 0) -> Config:
    """Predict the patches in rows below, among patches of other images, on ResNet-101 with layer norm."""
    pretext = PretextConfig(tasks=("cpc",), standardize=True)
    return _config(scale, replace(RESNET101, norm="layer"), 64, 35, pretext)


@_method
def efficient_cpc(scale: int = 0) -> Config:
    """Train CPC from four directions, each patch augmented by itself, on a wider and deeper backbone."""
    pretext = PretextConfig(tasks=("cpc",), standardize=True, directions=4, patch_augment=True)
    return _config(scale, replace(RESNET161, norm="layer"), 64, 200, pretext)


@_method
def supervised(scale: int = 0) -> Config:
    """Train the same backbone on the classes, as a supervised upper bound, on ResNet-50."""
    return _config(scale, RESNET50, 256, 90, PretextConfig(tasks=("supervised",)), labels="classes", classes=1000)
