"""Compute the theory of GANs on histograms: optimal D, GAN value, Jensen-Shannon divergence (docs/theory.md).

p and q are histograms of real and generated images (Goodfellow et al. 2014), or of encoder pairs (x, E(x)) and
generator pairs (G(z), z) (Donahue et al. 2017). They are array-likes of the same shape, with any number of dimensions,
of counts or probabilities; all functions normalise them, and raise a ValueError for shapes that differ and for values
that are negative, not finite or all zero. 0 log 0 is 0.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["gan_value", "jensen_shannon", "l0_autoencoder_terms", "optimal_discriminator"]

Array = NDArray[np.float64]


def jensen_shannon(p: ArrayLike, q: ArrayLike, base: float | None = None) -> float:
    """Return JS(p, q) = KL(p, m) / 2 + KL(q, m) / 2 with m = (p + q) / 2.

    It is in [0, log 2]: 0 if p = q, log 2 if p and q are disjoint.

    Args:
        p, q: histograms of the same shape.
        base: of the logarithm, above 1; e if None. With 2 the range is [0, 1].

    Source: Lin 1991; for GANs, Goodfellow et al. 2014, Theorem 1. It is the square of scipy's `jensenshannon`, which is
    a distance.
    """
    if base is not None and not 1 < base < math.inf:
        raise ValueError(f"base of the logarithm is {base}; expected a number above 1")
    p, q = _normalised(p, q)
    js = (_sum_log(p, _share(p, q)) + _sum_log(q, _share(q, p))) / 2 + math.log(2)
    return min(max(js, 0.0), math.log(2)) / math.log(base or math.e)  # rounding can leave the range by 1e-16


def optimal_discriminator(p: ArrayLike, q: ArrayLike) -> Array:
    """Return D* = p / (p + q), the probability that a point is from p: an array of their shape in [0, 1].

    It is NaN for points that have probability 0 under both. Source: Goodfellow et al. 2014, Proposition 1; for pairs,
    Donahue et al. 2017, Proposition 1.
    """
    return _share(*_normalised(p, q))


def gan_value(p: ArrayLike, q: ArrayLike, d: ArrayLike) -> float:
    """Return V(D) = Σ p log d + Σ q log(1 - d), which D maximises.

    It is in [-inf, 0]; the maximum is 2 JS(p, q) - log 4, at `d` = D*. `d` has the shape of p and values in [0, 1]; if
    p and q are both 0 at a point, d is ignored there. V is -inf if d is 0 on a point of p or 1 on a point of q. Source:
    Goodfellow et al. 2014, Equation 1.

    Raises:
        ValueError: as the other functions, and for a `d` of another shape or outside [0, 1].
    """
    p, q = _normalised(p, q)
    d = np.asarray(d, dtype=np.float64)
    if d.shape != p.shape:
        raise ValueError(f"d has shape {d.shape}; expected that of p and q, {p.shape}")
    asked = p + q > 0
    if not ((d[asked] >= 0) & (d[asked] <= 1)).all():
        raise ValueError("d has values outside [0, 1] at points of p or q; expected probabilities")
    return _sum_log(p, d) + _sum_log(q, 1 - d)


def l0_autoencoder_terms(
    p_x: ArrayLike, p_z: ArrayLike, latent_of: ArrayLike, image_of: ArrayLike
) -> tuple[float, float]:
    """Compute the two terms whose sum is max_D V for deterministic E and G, both in [-log 2, 0].

    The first is E_x[1{G(E(x)) = x and p_z(E(x)) > 0} log f(x, E(x))], the second
    E_z[1{E(G(z)) = z and p_x(G(z)) > 0} log(1 - f(G(z), z))], with f = p_x(x) / (p_x(x) + p_z(z)) at a pair (x, z) with
    E(x) = z and G(z) = x. Only pairs that are reconstructed exactly count: it is the l0 loss of an autoencoder.

    Args:
        p_x: [X], counts or probabilities of the images.
        p_z: [Z], counts or probabilities of the latents.
        latent_of: [X], E: the number of each image's latent, from 0 to Z - 1.
        image_of: [Z], G: the number of each latent's image, from 0 to X - 1.

    Raises:
        ValueError: as the other functions, and for maps of another length or with numbers out of range.

    Source: Donahue et al. 2017, Theorem 3.
    """
    p_x, p_z = _probabilities("p_x", p_x), _probabilities("p_z", p_z)
    if p_x.ndim != 1 or p_z.ndim != 1:
        raise ValueError(f"p_x has shape {p_x.shape} and p_z {p_z.shape}; expected one dimension each")
    encode = _map("latent_of", latent_of, len(p_x), len(p_z))
    decode = _map("image_of", image_of, len(p_z), len(p_x))

    return _reconstructed(p_x, p_z, encode, decode), _reconstructed(p_z, p_x, decode, encode)


def _reconstructed(p: Array, q: Array, forward: NDArray[np.intp], back: NDArray[np.intp]) -> float:
    """Return Σ p · log(p / (p + q)) over the points that `forward` and then `back` map to themselves."""
    fixed = (back[forward] == np.arange(len(p))) & (q[forward] > 0)
    return _sum_log(p[fixed], _share(p, q[forward])[fixed])


def _normalised(p: ArrayLike, q: ArrayLike) -> tuple[Array, Array]:
    a, b = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"p has shape {a.shape} and q {b.shape}; expected the same shape")
    return _probabilities("p", a), _probabilities("q", b)


def _probabilities(name: str, histogram: ArrayLike) -> Array:
    """Check a histogram and divide it by its sum."""
    h = np.asarray(histogram, dtype=np.float64)
    if not np.isfinite(h).all():
        raise ValueError(f"{name} has values that are not finite; expected counts or probabilities")
    if (h < 0).any():
        raise ValueError(f"{name} has negative values; expected counts or probabilities")
    if not h.any():
        raise ValueError(f"{name} is zero everywhere; expected some count above 0")
    h = h / h.max()  # so that the sum cannot overflow
    return h / h.sum()


def _map(name: str, numbers: ArrayLike, length: int, below: int) -> NDArray[np.intp]:
    """Check a deterministic map: `length` whole numbers from 0 to below - 1."""
    array = np.asarray(numbers)
    if array.shape != (length,) or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}; expected {length} whole numbers")
    if not ((array >= 0) & (array < below)).all():
        raise ValueError(f"{name} has numbers outside 0 to {below - 1}")
    return array.astype(np.intp)


def _share(p: Array, q: Array) -> Array:
    """Return p / (p + q), NaN for points at which both are 0."""
    return np.divide(p, p + q, out=np.full_like(p, math.nan), where=p + q > 0)


def _sum_log(weights: Array, values: Array) -> float:
    """Return Σ weights · log(values) over the weights above 0."""
    used = weights > 0
    with np.errstate(divide="ignore"):  # log 0 is -inf
        return float((weights[used] * np.log(values[used])).sum())
