"""Measure the image quality of a run's samples: compare features of samples with features of real images.

Samples are drawn at truncation 1 and rounded to uint8 first. References are all images of the split in the form in
which training shows them to D: loaded at E's resolution (short side resized, centre crop; Appendix A) and then pooled
to G's. Their statistics are cached by the data's fingerprint, that form and the extractor's digest.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bigbigan.compute import images_per_pass
from bigbigan.config import Config
from bigbigan.data import DecodeLimits, ImageSet, Source, fingerprint
from bigbigan.data.image_set import ArrayStore
from bigbigan.data.loading import stream_view
from bigbigan.data.readers.download import cache_folder
from bigbigan.data.window import Window
from bigbigan.errors import UserError
from bigbigan.evaluation.image_quality.feature_extractors import FeatureExtractor, open_extractor
from bigbigan.evaluation.image_quality.metrics import (
    Moments,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from bigbigan.evaluation.metric_names import Metric
from bigbigan.evaluation.records import Measurement
from bigbigan.evaluation.splits import View
from bigbigan.image import pool_to, to_float, to_nearest_uint8
from bigbigan.io.tensors import read_tensors, save_tensors
from bigbigan.methods import generate, sample_labels, sample_prior
from bigbigan.progress import Bar
from bigbigan.randomness import keyed_generator

__all__ = ["Reference", "compare", "draw_samples", "enough_references", "measure_quality", "reference", "run_reference"]

DRAWN = 500  # latents drawn at a time
MAX_FEATURES = 50_000  # reference features kept for metrics that need more than moments
NEIGHBOURS = 3  # k of precision and recall
MIN_REFERENCES = {"fid": 2, "kid": 2, "precision": NEIGHBOURS + 1, "recall": NEIGHBOURS + 1}  # real images, by metric


@dataclass
class Reference:
    """Hold the moments of all `n` real images, and the features of at most 50,000 of them."""

    moments: Moments
    features: Tensor  # float32 [M, d]


@torch.no_grad()
def draw_samples(G: nn.Module, config: Config, count: int, seed: int = 0) -> Tensor:
    """Return `count` samples of G at truncation 1, uint8 [N, C, R, R].

    Latents are drawn 500 at a time, so that `--batch-size` does not change the samples.
    """
    device = next(G.parameters()).device
    noise = keyed_generator(seed, "samples", 0, str(device))
    parts, size = [], images_per_pass(DRAWN)
    for start in range(0, count, DRAWN):
        n = min(DRAWN, count - start)
        z = sample_prior(n, config.latent.dim, config.latent.prior, noise)
        y = sample_labels(n, config.data, noise)
        labels = [None] * -(-n // size) if y is None else y.split(size)
        parts += [to_nearest_uint8(generate(G, *pair)).cpu() for pair in zip(z.split(size), labels, strict=True)]
    return torch.cat(parts)


def run_reference(
    source: Source, split: str, config: Config, network: FeatureExtractor, progress: bool = False
) -> Reference:
    """Return the reference for the samples of a run: a split in the form in which training showed its images to D.

    Random crops of 7/8 of the side (BiGAN) all have one scale, the scale of the central crop. The other crops vary in
    scale; as published, the whole central square represents them.
    """
    data = config.data
    view = View(config.encoder.resolution, data.channels, data.augment if data.augment == "random_crop" else "none")
    return reference(source, split, view, network, config.generator.resolution, progress)


def reference(
    source: Source,
    split: str,
    view: View,
    network: FeatureExtractor,
    resolution: int | None = None,
    progress: bool = False,
) -> Reference:
    """Return the features of a split's images, from the cache if they are there.

    Otherwise images are decoded and passed through the network batch by batch, so memory does not grow with their
    number.

    Args:
        source, split: the images.
        view: the form in which they are loaded.
        network: the feature extractor.
        resolution: side R to which loaded images are pooled (`pool_to`); by default they are not.
        progress: show images/s and time left.
    """
    images, resolution = source.splits[split], resolution or view.resolution
    if network.name == "encoder":  # a run's own encoder changes with each step
        return _computed(source, split, view, network, resolution, progress)
    name = f"{fingerprint(images)[:16]}-{_form(images, view, resolution)}-{network.name}-{network.digest}.safetensors"
    path = cache_folder() / "statistics" / name
    if (cached := _cached(path)) is not None:
        return cached
    found = _computed(source, split, view, network, resolution, progress)
    tensors = {
        "n": torch.tensor(found.moments.n),
        "mean": torch.from_numpy(found.moments.mean),
        "scatter": torch.from_numpy(found.moments.scatter),
        "features": found.features,
    }
    try:
        save_tensors(path, tensors, digest=True)
    except UserError as error:
        warnings.warn(f"statistics of real images are not kept for the next time: {error}", stacklevel=2)
    return found


def _form(images: ImageSet, view: View, resolution: int) -> str:
    """Return the part of a file's name that says in which form the images are passed through the network."""
    form = f"{resolution}px{view.channels}"
    if resolution != view.resolution:
        form += f"-from-{view.resolution}px"
    if view.augment != "none":
        form += f"-{view.augment}"
    store = images.store
    if store.pads != isinstance(store, ArrayStore):  # not the default of the kind of source
        form += "-padded" if store.pads else "-unpadded"
    if not isinstance(store, ArrayStore):
        if isinstance(window := store.limits.window, Window):
            form += f"-window{window.black:g}to{window.white:g}"
        if store.limits.max_pixels != DecodeLimits().max_pixels:  # other images are read
            form += f"-max{store.limits.max_pixels}"
    return form


def _cached(path: Path) -> Reference | None:
    """Return the reference in a file of the cache; None if there is none or, with a warning, if it is damaged."""
    if not path.exists():
        return None
    try:
        tensors, _ = read_tensors(path, digest=True)
        moments = Moments(int(tensors["n"]), tensors["mean"].numpy(), tensors["scatter"].numpy())
        return Reference(moments, tensors["features"])
    except (UserError, KeyError) as error:
        warnings.warn(f"statistics of real images are computed again: {error}", stacklevel=3)
        return None


def _computed(
    source: Source, split: str, view: View, network: FeatureExtractor, resolution: int, progress: bool
) -> Reference:
    """Return the reference of a split after passing its images through the network; see `reference`."""
    images = source.splits[split]
    chosen = np.zeros(len(images), dtype=bool)
    chosen[np.random.default_rng(0).permutation(len(images))[:MAX_FEATURES]] = True
    moments, parts = Moments(), []
    with Bar(total=len(images), desc=f"features of {split}", unit=" images", disable=not progress) as bar:
        for pixels, numbers in stream_view(images, view.resolution, view.channels, view.augment, source, bar=bar):
            x = torch.from_numpy(pixels)
            if resolution != view.resolution:
                x = to_nearest_uint8(pool_to(to_float(x), resolution))
            features = network(x)[0]
            moments.update(features)
            parts.append(features[torch.from_numpy(chosen[numbers])])
    return Reference(moments, torch.cat(parts))


def compare(real: Reference, fake: Tensor, measures: set[str]) -> dict[str, Measurement]:
    """Return fid, kid, precision and recall of the features of samples, float32 [N, d], against real ones.

    Precision and recall (k = 3) use as many real images as there are samples. See `MIN_REFERENCES` for how many each
    metric needs.

    Args:
        real: the real images.
        fake: features of the samples.
        measures: names of the metrics to compute.
    """
    found: dict[str, Measurement] = {}
    protocol = {"references": real.moments.n}
    if "fid" in measures:
        moments = Moments()
        moments.update(fake)
        found["fid"] = Measurement(frechet_distance(real.moments, moments), protocol=protocol)
    if "kid" in measures:
        value, std = kernel_distance(real.features, fake)
        size = min(1000, len(real.features), len(fake))
        found["kid"] = Measurement(
            value, std, protocol={"references": len(real.features), "subsets": 100, "size": size}
        )
    if measures & {"precision", "recall"}:
        picks = torch.randperm(len(real.features), generator=torch.Generator().manual_seed(0))[: len(fake)]
        both = precision_recall(real.features[picks], fake, NEIGHBOURS)
        for name, value in zip(("precision", "recall"), both, strict=True):
            found[name] = Measurement(value, protocol={"references": len(picks), "k": NEIGHBOURS})
    return {name: m for name, m in found.items() if name in measures}


def enough_references(metric: Metric, source: Source) -> bool:
    """Return whether the split that a metric of image quality compares with has enough images for it."""
    count = len(source.splits[metric.reference]) if metric.reference in source.splits else 0
    return count >= MIN_REFERENCES.get(metric.measure, 0)


def _has_enough(metric: Metric, real: Reference, split: str) -> bool:
    """Return whether enough real images could be read for a metric; warn if not."""
    needed = MIN_REFERENCES.get(metric.measure, 0)
    if real.moments.n < needed:
        warnings.warn(
            f"{metric.name} is not measured: {real.moments.n} images of {split} can be read; it needs {needed} or more",
            stacklevel=3,
        )
    return real.moments.n >= needed


def measure_quality(
    G: nn.Module,
    E: nn.Module | None,
    config: Config,
    source: Source,
    metrics: list[Metric],
    progress: bool = False,
    references: dict[str, Reference] | None = None,
) -> dict[str, Measurement]:
    """Return measurements by metric, for the quality metrics of one feature extractor.

    A metric is left out, with a warning, if too few of the real images can be read.

    Args:
        G, E: the averaged networks.
        config: the settings of the run.
        source: the real images.
        metrics: to measure.
        progress: show images/s and time left.
        references: of earlier measurements with the same config, source and extractor, by split; new ones are added.

    Raises:
        UserError: the extractor is not available, or its features of the samples are not finite.
    """
    device = next(G.parameters()).device
    network = open_extractor(metrics[0].network, source.name, E, config.encoder.resolution, device)
    features, logits = network(draw_samples(G, config, max(m.samples for m in metrics), config.training.seed))
    if not torch.isfinite(features).all():
        raise UserError(
            f"{network.name} returns features that are not finite for this generator's samples; look at them: "
            "bigbigan generate"
        )
    out: dict[str, Measurement] = {}
    for split in dict.fromkeys(m.reference for m in metrics):
        of_split = [m for m in metrics if m.reference == split]
        real = (references or {}).get(split)
        if split and real is None:
            real = run_reference(source, split, config, network, progress)
        if real is not None:
            if references is not None:
                references[split] = real
            of_split = [m for m in of_split if _has_enough(m, real, split)]
        for samples in dict.fromkeys(m.samples for m in of_split):
            ours = {m.measure: m.name for m in of_split if m.samples == samples}
            found: dict[str, Measurement] = {}
            if real is not None:
                found = compare(real, features[:samples], set(ours))
            elif logits is not None:
                found["is"] = Measurement(*inception_score(logits[:samples]))
            for measure, m in found.items():
                protocol = {"network": network.digest, **(m.protocol or {})}
                out[ours[measure]] = m._replace(protocol=protocol)
    return out
