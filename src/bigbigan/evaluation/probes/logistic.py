"""Fit logistic regression on frozen features, with all labels or with few.

The protocol is part of each metric's name:
  top1_linear_F            multinomial logistic regression on all labels, solved to its optimum; L2 strength from 1e-3
                           to 1e2, chosen on a held-out tenth of the training set, at most 2,000 (at most 10,000 images
                           are used for the choice); with fewer than 100 images, by cross-validation as below,
                           and 1 if all images are of one group
  top1_linear_F_10perclass the same on 10 labelled images of each class; strength chosen by 3-fold cross-validation
                           on these images; mean and standard deviation over 5 trials; 1 to 100 likewise
  top1_linear_F_10percent  on a tenth of the images of each class (1percent likewise), by the protocol of top1_linear_F;
                           mean and standard deviation over 5 trials
  auroc_..., balanced_...  of the same classifiers: area under the ROC curve (0 to 1), and accuracy as the mean over
                           classes (percent), which large classes do not dominate
  knn5_l2_F_10perclass     5 nearest neighbours (probes.knn) with only the labelled images as references
Strengths are tried from small to large until the accuracy has fallen twice in a row. F is avepool, bn_crelu, pixels or
pca_pixels. All are scored on the test split, top1 in percent. Images held out for a choice never share a group
(`ImageSet.groups`) with images that a classifier is trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bigbigan.data.held_out import hold_out
from bigbigan.evaluation.probes.solver import logistic_path, shortened
from bigbigan.evaluation.records import Measurement

if TYPE_CHECKING:  # scikit-learn takes a second to load; functions import it where they use it
    from sklearn.linear_model import LogisticRegression

__all__ = [
    "class_scores",
    "cross_validated",
    "distinct_trials",
    "few_label_trials",
    "fit_each",
    "fit_few",
    "fit_linear",
    "folds",
    "fraction_trials",
    "mean_over_trials",
    "scores",
]

UNSEEN = -1e9  # logit of a class without training images
STRENGTHS = [10.0**k for k in range(-3, 3)]
CHOICE = 1e-4  # tolerance of the fits that only choose a strength: closer to the optimum, the choice stays the same
TRIALS = 5
MAX_FOLDS = 3


def fit_linear(
    train: np.ndarray, labels: np.ndarray, seed: int, groups: np.ndarray | None = None
) -> LogisticRegression:
    """Fit logistic regression on features [N, d] with all labels [N], by the protocol of top1_linear."""
    one_group = groups is not None and len(np.unique(groups)) < 2  # it is not divided for the choice
    if len(train) < 100 or one_group:  # a tenth of fewer is too few for the choice
        return fit_few(train, labels, groups)
    size = min(len(train) // 10, 2_000)
    kept, held_out = hold_out(len(train), size, seed, groups)
    if len(np.unique(labels[kept])) < 2:  # one group has all images of a class
        return fit_few(train, labels, groups)
    fitted = kept[: 10_000 - size]
    accuracies: list[float] = []
    for classifier in logistic_path(train[fitted], labels[fitted], STRENGTHS, CHOICE):
        accuracies.append(float(classifier.score(train[held_out], labels[held_out])))
        if _fell_twice(accuracies):
            break
    return next(logistic_path(train, labels, [STRENGTHS[int(np.argmax(accuracies))]]))


def fit_few(train: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None) -> LogisticRegression:
    """Fit logistic regression on few labelled images, by the protocol of top1_linear_..perclass."""
    rows, restored = shortened(train)
    strength, *_ = cross_validated(rows, labels, groups)
    return restored(next(logistic_path(rows, labels, [strength])))


def fit_each(fit: Callable[..., LogisticRegression], trials: Sequence[tuple[Any, ...]]) -> list[LogisticRegression]:
    """Call `fit` with the arguments of each trial, as many at a time as PyTorch has threads, each on one core.

    The matrix products of one fit are so small that they would not use several cores well; only trials that would leave
    most cores idle at the end use all.
    """
    from threadpoolctl import threadpool_limits  # of scikit-learn

    threads = torch.get_num_threads()
    count = max(1, min(len(trials), threads))
    last = len(trials) - (len(trials) % count if len(trials) % count <= count / 2 else 0)
    with threadpool_limits(1), ThreadPoolExecutor(count) as pool:
        fitted = list(pool.map(lambda arguments: fit(*arguments), trials[:last]))
    with threadpool_limits(threads):
        return fitted + [fit(*arguments) for arguments in trials[last:]]


def cross_validated(
    train: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None
) -> tuple[float, np.ndarray, np.ndarray]:
    """Choose the L2 strength with the best accuracy on held-out labelled images; of equals the smallest.

    Returns:
        The strength; the indices of the images that a fold left out, int64 [n], sorted; and their logits [n, K] (see
        `class_scores`) by the classifier of that strength that was trained without them. If no folds are possible,
        strength 1 and no images.
    """
    if not (cv := folds(labels, groups)):
        return 1.0, np.arange(0), np.empty((0, int(labels.max()) + 1))
    tested = np.sort(np.concatenate([held_out for _, held_out in cv]))
    paths = [logistic_path(train[kept], labels[kept], STRENGTHS, CHOICE) for kept, _ in cv]
    unseen: list[np.ndarray] = []
    accuracies: list[float] = []
    for classifiers in zip(*paths, strict=True):
        logits = np.full((len(labels), int(labels.max()) + 1), UNSEEN)
        for (_, held_out), classifier in zip(cv, classifiers, strict=True):
            found = class_scores(classifier, train[held_out])
            logits[held_out, : found.shape[1]] = found  # a fold may train without the last classes
        unseen.append(logits[tested])
        accuracies.append(float((logits[tested].argmax(1) == labels[tested]).mean()))
        if _fell_twice(accuracies):
            break
    best = int(np.argmax(accuracies))
    return STRENGTHS[best], tested, unseen[best]


def _fell_twice(accuracies: list[float]) -> bool:
    """Return whether the accuracy fell at the last two strengths: larger ones overfit more, and take the longest."""
    return len(accuracies) > 2 and accuracies[-3] > accuracies[-2] > accuracies[-1]


def folds(labels: np.ndarray, groups: np.ndarray | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the (kept, held out) indices of up to `MAX_FOLDS` folds of few labelled images.

    Groups are never divided, and images of a class that has only one image, or group, are never held out. There are no
    folds if fewer than two classes could be held out, if one of these would have no training images, or if more than a
    tenth of the images are of classes that could not: the choice would favour the others.
    """
    units = labels if groups is None else groups
    counts = {
        c: int((labels == c).sum()) if groups is None else len(np.unique(units[labels == c])) for c in np.unique(labels)
    }
    divided = [c for c, count in counts.items() if count > 1]
    common, rare = (np.flatnonzero(np.isin(labels, divided, invert=other)) for other in (False, True))
    if len(divided) < 2 or len(rare) > len(labels) / 10:
        return []
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    count = min(MAX_FOLDS, *(counts[c] for c in divided))
    cv = (StratifiedKFold if groups is None else StratifiedGroupKFold)(count, shuffle=True, random_state=0)
    found = []
    for kept, held_out in cv.split(common, labels[common], None if groups is None else groups[common]):
        if not len(held_out) or len(np.unique(labels[common[kept]])) < len(divided):
            return []
        others = rare if groups is None else rare[~np.isin(groups[rare], groups[common[held_out]])]
        found.append((np.concatenate([common[kept], others]), common[held_out]))
    return found


def class_scores(classifier: LogisticRegression, features: np.ndarray) -> np.ndarray:
    """Return logits, float64 [N, K], with a column for each class number.

    With two classes, the first has logit 0. Class numbers that the classifier was not trained on have logit `UNSEEN`.
    """
    decision, classes = classifier.decision_function(features), classifier.classes_
    if decision.ndim == 1:
        decision = np.stack([np.zeros_like(decision), decision], axis=1)
    out = np.full((len(decision), int(classes[-1]) + 1), UNSEEN)
    out[:, classes] = decision
    return out


def scores(logits: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Score logits [N, K] against labels [N]: top1 and balanced in percent, auroc from 0 to 1 (NaN with one class).

    auroc is that of each class against the others by its odds, averaged over the classes in `truth`; with two classes
    this is the usual AUROC. It is 0.5 for a class without training images, whose logits are `UNSEEN` or missing.
    """
    predicted, classes, odds = logits.argmax(1), np.unique(truth), _odds(logits.astype(np.float64))
    recalls = [float((predicted[truth == c] == c).mean()) for c in classes]
    trained = [c < logits.shape[1] and logits[:, c].max() > UNSEEN / 1e3 for c in classes]  # of any temperature
    constant = np.zeros(len(logits))
    areas = [_area(odds[:, c] if seen else constant, truth == c) for c, seen in zip(classes, trained, strict=True)]
    top1 = 100 * float((predicted == truth).mean())
    return {"top1": top1, "balanced": 100 * float(np.mean(recalls)), "auroc": float(np.mean(areas))}


def _area(values: np.ndarray, positive: np.ndarray) -> float:
    """Return the area under the ROC curve, from the ranks of the positive images (Mann & Whitney's statistic)."""
    from scipy.stats import rankdata  # here: it takes a second to load

    count = int(positive.sum())
    pairs = count * (len(positive) - count)
    return float(rankdata(values)[positive].sum() - count * (count + 1) / 2) / pairs if pairs else np.nan


def _odds(logits: np.ndarray) -> np.ndarray:
    """Return the log-odds [N, K] of each class against all others: ranked like probabilities, but never saturated."""
    nothing = np.full((len(logits), 1), -np.inf)
    before = np.logaddexp.accumulate(np.hstack([nothing, logits[:, :-1]]), axis=1)
    after = np.logaddexp.accumulate(np.hstack([nothing, logits[:, :0:-1]]), axis=1)[:, ::-1]
    return logits - np.logaddexp(before, after)


def few_label_trials(labels: np.ndarray, per_class: int, trials: int = TRIALS) -> list[np.ndarray]:
    """Return, for each trial, the indices of `per_class` images of each class (all images of a class with fewer)."""
    sets = []
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        picks = [rng.permutation(np.flatnonzero(labels == c))[:per_class] for c in np.unique(labels)]
        sets.append(np.concatenate(picks))
    return sets


def fraction_trials(labels: np.ndarray, fraction: float, trials: int = TRIALS) -> list[np.ndarray]:
    """Return, for each trial, the indices of a fraction of the images of each class (at least one image)."""
    sets = []
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        members = [rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
        sets.append(np.concatenate([m[: max(1, round(fraction * len(m)))] for m in members]))
    return sets


def distinct_trials(trials: list[np.ndarray]) -> list[np.ndarray]:
    """Return the trials, or the first alone if all have the same images, because there are no others to choose."""
    same = all(np.array_equal(np.sort(trials[0]), np.sort(picks)) for picks in trials)
    return trials[:1] if same else trials


def mean_over_trials(values: list[float]) -> Measurement:
    """Return the mean of a value over trials; if there are several, with its standard deviation and the values."""
    several = len(values) > 1
    std = float(np.std(values, ddof=1)) if several else None
    return Measurement(float(np.mean(values)), std, values if several else None)
