"""The variants of the search for what makes E learn."""

import pytest

from bigbigan.config import override
from bigbigan.experiments import find
from reproduction.train.encoder_search import SMALLER, VARIANTS, settings_of


@pytest.mark.parametrize("name", SMALLER)
def test_every_variant_is_a_valid_config(name):
    experiment, _, _, widths = SMALLER[name]
    configs = {v: override(find(experiment).config(), settings_of(name, v)) for v in VARIANTS}
    assert configs["base"].encoder.widths == tuple(widths)
    assert configs["both_wide_e"].encoder.widths == (*widths[:-1], 4 * widths[-1])
    assert all(c.training.precision == "bf16" for c in configs.values())
