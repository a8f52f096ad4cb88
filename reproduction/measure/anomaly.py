"""Measure anomaly scores of a run: AUROC in percent, of other images against images of the run's kind.

    python -m reproduction.measure.anomaly RUN [--data SOURCE] [--anomalies SOURCE ...] [--results FILE]

Normal images are the test images of the source that the run was trained on. Anomalous images are the test images of
each other source, and the normal ones with noise, blurred, and rotated by 90 degrees. Baselines need no model (distance
to the mean training image, to the nearest training images) or no discriminator (reconstruction error, distance to the
nearest training images in features of E, trained and untrained). 50 is chance; below 50 the anomalous images look more
normal than the normal ones.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from sklearn.metrics import roc_auc_score
from torch import Tensor

from bigbigan.data import Source, load_view
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features, pixel_features
from bigbigan.evaluation.probes.knn import nearest
from bigbigan.evaluation.records import Measurement, Subject
from bigbigan.evaluation.targets import Target, open_target
from bigbigan.inference.model import Model
from bigbigan.randomness import keyed_generator
from reproduction.common import Script, split_of

NEAREST = 5  # training images whose distances are averaged
NOISE = 0.1  # standard deviation, pixels in [0, 1]
BLUR = 1.0  # radius of the Gaussian in pixels

Score = Callable[[np.ndarray], np.ndarray]  # uint8 [N, C, R, R] to [N], high for anomalies


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/anomaly.jsonl")
    script.parser.add_argument("run", type=Path)
    script.parser.add_argument("--data", metavar="SOURCE")
    script.parser.add_argument("--anomalies", nargs="*", default=[], metavar="SOURCE")
    script.parser.add_argument(
        "--count", type=int, default=2_000, help="images of each kind, spread evenly (default 2000)"
    )
    return script.run(measure, arguments)


def measure(script: Script, options: argparse.Namespace) -> None:
    target = open_target(str(options.run))
    source = target.source(options.data, None, "anomaly", needs_labels=False)
    normal = pixels_of(target, source, "test", options.count)
    others = {name: change(normal) for name, change in CHANGES.items()}
    for spec in options.anomalies:
        other = target.source(spec, None, "anomaly", needs_labels=False)
        if other.name in others:
            raise UserError(f"--anomalies {spec}: there are images called {other.name} already")
        others[other.name] = pixels_of(target, other, "test", options.count)
    for name, (subject, score) in scores(target, pixels_of(target, source, "train")).items():
        start, normal_scores = time.perf_counter(), score(normal)
        for kind, images in others.items():
            truth = np.repeat([0, 1], [len(normal), len(images)])
            auroc = 100 * float(roc_auc_score(truth, np.concatenate([normal_scores, score(images)])))
            protocol = {"anomalies": kind, "normal_n": len(normal), "anomalous_n": len(images)}
            measured = {f"auroc_{kind}_{name}": Measurement(auroc, protocol=protocol)}
            script.append(
                script.target_lines(
                    target, measured, source=source, split="test", n=len(truth), subject=subject, start=start
                )
            )
            start = time.perf_counter()


def pixels_of(target: Target, source: Source, split: str, count: int | None = None) -> np.ndarray:
    """Return a split as E sees it, or `count` images spread evenly over it: uint8 [N, C, R, R].

    Raises:
        UserError: there is no such split.
    """
    view, images = target.view, split_of(source, split)
    picked = images.subset(images.spread(count or len(images)))
    return load_view(picked, view.resolution, view.channels, view.augment, source)[0]


def _noisy(pixels: np.ndarray) -> np.ndarray:
    noise = torch.randn(pixels.shape, generator=keyed_generator(0, "anomalies")).numpy()
    return (pixels + 255 * NOISE * noise).round().clip(0, 255).astype(np.uint8)


def _blurred(pixels: np.ndarray) -> np.ndarray:
    blur = ImageFilter.GaussianBlur(BLUR)
    flat = pixels.reshape(-1, *pixels.shape[2:])
    return np.stack([np.asarray(Image.fromarray(x).filter(blur)) for x in flat]).reshape(pixels.shape)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "noisy": _noisy,
    "blurred": _blurred,
    "turned": lambda pixels: np.ascontiguousarray(np.rot90(pixels, axes=(2, 3))),
}


def scores(target: Target, train: np.ndarray) -> dict[str, tuple[Subject, Score]]:
    """Return scores by name, each with its subject."""
    model = target.model
    assert model is not None
    found: dict[str, tuple[Subject, Score]] = {
        "pixel_mean_distance": ("pixels", partial(_from_mean, pixel_features(train).mean(0))),
        "pixel_nearest": ("pixels", partial(_from_nearest, pixel_features, "euclidean", pixel_features(train))),
    }
    kinds: tuple[Subject, ...] = ("untrained", "trained")
    for kind in kinds:
        features = partial(_bn_crelu, target.encoder(kind, train))
        score = partial(_from_nearest, features, "cosine", features(train))
        found[f"feature_nearest_{kind}"] = (kind, score)
    found["reconstruction"] = ("trained", partial(_in_parts, partial(model.anomaly_score, alpha=1)))
    found["discriminator"] = ("trained", partial(_in_parts, partial(model.anomaly_score, alpha=0)))
    for name in model.config.loss.scores:
        found[f"minus_score_{name}"] = ("trained", partial(_in_parts, partial(_minus, model, f"score_{name}")))
    found["anomaly_score"] = ("trained", partial(_in_parts, model.anomaly_score))
    return found


def _from_mean(mean: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    return np.linalg.norm(pixel_features(pixels) - mean, axis=1)


def _from_nearest(features: Score, distance: str, train: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    close, _ = nearest(torch.from_numpy(features(pixels)), torch.from_numpy(train), NEAREST, distance)
    return -close.mean(1).numpy()


def _bn_crelu(encoder: torch.nn.Module, pixels: np.ndarray) -> np.ndarray:
    return encoder_features(encoder, pixels, ["bn_crelu"])["bn_crelu"]


def _minus(model: Model, name: str, x: Tensor) -> Tensor:
    return -getattr(model.discriminate(x, model.encode(x).z_mean), name)


def _in_parts(score: Callable[[Tensor], Tensor], pixels: np.ndarray) -> np.ndarray:
    return torch.cat([score(x).cpu() for x in torch.from_numpy(pixels).split(500)]).numpy()


if __name__ == "__main__":
    sys.exit(main())
