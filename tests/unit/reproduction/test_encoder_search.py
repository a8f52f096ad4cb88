"""The variants of the search for what makes E learn."""

import torch

from bigbigan.config import override
from bigbigan.experiments import find
from bigbigan.methods import make_system
from bigbigan.models import build
from reproduction.train.encoder_search import SMALLER, VARIANTS
from tiny import run_update, tiny_config


def test_second_update_of_e_gives_gradients_to_e_alone():
    system = make_system(config := tiny_config(*VARIANTS["cutout_e_twice"]), build(config))
    *_, e_update, last = system.updates
    assert [u.__name__ for u in system.updates] == [
        "discriminator_update", "discriminator_update", "encoder_update", "encoder_generator_update",
    ]  # fmt: skip
    x = torch.rand(4, config.data.channels, config.encoder.resolution, config.encoder.resolution) * 2 - 1
    noise = system.sample_noise(4, torch.Generator().manual_seed(0))
    trained = []
    for update in (e_update, last):
        run_update(system, update, x, noise)
        players = system.networks_of("eg").items()
        trained.append({letter for letter, network in players if any(p.grad is not None for p in network.parameters())})
    assert trained == [{"E"}, {"E", "G"}]


def test_every_variant_is_a_valid_config():
    for experiment, _, networks, widths in SMALLER.values():
        for changes in VARIANTS.values():
            named = [s.format(wide=widths, wider=widths, bottleneck=[4 * w for w in widths]) for s in changes]
            override(find(experiment).config(), [*networks, f"encoder.widths={widths}", *named])
