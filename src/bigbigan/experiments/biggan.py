"""BigGAN: channel tables (Brock et al. 2019, appendix B; ajbrock/BigGAN-PyTorch), in multiples of ch, and the
class-conditional experiments at each resolution.

At 64 px and above the settings are the paper's, the 1,000 classes ImageNet's; any labelled source will do, and its
number of classes is found when training starts. At 32 px there are two in public use, by their settings for CIFAR-10.
"""

from __future__ import annotations

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

__all__ = ["biggan_discriminator", "biggan_generator"]

STANDING = 100  # passes for standing statistics; of 2,048 samples each, 204,800 in all as in google/compare_gan
CHUNK = 20  # numbers of z for the seed of G and for each of its blocks

# side in pixels: (widths of the seed and of each block, sides at which attention follows)
GENERATORS: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {
    64: ((16, 16, 8, 4, 2), (64,)),
    128: ((16, 16, 8, 4, 2, 1), (64,)),
    256: ((16, 16, 8, 8, 4, 2, 1), (128,)),
    512: ((16, 16, 8, 8, 4, 2, 1, 1), (64,)),
}
DISCRIMINATORS: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {
    64: ((1, 2, 4, 8, 16), (32,)),
    128: ((1, 2, 4, 8, 16, 16), (64,)),
    # The paper moves G's attention to 128 px (its Table 5) and leaves D's at 64: memory does not allow more.
    256: ((1, 2, 4, 8, 8, 16, 16), (64,)),
    512: ((1, 1, 2, 4, 8, 8, 16, 16), (64,)),
}


def biggan_generator(resolution: int, ch: int) -> GeneratorConfig:
    """G for images of `resolution` px; 96 is the published ch."""
    widths, attention = GENERATORS[resolution]
    return GeneratorConfig(channels=tuple(ch * w for w in widths), attention=attention, shared_dim=128)


def biggan_discriminator(resolution: int, ch: int) -> DiscriminatorConfig:
    """F for images of `resolution` px, with the H and J of BigBiGAN's Section 3.1: 8 layers of 2048, and J reads
    F(x) and H(z) as they are."""
    widths, attention = DISCRIMINATORS[resolution]
    return DiscriminatorConfig(
        channels=tuple(ch * w for w in widths), attention=attention, mlp_width=2048, mlp_layers=8, pair_norm=False
    )


# The two 32-px BigGANs in public use.


def pytorch_32(ch: int = 64) -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """That of ajbrock/BigGAN-PyTorch for CIFAR-10: all of z (128) to the seed, an embedding of the classes in each
    batch norm, no attention, F summed at 8×8."""
    G = GeneratorConfig(channels=(4 * ch,) * 4, skip_z=False)
    return G, DiscriminatorConfig(channels=(4 * ch,) * 4, final_size=8)


def studiogan_32(ch: int = 96) -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """That of StudioGAN and compare_gan for CIFAR-10: z in 4 chunks of 20, shared embedding, attention at 16 px."""
    G = GeneratorConfig(channels=(4 * ch,) * 4, attention=(16,), shared_dim=128)
    return G, DiscriminatorConfig(channels=(2 * ch,) * 4, attention=(16,), final_size=8)


# The experiments.

GAN = LossConfig(s_z=False, s_xz=False)


def _conditional(
    resolution: int,
    classes: int,
    networks: tuple[GeneratorConfig, DiscriminatorConfig],
    dim_z: int,
    loss: LossConfig,
    optimizer: OptimizerConfig,
    training: TrainingConfig,
    augment: str,
    standing: int = LogConfig.standing_batches,
) -> Config:
    return Config(
        data=DataConfig(channels=3, augment=augment, labels="classes", classes=classes),  # type: ignore[arg-type]
        latent=LatentConfig(dim=dim_z),
        generator=networks[0],
        discriminator=networks[1],
        encoder=EncoderConfig(resolution=resolution),  # there is none; this is the size that images are kept at
        loss=loss,
        optimizer=optimizer,
        training=training,
        log=LogConfig(every=100, pictures_every=1000, checkpoint_every=1000, standing_batches=standing),
    )


def _at(resolution: int) -> Config:
    networks = biggan_generator(resolution, 96), biggan_discriminator(resolution, 96)
    return _conditional(
        resolution,
        1000,
        networks,
        CHUNK * len(networks[0].channels),
        LossConfig(s_z=False, s_xz=False, orthogonal=1e-4),
        OptimizerConfig(lr_g=5e-5, lr_d=2e-4),
        TrainingConfig(steps=150_000, batch_size=2048, ema_decay=0.9999),
        "flip",
        STANDING,
    )


@register("biggan", data="cifar10", name="32")
def of_studiogan() -> Config:
    """Class-conditional at 32 px, StudioGAN's for CIFAR-10: z in 4 chunks, attention, 5 D steps."""
    return _conditional(
        32,
        10,
        studiogan_32(),
        80,
        GAN,
        OptimizerConfig(lr_g=2e-4, lr_d=2e-4, betas=(0.5, 0.999), eps=1e-6),
        TrainingConfig(steps=100_000, batch_size=64, d_steps=5, ema_decay=0.9999),
        "flip",
    )


@register("biggan", data="cifar10", name="32_pytorch")
def of_biggan_pytorch() -> Config:
    """Class-conditional at 32 px, BigGAN-PyTorch's for CIFAR-10: all of z to the seed, no attention, 4 D steps."""
    return _conditional(
        32,
        10,
        pytorch_32(),
        128,
        GAN,
        OptimizerConfig(lr_g=2e-4, lr_d=2e-4),
        TrainingConfig(steps=125_000, batch_size=50, d_steps=4, ema_decay=0.9999),
        "none",
    )


@register("biggan", name="64")
def at_64() -> Config:
    """Class-conditional BigGAN at 64 px, ch 96."""
    return _at(64)


@register("biggan", name="128")
def at_128() -> Config:
    """Class-conditional BigGAN at 128 px, ch 96."""
    return _at(128)


@register("biggan", name="256")
def at_256() -> Config:
    """Class-conditional BigGAN at 256 px, ch 96."""
    return _at(256)


@register("biggan", name="512")
def at_512() -> Config:
    """Class-conditional BigGAN at 512 px, ch 96."""
    return _at(512)
