"""Probe the features of one encoder, or pixels: every kind of probe that was asked for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from bigbigan.data.batches import Batches
from bigbigan.data.streaming import StreamedPixels
from bigbigan.errors import UserError
from bigbigan.evaluation.context import NAMES, Evaluation
from bigbigan.evaluation.features import encoder_features, pca_pixels, pixel_features
from bigbigan.evaluation.metric_names import Metric
from bigbigan.evaluation.probes.knn import bigan_references, knn_accuracies
from bigbigan.evaluation.probes.linear_heads import (
    BATCH,
    PROTOCOLS,
    TABLE1_RATE,
    TABLE2_RATES,
    FeatureBatches,
    cached_batches,
    live_batches,
    top_accuracy,
    train_heads,
)
from bigbigan.evaluation.probes.logistic import (
    class_scores,
    distinct_trials,
    few_label_trials,
    fit_each,
    fit_few,
    fit_linear,
    fraction_trials,
    mean_over_trials,
    scores,
)
from bigbigan.evaluation.records import Measurement, Subject
from bigbigan.evaluation.splits import Split, stored_for_crops, train_val
from bigbigan.user_code import import_named, message_and_place

__all__ = ["OWN_METRIC", "measure_features"]

OWN_METRIC = "a function of (train features, train labels, test features, test labels) that returns a number"


@dataclass(frozen=True)
class _Feature:
    """Hold one feature of all images, and measure it by each kind of probe; no metrics measure nothing.

    Attributes:
        e: the evaluation, which takes the result lines.
        subject: whose feature it is.
        name: its name.
        train, labels, groups: of the training images: float32 [N, d], int64 [N], and int64 [N] or None.
        test, truth: of the test images: float32 [M, d] and int64 [M].
    """

    e: Evaluation
    subject: Subject
    name: str
    train: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None
    test: np.ndarray
    truth: np.ndarray

    def measure_linear(self, metrics: list[Metric]) -> None:
        """Measure logistic regression on all labels."""
        if metrics:
            start = self._begin(f"logistic regression on {self.name}")
            classifier = fit_linear(self.train, self.labels, self.e.target.seed, self.groups)
            values = scores(class_scores(classifier, self.test), self.truth)
            self._note(start, {m.name: Measurement(values[m.score]) for m in metrics})

    def measure_few_linear(self, picked: list[np.ndarray], metrics: list[Metric]) -> None:
        """Measure logistic regression on few labels; `picked` has the indices of the labelled images of each trial."""
        if metrics:
            start = self._begin(f"logistic regression on {self.name} from {len(picked[0]):,} labels")
            trials = self._trials(picked)
            if metrics[0].per_class:
                fitted = fit_each(fit_few, trials)
            else:
                fitted = fit_each(fit_linear, [(x, y, self.e.target.seed, groups) for x, y, groups in trials])
            each = [scores(class_scores(classifier, self.test), self.truth) for classifier in fitted]
            protocol = {"labels": len(picked[0])}
            means = {m.name: mean_over_trials([values[m.score] for values in each]) for m in metrics}
            self._note(start, {metric: mean._replace(protocol=protocol) for metric, mean in means.items()})

    def measure_few_knn(self, picked: list[np.ndarray], metrics: list[Metric]) -> None:
        """Measure nearest neighbours among few labelled images."""
        for m in metrics:
            start = time.perf_counter()
            key = m.k, m.distance
            found = [knn_accuracies(x, y, self.test, self.truth, [key])[key] for x, y, _ in self._trials(picked)]
            self._note(start, {m.name: mean_over_trials(found)})

    def measure_own(self, metrics: list[Metric]) -> None:
        """Measure by functions of the user's own."""
        for m in metrics:
            start = self._begin(m.name)
            value = own_metric(m.function, self.train, self.labels, self.test, self.truth)
            self.e.spent["own metrics"] += time.perf_counter() - start
            measured = {m.name: Measurement(value, protocol={"function": m.function})}
            self.e.add(start, self.subject, self.e.test.name, measured)

    def measure_knn(self, metrics: list[Metric]) -> None:
        """Measure nearest neighbours among all training images; by Euclidean distance among those that BiGAN draws."""
        for euclidean in (False, True):
            if by_vote := {(m.k, m.distance): m.name for m in metrics if (m.distance == "euclidean") == euclidean}:
                start = self._begin(f"nearest neighbours by {self.name}")
                x, y = bigan_references(self.train, self.labels) if euclidean else (self.train, self.labels)
                found = knn_accuracies(x, y, self.test, self.truth, by_vote, self.e.target.device)
                protocol = {"references": len(x)} | (
                    {"train_images": len(self.labels)} if len(x) < len(self.labels) else {}
                )
                self._note(start, {by_vote[key]: Measurement(v, protocol=protocol) for key, v in found.items()})

    def _trials(self, picked: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Return features, labels and groups of the labelled images of each trial."""
        return [(self.train[p], self.labels[p], None if self.groups is None else self.groups[p]) for p in picked]

    def _begin(self, what: str) -> float:
        """Show what is being measured, and return the time."""
        self.e.bar.part(f"{what}, {NAMES[self.subject]}")
        return time.perf_counter()

    def _note(self, start: float, measured: dict[str, Measurement]) -> None:
        self.e.note(start, self.subject, self.e.test.name, measured)


def measure_features(e: Evaluation, subject: Subject, metrics: list[Metric]) -> None:
    """Measure one encoder, or pixels: every kind of probe for all its features."""
    train, test = e.train, e.test
    assert train.labels is not None
    assert test.labels is not None
    y, truth = train.labels, test.labels
    few = _labelled_images(y, metrics)
    if all(m.kind.startswith("few_") for m in metrics):  # no other image is needed
        used = np.unique(np.concatenate([picks for trials in few.values() for picks in trials]))
        few = {amount: [np.searchsorted(used, picks) for picks in trials] for amount, trials in few.items()}
        train, y = train.pick(used, train.name), y[used]
    names = list(dict.fromkeys(m.feature for m in metrics))
    if subject == "pixels":
        encoder = None
    elif names == ["discriminator"]:
        encoder = e.target.discriminator(subject, e.images.training_pixels)
    else:
        encoder = e.target.encoder(subject, e.images.training_pixels)
    described = NAMES[subject]
    e.bar.part(f"features, {described}")
    start = time.perf_counter()
    pca = pca_pixels(e.images.training_pixels) if "pca_pixels" in names else None

    def features(split: Split, mirrored: bool = False) -> dict[str, np.ndarray]:
        if encoder is None:
            known: dict[str, Callable[..., np.ndarray]] = {"pixels": pixel_features}
            if pca is not None:
                known["pca_pixels"] = pca
            return {name: known[name](split.pixels, mirrored) for name in names}
        return encoder_features(encoder, split.pixels, names, mirrored=mirrored)

    known, new = features(train), features(test)
    e.spent["features"] += time.perf_counter() - start
    for name in names:
        feature = _Feature(e, subject, name, known[name], y, train.groups, new[name], truth)
        of_feature = [m for m in metrics if m.feature == name]
        feature.measure_linear([m for m in of_feature if m.kind == "linear"])
        for amount, picked in few.items():
            of_amount = [m for m in of_feature if (m.per_class, m.percent) == amount]
            feature.measure_few_linear(picked, [m for m in of_amount if m.kind == "few_linear"])
            feature.measure_few_knn(picked, [m for m in of_amount if m.kind == "few_knn"])
        feature.measure_own([m for m in of_feature if m.kind == "own"])
        feature.measure_knn([m for m in of_feature if m.kind == "knn"])
    # Longest first: Table 1's classifier is one of the heads of a sweep of 5,000 steps, and is trained with it.
    for steps in sorted({PROTOCOLS[m.protocol] for m in metrics if m.kind == "heads"}, reverse=True):
        heads = [m for m in metrics if m.kind == "heads" and PROTOCOLS[m.protocol] == steps]
        _measure_heads(e, encoder, subject, steps, heads, known, new, features)


def _labelled_images(labels: np.ndarray, metrics: list[Metric]) -> dict[tuple[int, int], list[np.ndarray]]:
    """Return, by (labels per class, percent) of the metrics, the indices of the labelled images of each trial."""
    amounts = sorted({(m.per_class, m.percent) for m in metrics if m.kind.startswith("few_")})
    return {
        (per_class, percent): distinct_trials(
            few_label_trials(labels, per_class) if per_class else fraction_trials(labels, percent / 100)
        )
        for per_class, percent in amounts
    }


def own_metric(
    function: str, train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> float:
    """Return what the user's function, MODULE:NAME, computes from features [N, d] and labels [N].

    Raises:
        UserError: it fails, changes the arrays, or returns no finite number.
    """
    compute = import_named(function, OWN_METRIC)
    try:
        value = float(compute(*map(_read_only, (train, train_labels, test, test_labels))))
    except Exception as error:  # the user's code may raise anything
        raise UserError(f"--metrics {function}: {message_and_place(error)}") from error
    if not math.isfinite(value):
        raise UserError(f"--metrics {function} returned {value}; expected a finite number")
    return value


def _read_only(array: np.ndarray) -> np.ndarray:
    """Return a view that cannot be written to: later metrics read the same array."""
    view = array.view()
    view.flags.writeable = False
    return view


def _measure_heads(
    e: Evaluation,
    encoder: nn.Module | None,
    subject: Subject,
    steps: int,
    metrics: list[Metric],
    known: dict[str, np.ndarray],
    new: dict[str, np.ndarray],
    features: Callable[..., dict[str, np.ndarray]],
) -> None:
    """Train the paper's linear classifiers, for all rates and features together, without the images of train_val."""
    train, test, device = e.train, e.test, e.target.device
    assert train.labels is not None
    assert test.labels is not None
    e.bar.part(f"linear heads, {NAMES[subject]}")
    start = time.perf_counter()
    names = list(dict.fromkeys(m.feature for m in metrics))
    held_out = train_val(len(train), e.target.run, train.groups, e.out)
    kept = np.setdiff1d(np.arange(len(train)), held_out)
    augment, mirror = e.target.view.augment, e.target.mirrors(e.source)
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    rates = TABLE2_RATES if any(m.protocol != "table1" for m in metrics) else (TABLE1_RATE,)
    sizes = {name: known[name].shape[1] for name in names}
    batches: FeatureBatches
    with ExitStack() as stack:
        if augment.endswith("_crop") and encoder is not None:
            stored, view = stored_for_crops(e.source, train, e.target.view), e.target.view
            if isinstance(stored, StreamedPixels):
                stack.callback(stored.close)
            only, y = torch.from_numpy(kept), torch.from_numpy(train.labels)
            crops = Batches(stored, BATCH, 0, augment, view.resolution, only, y, mirror)
            batches = live_batches(encoder, names, crops, device)
        else:
            views = [known] + ([features(train, mirrored=True)] if augment == "flip" and mirror else [])
            cached = [{name: view[name][kept] for name in names} for view in views]
            batches = cached_batches(cached, train.labels[kept], e.target.seed, device)
        heads = train_heads(batches, sizes, classes, rates, steps, device, e.progress)
    unseen = {name: known[name][held_out] for name in names}
    truth = train.labels[held_out]
    validation = {top: top_accuracy(heads, unseen, truth, top, device) for top in {1, *(m.top for m in metrics)}}
    final = {top: top_accuracy(heads, new, test.labels, top, device) for top in {m.top for m in metrics}}
    validated, tested = {}, {}
    for m in metrics:
        if m.protocol == "table1":
            accuracy = validation[m.top][m.feature, TABLE1_RATE]
            validated[m.name] = Measurement(accuracy, protocol={"rate": TABLE1_RATE, "batch": BATCH})
        else:
            rate = max(rates, key=lambda r: validation[1][m.feature, r])
            tested[m.name] = Measurement(final[m.top][m.feature, rate], protocol={"rate": rate, "batch": BATCH})
    e.note(start, subject, "train_val", validated, n=len(held_out))
    e.note(start if not validated else time.perf_counter(), subject, test.name, tested)
