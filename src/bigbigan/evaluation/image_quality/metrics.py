"""Arithmetic of image quality: of reconstructions, and on features of any network FID, KID, Inception Score, precision
and recall.

The latter in float64; distances in parts, so that memory does not grow with the square of the number of images.
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
    """Number, mean and covariance of features that come in parts.

    Args:
        n, mean [d], scatter [d, d]: where to go on from; scatter is the sum of (x - mean)(x - mean)ᵀ.
    """

    def __init__(self, n: int = 0, mean: np.ndarray | None = None, scatter: np.ndarray | None = None) -> None:
        self.n = n
        self.mean = np.zeros(0) if mean is None else mean
        self.scatter = np.zeros((0, 0)) if scatter is None else scatter

    def update(self, features: Tensor | np.ndarray) -> None:
        """Take in features [N, d] (Chan et al. 1979: stable however they are cut)."""
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
        """[d, d], divided by n - 1."""
        return self.scatter / (self.n - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """FID (Heusel et al. 2017): ‖μa − μb‖² + Tr(Ca + Cb − 2 (Ca Cb)^½).

    The trace of the root is the sum of the roots of the eigenvalues of Ca^½ Cb Ca^½, which is symmetric: no complex
    numbers, and nothing to add to a diagonal where a covariance has no full rank.

    Raises:
        ValueError: of features of different length, or of fewer than two images.
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
    """KID (Bińkowski et al. 2018): unbiased MMD² with the kernel (x·y / d + 1)³, as mean and standard deviation over
    `subsets` pairs of random subsets of `size` (at most as many as there are) features [N, d]."""
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
    """Inception Score (Salimans et al. 2016) of logits [N, classes]: exp of the mean KL(p(y|x) ‖ p(y)), as mean and
    standard deviation over `splits` parts of the images, shuffled first."""
    if len(logits) < splits:
        raise ValueError(f"{len(logits)} images in {splits} parts; expected as many images as parts, or more")
    order = np.random.default_rng(0).permutation(len(logits))
    log_p = torch.log_softmax(logits[order].double(), dim=1)
    scores = []
    for part in log_p.tensor_split(splits):
        marginal = torch.logsumexp(part, dim=0) - np.log(len(part))
        scores.append(float((part.exp() * (part - marginal)).sum(1).mean().exp()))
    return float(np.mean(scores)), float(np.std(scores))


def precision_recall(real: Tensor, fake: Tensor, k: int = 3, part: int = 500) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019), each in [0, 1].

    Precision is the share of fake features within reach of a real one, recall that of real ones within reach of a fake
    one; a feature reaches as far as its k-th nearest neighbour of its own kind.

    Args:
        real, fake: [N, d] and [M, d], more than k of each.
        k: neighbours.
        part: rows of the matrix of distances that are held at a time.

    Raises:
        ValueError: no more than k features of a kind.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"{len(real)} real and {len(fake)} fake features; expected more than k = {k}")
    real, fake = real.double(), fake.double()
    # What rounding leaves of the distance of equal features counts as none; one bound for all pairs, or a feature could
    # be at a place for its own reach and beside it for others.
    least = 1e-9 * float(max((x * x).sum(1).max() for x in (real, fake)))
    reach_real, reach_fake = (_reach(x, k, part, least) for x in (real, fake))
    return _within(fake, real, reach_real, part, least), _within(real, fake, reach_fake, part, least)


def _reach(x: Tensor, k: int, part: int, least: float) -> Tensor:
    """Squared distance of each feature to its k-th nearest other one; itself is the nearest of all."""
    rows = (_distances(r, x, least).topk(k + 1, dim=1, largest=False).values[:, -1] for r in torch.split(x, part))
    return torch.cat(list(rows))


def _within(queries: Tensor, centres: Tensor, reach: Tensor, part: int, least: float) -> float:
    inside = [(_distances(rows, centres, least) <= reach).any(1) for rows in torch.split(queries, part)]
    return float(torch.cat(inside).double().mean())


def _distances(a: Tensor, b: Tensor, least: float) -> Tensor:
    """Squared distances [len(a), len(b)], zero below `least`."""
    squared = torch.addmm((b * b).sum(1), a, b.T, alpha=-2).add_((a * a).sum(1)[:, None])
    return torch.threshold_(squared, least, 0.0)
