"""Checks of settings: what could not be trained, or would do nothing, is refused in one line."""

import pytest

from bigbigan.config import override
from bigbigan.errors import UserError
from bigbigan.experiments import find

GAN = ["loss.s_z=false", "loss.s_xz=false"]
DETERMINISTIC = "encoder.stochastic=false"


@pytest.mark.parametrize(
    ("experiment", "settings", "message"),
    [
        (
            "bigan/mnist",
            ["discriminator.channels=[16]"],
            "needs two discriminator.channels or more: z enters",
        ),
        ("small/digits", ["encoder.resolution=0"], "encoder.resolution must be positive, got 0"),
        ("pretext/rotation", ["encoder.resolution=-32"], "encoder.resolution must be positive, got -32"),
        ("small/digits", ["training.batch_size=100000000000000000000"], "training.batch_size must not be above"),
        ("small/digits", ["optimizer.eps=.inf"], "optimizer.eps must be finite, got inf"),
        ("small/digits", ["optimizer.betas=[.nan,0.9]"], "optimizer.betas must be finite"),
        ("small/digits", ["encoder.stdev_bias=.nan"], "encoder.stdev_bias must be finite, got nan"),
        ("small/digits", ["loss.latent_regression=.inf"], "loss.latent_regression must be finite"),
        ("small/digits", ["data.memory_gib=.nan"], "data.memory_gib must be 0 or more, got nan"),
        ("small/digits", ["experiment=small/mnist"], "give the experiment as the first argument"),
        ("small/digits", ["scale=32"], "give --scale S"),
        ("small/digits", ["encoder.blocks=abc"], r"expected a whole number or a list, such as \[1,2\], got abc"),
        ("small/digits", ["optimizer.betas=[0.5]"], r"expected a list of 2 numbers, got \[0.5\]"),
        (
            "small/digits",
            ["discriminator.final_size=1", "discriminator.attention=[1]", "discriminator.channels=[64,64,64]"],
            "maps of 1 px have nothing to attend to",
        ),
        ("small/digits", [*GAN, "loss.hinge=sum"], "loss.hinge=sum does nothing with one score"),
        ("bigan/mnist", ["loss.hinge=sum"], "loss.hinge is for system=bigbigan, not bigan"),
        ("bigan/mnist", ["training.d_steps=3"], "training.d_steps is for system=bigbigan"),
        ("bigan/mnist", ["discriminator.mlp_width=99"], "discriminator.mlp_width does nothing with"),
        ("bigan/mnist", ["discriminator.attention=[8]"], "discriminator.attention does nothing with"),
        ("bigan/mnist", ["generator.skip_z=false"], "generator.skip_z does nothing with generator.network=mlp"),
        ("bigan/mnist", ["encoder.stem=imagenet"], "encoder.stem does nothing with encoder.block=mlp"),
        ("bigan/mnist", ["system=bigbigan"], "discriminator.network=mlp is for system=bigan"),
        ("small/digits", ["system=bigan"], "system=bigan draws no z from E.x.: set encoder.stochastic=false"),
        ("small/digits", ["system=autoencoder"], "set encoder.stochastic=false"),
    ],
)
def test_settings_that_cannot_work_are_refused(experiment, settings, message):
    with pytest.raises(UserError, match=message):
        override(find(experiment).config(), settings)


def test_settings_at_the_edge_are_accepted():
    config = find("small/digits").config()
    assert override(config, ["data.memory_gib=.inf"]).data.memory_gib == float("inf")
    assert override(config, ["loss.hinge=sum"]).loss.hinge == "sum"
    assert override(config, ["system=bigan", DETERMINISTIC]).system == "bigan"


def test_augmentation_for_d_is_an_addition():
    config = find("table1/base").config()
    assert config.additions == {}
    changed = override(config, ["discriminator.augment=[color]"])
    assert changed.additions == {"discriminator.augment": ["color"]}
