"""Define BiGAN's table (Donahue et al. 2017, Table 1): six ways to learn features of permutation-invariant MNIST.

Features are scored by 1-NN. `mnist` is complete, and each other row is its difference from it; then follows
`imagenet`, the convolutional BiGAN with an AlexNet encoder. The settings are taken from the authors' code
(jeffdonahue/bigan, train_mnist.sh and train_imagenet_highres_encoder.sh).
"""

from __future__ import annotations

from dataclasses import replace

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
from bigbigan.experiments.registry import register

__all__: list[str] = []

EPOCH = 469  # batches of 128 in MNIST's 60,000 images

BIGAN = Config(
    system="bigan",
    data=DataConfig(channels=1),
    latent=LatentConfig(dim=50, prior="uniform"),
    generator=GeneratorConfig(network="mlp", channels=(1024, 1024), side=28),
    discriminator=DiscriminatorConfig(network="mlp", channels=(1024, 1024)),
    encoder=EncoderConfig(resolution=28, block="mlp", widths=(1024, 1024), head_layers=0, stochastic=False),
    loss=LossConfig(s_x=False, s_z=False),
    optimizer=OptimizerConfig(
        lr_g=2e-4, lr_d=2e-4, betas=(0.5, 0.999), weight_decay=2.5e-5, lr_final=0.01, lr_by_epoch=True
    ),
    training=TrainingConfig(steps=400 * EPOCH, batch_size=128, ema_decay=0.0),
    log=LogConfig(every=EPOCH, pictures_every=25 * EPOCH, checkpoint_every=25 * EPOCH, standing_batches=1000),
)
GAN = replace(BIGAN, loss=LossConfig(s_z=False, s_xz=False))  # D sees only images


row = register("bigan", data="mnist")


@row
def mnist() -> Config:
    """Train BiGAN of fully connected networks: 200 epochs, then 200 with falling rates."""
    return BIGAN


@row
def discriminator() -> Config:
    """Train a GAN without an encoder; the feature is the last hidden layer of D."""
    return GAN


@row
def latent_regressor() -> Config:
    """Train a GAN, and an encoder that learns z from G(z)."""
    return replace(GAN, system="latent_regressor")


@row
def joint_latent_regressor() -> Config:
    """Train a latent regressor whose G also learns to make z easy to find, at a quarter of the weight."""
    return replace(GAN, system="latent_regressor", loss=replace(GAN.loss, regression_of_g=0.25))


@row
def autoencoder_l2() -> Config:
    """Train an autoencoder of the same E and G with squared error."""
    return replace(BIGAN, system="autoencoder")


@row
def autoencoder_l1() -> Config:
    """Train an autoencoder of the same E and G with absolute error."""
    return replace(BIGAN, system="autoencoder", loss=replace(BIGAN.loss, pixel="l1"))


@register("bigan")
def imagenet() -> Config:
    """Train BiGAN on photographs: G and D at 64 px, and an AlexNet that sees the same crop at 112 px."""
    return replace(
        BIGAN,
        data=DataConfig(channels=3, augment="random_crop"),
        latent=LatentConfig(dim=200, prior="uniform"),
        generator=GeneratorConfig(network="conv", channels=(512, 256, 128, 64)),
        discriminator=DiscriminatorConfig(network="conv", channels=(64, 128, 256, 512)),
        encoder=replace(BIGAN.encoder, resolution=112, block="alexnet", widths=(96, 256, 384, 384, 256)),
        # 100 epochs of ImageNet's 1.28 million images
        training=replace(BIGAN.training, steps=1_000_000),
        log=LogConfig(every=100, pictures_every=10_000, checkpoint_every=10_000, standing_batches=1000),
    )
