"""Measure a run, or any frozen encoder, with its baselines: raw and whitened pixels, and the untrained encoder."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bigbigan.data import Source
from bigbigan.data.batches import Batches
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features, pca_pixels, pixel_features, unchanged
from bigbigan.evaluation.image_quality.feature_networks import available_extractors
from bigbigan.evaluation.image_quality.sampling import measure_quality
from bigbigan.evaluation.metric_names import FEATURES, PIXELS, Metric, default_metrics, parse_metrics
from bigbigan.evaluation.probes.knn import bigan_references, knn, knn_accuracies
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
    few_label_trials,
    fit_few,
    fit_linear,
    mean_over_trials,
    scores,
)
from bigbigan.evaluation.probes.pretext_accuracy import task_accuracies
from bigbigan.evaluation.records import Measurement, ResultLine, Subject, append_results
from bigbigan.evaluation.splits import Images, Split, load_images, stored_for_crops, subsample, train_val
from bigbigan.evaluation.targets import Target, open_target
from bigbigan.image import pool_to, reconstruction_distances
from bigbigan.inference.model import Model
from bigbigan.progress import Bar

__all__ = ["evaluate"]


# The parts that evaluation_seconds reports, by kind of metric.
PARTS = {
    "linear": "logistic regression",
    "few_linear": "few labels",
    "few_knn": "few labels",
    "heads": "linear heads",
    "knn": "nearest neighbours",
    "quality": "image quality",
    "reconstruction": "image quality",
    "task": "tasks",
}
NAMES: dict[Subject, str] = {
    "pixels": "pixels",
    "untrained": "untrained encoder",
    "trained": "trained encoder",
    "external": "this encoder",
}
IMAGE_KINDS = ("quality", "reconstruction")  # kinds of metrics that need no labels


@dataclass
class Evaluation:
    """Hold a model under evaluation, its data, and the result lines so far."""

    target: Target
    source: Source
    study: str
    command: str
    progress: bool
    out: Path | None = None  # a folder to write to instead of the run's
    protocol: dict[str, int] = field(default_factory=dict)  # of all measurements
    lines: list[ResultLine] = field(default_factory=list)
    bar: Bar = field(default_factory=lambda: Bar(disable=True))
    spent: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))  # seconds, by part

    @cached_property
    def images(self) -> Images:
        """The images in memory, read when they are first needed: image quality does not need them."""
        start = time.perf_counter()
        found = load_images(self.source, self.target.view, self.target.seed, progress=self.progress)
        self.spent["reading"] += time.perf_counter() - start
        return found

    @property
    def train(self) -> Split:
        """The training images."""
        return self.images.train

    @property
    def test(self) -> Split:
        """The test images."""
        return self.images.test

    @property
    def labelled(self) -> bool:
        """Whether there are labels of two classes or more to train on, and labels to test on."""
        return classes_of(self.train) > 1 and self.test.labels is not None

    def note(
        self, start: float, subject: Subject, split: str, measured: dict[str, Measurement], n: int | None = None
    ) -> None:
        """Add result lines for measurements that took since `start`; "pixels" stands for whitened ones too."""
        if not measured:
            return
        metrics = parse_metrics(measured)
        self.spent[PARTS[metrics[0].kind]] += time.perf_counter() - start
        by_subject = defaultdict[Subject, dict[str, Measurement]](dict)
        for m in metrics:
            by_subject["pca_pixels" if m.feature == "pca_pixels" else subject][m.name] = measured[m.name]
        for of_subject, part in by_subject.items():
            self.add(start, of_subject, split, part, n)

    def add(
        self, start: float, subject: Subject, split: str, measured: dict[str, Measurement], n: int | None = None
    ) -> None:
        """Add result lines of one subject."""
        self.lines += self.target.result_lines(
            {name: m._replace(protocol=(m.protocol or {}) | self.protocol) for name, m in measured.items()},
            source=self.source,
            split=split,
            n=len(self.test) if n is None else n,
            subject=subject,
            start=start,
            study=self.study,
            command=self.command,
        )


def evaluate(
    spec: str | Path,
    data: str | None,
    metrics: list[str] | None,
    command: str,
    progress: bool = True,
    *,
    labels: str | None = None,
    resolution: int | None = None,
    channels: int | None = None,
    checkpoint: str = "newest",
    max_images: int | None = None,
    out: Path | None = None,
    study: str = "evaluation",
) -> list[ResultLine]:
    """Measure a run or a frozen encoder. The lines of a run are appended to results.jsonl in its folder, or in `out`.

    Args:
        spec: a run folder, or see `bigbigan.evaluation.targets`.
        data: a labelled source; by default the run's own.
        metrics: names, see `bigbigan.evaluation.metric_names`; by default all that the target and the data allow,
            except those that take hours.
        command: recorded in the lines.
        progress: show what is being measured.
        labels: a labels file (bigbigan.data.labels); by default the run's own.
        resolution, channels: of the images a frozen encoder takes.
        checkpoint: of a run, "newest", "best" or a step.
        max_images: use at most this many images of each split, drawn by a fixed seed; `protocol` then records the
            number of training images.
        out: a folder to write to instead of the run's, which may then be read-only.
        study: recorded in the lines.

    Raises:
        UserError: unknown metrics, no labels for a metric that needs them, no such run or encoder.
    """
    began = time.perf_counter()
    if metrics:
        parse_metrics(metrics)  # report a misspelt name before anything is read
    target = open_target(str(spec), resolution, channels, checkpoint)
    source = target.source(data, labels, f"evaluate {spec}")
    if max_images is not None:
        source.splits = {name: subsample(images, max_images) for name, images in source.splits.items()}
    e = Evaluation(target, source, study, command, progress, out)
    e.spent["reading"] = time.perf_counter() - began
    if max_images is not None:
        e.protocol = {"train_images": len(e.images.train)}
    wanted = _allowed(e, metrics)
    parts = [
        (subject, [m for m in wanted if subject in _subjects(m, target) and (m.feature == "discriminator") == of_d])
        for subject in target.subjects
        for of_d in (False, True)
    ]
    images = [m for m in wanted if m.kind in IMAGE_KINDS]
    bar = e.bar = Bar(total=len(parts) + 1, disable=not progress, desc="evaluate", unit="part", dynamic_ncols=True)
    for subject, part in parts:
        if part:
            _measure_features(e, subject, part)
        bar.update()
    if images:
        _measure_images(e, images)
    if tasks := [m for m in wanted if m.kind == "task"]:
        _measure_tasks(e, tasks)
    bar.update()
    bar.close()
    if not metrics:
        spent = {part: round(seconds, 1) for part, seconds in e.spent.items()}
        total = {"evaluation_seconds": Measurement(time.perf_counter() - began, protocol=spent)}
        e.add(began, target.subjects[-1], e.test.name, total)
    if (folder := out or target.run) is not None:
        append_results(folder / "results.jsonl", e.lines)
    return e.lines


def classes_of(split: Split) -> int:
    """Return how many classes the labels have."""
    return 0 if split.labels is None else len(np.unique(split.labels))


def _subjects(metric: Metric, target: Target) -> tuple[Subject, ...]:
    """Return the subjects whose features a metric is measured on; pixels stand for whitened ones too."""
    if metric.kind in (*IMAGE_KINDS, "task"):
        return ()
    return ("pixels",) if metric.feature in PIXELS else target.subjects[1:]


def _allowed(e: Evaluation, asked: list[str] | None) -> list[Metric]:
    """Return the metrics to measure.

    They are those asked for by name, and those of the others (matched by a `*`, or measured by default) that can be
    measured.

    Raises:
        UserError: a metric asked for by name cannot be measured, or none can.
    """
    model = e.target.model
    has_encoder = model is None or model.networks.E is not None
    has_generator = model is not None and model.networks.G is not None
    tasks = () if model is None else model.config.pretext.tasks
    D = None if model is None else model.networks.D
    layers = model is not None and model.networks.E is not None and hasattr(model.networks.E.trunk, "maps")
    sees_images = D is not None and bool(D.sees_images_alone)

    def needs_encoder(m: Metric) -> bool:
        return m.network == "encoder" or m.kind == "reconstruction" or m.feature in ("avepool", "bn_crelu", "z_mean")

    needs: dict[str, Callable[[Metric], bool]] = {
        f"an encoder; {e.target.experiment} is a GAN, or only a generator": lambda m: (
            has_encoder or not needs_encoder(m)
        ),
        "latents, which come with a generator": lambda m: has_generator or m.feature != "z_mean",
        "a discriminator with features of images alone": lambda m: sees_images or m.feature != "discriminator",
        "the layers of an AlexNet encoder, as in bigan/imagenet": lambda m: layers or not m.feature.startswith("conv"),
        "a generator; an encoder by itself has none": lambda m: has_generator or m.kind not in IMAGE_KINDS,
        "a run that was trained by this task": lambda m: not m.task or m.task in tasks,
        f"labels; {e.source.spec} has no labels of two or more classes": lambda m: (
            m.kind in IMAGE_KINDS or m.task not in ("", "supervised") or e.labelled
        ),
        f"test images of two or more classes; {e.source.spec} has none": lambda m: (
            m.score != "auroc" or classes_of(e.test) > 1
        ),
        f"a test split; {e.source.spec} has none": lambda m: m.reference != "test" or "test" in e.source.splits,
    }
    if asked is None:
        networks = available_extractors(e.source.name, has_encoder and has_generator)
        features = FEATURES if has_encoder else (*PIXELS, "discriminator")
        found = default_metrics(networks, features, two_classes=classes_of(e.train) == 2)
    else:
        found = parse_metrics(asked)
    able = [m for m in found if all(fits(m) for fits in needs.values())]
    for what, fits in needs.items():
        lacking = [m.name for m in found if not fits(m)]
        if asked is not None and lacking and (set(lacking) & set(asked) or not able):
            raise UserError(f"--metrics {','.join(lacking[:3])}: needs {what}")
    if not able:
        raise UserError(
            f"{e.target.experiment}: nothing can be measured without an encoder and without a feature extractor; "
            "train one: bigbigan feature-network mnist-cnn --data SOURCE"
        )
    return able


def _measure_features(e: Evaluation, subject: Subject, metrics: list[Metric]) -> None:
    """Measure one encoder, or pixels: every kind of probe for all its features."""
    train, test, device = e.train, e.test, e.target.device
    assert train.labels is not None
    assert test.labels is not None
    y, truth = train.labels, test.labels
    few = few_label_trials(y, 10)
    if all(m.kind.startswith("few_") for m in metrics):  # no other image is needed
        used = np.unique(np.concatenate(few))
        train, y, few = train.pick(used, train.name), y[used], [np.searchsorted(used, picks) for picks in few]
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
        with unchanged(encoder):
            return encoder_features(encoder, split.pixels, names, mirrored=mirrored)

    known, new = features(train), features(test)
    e.spent["features"] += time.perf_counter() - start
    for name in names:
        e.bar.part(f"logistic regression on {name}, {described}")
        start = time.perf_counter()
        x = known[name]
        of_feature = [m for m in metrics if m.feature == name]
        if linear := [m for m in of_feature if m.kind == "linear"]:
            values = scores(class_scores(fit_linear(x, y, e.target.seed, train.groups), new[name]), truth)
            e.note(start, subject, test.name, {m.name: Measurement(values[m.score]) for m in linear})
            start = time.perf_counter()
        trials = [(x[p], y[p], None if train.groups is None else train.groups[p]) for p in few]
        if few_linear := [m for m in of_feature if m.kind == "few_linear"]:
            each = [scores(class_scores(fit_few(*trial), new[name]), truth) for trial in trials]
            measured = {m.name: mean_over_trials([values[m.score] for values in each]) for m in few_linear}
            e.note(start, subject, test.name, measured)
            start = time.perf_counter()
        for m in (m for m in of_feature if m.kind == "few_knn"):
            accuracies = [knn(labelled, labels, new[name], truth) for labelled, labels, _ in trials]
            e.note(start, subject, test.name, {m.name: mean_over_trials(accuracies)})
            start = time.perf_counter()
        if neighbours := [m for m in of_feature if m.kind == "knn"]:
            e.bar.part(f"nearest neighbours by {name}, {described}")
        for euclidean in (False, True):
            if names_by_vote := {
                (m.k, m.distance): m.name for m in neighbours if (m.distance == "euclidean") == euclidean
            }:
                references, classes = bigan_references(x, y) if euclidean else (x, y)
                found = knn_accuracies(references, classes, new[name], truth, names_by_vote, device)
                protocol = {"references": len(references)}
                protocol |= {"train_images": len(y)} if len(references) < len(y) else {}
                measured = {names_by_vote[key]: Measurement(value, protocol=protocol) for key, value in found.items()}
                e.note(start, subject, test.name, measured)
                start = time.perf_counter()
    # Longest first: Table 1's classifier is one of the heads of a sweep of 5,000 steps, and is trained with it.
    for steps in sorted({PROTOCOLS[m.protocol] for m in metrics if m.kind == "heads"}, reverse=True):
        heads = [m for m in metrics if m.kind == "heads" and PROTOCOLS[m.protocol] == steps]
        _measure_heads(e, encoder, subject, steps, heads, known, new, features)


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
    batches: FeatureBatches
    if augment.endswith("_crop") and encoder is not None:
        stored, view = stored_for_crops(e.source, train, e.target.view), e.target.view
        crops = Batches(stored, BATCH, 0, augment, view.resolution, torch.from_numpy(kept), mirror=mirror)
        batches = live_batches(encoder, names, crops, train.labels, device)
    else:
        views = [known] + ([features(train, mirrored=True)] if augment == "flip" and mirror else [])
        cached = [{name: view[name][kept] for name in names} for view in views]
        batches = cached_batches(cached, train.labels[kept], e.target.seed, device)
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    rates = TABLE2_RATES if any(m.protocol != "table1" for m in metrics) else (TABLE1_RATE,)
    sizes = {name: known[name].shape[1] for name in names}
    heads = train_heads(batches, sizes, classes, rates, steps, device, e.progress)
    unseen = {name: known[name][held_out] for name in names}
    y = train.labels[held_out]
    validation = {top: top_accuracy(heads, unseen, y, top, device) for top in {1, *(m.top for m in metrics)}}
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


def _measure_images(e: Evaluation, metrics: list[Metric]) -> None:
    """Measure reconstructions, and the quality of samples by every feature extractor asked for."""
    model = e.target.model
    assert model is not None
    if wanted := {m.name for m in metrics if m.kind == "reconstruction"}:
        pixels = e.test.pixels
        e.bar.part("reconstructions")
        start = time.perf_counter()
        errors = reconstruction_errors(model, pixels)
        e.note(start, "trained", e.test.name, {name: Measurement(v) for name, v in errors.items() if name in wanted})
    quality = [m for m in metrics if m.kind == "quality"]
    for network in dict.fromkeys(m.network for m in quality):
        e.bar.part(f"image quality by {network}")
        start = time.perf_counter()
        of_network = [m for m in quality if m.network == network]
        found = measure_quality(model.generator, model.networks.E, model.config, e.source, of_network, e.progress)
        for reference, samples in dict.fromkeys((m.reference, m.samples) for m in of_network):
            measured = {m.name: found[m.name] for m in of_network if (m.reference, m.samples) == (reference, samples)}
            e.note(start, "trained", reference or "samples", measured, n=samples)
            start = time.perf_counter()


def _measure_tasks(e: Evaluation, metrics: list[Metric]) -> None:
    """Measure the accuracy in the pretext tasks that the encoder was trained by, on test images."""
    model = e.target.model
    assert model is not None
    for m in metrics:
        e.bar.part(f"task {m.task}")
        start = time.perf_counter()
        measured = task_accuracies(model, e.train.pixels, e.test.pixels, e.test.labels, [m.task])
        e.note(start, "trained", e.test.name, {m.name: measured[m.task]})


def reconstruction_errors(model: Model, pixels: np.ndarray, max_images: int = 10_000) -> dict[str, float]:
    """Return the metrics of reconstruction by name, for uint8 images [N, C, R, R].

    They are the mean ‖x − G(E(x))‖₂ with pixels in [0, 1], the same with another image's reconstruction, and their
    ratio, which is 1 if nothing is learned.
    """
    error = mismatched = 0.0
    pixels = pixels[:max_images]
    for chunk in np.array_split(pixels, max(1, len(pixels) // 500)):
        x_hat = model.reconstruct(torch.from_numpy(chunk)).cpu()
        x = pool_to(model.prepare(torch.from_numpy(chunk)).cpu(), x_hat.shape[-1])
        own, other = reconstruction_distances(x, x_hat)
        error, mismatched = error + float(own.sum()), mismatched + float(other.sum())
    return {
        "reconstruction_error": error / len(pixels),
        "reconstruction_error_mismatched": mismatched / len(pixels),
        "reconstruction_ratio": error / mismatched,
    }
