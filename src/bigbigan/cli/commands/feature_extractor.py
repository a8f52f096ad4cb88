"""`bigbigan feature-extractor`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from bigbigan.cli.common import AS_JSON, LABELS_FILE, QUIET, at_least, device_option

EXAMPLES = ("feature-extractor mnist-cnn --data mnist",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="mnist-cnn or cifar-resnet18")
    parser.add_argument("--data", required=True, metavar="SOURCE", help="labelled images with a train and a test split")
    parser.add_argument("--labels", **LABELS_FILE)
    parser.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="passes over the images (default: 3 for mnist-cnn, 15 for cifar-resnet18)",
    )
    parser.add_argument("--results", type=Path, metavar="FILE", help="append the result line to this file too")
    device_option(parser)
    parser.add_argument("--json", **AS_JSON)
    parser.add_argument("--quiet", **QUIET)


def run(options: argparse.Namespace) -> None:
    """Train a small classifier as a feature extractor, for FID of images that Inception does not suit."""
    from bigbigan.data import open_source
    from bigbigan.evaluation.image_quality.feature_extractors import train_classifier
    from bigbigan.evaluation.records import append_results
    from bigbigan.training.devices import default_device

    at_least(1, epochs=options.epochs)
    device = default_device()
    source = open_source(options.data, labels=options.labels)
    path, line = train_classifier(
        options.name, source, options.epochs, device, options.command, progress=not options.quiet
    )
    if options.results:
        append_results(options.results, [line])
    if options.json:
        print(json.dumps({"file": str(path), "results": [asdict(line)]}, indent=2))
    else:
        print(f"{path}: accuracy {line.value:.1f} % on {line.n:,} test images")
