"""Define Table 3 of the paper: unsupervised image generation at 128 px.

Crops are lighter than Table 1's (squares of 50-100 % of the area, Lucic et al. 2019), and the best step is the one with
the lowest FID against the training images. The networks are those of `table1`; the two BigGANs, baselines of Lucic et
al., have their rates at full size. Scaled down (`--scale 32`), all four have Table 1's settings at that scale, with its
flips and rates.

    biggan_sl          Single Label: one class for all images
    biggan_clustering  clusters of an encoder's features as classes (bigbigan.apps.cluster)
"""

from __future__ import annotations

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
        return replace(c, data=data, log=replace(c.log, validation_metric="fid10k_train_cifar-resnet18"))
    optimizer = c.optimizer if c.has_encoder else OptimizerConfig(lr_g=1e-4, lr_d=5e-4)
    data, log = replace(data, augment="square_crop"), replace(c.log, validation_metric="fid10k_train_inception")
    return replace(c, data=data, optimizer=optimizer, log=log)


_row = register("table3", scales=(16, 32, 64))


@_row
def biggan_sl(scale: int = 0) -> Config:
    """Train BigGAN conditioned on one class for all images."""
    return _settings(NO_ENCODER, scale, "single")


@_row
def biggan_clustering(scale: int = 0) -> Config:
    """Train BigGAN conditioned on clusters: --labels FILE.csv, as bigbigan cluster writes it."""
    return _settings(NO_ENCODER, scale, "classes", CLUSTERS)


@_row
def bigbigan_sl(scale: int = 0) -> Config:
    """Train BigBiGAN with D, too, conditioned on one class for all images."""
    return _settings(BASE, scale, "single")


@_row
def bigbigan_high_res_e_sl(scale: int = 0) -> Config:
    """Train BigBiGAN + SL with an E that sees 256 px."""
    return _settings(HIGH_RES_E, scale, "single")
