"""BigGAN's channel tables (Brock et al. 2019, appendix B; ajbrock/BigGAN-PyTorch), in multiples of ch."""

from __future__ import annotations

from bigbigan.config import DiscriminatorConfig, GeneratorConfig

__all__ = ["biggan_discriminator", "biggan_generator"]

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
    256: ((1, 2, 4, 8, 8, 16, 16), (128,)),
    512: ((1, 1, 2, 4, 8, 8, 16, 16), (64,)),
}


def biggan_generator(resolution: int, ch: int) -> GeneratorConfig:
    """G for images of `resolution` px; 96 is the published ch."""
    widths, attention = GENERATORS[resolution]
    return GeneratorConfig(channels=tuple(ch * w for w in widths), attention=attention, shared_dim=128)


def biggan_discriminator(resolution: int, ch: int) -> DiscriminatorConfig:
    """F for images of `resolution` px, with the H and J of Section 3.1: 8 layers of 2048."""
    widths, attention = DISCRIMINATORS[resolution]
    return DiscriminatorConfig(
        channels=tuple(ch * w for w in widths), attention=attention, mlp_width=2048, mlp_layers=8
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
