"""Image quality of a run's samples: features of samples and of real images, compared.

Samples are drawn at truncation 1 and rounded to uint8 first. References are all images of the split in the form in
which training shows them to D: loaded at E's resolution (short side resized, centre crop; Appendix A) and from there
pooled to G's. Their statistics are kept in the cache under the data's fingerprint, that form and the network's digest.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bigbigan.config import Config
from bigbigan.data import Source, fingerprint
from bigbigan.data.readers.download import cache_folder
from bigbigan.errors import UserError
from bigbigan.evaluation.image_quality.feature_networks import FeatureNetwork, open_network
from bigbigan.evaluation.image_quality.metrics import (
    Moments,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from bigbigan.evaluation.metric_names import Metric
from bigbigan.evaluation.records import Measurement
from bigbigan.evaluation.splits import View, read_split
from bigbigan.image import pool_to, to_float
from bigbigan.methods import generate, sample_labels, sample_prior
from bigbigan.randomness import keyed_generator
from bigbigan.training.tensors import read_tensors, save_tensors

__all__ = ["Reference", "compare", "draw_samples", "measure_quality", "reference", "reference_of_run"]

MOST = 50_000  # reference features kept for what needs more than their moments


@dataclass
class Reference:
    """What is known of real images: moments over all `n`, and features of at most 50,000 of them."""

    moments: Moments
    features: Tensor  # float32 [M, d]


@torch.no_grad()
def draw_samples(G: nn.Module, config: Config, count: int, seed: int = 0, batch_size: int = 500) -> Tensor:
    """`count` samples of G at truncation 1, as uint8 [N, C, R, R]."""
    device = next(G.parameters()).device
    noise = keyed_generator(seed, "samples", 0, str(device))
    parts = []
    for start in range(0, count, batch_size):
        n = min(batch_size, count - start)
        z = sample_prior(n, config.latent.dim, config.latent.prior, noise)
        parts.append(_rounded(generate(G, z, sample_labels(n, config.data, noise))))
    return torch.cat(parts)


def _rounded(x: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8, on the CPU."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def reference_of_run(source: Source, split: str, config: Config, network: FeatureNetwork) -> Reference:
    """What the samples of a run are compared with: a split in the form in which training showed its images to D.

    Random crops of 7/8 of the side (BiGAN) are all of one scale, which is that of the central crop. The others vary in
    scale; as published, the whole central square stands for them.
    """
    data = config.data
    view = View(config.encoder.resolution, data.channels, data.augment if data.augment == "random_crop" else "none")
    return reference(source, split, view, network, config.generator.resolution)


def reference(
    source: Source, split: str, view: View, network: FeatureNetwork, resolution: int | None = None
) -> Reference:
    """Features of a split's images, from the cache if they are there.

    Args:
        source, split: the images.
        view: how they are loaded.
        network: what the features are of.
        resolution: R, to which loaded images are then brought by `pool_to`; without it they stay as they are.
    """
    images, resolution = source.splits[split], resolution or view.resolution
    form = f"{resolution}px{view.channels}"
    if resolution != view.resolution:
        form += f"-from-{view.resolution}px"
    if view.augment != "none":
        form += f"-{view.augment}"
    name = f"{fingerprint(images)[:16]}-{form}-{network.name}-{network.digest}.safetensors"
    path = cache_folder() / "statistics" / name
    lasting = network.name != "encoder"  # a run's own encoder is another one with each step
    try:
        if not lasting:
            raise FileNotFoundError
        kept, _ = read_tensors(path, digest=True)
        moments = Moments(int(kept["n"]), kept["mean"].numpy(), kept["scatter"].numpy())
        return Reference(moments, kept["features"])
    except (FileNotFoundError, UserError, KeyError) as error:
        if lasting and path.exists():  # of an older version, or damaged
            warnings.warn(f"statistics of real images are computed anew: {error}", stacklevel=2)
    pixels = torch.from_numpy(read_split(source, images, view).pixels)
    moments, parts = Moments(), []
    for chunk in pixels.split(5_000):
        if resolution != view.resolution:
            chunk = torch.cat([_rounded(pool_to(to_float(x), resolution)) for x in chunk.split(500)])
        features = network(chunk)[0]
        moments.update(features)
        parts.append(features)
    features = torch.cat(parts)
    picks = np.sort(np.random.default_rng(0).permutation(len(features))[:MOST])
    found = Reference(moments, features[picks].contiguous())
    if not lasting:
        return found
    tensors = {
        "n": torch.tensor(moments.n),
        "mean": torch.from_numpy(moments.mean),
        "scatter": torch.from_numpy(moments.scatter),
        "features": found.features,
    }
    save_tensors(path, tensors, digest=True)
    return found


def compare(real: Reference, fake: Tensor, measures: set[str]) -> dict[str, Measurement]:
    """fid, kid, precision and recall of features float32 [N, d] of samples against real ones; precision and recall
    (k = 3) take as many real images as there are samples."""
    found: dict[str, Measurement] = {}
    protocol = {"references": real.moments.n}
    if "fid" in measures:
        moments = Moments()
        moments.update(fake)
        found["fid"] = Measurement(frechet_distance(real.moments, moments), protocol=protocol)
    if "kid" in measures:
        value, std = kernel_distance(real.features, fake)
        found["kid"] = Measurement(
            value, std, protocol={"references": len(real.features), "subsets": 100, "size": 1000}
        )
    if measures & {"precision", "recall"}:
        picks = torch.randperm(len(real.features), generator=torch.Generator().manual_seed(0))[: len(fake)]
        both = precision_recall(real.features[picks], fake, k=3)
        for name, value in zip(("precision", "recall"), both, strict=True):
            found[name] = Measurement(value, protocol={"references": len(picks), "k": 3})
    return {name: m for name, m in found.items() if name in measures}


def measure_quality(
    G: nn.Module, E: nn.Module | None, config: Config, source: Source, metrics: list[Metric]
) -> dict[str, Measurement]:
    """Return measurements by metric, for the quality metrics of one feature extractor; G and E are the averaged
    networks."""
    device = next(G.parameters()).device
    network = open_network(metrics[0].network, source.name, E, config.encoder.resolution, device)
    features, logits = network(draw_samples(G, config, max(m.samples for m in metrics), config.training.seed))
    if not torch.isfinite(features).all():
        raise UserError(f"{network.name} gives features that are not finite for this generator's samples: look at them")
    out: dict[str, Measurement] = {}
    for samples in {m.samples for m in metrics}:
        for split in dict.fromkeys(m.reference for m in metrics):
            ours = {m.measure: m.name for m in metrics if (m.samples, m.reference) == (samples, split)}
            if split:
                found = compare(reference_of_run(source, split, config, network), features[:samples], set(ours))
            elif ours and logits is not None:
                found = {"is": Measurement(*inception_score(logits[:samples]))}
            else:
                continue
            for measure, m in found.items():
                protocol = {"network": network.digest, **(m.protocol or {})}
                out[ours[measure]] = m._replace(protocol=protocol)
    return out
