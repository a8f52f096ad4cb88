"""Experiments: functions without arguments that return all settings of a run."""

from dataclasses import replace

from bigbigan.config import Config, override
from bigbigan.experiments import find
from bigbigan.experiments.registry import register


@register("mine", data="digits")  # the source to use if --data is not given; leave this line out if there is none
def wide_digits() -> Config:
    """Train small/digits with a wider encoder."""
    return override(find("small/digits").config(), ["encoder.widths=[96,192,384]"])


def denoising() -> Config:
    """Train a denoising autoencoder with an encoder of our own, on 16-px images in colour."""
    c = find("small/digits").config()
    return replace(
        c,
        system="my_package.losses:Denoising",
        networks="GE",  # the networks that it trains
        data=replace(c.data, channels=3),
        encoder=replace(c.encoder, block="my_package.encoders:Patches", resolution=16, widths=(32, 64)),
        generator=replace(c.generator, channels=(32, 32, 16)),
        latent=replace(c.latent, dim=24),
    )
