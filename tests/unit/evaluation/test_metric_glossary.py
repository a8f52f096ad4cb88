"""The glossary of metrics: every metric is in it, and which direction is better."""

import pytest

from bigbigan.evaluation.metric_glossary import GLOSSARY, _pattern, direction_of
from bigbigan.evaluation.metric_names import KNOWN


def test_every_metric_is_explained_by_entries_of_one_direction():
    for name, metric in KNOWN.items():
        found = {e.better for e in GLOSSARY if any(_pattern(n).fullmatch(name) for n in e.names)}
        lower = metric.measure in ("fid", "kid") or name in ("reconstruction_error", "reconstruction_ratio")
        higher = not lower and name != "reconstruction_error_mismatched"
        assert found == {"lower" if lower else "higher" if higher else ""}, name


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("fid50k_test_mnist-cnn", "lower"),
        ("is10k_inception", "higher"),
        ("reconstruction_error_mismatched", ""),
        ("unlike_head", ""),
        ("ece_frozen_bn_crelu_10perclass", "lower"),
        ("auroc_head", "higher"),
        ("nmi_kmeans3_avepool", "higher"),
        ("f1_avepool", ""),  # a function of the user's own
    ],
)
def test_direction_of_a_metric(metric, direction):
    assert direction_of(metric) == direction
