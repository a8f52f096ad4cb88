"""Measure a run, or any frozen encoder, with its baselines: raw and whitened pixels, and the untrained encoder."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bigbigan.data.held_out import has_labels
from bigbigan.errors import UserError
from bigbigan.evaluation.context import Evaluation, classes_of
from bigbigan.evaluation.feature_probes import OWN_METRIC, measure_features
from bigbigan.evaluation.image_quality.feature_extractors import available_extractors, warn_of_other_images
from bigbigan.evaluation.image_quality.sampling import enough_references, measure_quality
from bigbigan.evaluation.metric_names import CURVE, FEATURES, PIXELS, Metric, default_metrics, parse_metrics
from bigbigan.evaluation.probes.linear_heads import head_flops
from bigbigan.evaluation.probes.pretext_accuracy import task_accuracies
from bigbigan.evaluation.records import Measurement, ResultLine, Subject, append_results
from bigbigan.evaluation.splits import subsample
from bigbigan.evaluation.targets import Target, open_target
from bigbigan.image import pool_to, reconstruction_distances
from bigbigan.inference.model import Model
from bigbigan.progress import Bar
from bigbigan.user_code import import_named, is_named

__all__ = ["evaluate"]


IMAGE_KINDS = ("quality", "reconstruction")  # kinds of metrics that need no labels
MAX_RECONSTRUCTED = 10_000  # images that reconstructions are measured on
MISMATCHED = ("reconstruction_error_mismatched", "reconstruction_ratio")  # metrics that need another image
MAX_PIXEL_HEAD_FLOPS = 5e12  # of the linear heads on raw pixels by default: half a minute on two cores


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
            except slow ones (`metric_names.default_metrics`).
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
    named = parse_metrics(metrics or ())  # report a misspelt name before anything is read
    for metric in named:
        if metric.function:
            import_named(metric.function, OWN_METRIC)
    target = open_target(str(spec), resolution, channels, checkpoint)
    needs_labels = not named or any(m.kind not in IMAGE_KINDS for m in named)
    source = target.source(data, labels, f"evaluate {spec}", needs_labels)
    all_of_train = source.splits["train"]
    if max_images is not None:
        source.splits = subsample(source, max_images)
    e = Evaluation(target, source, study, command, progress, out, all_of_train)
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
    with Bar(total=len(parts) + 1, disable=not progress, desc="evaluate", unit="part") as e.bar:
        for subject, part in parts:
            if part:
                measure_features(e, subject, part)
            e.bar.update()
        if images:
            for network in dict.fromkeys(m.network for m in images):
                warn_of_other_images(network, source, all_of_train)
            _measure_images(e, images)
        if tasks := [m for m in wanted if m.kind == "task"]:
            _measure_tasks(e, tasks)
        e.bar.update()
    if not metrics:
        spent = {part: round(seconds, 1) for part, seconds in e.spent.items()}
        total = {"evaluation_seconds": Measurement(time.perf_counter() - began, protocol=spent)}
        e.add(began, target.subjects[-1], e.test.name, total)
    if (folder := out or target.run) is not None:
        append_results(folder / "results.jsonl", e.lines)
    return e.lines


def _subjects(metric: Metric, target: Target) -> tuple[Subject, ...]:
    """Return the subjects whose features a metric is measured on; pixels stand for whitened ones too."""
    if metric.kind in (*IMAGE_KINDS, "task"):
        return ()
    return ("pixels",) if metric.feature in PIXELS else target.subjects[1:]


def _allowed(e: Evaluation, asked: list[str] | None) -> list[Metric]:
    """Return the metrics to measure.

    They are the metrics asked for by name, and all others (matched by a `*`, or measured by default) that can be
    measured.

    Raises:
        UserError: a metric asked for by name cannot be measured, or none can.
    """
    needs = _requirements(e)
    found = _default(e) if asked is None else parse_metrics(asked)
    able = [m for m in found if all(fits(m) for fits in needs.values())]
    explicit: set[str] = set()  # of a function of your own, one metric at least must be measured
    for name in asked or ():
        meant = {m.name for m in parse_metrics([name])}
        if "*" not in name and name != CURVE and not (is_named(name) and meant & {m.name for m in able}):
            explicit |= meant
    for what, fits in needs.items():
        lacking = [m.name for m in found if not fits(m)]
        if asked is not None and lacking and (set(lacking) & explicit or not able):
            reason = f"; {e.lacking}" if what == "labels" else ""
            raise UserError(f"--metrics {','.join(lacking[:3])}: needs {what}{reason}")
    if not able:
        raise UserError(
            f"{e.target.experiment}: nothing can be measured without an encoder and without a feature extractor; "
            "train one: bigbigan feature-extractor mnist-cnn --data SOURCE"
        )
    return able


def _has_encoder(e: Evaluation) -> bool:
    model = e.target.model
    return model is None or model.networks.E is not None


def _has_generator(e: Evaluation) -> bool:
    model = e.target.model
    return model is not None and model.networks.G is not None


def _requirements(e: Evaluation) -> dict[str, Callable[[Metric], bool]]:
    """Return what metrics need, in words, each with a test of whether a metric can be measured."""
    model = e.target.model
    has_encoder, has_generator = _has_encoder(e), _has_generator(e)
    tasks = () if model is None else model.config.pretext.tasks
    D = None if model is None else model.networks.D
    layers = model is not None and model.networks.E is not None and hasattr(model.networks.E.trunk, "maps")
    sees_images = D is not None and bool(D.sees_images_alone)

    def needs_encoder(m: Metric) -> bool:
        return m.network == "encoder" or m.kind == "reconstruction" or m.feature in ("avepool", "bn_crelu", "z_mean")

    return {
        f"an encoder; {e.target.experiment} is a GAN, or only a generator": lambda m: (
            has_encoder or not needs_encoder(m)
        ),
        "latents, which come with a generator": lambda m: has_generator or m.feature != "z_mean",
        "a discriminator with features of images alone": lambda m: sees_images or m.feature != "discriminator",
        "the layers of an AlexNet encoder, as in bigan/imagenet": lambda m: layers or not m.feature.startswith("conv"),
        "a generator; an encoder by itself has none": lambda m: has_generator or m.kind not in IMAGE_KINDS,
        "a run that was trained by this task": lambda m: not m.task or m.task in tasks,
        "labels": lambda m: m.kind in IMAGE_KINDS or m.task not in ("", "supervised") or e.labelled,
        f"the classes that the run was trained on; {e.source.spec} has others, or in another order": lambda m: (
            m.task != "supervised" or e.target.trained_classes in (None, e.source.splits["train"].classes)
        ),
        f"test images of two or more classes; {e.source.spec} has none": lambda m: (
            m.score != "auroc" or classes_of(e.test) > 1
        ),
        f"two or more test images, to mismatch them; {e.source.spec} has one": lambda m: (
            m.name not in MISMATCHED or len(e.test) > 1
        ),
        f"more labelled images of a class than {e.source.spec} has": lambda m: (
            m.per_class <= 10 or not e.labelled or m.per_class <= _largest_class(e)
        ),
        f"a test split; {e.source.spec} has none": lambda m: m.reference != "test" or "test" in e.source.splits,
        f"real images to compare with, 2 for fid and kid, 4 for precision and recall; {e.source.spec} has too few": (
            lambda m: enough_references(m, e.source)
        ),
    }


def _default(e: Evaluation) -> list[Metric]:
    """Return the metrics to measure by default, whether they can be or not; warn if labels cannot be used.

    The linear heads of Tables 1 and 2 are left out on raw pixels if they would take long on a CPU: large images of many
    classes.
    """
    networks = available_extractors(e.source.name, _has_encoder(e) and _has_generator(e))
    features = FEATURES if _has_encoder(e) else (*PIXELS, "discriminator")
    found = default_metrics(networks, features, two_classes=classes_of(e.train) == 2)
    if e.labelled and head_flops(e.train.pixels[0].size, classes_of(e.train)) > MAX_PIXEL_HEAD_FLOPS:
        found = [m for m in found if m.kind != "heads" or m.feature != "pixels"]
    if e.lacking and any(map(has_labels, e.source.splits.values())):
        warnings.warn(f"no accuracy is measured: {e.lacking}", stacklevel=3)
    return found


def _largest_class(e: Evaluation) -> int:
    assert e.train.labels is not None
    return int(np.unique(e.train.labels, return_counts=True)[1].max())


def _measure_images(e: Evaluation, metrics: list[Metric]) -> None:
    """Measure reconstructions, and the quality of samples by every feature extractor asked for."""
    model = e.target.model
    assert model is not None
    if wanted := {m.name for m in metrics if m.kind == "reconstruction"}:
        pixels = e.test.pixels
        e.bar.part("reconstructions")
        start = time.perf_counter()
        errors = reconstruction_errors(model, pixels)
        found = {name: Measurement(v) for name, v in errors.items() if name in wanted}
        e.note(start, "trained", e.test.name, found, n=min(len(pixels), MAX_RECONSTRUCTED))
    quality = [m for m in metrics if m.kind == "quality"]
    for network in dict.fromkeys(m.network for m in quality):
        e.bar.part(f"image quality by {network}")
        start = time.perf_counter()
        of_network = [m for m in quality if m.network == network]
        found = measure_quality(model.generator, model.networks.E, model.config, e.source, of_network, e.progress)
        for reference, samples in dict.fromkeys((m.reference, m.samples) for m in of_network):
            of_split = [m.name for m in of_network if (m.reference, m.samples) == (reference, samples)]
            measured = {name: found[name] for name in of_split if name in found}
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


def reconstruction_errors(model: Model, pixels: np.ndarray, max_images: int = MAX_RECONSTRUCTED) -> dict[str, float]:
    """Return the metrics of reconstruction by name, for uint8 images [N, C, R, R], at most `max_images` of them.

    They are the mean ‖x − G(E(x))‖₂ with pixels in [0, 1], the same with another image's reconstruction, and their
    ratio, which is 1 if nothing is learned. Of one image there is only the first.
    """
    error = mismatched = 0.0
    # In random order: the other image must not be of the same class, as the next image of a folder is.
    pixels = pixels[np.random.default_rng(0).permutation(len(pixels))[:max_images]]
    for chunk in np.array_split(pixels, max(1, len(pixels) // 500)):
        x_hat = model.reconstruct(torch.from_numpy(chunk)).cpu()
        x = pool_to(model.prepare(torch.from_numpy(chunk)).cpu(), x_hat.shape[-1])
        own, other = reconstruction_distances(x, x_hat)
        error, mismatched = error + float(own.sum()), mismatched + float(other.sum())
    if len(pixels) == 1:  # the other image would be the image itself
        return {"reconstruction_error": error}
    return {
        "reconstruction_error": error / len(pixels),
        "reconstruction_error_mismatched": mismatched / len(pixels),
        "reconstruction_ratio": error / mismatched,
    }
