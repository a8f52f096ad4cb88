"""Measure the validation metric of a run during training (early stopping, Appendix A).

Accuracies are measured on train_val: training images that the classifiers are not trained on. The test split is not
used.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import torch

from bigbigan.config import Config
from bigbigan.data import ImageSet, Source
from bigbigan.data.batches import Batches
from bigbigan.data.held_out import held_out_fifth, holds_out_fifth, places_of
from bigbigan.data.streaming import StreamedPixels
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features
from bigbigan.evaluation.image_quality.feature_extractors import available_extractors, warn_of_other_images
from bigbigan.evaluation.image_quality.sampling import Reference, enough_references, measure_quality
from bigbigan.evaluation.metric_glossary import direction_of
from bigbigan.evaluation.metric_names import PIXELS, Metric, parse_metrics
from bigbigan.evaluation.probes.linear_heads import (
    BATCH,
    PROTOCOLS,
    TABLE1_RATE,
    FeatureBatches,
    cached_batches,
    live_batches,
    top_accuracy,
    train_heads,
)
from bigbigan.evaluation.probes.logistic import class_scores, few_label_trials, fit_few, scores
from bigbigan.evaluation.splits import train_val
from bigbigan.models.encoder import FeatureEncoder
from bigbigan.training.state import TrainingState

__all__ = ["ValidationMetric"]

MAX_SCORED = 4_000  # images of train_val that few-label accuracy is measured on


def _one_metric(name: str) -> Metric:
    """Return the metric that `log.validation_metric` names.

    Raises:
        UserError: it names none, or several.
    """
    try:
        metrics = parse_metrics([name])
    except UserError:
        metrics = []
    if len(metrics) != 1:
        raise UserError(
            f"log.validation_metric={name}: expected one metric; bigbigan evaluate --list-metrics lists them"
        )
    return metrics[0]


class ValidationMetric:
    """Measure `log.validation_metric` on the averaged networks of a training state, without changing a weight.

    Args:
        config: settings of the run; `log.validation_metric` is a few-label or Table 1 accuracy, or image quality.
        batches: batches of the training images.
        images: these training images.
        source: the source of the images.
        run: the run folder.

    Raises:
        UserError: the metric is not known, or cannot choose a step.
    """

    def __init__(self, config: Config, batches: Batches, images: ImageSet, source: Source, run: Path) -> None:
        self.metric = m = _one_metric(config.log.validation_metric)
        self.config, self.batches, self.source = config, batches, source
        self._references: dict[str, Reference] = {}  # features of real images, by split
        self.labels, self.groups = labels, groups = images.labels, images.groups
        if m.kind == "quality":
            if m.reference == "test":
                raise UserError(
                    f"log.validation_metric={m.name}: the test split must not choose a step; expected ..._train_..."
                )
        elif not (m.protocol == "table1" or (m.kind == "few_linear" and m.per_class == 10)) or m.feature in PIXELS:
            raise UserError(
                f"log.validation_metric={m.name}: expected top1_linear_F_10perclass, top1_table1_F or "
                "fid10k_train_NETWORK"
            )
        if "supervised" in config.pretext.tasks:
            warnings.warn(
                f"log.validation_metric={m.name} is too good for the task supervised: it trains E on the same labels",
                stacklevel=2,
            )
        warn_of_other_images(m.network, source, source.splits["train"])
        known = np.arange(len(images)) if labels is None else np.flatnonzero(labels >= 0)
        parts = 3 if holds_out_fifth(source) else 2  # training, train_val and perhaps test
        count = parts if groups is None else len(np.unique(groups[known]))
        if count < parts:
            if labels is not None and len(known) and m.kind != "quality":
                warnings.warn(
                    f"log.validation_metric={m.name} is not measured: the {len(known):,} labelled training images are "
                    f"of {count} group{'s' * (count > 1)}; expected {parts} or more, as no split divides a group",
                    stacklevel=2,
                )
            known = known[:0]
        elif parts == 3:
            # Evaluation will hold out a fifth of them as its test split (`load_images`), which must not choose a step.
            known = places_of(held_out_fifth(source.splits["train"])[0], images)
        known_groups = None if groups is None else groups[known]
        self.validation_images = known[train_val(len(known), run, known_groups)] if len(known) else known
        self.training_images = np.setdiff1d(known, self.validation_images)

    @property
    def possible(self) -> bool:
        """Whether the metric can be measured: it needs labels and E, or G, real images and a feature extractor."""
        if self.metric.kind == "quality":
            available = available_extractors(self.source.name, self.config.has_encoder)
            ready = self.metric.network in available and enough_references(self.metric, self.source)
            return self.config.has_generator and ready
        return (
            self.labels is not None
            and self.config.has_encoder
            and len(np.unique(self.labels[self.training_images])) > 1
            and (self.metric.score != "auroc" or len(np.unique(self.labels[self.validation_images])) > 1)
        )

    @property
    def lower_is_better(self) -> bool:
        """Whether a lower value is better."""
        return direction_of(self.metric.name) == "lower"

    def __call__(self, state: TrainingState) -> float:
        """Return the metric of the averaged networks. The statistics of their batch norms must be filled."""
        m = self.metric
        if m.kind == "quality":
            assert state.G_ema is not None
            known = None if m.network == "encoder" else self._references  # E changes with each step
            found = measure_quality(state.G_ema, state.E_ema, self.config, self.source, [m], references=known)
            return found[m.name].value if m.name in found else math.nan
        E = state.E_ema
        assert E is not None
        assert self.labels is not None
        return self._few(E, m, self.labels) if m.kind == "few_linear" else self._table1(E, m, self.labels)

    def _features(
        self, E: FeatureEncoder, indices: np.ndarray, mirrored: bool = False
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return features of those images at `indices` that can be read, and their indices."""
        parts, readable = [], []
        for part in np.array_split(indices, max(1, len(indices) // 5_000)):
            picks = torch.from_numpy(part)
            pixels = self.batches.evaluation_pixels(picks.to(self.batches.pixels.device)).cpu().numpy()
            if isinstance(self.batches.pixels, StreamedPixels):  # the substitute of an image has another label
                read = (self.batches.pixels.replaced(picks) == picks).numpy()
                part, pixels = part[read], pixels[read]
            parts.append(encoder_features(E, pixels, [self.metric.feature], mirrored=mirrored))
            readable.append(part)
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}, np.concatenate(readable)

    def _few(self, E: FeatureEncoder, m: Metric, labels: np.ndarray) -> float:
        trials = [self.training_images[picks] for picks in few_label_trials(labels[self.training_images], 10)]
        used = np.unique(np.concatenate(trials))
        scored = self.validation_images[:: max(1, -(-len(self.validation_images) // MAX_SCORED))]
        (known, used), (new, scored) = (self._features(E, picks) for picks in (used, scored))
        values = []
        for trial in trials:
            picks = trial[np.isin(trial, used)]
            groups = None if self.groups is None else self.groups[picks]
            classifier = fit_few(known[m.feature][np.searchsorted(used, picks)], labels[picks], groups)
            values.append(scores(class_scores(classifier, new[m.feature]), labels[scored])[m.score])
        return float(np.mean(values))

    def _table1(self, E: FeatureEncoder, m: Metric, labels: np.ndarray) -> float:
        device, data = next(E.parameters()).device, self.config.data
        augment = data.classifier_augment
        batches: FeatureBatches
        if augment.endswith("_crop"):
            b, only = self.batches, torch.from_numpy(self.training_images)
            y = torch.full((len(labels),), -1)  # validation images are not trained on, even as substitutes
            y[only] = torch.from_numpy(labels)[only]
            crops = Batches(b.pixels, BATCH, 0, augment, b.resolution, only, y, data.mirrors)
            batches = live_batches(E, [m.feature], crops, device)
        else:
            view, known = self._features(E, self.training_images)
            views = [view]
            if augment == "flip" and data.mirrors:
                views.append(self._features(E, known, mirrored=True)[0])
            batches = cached_batches(views, labels[known], 0, device)
        new, scored = self._features(E, self.validation_images)
        sizes = {m.feature: new[m.feature].shape[1]}
        heads = train_heads(batches, sizes, int(labels.max()) + 1, (TABLE1_RATE,), PROTOCOLS["table1"], device)
        return top_accuracy(heads, new, labels[scored], m.top, device)[m.feature, TABLE1_RATE]
