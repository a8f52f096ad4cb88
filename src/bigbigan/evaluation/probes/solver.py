"""Solve multinomial logistic regression with an L2 penalty to its optimum, for several strengths C in turn.

The objective is scikit-learn's: C Σ_i loss(x_i) + ½ ‖W‖², with a free intercept; with two classes W is a single vector.

The optimum is found by a truncated Newton method: conjugate gradients on the Hessian, preconditioned by the principal
axes of the features (Nocedal & Wright, Numerical Optimization, chapter 7). Losses and gradients are in float64.
Three things make it fast:

- W lies in the span of the centred rows. Up to 5,000 rows are rotated along their principal axes in that span, which
  changes neither their inner products nor any logit.
- The search for a strength starts from the solutions for the two before it, extrapolated: of classes that can be
  separated, W is nearly linear in log C.
- Rows are read in blocks that a cache holds, by several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bigbigan.evaluation.features import check_finite

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

__all__ = ["logistic_path", "shortened"]

TOLERANCE = 1e-7  # of the optimum, see `logistic_path`
MAX_ROTATED = 5_000  # rows; with more, the rotation costs more than it saves
MAX_AXES = 1_000  # rows that principal axes are computed from, if there are many long rows
BLOCK = 1_024  # rows that are read together, few enough for a cache


def logistic_path(
    x: np.ndarray, labels: np.ndarray, strengths: Sequence[float], tolerance: float = TOLERANCE
) -> Iterator[LogisticRegression]:
    """Yield the classifier at the optimum for each strength in turn.

    Args:
        x: features [N, d].
        labels: int [N], of two classes or more.
        strengths: values of C; the search is shortest if they increase.
        tolerance: the search ends when another step would lower the objective by no more than this share of it.

    Raises:
        UserError: features that are not finite.
    """
    check_finite(x)
    classes, y = np.unique(labels, return_inverse=True)
    n = len(x)
    mean = x.mean(0, dtype=np.float64)
    back: list[np.ndarray] = []
    if n <= MAX_ROTATED:
        z, axes, back = _rotated(x - mean)
        fit = _Fit(z, np.zeros(z.shape[1]), y, axes)
    else:
        fit = _Fit(x, mean, y, _principal_axes(x, mean))
    W, b = np.zeros((len(classes), fit.z.shape[1])), np.zeros(len(classes))
    before = None
    for strength in strengths:
        # With two classes the single vector is W[1] - W[0]. At the optimum W[0] = -W[1], and half its square is ‖W‖².
        C = strength / 2 if len(classes) == 2 else strength
        start = (W, b) if before is None else (2 * W - before[0], 2 * b - before[1])
        if before is not None and fit.loss(*start, C)[0] >= fit.loss(W, b, C)[0]:
            start = W, b
        before = W, b
        W, b = fit.newton(*start, C, tolerance)
        weights = reduce(np.matmul, back, W)
        yield _classifier(classes, weights, b - weights @ mean)


def shortened(x: np.ndarray) -> tuple[np.ndarray, Callable[[LogisticRegression], LogisticRegression]]:
    """Return rows that are shorter than x [N, d] and have the same optimum, and a function that takes it back to x.

    Several fits of few long rows, such as pixels, are faster with them. If N >= d both are as they were.

    Raises:
        UserError: features that are not finite.
    """
    check_finite(x)
    if len(x) >= x.shape[1]:
        return x, lambda classifier: classifier
    mean = x.mean(0, dtype=np.float64)
    z, _, back = _rotated(x - mean)

    def restored(classifier: LogisticRegression) -> LogisticRegression:
        classifier.coef_ = reduce(np.matmul, back, classifier.coef_)
        classifier.intercept_ = classifier.intercept_ - classifier.coef_ @ mean
        classifier.n_features_in_ = x.shape[1]
        return classifier

    return z, restored


def _classifier(classes: np.ndarray, W: np.ndarray, b: np.ndarray) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression  # here: scikit-learn takes a second to load

    classifier = LogisticRegression()
    classifier.classes_, classifier.n_features_in_ = classes, W.shape[1]
    classifier.coef_, classifier.intercept_ = (W[1:] - W[:1], b[1:] - b[:1]) if len(classes) == 2 else (W, b)
    return classifier


@dataclass(frozen=True)
class _Axes:
    """Hold the principal axes of N centred rows.

    Attributes:
        directions: orthonormal, [a, d]; None if they are the coordinate axes.
        spread: sum of squares of the rows along each axis [a].
        remainder: the same along any direction orthogonal to the axes.
    """

    directions: np.ndarray | None
    spread: np.ndarray
    remainder: float = 0.0


def _rotated(centred: np.ndarray) -> tuple[np.ndarray, _Axes, list[np.ndarray]]:
    """Rotate centred rows [N, d] along their principal axes, in their own span.

    Returns:
        The coordinates z [N, r]; the axes; and matrices whose product with W for z, from the left to the right, is W
        for the rows.
    """
    wide = centred.shape[0] <= centred.shape[1]
    spread, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    kept = spread > spread[-1] * 1e-12  # the others are rounding errors
    if not kept.any():  # all rows are equal: one axis along which nothing varies
        return np.zeros((len(centred), 1)), _Axes(None, np.zeros(1)), [np.zeros((1, centred.shape[1]))]
    spread, vectors = spread[kept], vectors[:, kept]
    if not wide:
        return centred @ vectors, _Axes(None, spread), [vectors.T]
    lengths = np.sqrt(spread)
    return vectors * lengths, _Axes(None, spread), [vectors.T / lengths[:, None], centred]


def _principal_axes(x: np.ndarray, mean: np.ndarray) -> _Axes:
    """Return the principal axes of rows [N, d], computed from evenly spread rows if all would take long."""
    n, d = x.shape
    if d <= 2 * MAX_AXES:
        some = x[:: -(-n // (10 * MAX_AXES))] - mean
        spread, vectors = np.linalg.eigh(some.T @ some)
        return _Axes(vectors.T, np.maximum(spread, 0) * (n / len(some)))
    some = x[:: -(-n // MAX_AXES)] - mean
    spread, vectors = np.linalg.eigh(some @ some.T)
    kept = spread > spread[-1] * 1e-6
    spread, vectors = spread[kept], vectors[:, kept]
    return _Axes((vectors / np.sqrt(spread)).T @ some, spread * (n / len(some)), spread[0] * (n / len(some)))


class _Fit:
    """Fit rows z [N, r] with labels 0 .. K-1; `mean` is subtracted from the rows wherever they are used."""

    def __init__(self, z: np.ndarray, mean: np.ndarray, y: np.ndarray, axes: _Axes) -> None:
        self.z, self.mean, self.y, self.axes = z, mean, y, axes
        self.targets = np.eye(int(y.max()) + 1)[y]
        self.fast = z.astype(np.float32, copy=False)  # precise enough for the direction of a step
        self.blocks = [slice(start, start + BLOCK) for start in range(0, len(z), BLOCK)]
        self.each: Callable[[Callable[[slice], Any]], list[Any]] = self._one_by_one

    def _one_by_one(self, work: Callable[[slice], Any]) -> list[Any]:
        return list(map(work, self.blocks))

    @contextmanager
    def in_threads(self) -> Iterator[None]:
        """Compute the blocks of rows in as many threads as PyTorch has, until the context ends.

        Each product is then on one thread. The threads of BLAS would spin at the end of each product until all are
        done, which takes several times as long if other programs compute.
        """
        threads = min(torch.get_num_threads(), len(self.blocks))
        if threads < 2:
            yield
            return
        from threadpoolctl import threadpool_limits  # of scikit-learn

        with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
            self.each = lambda work: list(pool.map(work, self.blocks))
            try:
                yield
            finally:
                self.each = self._one_by_one

    def newton(self, W: np.ndarray, b: np.ndarray, C: float, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the optimum for strength C, starting from W [K, r] and b [K]."""
        with self.in_threads():
            return self._newton(W, b, C, tolerance)

    def _newton(self, W: np.ndarray, b: np.ndarray, C: float, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
        value, p = self.loss(W, b, C)
        for _ in range(200):
            gW, gb = self.gradient(p - self.targets)
            gW, gb = C * gW + W, C * gb
            dW, db = self.direction(gW, gb, p, C)
            slope = float((gW * dW).sum() + gb @ db)
            size = 1.0
            new, new_p = self.loss(W + dW, b + db, C)
            while new > value + 1e-4 * size * slope and size > 1e-6:
                size /= 2
                new, new_p = self.loss(W + size * dW, b + size * db, C)
            if not new < value:  # only rounding errors remain
                break
            W, b, value, p = W + size * dW, b + size * db, new, new_p
            if -slope / 2 <= tolerance * value:
                break
        return W, b

    def loss(self, W: np.ndarray, b: np.ndarray, C: float) -> tuple[float, np.ndarray]:
        """Return the objective, and the probabilities [N, K]."""
        p = np.concatenate(self.each(lambda rows: self.z[rows].astype(np.float64, copy=False) @ W.T))
        p += b - W @ self.mean
        p -= p.max(1, keepdims=True)
        correct = p[np.arange(len(p)), self.y]
        np.exp(p, out=p)
        total = p.sum(1)
        value = C * float((np.log(total) - correct).sum()) + 0.5 * float((W * W).sum())
        p /= total[:, None]
        return value, p

    def gradient(self, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradient of a loss by W and b, from its derivatives `residual` [N, K] by the logits."""
        gb = residual.sum(0)
        parts = self.each(lambda rows: residual[rows].T @ self.z[rows].astype(np.float64, copy=False))
        return sum(parts) - np.outer(gb, self.mean), gb

    def direction(self, gW: np.ndarray, gb: np.ndarray, p: np.ndarray, C: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the step that nearly minimises the quadratic model of the objective.

        Conjugate gradients end when a further iteration gains little (the test of Nash & Sofer 1990).
        """
        curvature = C * float((p * (1 - p)).mean())
        directions, other = self.axes.directions, 1 / (1 + curvature * self.axes.remainder)
        scale, b_scale = 1 / (1 + curvature * self.axes.spread), 1 / (curvature * len(p) + 1e-300)

        def preconditioned(W: np.ndarray) -> np.ndarray:
            return W * scale if directions is None else W * other + ((W @ directions.T) * (scale - other)) @ directions

        p = p.astype(np.float32)

        def of_block(rows: slice, qW: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            z, of_rows = self.fast[rows], p[rows]
            u = z @ qW.T + offset
            u *= of_rows
            u -= of_rows * u.sum(1, keepdims=True)
            return u.T @ z, u.sum(0, dtype=np.float64)

        W, b = np.zeros_like(gW), np.zeros_like(gb)
        # Equal steps of all intercepts change nothing: rounding errors along them must not grow.
        rW, rb = -gW, gb.mean() - gb
        sW, sb = preconditioned(rW), b_scale * rb
        qW, qb = sW, sb
        rho = first = float((rW * sW).sum() + rb @ sb)
        gained = 0.0
        for iteration in range(1, 501):
            if not rho > 1e-20 * first:  # solved to rounding
                break
            q32, offset = qW.astype(np.float32), (qb - qW @ self.mean).astype(np.float32)
            parts = self.each(partial(of_block, qW=q32, offset=offset))
            hb = C * sum(of_b for _, of_b in parts)
            hb -= hb.mean()
            hW = C * sum(of_W.astype(np.float64) for of_W, _ in parts) - np.outer(hb, self.mean) + qW
            curved = float((qW * hW).sum() + qb @ hb)
            if not 0 < curved < np.inf:  # only rounding errors of float32 remain
                break
            length = rho / curved
            W, b = W + length * qW, b + length * qb
            rW, rb = rW - length * hW, rb - length * hb
            gain = length * rho / 2
            gained += gain
            if iteration * gain <= 0.5 * gained:
                break
            sW, sb = preconditioned(rW), b_scale * rb
            rho, before = float((rW * sW).sum() + rb @ sb), rho
            qW, qb = sW + rho / before * qW, sb + rho / before * qb
        return W, b
