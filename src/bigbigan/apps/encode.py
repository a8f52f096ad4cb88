"""Encode every image of a source: write features and scores to a file for other programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bigbigan.apps.feature_file import FEATURES, SCORES, Rows, check_request, writing_features
from bigbigan.compute import images_per_pass
from bigbigan.data import ImageSet
from bigbigan.data.loading import stream_view
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features
from bigbigan.image import image_distances, pool_to
from bigbigan.inference.loading import load
from bigbigan.inference.model import Model
from bigbigan.progress import Bar
from bigbigan.training.devices import default_device
from bigbigan.training.run_folder import open_data

__all__ = ["encode"]


def encode(
    run: Path,
    data: str | None,
    out: Path,
    features: list[str] | None = None,
    labels: str | None = None,
    raw_cells: bool = False,
    progress: bool = False,
    checkpoint: str = "newest",
) -> int:
    """Write features with file names, splits and labels; return the number of images.

    Images are decoded by threads, encoded and written batch by batch, so memory does not grow with their number. The
    columns of each kind of file are those of `bigbigan.apps.feature_file.writing_features`.

    Args:
        run: a run folder or an exported model.
        data, labels: the source and its labels file; by default the run's own.
        out: the file; its ending says which kind.
        features: names of features and scores; by default all features of the encoder.
        raw_cells: write names as they are, even if a spreadsheet would take them for formulas.
        progress: show images/s and time left.
        checkpoint: of a run, "newest", "best" or a step.

    Raises:
        UserError: unknown features or file type, a score that the model does not have, or a source that cannot be
            used. No incomplete file is left.
    """
    check_request(out, features)
    model = load(run, checkpoint, default_device())
    known = [f for f in FEATURES if f != "z_mean" or model.config.has_generator]
    if lacking := sorted((set(features or ()) - set(known)) & set(FEATURES)):
        raise UserError(f"--features {','.join(lacking)}: this encoder was trained on pretext tasks and has no latents")
    features = features or known
    _ = model.encoder  # raises UserError for a GAN: its D has no scores of pairs (x, E(x)) either
    _check_scores(model, [feature for feature in features if feature in SCORES])
    tolerated = None if data is None else 1.0  # new images are few, and those that can be read are of use
    source = open_data(run, data, labels, model.config, tolerated)
    count, total = 0, sum(map(len, source.splits.values()))
    with (
        Bar(total=total, desc="encode", unit=" images", disable=not progress) as bar,
        writing_features(out, raw_cells) as write,
    ):
        for images in source.splits.values():
            c = model.config
            view = (c.encoder.resolution, c.data.channels, c.data.augment)
            for pixels, kept in stream_view(images, *view, source, images_per_pass(500), bar):
                write(_rows(model, images, pixels, kept, features))
                count += len(kept)
    return count


def _rows(model: Model, images: ImageSet, pixels: np.ndarray, kept: np.ndarray, features: list[str]) -> Rows:
    """Return features and scores of one batch: uint8 images [n, C, R, R], numbered `kept` in their split."""
    names = [feature.removesuffix("_feat") for feature in features if feature in FEATURES]
    found = encoder_features(model.encoder, pixels, names) if names else {}
    found |= _scores(model, pixels, [feature for feature in features if feature in SCORES])
    labels = np.full(len(kept), -1) if images.labels is None else images.labels[kept]
    return Rows(
        files=[images.files[i] for i in kept],
        splits=[images.name] * len(kept),
        labels=labels,
        classes=[images.class_name(i) for i in kept.tolist()],
        features={feature: found[feature.removesuffix("_feat")] for feature in features},
    )


def _check_scores(model: Model, names: list[str]) -> None:
    """Raise UserError for scores that the model does not have."""
    has = ["reconstruction_error"] if model.networks.G is not None else []
    if model.networks.D is not None:
        has += ["anomaly_score", *sorted(f"score_{s}" for s in model.config.loss.scores)]
    if missing := [n for n in names if n not in has]:
        known = ", ".join(n for n in has if n != "anomaly_score") or "none"
        raise UserError(f"--features {','.join(missing)}: this model has no such score; it has {known}")


def _scores(model: Model, pixels: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    """Return scores of uint8 images [n, C, R, R] by name, each float32 [n]; D scores the pairs (x, E(x))."""
    found: dict[str, Tensor] = {}
    x = torch.from_numpy(pixels)
    if any(name.startswith("score_") for name in names):
        found |= vars(model.discriminate(x, model.encode(x).z_mean))
    if "anomaly_score" in names:
        found["anomaly_score"] = model.anomaly_score(x)
    if "reconstruction_error" in names:
        target = pool_to(model.prepare(x), model.config.generator.resolution)
        found["reconstruction_error"] = image_distances(target, model.reconstruct(x))
    return {name: found[name].cpu().numpy() for name in names}
