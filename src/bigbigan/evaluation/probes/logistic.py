"""Logistic regression on frozen features, with all labels or with a few.

Protocol, part of each metric's name:
  top1_linear_F            multinomial logistic regression on all labels, at its optimum; L2 strength from 1e-3 .. 1e2,
                           chosen on a tenth of the training set held out (at most 10,000 images used for the choice;
                           strengths are tried from small to large until the accuracy has fallen twice in a row); of
                           fewer than 100 images by cross-validation, as below
  top1_linear_F_10perclass the same on 10 labelled images of each class; strength chosen by 3-fold cross-validation
                           on those alone; mean and standard deviation over 5 draws
  auroc_..., balanced_...  of the same classifiers: area under the ROC curve (0 to 1), and accuracy as the mean over
                           classes (percent), which large classes do not govern
  knn5_l2_F_10perclass     5 nearest neighbours (probes.knn), the labelled images alone as references
F is avepool, bn_crelu, pixels or pca_pixels. All are scored on the test split, top1 in percent. What is held out to
choose by never shares a group (`ImageSet.groups`) with what is learned from.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from bigbigan.evaluation.probes.solver import logistic_path
from bigbigan.evaluation.records import Measurement
from bigbigan.evaluation.splits import hold_out

__all__ = [
    "class_scores",
    "cross_validated",
    "few_label_draws",
    "fit_few",
    "fit_linear",
    "folds",
    "over",
    "scores",
]

STRENGTHS = [10.0**k for k in range(-3, 3)]
DRAWS = 5


def fit_linear(
    train: np.ndarray, labels: np.ndarray, seed: int, groups: np.ndarray | None = None
) -> LogisticRegression:
    """Logistic regression on features [N, d] with all labels [N], protocol of top1_linear."""
    if len(train) < 100:  # a tenth is too few to choose by
        return fit_few(train, labels, groups)
    size = min(len(train) // 10, 2_000)
    kept, held = hold_out(len(train), size, seed, groups)
    if len(np.unique(labels[kept])) < 2:  # a group holds all of a class
        return fit_few(train, labels, groups)
    learned = kept[: 10_000 - size]
    accuracies: list[float] = []
    for classifier in logistic_path(train[learned], labels[learned], STRENGTHS):
        accuracies.append(float(classifier.score(train[held], labels[held])))
        if len(accuracies) > 2 and accuracies[-3] > accuracies[-2] > accuracies[-1]:
            break  # it overfits ever more; the largest strengths take the longest
    return next(logistic_path(train, labels, [STRENGTHS[int(np.argmax(accuracies))]]))


def fit_few(train: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None) -> LogisticRegression:
    """Logistic regression from a few labelled images, protocol of top1_linear_..perclass."""
    strength, _ = cross_validated(train, labels, groups)
    return next(logistic_path(train, labels, [strength]))


def cross_validated(
    train: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None
) -> tuple[float, np.ndarray | None]:
    """The strength with the most right answers for labelled images that were held out, the smallest of several; and
    logits [N, K] (see `class_scores`) of each image by the classifier of that strength that had not seen it. Where no
    folds can be made, strength 1 and None."""
    unseen: list[np.ndarray] = [np.full((len(labels), int(labels.max()) + 1), -1e9) for _ in STRENGTHS]
    if not (cv := folds(labels, groups)):
        return 1.0, None
    for kept, held in cv:
        for logits, classifier in zip(unseen, logistic_path(train[kept], labels[kept], STRENGTHS), strict=True):
            logits[held] = class_scores(classifier, train[held])
    best = int(np.argmax([(logits.argmax(1) == labels).mean() for logits in unseen]))
    return STRENGTHS[best], unseen[best]


def folds(labels: np.ndarray, groups: np.ndarray | None = None, most: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    """(learned from, held out) indices of up to `most` folds of few labelled images, whole groups where there are
    groups. None, where some class would have nothing to learn from."""
    classes = np.unique(labels)
    units = [(labels == c).sum() if groups is None else len(np.unique(groups[labels == c])) for c in classes]
    count = min(most, *map(int, units))
    if count < 2:
        return []
    cv = (StratifiedKFold if groups is None else StratifiedGroupKFold)(count, shuffle=True, random_state=0)
    found = list(cv.split(labels, labels, groups))
    return found if all(len(held) and len(np.unique(labels[kept])) == len(classes) for kept, held in found) else []


def class_scores(classifier: LogisticRegression, features: np.ndarray) -> np.ndarray:
    """Logits float64 [N, K], a column for each class number; of two classes the first has 0, and numbers that the
    classifier has not seen are out of reach."""
    decision, classes = classifier.decision_function(features), classifier.classes_
    if decision.ndim == 1:
        decision = np.stack([np.zeros_like(decision), decision], axis=1)
    out = np.full((len(decision), int(classes[-1]) + 1), -1e9)
    out[:, classes] = decision
    return out


def scores(logits: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """What logits [N, K] are worth against labels [N]: top1 and balanced (percent), auroc (0 to 1; nan where there is
    one class alone).

    auroc is scikit-learn's, of each class against the rest by its odds, averaged over the classes there are; of two
    classes that is the usual one.
    """
    predicted, classes = logits.argmax(1), np.unique(truth)
    recalls = recall_score(truth, predicted, labels=classes, average="macro")
    areas = [roc_auc_score(truth == c, _odds(logits, int(c))) for c in classes] if len(classes) > 1 else [np.nan]
    top1 = 100 * float((predicted == truth).mean())
    return {"top1": top1, "balanced": 100 * float(recalls), "auroc": float(np.mean(areas))}


def _odds(logits: np.ndarray, c: int) -> np.ndarray:
    """Log-odds [N] of class c against all others: what orders images as its probability does, and never saturates."""
    if c >= logits.shape[1]:  # a class that is in the test split alone
        return np.zeros(len(logits))
    return logits[:, c].astype(np.float64) - logsumexp(np.delete(logits, c, axis=1).astype(np.float64), axis=1)


def few_label_draws(labels: np.ndarray, per_class: int, draws: int = DRAWS) -> list[np.ndarray]:
    """Index sets of `per_class` images of each class (all of a class that has fewer), one set a draw."""
    sets = []
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        picks = [rng.permutation(np.flatnonzero(labels == c))[:per_class] for c in np.unique(labels)]
        sets.append(np.concatenate(picks))
    return sets


def over(values: list[float]) -> Measurement:
    """The mean of a value over draws of the labelled images, with its standard deviation where there are several."""
    several = len(values) > 1
    std = float(np.std(values, ddof=1)) if several else None
    return Measurement(float(np.mean(values)), std, values if several else None)
