"""Table 3 of the paper: unsupervised image generation at 128 px. Lighter crops than Table 1's (squares of 50-100 % of
the area, Lucic et al. 2019), and the step with the least FID against the training images.

The networks are those of `table1`; the two BigGANs, baselines of Lucic et al., have their rates at full size. Scaled
down (`--scale 32`) all four have Table 1's settings at that scale, flips and rates too.

    biggan_sl          Single Label: one class for all images
    biggan_clustering  the clusters of an encoder's features for classes (bigbigan.clustering)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from bigbigan.config import Config, OptimizerConfig
from bigbigan.experiments.registry import register
from bigbigan.experiments.table1 import BASE, HIGH_RES_E, NO_ENCODER, Row, config

__all__: list[str] = []

CLUSTERS = 50


def _settings(row: Row, scale: int, labels: Literal["single", "classes"], classes: int = 1) -> Config:
    c = config(row, scale)
    data = replace(c.data, labels=labels, classes=classes)
    if scale:
        return replace(c, data=data, log=replace(c.log, watch="fid10k_train_cifar-resnet18"))
    optimizer = c.optimizer if c.has_encoder else OptimizerConfig(lr_g=1e-4, lr_d=5e-4)
    data, log = replace(data, augment="square_crop"), replace(c.log, watch="fid10k_train_inception")
    return replace(c, data=data, optimizer=optimizer, log=log)


def _row(title: str, **published: str) -> Callable[[Callable[..., Config]], Callable[..., Config]]:
    columns = {name.replace("_", " "): value for name, value in published.items()}
    return register("table3", table_row=f"Table 3, {title}", published=columns, scales=(32, 64))


@_row("BigGAN + SL, 500K steps", IS="20.4 (15.4 ± 7.57)", FID_train="25.3 (71.7 ± 66.32)")
def biggan_sl(scale: int = 0) -> Config:
    """BigGAN that is told one class for all images."""
    return _settings(NO_ENCODER, scale, "single")


@_row("BigGAN + Clustering, 500K steps", IS="22.7 (22.8 ± 0.42)", FID_train="23.2 (22.7 ± 0.80)")
def biggan_clustering(scale: int = 0) -> Config:
    """BigGAN that is told clusters: --labels FILE.csv, as bigbigan cluster writes it."""
    return _settings(NO_ENCODER, scale, "classes", CLUSTERS)


@_row(
    "BigBiGAN + SL, 500K steps",
    IS="25.38 (25.33 ± 0.17)", FID_train="22.78 (22.63 ± 0.23)", FID_val="23.60 (23.56 ± 0.12)",
)  # fmt: skip
def bigbigan_sl(scale: int = 0) -> Config:
    """BigBiGAN whose D, too, is told one class for all images."""
    return _settings(BASE, scale, "single")


@_row(
    "BigBiGAN, high-res E + SL, 500K steps",
    IS="25.43 (25.45 ± 0.04)", FID_train="22.34 (22.36 ± 0.04)", FID_val="22.94 (23.00 ± 0.15)",
)  # fmt: skip
def bigbigan_high_res_e_sl(scale: int = 0) -> Config:
    """The same with an E that sees 256 px."""
    return _settings(HIGH_RES_E, scale, "single")
