"""The variants of the search for what makes E learn."""

from bigbigan.config import override
from bigbigan.experiments import find
from reproduction.train.encoder_search import SMALLER, VARIANTS


def test_every_variant_is_a_valid_config():
    for experiment, _, networks, widths in SMALLER.values():
        for changes in VARIANTS.values():
            named = [s.format(wide=widths, wider=widths, bottleneck=[4 * w for w in widths]) for s in changes]
            override(find(experiment).config(), [*networks, f"encoder.widths={widths}", *named])
