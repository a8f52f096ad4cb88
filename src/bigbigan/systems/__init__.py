"""The systems: who sees what, and what each side minimises. A module for each family, all trained by the one loop."""

from __future__ import annotations

from bigbigan.config import Config
from bigbigan.models import Networks
from bigbigan.systems.base import Draws, Move, Outcome, System, generate, sample_labels, sample_prior
from bigbigan.systems.bigan import Autoencoder, BiGAN, LatentRegressor
from bigbigan.systems.bigbigan import BigBiGAN
from bigbigan.systems.pretext import Pretext

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
