"""Compute FID, KID, Inception Score, precision and recall from the features of any network.

All arithmetic is in float64. Distances are computed in chunks, so that memory does not grow with the square of the
number of images.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Moments",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "precision_recall",
]


class Moments:
    """Accumulate the number, mean and covariance of features that come in chunks.

    Args:
        n, mean [d], scatter [d, d]: values to start from; scatter is the sum of (x - mean)(x - mean)ᵀ.
    """

    def __init__(self, n: int = 0, mean: np.ndarray | None = None, scatter: np.ndarray | None = None) -> None:
        self.n = n
        self.mean = np.zeros(0) if mean is None else mean
        self.scatter = np.zeros((0, 0)) if scatter is None else scatter

    def update(self, features: Tensor | np.ndarray) -> None:
        """Add features [N, d] (Chan et al. 1979: stable for any division into chunks)."""
        x = np.asarray(features, dtype=np.float64)
        if not len(x):
            return
        mean = x.mean(0)
        centred = x - mean
        scatter = centred.T @ centred
        if not self.n:
            self.n, self.mean, self.scatter = len(x), mean, scatter
            return
        total, gap = self.n + len(x), mean - self.mean
        self.scatter = self.scatter + scatter + np.outer(gap, gap) * (self.n * len(x) / total)
        self.mean = self.mean + gap * (len(x) / total)
        self.n = total

    @property
    def covariance(self) -> np.ndarray:
        """The covariance [d, d], divided by n - 1."""
        return self.scatter / (self.n - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return the FID (Heusel et al. 2017): ‖μa − μb‖² + Tr(Ca + Cb − 2 (Ca Cb)^½).

    The trace of the root is the sum of the roots of the eigenvalues of Ca^½ Cb Ca^½. That matrix is symmetric, so there
    are no complex numbers, and no term on the diagonal is needed for covariances without full rank.

    Raises:
        ValueError: features of different lengths, or fewer than two images.
    """
    if a.mean.shape != b.mean.shape or min(a.n, b.n) < 2:
        raise ValueError(
            f"moments of {a.n} features [{len(a.mean)}] and {b.n} features [{len(b.mean)}]; "
            "expected two or more of each, of one length"
        )
    ca, cb = (torch.from_numpy(m.covariance) for m in (a, b))
    values, vectors = torch.linalg.eigh(ca)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    trace_of_root = torch.linalg.eigvalsh(root @ cb @ root).clamp(min=0).sqrt().sum()
    gap = a.mean - b.mean
    return float(gap @ gap + torch.trace(ca) + torch.trace(cb) - 2 * trace_of_root)


def kernel_distance(
    real: Tensor, fake: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the KID (Bińkowski et al. 2018): unbiased MMD² with the kernel (x·y / d + 1)³.

    Args:
        real, fake: features [N, d].
        subsets: pairs of random subsets.
        size: features in a subset, or all if there are fewer.
        seed: draws the subsets.

    Returns:
        Mean and standard deviation over the subsets.

    Raises:
        ValueError: fewer than two features of a kind.
    """
    rng = np.random.default_rng(seed)
    size = min(size, len(real), len(fake))
    if size < 2:
        raise ValueError(f"{len(real)} real and {len(fake)} fake features; expected two or more of each")
    values = []
    for _ in range(subsets):
        x = real[rng.choice(len(real), size, replace=False)].double()
        y = fake[rng.choice(len(fake), size, replace=False)].double()
        xx, yy, xy = (((u @ v.T) / x.shape[1] + 1) ** 3 for u, v in ((x, x), (y, y), (x, y)))
        within = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (size * (size - 1))
        values.append(float(within - 2 * xy.mean()))
    return float(np.mean(values)), float(np.std(values))


def inception_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """Return the Inception Score (Salimans et al. 2016) of logits [N, classes]: exp of the mean KL(p(y|x) ‖ p(y)).

    Returns:
        Mean and standard deviation over `splits` parts of the shuffled images.

    Raises:
        ValueError: fewer images than parts.
    """
    if len(logits) < splits:
        raise ValueError(f"{len(logits)} images in {splits} parts; expected at least one image in each")
    order = np.random.default_rng(0).permutation(len(logits))
    log_p = torch.log_softmax(logits[order].double(), dim=1)
    scores = []
    for part in log_p.tensor_split(splits):
        marginal = torch.logsumexp(part, dim=0) - np.log(len(part))
        scores.append(float((part.exp() * (part - marginal)).sum(1).mean().exp()))
    return float(np.mean(scores)), float(np.std(scores))


def precision_recall(real: Tensor, fake: Tensor, k: int = 3, part: int = 500) -> tuple[float, float]:
    """Return improved precision and recall (Kynkäänniemi et al. 2019), each in [0, 1].

    Precision is the share of fake features within reach of a real one; recall is the share of real features within
    reach of a fake one. The reach of a feature is the distance to its k-th nearest neighbour of the same kind.

    Args:
        real, fake: [N, d] and [M, d], more than k of each.
        k: neighbours.
        part: rows of the matrix of distances in memory at a time.

    Raises:
        ValueError: no more than k features of a kind.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"{len(real)} real and {len(fake)} fake features; expected more than k = {k}")
    real, fake = real.double(), fake.double()
    # Rounding leaves equal features a small distance, which counts as zero. All pairs share one bound: with others, a
    # feature could coincide with another for its own reach and not for that feature's reach.
    zero_below = 1e-9 * float(max((x * x).sum(1).max() for x in (real, fake)))
    reach_real, reach_fake = (_reach(x, k, part, zero_below) for x in (real, fake))
    return _within(fake, real, reach_real, part, zero_below), _within(real, fake, reach_fake, part, zero_below)


def _reach(x: Tensor, k: int, part: int, zero_below: float) -> Tensor:
    """Return the squared distance of each feature to its k-th nearest other one; the nearest of all is itself."""
    rows = (_distances(r, x, zero_below).topk(k + 1, dim=1, largest=False).values[:, -1] for r in torch.split(x, part))
    return torch.cat(list(rows))


def _within(queries: Tensor, centres: Tensor, reach: Tensor, part: int, zero_below: float) -> float:
    inside = [(_distances(rows, centres, zero_below) <= reach).any(1) for rows in torch.split(queries, part)]
    return float(torch.cat(inside).double().mean())


def _distances(a: Tensor, b: Tensor, zero_below: float) -> Tensor:
    """Return squared distances [len(a), len(b)], zero below `zero_below`."""
    squared = torch.addmm((b * b).sum(1), a, b.T, alpha=-2).add_((a * a).sum(1)[:, None])
    return torch.threshold_(squared, zero_below, 0.0)
