"""Logistic regression on frozen features, with all labels or with a few.

Protocol, part of each metric's name:
  top1_linear_F            multinomial logistic regression on all labels; L2 strength from 1e-3 .. 1e2, chosen
                           on a tenth of the training set held out (at most 10,000 images used for the choice)
  top1_linear_F_10perclass the same on 10 labelled images of each class; strength chosen by 3-fold cross-validation
                           on those alone; mean and standard deviation over 5 draws
  knn5_l2_F_10perclass     5 nearest neighbours (bigbigan.evaluation.knn), the labelled images alone as references
F is avepool, bn_crelu or pixels. All are scored on the test split, in percent.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit, StratifiedKFold

from bigbigan.evaluation.results import Figure

__all__ = ["few_label_draws", "few_label_linear", "linear", "over_draws"]

STRENGTHS = [10.0**k for k in range(-3, 3)]
DRAWS = 5


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


def few_label_draws(labels: np.ndarray, per_class: int, draws: int = DRAWS) -> list[np.ndarray]:
    """Index sets of `per_class` images of each class (all of a class that has fewer), one set a draw."""
    sets = []
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        picks = [rng.permutation(np.flatnonzero(labels == c))[:per_class] for c in np.unique(labels)]
        sets.append(np.concatenate(picks))
    return sets


def over_draws(
    score: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], float],
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    per_class: int = 10,
) -> Figure:
    """`score` of few labels: its mean over draws of `per_class` labelled images a class."""
    draws = few_label_draws(labels, per_class)
    values = [score(train[picks], labels[picks], test, test_labels) for picks in draws]
    return Figure(float(np.mean(values)), float(np.std(values, ddof=1)), values)
