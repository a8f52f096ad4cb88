"""Define the systems: each network's inputs and each player's loss. One module a family, one training loop."""

from __future__ import annotations

from bigbigan.config import Config
from bigbigan.methods.base import Noise, Outcome, System, Update, generate, sample_labels, sample_prior
from bigbigan.methods.bigan import Autoencoder, BiGAN, LatentRegressor
from bigbigan.methods.bigbigan import BigBiGAN
from bigbigan.methods.pretext import Pretext
from bigbigan.models import Networks

__all__ = [
    "SYSTEMS",
    "BigBiGAN",
    "Noise",
    "Outcome",
    "Pretext",
    "System",
    "Update",
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
    """Return the system that `config.system` names."""
    return SYSTEMS[config.system](config, networks)
