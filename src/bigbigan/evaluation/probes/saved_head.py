"""Fit the classifier that `classify --save` keeps, on all labelled images, and measure it on folds it has not seen.

The L2 strength is chosen by 3-fold cross-validation on the labelled images, on 10,000 of them if there are more. The
same folds give each image logits of a classifier that was not trained on it: the temperature is fitted on these. The
classifier itself is then trained on all labelled images, to its optimum.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbigan.config import Config
from bigbigan.data.names import listed
from bigbigan.evaluation.probes.calibration import calibration_error, fit_temperature
from bigbigan.evaluation.probes.logistic import cross_validated, scores
from bigbigan.evaluation.probes.solver import logistic_path
from bigbigan.inference.head import Head, Preprocessing, distances, mean_of_nearest
from bigbigan.io.tensors import digest_of

__all__ = ["fit_head", "quality", "quality_by_name", "references"]

MAX_IMAGES = 10_000  # of the choice of strength, of the temperature and of the distances
OF_EACH_CLASS = 30  # of which, if there are as many
MAX_REFERENCES = 2_000
QUANTILE = 0.99  # share of images like the labelled ones that are nearer to them than `max_distance`
CHUNK = 1_000  # images whose distances are computed at a time


def fit_head(
    features: np.ndarray,
    avepool: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    groups: np.ndarray | None,
    preprocessing: Preprocessing,
    E: nn.Module,
    config: Config,
    step: int,
) -> tuple[Head, dict[str, float], int]:
    """Fit a head on BN+CReLU features, float32 [N, d], of all labelled images.

    Args:
        features: of the labelled images.
        avepool: their AvePool features, float32 [N, d / 2].
        labels: int [N], of two classes or more.
        classes: the name of each class number; classes without a labelled image are not in the head.
        groups: int [N], images that belong together (`ImageSet.groups`), or None.
        preprocessing, E, config, step: recorded in the head; see `bigbigan.inference.head.Head`.

    Returns:
        The head; its `quality` on held-out folds, empty if there are too few images for folds; and the number of images
        in these.
    """
    present, y = np.unique(labels, return_inverse=True)
    picks = _picks(y)
    picked_groups = None if groups is None else groups[picks]
    strength, tested, unseen = cross_validated(features[picks], y[picks], picked_groups)
    truth = y[picks][tested]
    if not len(tested):
        warnings.warn(
            "the confidence is not calibrated: this needs two labelled images or groups of each class", stacklevel=3
        )
    elif rare := [classes[k] for k in np.setdiff1d(present, present[np.unique(truth)])]:
        warnings.warn(
            f"only one labelled image or group of {listed(rare)}: not among the images that the confidence is "
            "calibrated on and the accuracy measured on",
            stacklevel=3,
        )
    temperature = fit_temperature(unseen, truth) if len(tested) else 1.0
    classifier = next(logistic_path(features, y, [strength]))
    weight, bias = classifier.coef_, classifier.intercept_
    if len(present) == 2:  # one vector, for the second class
        weight, bias = (np.concatenate([np.zeros_like(part), part]) for part in (weight, bias))
    kept, max_distance = references(torch.from_numpy(avepool[picks]), picked_groups)
    head = Head(
        classes=tuple(classes[k] for k in present),
        weight=torch.from_numpy(weight).float(),
        bias=torch.from_numpy(bias).float(),
        references=kept,
        max_distance=max_distance,
        temperature=temperature,
        strength=strength,
        features="bn_crelu",
        preprocessing=preprocessing,
        images=len(y),
        encoder=digest_of(E.state_dict()),
        experiment=config.experiment,
        step=step,
    )
    return head, quality(unseen / temperature, truth) if len(tested) else {}, len(tested)


def _picks(y: np.ndarray) -> np.ndarray:
    """Draw up to `MAX_IMAGES` images by their labels [N], `OF_EACH_CLASS` first; return their indices, shuffled."""
    order = np.random.default_rng(0).permutation(len(y))
    if len(order) <= MAX_IMAGES:
        return order
    common = np.zeros(len(order), dtype=bool)
    for c in np.unique(y):
        common[np.flatnonzero(y[order] == c)[OF_EACH_CLASS:]] = True
    chosen = np.argsort(common, kind="stable")[:MAX_IMAGES]
    return order[np.sort(chosen)]


def quality(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Score calibrated logits [N, K]: top1, balanced and ece in percent, auroc from 0 to 1 if there are two classes."""
    found = scores(logits, labels) | {"ece": 100 * calibration_error(logits, labels)}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def quality_by_name(probabilities: Tensor, classes: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Return the `quality` of probabilities [N, K] of named classes against N labels, which are names.

    Images of classes that are not among the K count as errors.
    """
    number = {name: k for k, name in enumerate(dict.fromkeys([*classes, *labels]))}
    logits = np.log(np.maximum(probabilities.double().cpu().numpy(), 1e-300))
    return quality(logits, np.array([number[name] for name in labels]))


def references(features: Tensor, groups: np.ndarray | None) -> tuple[Tensor, float | None]:
    """Return references and the limit of distances, from AvePool features [N, d].

    The references are float16 [n, d]. The limit comes from the distances of labelled images to the others: an image is
    not compared with itself, nor with images of its group. It is chosen so that a new image of the same kind is farther
    with a probability of 1 %, or of 1 / (n + 1) for n < 99 labelled images: the ceil(0.99 (n + 1))-th smallest
    distance, or the largest (the rank that conformal prediction uses). It is None if no image has enough others.
    """
    kept = F.normalize(features[:MAX_REFERENCES], dim=1).half()
    own = torch.arange(len(features)) if groups is None else torch.from_numpy(groups)
    parts = []
    for start in range(0, len(features), CHUNK):
        rows = slice(start, start + CHUNK)
        same = own[rows, None] == own[: len(kept)]
        parts.append(mean_of_nearest(distances(features[rows], kept.float()).masked_fill(same, torch.inf)))
    found = torch.cat(parts)
    found = found[found.isfinite()].sort().values
    n = len(found)
    return kept, found[min(n, math.ceil(QUANTILE * (n + 1))) - 1].item() if n else None
