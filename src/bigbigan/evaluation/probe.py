"""Linear probe and nearest neighbours on frozen features, with all labels or with a few.

Protocol, part of each metric's name:
  top1_linear_F            multinomial logistic regression on all labels; L2 strength from 1e-3 .. 1e2, chosen
                           on a tenth of the training set held out (at most 10,000 images used for the choice)
  top1_linear_F_10perclass the same on 10 labelled images of each class; strength chosen by 3-fold cross-validation
                           on those alone; mean and standard deviation over 5 draws
  knn5_l2_F                5 nearest neighbours by Euclidean distance of vectors scaled to length 1
  knn5_l2_F_10perclass     the same with the labelled images alone as references; 5 draws
F is avepool, bn_crelu or pixels. All are scored on the test split, in percent.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit, StratifiedKFold

from bigbigan.data.batches import Batches
from bigbigan.evaluation.features import encoder_features, unchanged
from bigbigan.models.encoder import Encoder

__all__ = ["Figure", "few_label_draws", "knn", "linear", "probe_figures", "quick_probe"]

STRENGTHS = [10.0**k for k in range(-3, 3)]
DRAWS = 5


class Figure(NamedTuple):
    """A measured percentage; `std` over draws where there were several, and each draw. Draw k is of the same labelled
    images for all features, so that features are compared draw by draw."""

    value: float
    std: float | None = None
    draws: list[float] | None = None


def linear(train: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, seed: int) -> float:
    """Top-1 accuracy in percent of logistic regression on features [N, d], protocol of top1_linear."""
    order = np.random.default_rng(seed).permutation(len(train))
    held_out = min(len(train) // 10, 2_000)
    chosen = order[: min(len(train), 10_000)]
    fold = np.where(np.arange(len(chosen)) < held_out, 0, -1)
    search = GridSearchCV(_classifier(), {"C": STRENGTHS}, cv=PredefinedSplit(fold), refit=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(train[chosen], labels[chosen])
        classifier = _classifier(search.best_params_["C"]).fit(train, labels)
    return 100 * classifier.score(test, test_labels)


def few_label_linear(train: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> float:
    """Top-1 accuracy in percent from a few labelled images, protocol of top1_linear_..perclass."""
    folds = min(3, int(np.bincount(labels)[np.unique(labels)].min()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if folds < 2:
            return 100 * _classifier().fit(train, labels).score(test, test_labels)
        search = GridSearchCV(_classifier(), {"C": STRENGTHS}, cv=StratifiedKFold(folds, shuffle=True, random_state=0))
        return 100 * search.fit(train, labels).score(test, test_labels)


def _classifier(strength: float = 1.0) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=300)


def knn(train: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, k: int = 5) -> float:
    """Top-1 accuracy in percent of k nearest neighbours, vectors scaled to length 1; ties go to the nearest."""
    reference = torch.nn.functional.normalize(torch.from_numpy(train), dim=1)
    classes = torch.from_numpy(labels)
    count, right = int(classes.max()) + 1, 0
    # A vote counts 1, plus a little that halves with each rank: in a tie the nearest outweighs all others.
    votes = 1 + 1e-3 * 0.5 ** torch.arange(k, dtype=torch.float32)
    for queries, truth in zip(
        torch.from_numpy(test).split(1000), torch.from_numpy(test_labels).split(1000), strict=True
    ):
        similarity = torch.nn.functional.normalize(queries, dim=1) @ reference.t()
        nearest = classes[similarity.topk(min(k, len(reference)), dim=1).indices]
        tally = torch.zeros(len(queries), count).scatter_add_(1, nearest, votes[: nearest.shape[1]].expand_as(nearest))
        right += int((tally.argmax(1) == truth).sum())
    return 100 * right / len(test)


def few_label_draws(labels: np.ndarray, per_class: int, draws: int = DRAWS) -> list[np.ndarray]:
    """Index sets of `per_class` images of each class (all of a class that has fewer), one set a draw."""
    sets = []
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        picks = [rng.permutation(np.flatnonzero(labels == c))[:per_class] for c in np.unique(labels)]
        sets.append(np.concatenate(picks))
    return sets


def probe_figures(
    name: str,
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    seed: int,
    metrics: Sequence[str],
) -> dict[str, Figure]:
    """The figures of one kind of feature: those of `metrics`, each ending in `name` or `name`_10perclass."""
    figures = {}
    if f"top1_linear_{name}" in metrics:
        figures[f"top1_linear_{name}"] = Figure(linear(train, labels, test, test_labels, seed))
    if f"knn5_l2_{name}" in metrics:
        figures[f"knn5_l2_{name}"] = Figure(knn(train, labels, test, test_labels))
    draws = few_label_draws(labels, 10)
    for metric, score in ((f"top1_linear_{name}_10perclass", few_label_linear), (f"knn5_l2_{name}_10perclass", knn)):
        if metric in metrics:
            values = [score(train[picks], labels[picks], test, test_labels) for picks in draws]
            figures[metric] = Figure(float(np.mean(values)), float(np.std(values, ddof=1)), values)
    return figures


def quick_probe(encoder: Encoder, batches: Batches, labels: np.ndarray, seed: int = 0) -> float:
    """top1_linear_bn_crelu_10perclass within the training set: 10 labels a class from one half of at most 4,000
    images, scored on the other half. For watching a run and choosing its best step; the test split stays unseen."""
    order = np.random.default_rng(seed).permutation(len(labels))[:4_000]
    pixels = batches.middle(torch.from_numpy(order).to(batches.pixels.device)).cpu().numpy()
    with unchanged(encoder):
        features = encoder_features(encoder, pixels)["bn_crelu"]
    half = len(order) // 2
    known, rest, y = features[:half], features[half:], labels[order]
    values = [few_label_linear(known[p], y[:half][p], rest, y[half:]) for p in few_label_draws(y[:half], 10)]
    return float(np.mean(values))
