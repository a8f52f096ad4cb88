"""Define the systems: each network's inputs and each player's loss. One module a family, one training loop."""

from __future__ import annotations

from bigbigan.config import Config
from bigbigan.errors import UserError
from bigbigan.methods.base import Noise, Outcome, System, Update, generate, sample_labels, sample_prior
from bigbigan.methods.bigan import Autoencoder, BiGAN, LatentRegressor
from bigbigan.methods.bigbigan import BigBiGAN
from bigbigan.methods.pretext import Pretext
from bigbigan.models import Networks
from bigbigan.user_code import import_named

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
    """Return the system that `config.system` names.

    Raises:
        UserError: it is the user's own, and cannot be imported, is no `System`, or trains other networks than
            `config.networks`.
    """
    if not config.is_own_system:
        return SYSTEMS[config.system](config, networks)
    expected = "a subclass of bigbigan.methods.System"
    found = import_named(config.system, expected)
    if not (isinstance(found, type) and issubclass(found, System)):
        raise UserError(f"system={config.system} is a {type(found).__name__}; expected {expected}")
    trained = "".join(letter for letter in "GED" if letter in "".join(found.players.values()))
    if set(trained) != set(config.networks):
        raise UserError(f"networks={config.networks}, but {config.system} trains {trained}; set networks={trained}")
    return found(config, networks)
