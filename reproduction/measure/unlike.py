"""Measure which images `predict` finds unlike the training images: percentages of test images and of other images.

    python -m reproduction.measure.unlike RUN [--data SOURCE] [--others SOURCE ...] [--results FILE]

The references and the limit are those of a saved head (bigbigan.evaluation.probes.saved_head), of training images that
are spread evenly over the source: an image is unlike them if its mean distance to the five nearest, 1 − the cosine of
AvePool features, is above the 99th percentile of the training images. BN+CReLU features and pixels are measured for
comparison. Other images are noise, test images with noise, blurred and rotated by 90 degrees (as in
reproduction.measure.anomaly), and test images of other data sets.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features, pixel_features
from bigbigan.evaluation.probes.saved_head import references
from bigbigan.evaluation.records import Measurement, Subject
from bigbigan.evaluation.targets import open_target
from bigbigan.inference.head import distances, mean_of_nearest
from reproduction.common import Script
from reproduction.measure.anomaly import CHANGES, Score, pixels_of


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/unlike.jsonl")
    script.parser.add_argument("run", type=Path)
    script.parser.add_argument("--data", metavar="SOURCE")
    script.parser.add_argument("--others", nargs="*", default=[], metavar="SOURCE")
    script.parser.add_argument("--labelled", type=int, default=2_000, help="training images (default 2000)")
    script.parser.add_argument("--count", type=int, default=1_000, help="images of each kind (default 1000)")
    return script.run(measure, arguments)


def measure(script: Script, options: argparse.Namespace) -> None:
    target = open_target(str(options.run))
    source = target.source(options.data, None, "unlike", needs_labels=False)
    test = pixels_of(target, source, "test", options.count)
    train = pixels_of(target, source, "train", options.labelled)
    kinds = {"test": test, "noise": np.random.default_rng(0).integers(0, 256, test.shape, dtype=np.uint8)}
    kinds |= {name: change(test) for name, change in CHANGES.items()}
    for spec in options.others:
        other = target.source(spec, None, "unlike", needs_labels=False)
        if other.name in kinds:
            raise UserError(f"--others {spec}: there are images called {other.name} already")
        kinds[other.name] = pixels_of(target, other, "test", options.count)
    encoder = target.encoder("trained", train)
    features: dict[str, tuple[Subject, Score]] = {
        "avepool": ("trained", lambda pixels: encoder_features(encoder, pixels, ["avepool"])["avepool"]),
        "bn_crelu": ("trained", lambda pixels: encoder_features(encoder, pixels, ["bn_crelu"])["bn_crelu"]),
        "pixels": ("pixels", pixel_features),
    }
    for name, (subject, extract) in features.items():
        known, limit = references(torch.from_numpy(extract(train)), None)
        assert limit is not None
        distance = partial(_distance, extract, known)
        for kind, pixels in kinds.items():
            start = time.perf_counter()
            share = 100 * float((distance(pixels) > limit).float().mean())
            protocol = {"images": kind, "labelled": len(train)}
            script.append(
                script.target_lines(
                    target,
                    {f"unlike_{kind}_{name}": Measurement(share, protocol=protocol)},
                    source=source,
                    split="test",
                    n=len(pixels),
                    subject=subject,
                    start=start,
                )
            )


def _distance(extract: Score, known: torch.Tensor, pixels: np.ndarray) -> torch.Tensor:
    return mean_of_nearest(distances(torch.from_numpy(extract(pixels)), known.float()))


if __name__ == "__main__":
    sys.exit(main())
