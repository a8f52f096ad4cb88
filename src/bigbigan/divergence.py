"""The theory of GANs on histograms: optimal D, value of the game, Jensen-Shannon divergence (docs/theory.md).

p and q are histograms of what D calls real and generated (Goodfellow et al. 2014), or over pairs (x, z): of (x, E(x))
and of (G(z), z) (Donahue et al. 2017). They are array-likes of one shape, any number of dimensions, of counts or
probabilities; all functions normalise them, and raise a ValueError for shapes that differ and for values that are
negative, not finite or all zero. 0 log 0 is 0.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["gan_value", "jensen_shannon", "optimal_discriminator"]

Array = NDArray[np.float64]


def jensen_shannon(p: ArrayLike, q: ArrayLike, base: float | None = None) -> float:
    """JS(p, q) = KL(p, m) / 2 + KL(q, m) / 2 with m = (p + q) / 2, in [0, log 2]: 0 where p = q, log 2 where disjoint.

    Args:
        p, q: histograms of one shape.
        base: of the logarithm, above 1; e if None. With 2 the range is [0, 1].

    Source: Lin 1991; in GANs, Goodfellow et al. 2014, Theorem 1. The square of scipy's `jensenshannon`, which is a
    distance.
    """
    if base is not None and not 1 < base < math.inf:
        raise ValueError(f"base of the logarithm is {base}; expected a number above 1")
    p, q = _normalised(p, q)
    js = (_sum_log(p, _share(p, q)) + _sum_log(q, _share(q, p))) / 2 + math.log(2)
    return min(max(js, 0.0), math.log(2)) / math.log(base or math.e)  # rounding leaves the range by 1e-16


def optimal_discriminator(p: ArrayLike, q: ArrayLike) -> Array:
    """D* = p / (p + q), the probability that a point is of p: an array of their shape in [0, 1].

    NaN where both are 0: D is never asked there. Source: Goodfellow et al. 2014, Proposition 1; for pairs, Donahue et
    al. 2017, Proposition 1.
    """
    return _share(*_normalised(p, q))


def gan_value(p: ArrayLike, q: ArrayLike, d: ArrayLike) -> float:
    """V(D) = Σ p log d + Σ q log(1 - d), what D maximises: in [-inf, 0], at most 2 JS(p, q) - log 4, at `d` = D*.

    `d` has the shape of p and values in [0, 1]; where p and q are both 0 it may be anything. V is -inf where d is
    surely wrong: 0 on a point of p, 1 on a point of q. Source: Goodfellow et al. 2014, Equation 1.

    Raises:
        ValueError: as the others, and for a `d` of another shape or outside [0, 1].
    """
    p, q = _normalised(p, q)
    d = np.asarray(d, dtype=np.float64)
    if d.shape != p.shape:
        raise ValueError(f"d has shape {d.shape}; expected that of p and q, {p.shape}")
    asked = p + q > 0
    if not ((d[asked] >= 0) & (d[asked] <= 1)).all():
        raise ValueError("d has values outside [0, 1] where p or q is positive; expected probabilities")
    return _sum_log(p, d) + _sum_log(q, 1 - d)


def _normalised(p: ArrayLike, q: ArrayLike) -> tuple[Array, Array]:
    a, b = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"p has shape {a.shape} and q {b.shape}; expected one shape")
    for name, h in (("p", a), ("q", b)):
        if not np.isfinite(h).all():
            raise ValueError(f"{name} has values that are not finite; expected counts or probabilities")
        if (h < 0).any():
            raise ValueError(f"{name} has negative values; expected counts or probabilities")
        if not h.any():
            raise ValueError(f"{name} is zero everywhere; expected some count above 0")
    a, b = a / a.max(), b / b.max()  # first by the largest: the sum of what is left cannot overflow
    return a / a.sum(), b / b.sum()


def _share(p: Array, q: Array) -> Array:
    """p / (p + q), NaN where both are 0."""
    return np.divide(p, p + q, out=np.full_like(p, math.nan), where=p + q > 0)


def _sum_log(weights: Array, values: Array) -> float:
    """Σ weights · log(values) over the weights above 0."""
    used = weights > 0
    with np.errstate(divide="ignore"):  # log 0 is -inf
        return float((weights[used] * np.log(values[used])).sum())
