"""Test whether our rows of a published table have the order of the published ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import permutation_test, rankdata

__all__ = ["RankCorrelation", "rank_correlation"]


class RankCorrelation(NamedTuple):
    """Hold Spearman's rank correlation of published and our values.

    Attributes:
        rho: from -1 to 1.
        p: share of random orders of our values that correlate at least as well (one-sided permutation test).
        rows: number of rows that have both values.
    """

    rho: float
    p: float
    rows: int


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> RankCorrelation | None:
    """Correlate the ranks of published and our values: None with fewer than three rows, or if a side is constant."""
    if len(pairs) < 3 or any(len(set(side)) < 2 for side in zip(*pairs, strict=True)):
        return None
    published, ours = (rankdata(side) - (len(pairs) + 1) / 2 for side in zip(*pairs, strict=True))

    def correlation(ranks: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray((ranks * published).sum(axis) / np.sqrt((ours**2).sum() * (published**2).sum()))

    found = permutation_test(
        (ours,), correlation, permutation_type="pairings", alternative="greater", vectorized=True, random_state=0
    )
    return RankCorrelation(float(found.statistic), float(found.pvalue), len(pairs))
