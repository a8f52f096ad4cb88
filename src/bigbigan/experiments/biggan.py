"""Define BigGAN: channel tables in multiples of ch, and the class-conditional experiments at each resolution.

The tables are those of Brock et al. 2019, appendix B, and ajbrock/BigGAN-PyTorch. At 64 px and above the settings are
the paper's, for ImageNet's 1,000 classes; any labelled source will do, and its number of classes is counted when
training starts. At 32 px there are two public implementations, with their settings for CIFAR-10. Two ancestors at
128 px are experiments too: the first version of BigGAN, and the self-attention GAN that it was made from.
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

__all__ = ["biggan_discriminator", "biggan_generator"]

STANDING = 100  # passes for standing statistics, of 2,048 samples each: 204,800 in all, as in google/compare_gan
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
    # The paper has G's attention at 128 px (its Table 5) and D's at 64: memory does not allow more.
    256: ((1, 2, 4, 8, 8, 16, 16), (64,)),
    512: ((1, 1, 2, 4, 8, 8, 16, 16), (64,)),
}


def biggan_generator(resolution: int, ch: int) -> GeneratorConfig:
    """Return G for images of `resolution` px; 96 is the published ch."""
    widths, attention = GENERATORS[resolution]
    return GeneratorConfig(channels=tuple(ch * w for w in widths), attention=attention, shared_dim=128)


def biggan_discriminator(resolution: int, ch: int) -> DiscriminatorConfig:
    """Return F for images of `resolution` px, with the H and J of BigBiGAN's Section 3.1.

    They have 8 layers of 2048, and J reads F(x) and H(z) without a norm.
    """
    widths, attention = DISCRIMINATORS[resolution]
    return DiscriminatorConfig(
        channels=tuple(ch * w for w in widths), attention=attention, mlp_width=2048, mlp_layers=8, pair_norm=False
    )


# The two public BigGANs at 32 px.


def pytorch_32(ch: int = 64) -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """Return the networks of ajbrock/BigGAN-PyTorch for CIFAR-10.

    All of z (128) goes to the seed, each batch norm has its own class embedding, there is no attention, and F is summed
    at 8×8.
    """
    G = GeneratorConfig(channels=(4 * ch,) * 4, skip_z=False)
    return G, DiscriminatorConfig(channels=(4 * ch,) * 4, final_size=8)


def studiogan_32(ch: int = 96) -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """Return the networks of StudioGAN and compare_gan for CIFAR-10.

    They have z in 4 chunks of 20, a shared embedding, and attention at 16 px.
    """
    G = GeneratorConfig(channels=(4 * ch,) * 4, attention=(16,), shared_dim=128)
    return G, DiscriminatorConfig(channels=(2 * ch,) * 4, attention=(16,), final_size=8)


# Two ancestors at 128 px. In both all of z enters the seed, and each batch norm has its own class embedding.


def first_128(ch: int = 96) -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """Return the networks of BigGAN's first version (Brock et al., arXiv:1809.11096v1, Table 4), for z of 128."""
    widths, attention = GENERATORS[128]
    G = GeneratorConfig(channels=tuple(ch * w for w in widths), attention=attention, skip_z=False)
    return G, biggan_discriminator(128, ch)


def sagan_128() -> tuple[GeneratorConfig, DiscriminatorConfig]:
    """Return the networks of the self-attention GAN (Zhang et al. 2019, brain-research/self-attention-gan).

    They are those of BigGAN's first version with ch 64 and attention at 32 px.
    """
    G, D = first_128(64)
    return replace(G, attention=(32,)), replace(D, attention=(32,))


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
        encoder=EncoderConfig(resolution=resolution),  # there is none; this is the size of the images in memory
        loss=loss,
        optimizer=optimizer,
        training=training,
        log=LogConfig(every=100, pictures_every=1000, checkpoint_every=1000, standing_batches=standing),
    )


def _published(
    resolution: int, networks: tuple[GeneratorConfig, DiscriminatorConfig] | None = None, dim_z: int = 0
) -> Config:
    networks = networks or (biggan_generator(resolution, 96), biggan_discriminator(resolution, 96))
    return _conditional(
        resolution,
        1000,
        networks,
        dim_z or CHUNK * len(networks[0].channels),
        LossConfig(s_z=False, s_xz=False, orthogonal=1e-4),
        OptimizerConfig(lr_g=5e-5, lr_d=2e-4),
        TrainingConfig(steps=150_000, batch_size=2048, ema_decay=0.9999),
        "flip",
        STANDING,
    )


@register("biggan", data="cifar10", name="32")
def studiogan() -> Config:
    """Train a class-conditional BigGAN at 32 px like StudioGAN's for CIFAR-10: z in 4 chunks, attention, 5 D steps."""
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
def biggan_pytorch() -> Config:
    """Train a class-conditional BigGAN at 32 px like BigGAN-PyTorch's for CIFAR-10: no attention, 4 D steps."""
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
    """Train a class-conditional BigGAN at 64 px, ch 96."""
    return _published(64)


@register("biggan", name="128")
def at_128() -> Config:
    """Train a class-conditional BigGAN at 128 px, ch 96."""
    return _published(128)


@register("biggan", name="256")
def at_256() -> Config:
    """Train a class-conditional BigGAN at 256 px, ch 96."""
    return _published(256)


@register("biggan", name="512")
def at_512() -> Config:
    """Train a class-conditional BigGAN at 512 px, ch 96."""
    return _published(512)


@register("biggan", name="128_first")
def first_at_128() -> Config:
    """Train the first version of BigGAN at 128 px, ch 96: all of z (128) enters one dense layer."""
    return _published(128, first_128(), 128)


@register("biggan", name="sagan_128")
def sagan() -> Config:
    """Train the self-attention GAN at 128 px, ch 64, which BigGAN was made from: one D step, no averages."""
    return _conditional(
        128,
        1000,
        sagan_128(),
        128,
        GAN,
        OptimizerConfig(lr_g=1e-4, lr_d=4e-4, betas=(0.0, 0.9)),
        TrainingConfig(steps=1_000_000, batch_size=256, d_steps=1, ema_decay=0.0),
        "none",
    )
