"""The systems: who sees what, and what each side minimises. A module for each family, all trained by the one loop."""

from __future__ import annotations

from bigbigan.config import Config
from bigbigan.methods.base import Draws, Move, Outcome, System, generate, sample_labels, sample_prior
from bigbigan.methods.bigan import Autoencoder, BiGAN, LatentRegressor
from bigbigan.methods.bigbigan import BigBiGAN
from bigbigan.methods.pretext import Pretext
from bigbigan.models import Networks

__all__ = [
    "SYSTEMS",
    "BigBiGAN",
    "Draws",
    "Move",
    "Outcome",
    "Pretext",
    "System",
    "generate",
    "make_system",
    "sample_labels",
    "sample_prior",
]

SYSTEMS: dict[str, type[System]] = {
    "bigbigan": BigBiGAN,
    "bigan": BiGAN,
    "latent_regressor": LatentRegressor,
    "autoencoder": Autoencoder,
    "pretext": Pretext,
}


def make_system(config: Config, networks: Networks) -> System:
    """The system that `config.system` names."""
    return SYSTEMS[config.system](config, networks)
