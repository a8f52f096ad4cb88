"""`bigbigan predict`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bigbigan.cli.common import OWN_DATA, RAW_CELLS, RUN, check_ending, run_options
from bigbigan.errors import UserError

EXAMPLES = (
    "predict runs/photos --head head.safetensors --data new_photos/ --out predictions.csv",
    "predict photos_model --data new_photos/ --probabilities --out predictions.csv",
    "predict photos_model --data next_batch/ --labels next_batch.csv --out predictions.csv",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN)
    parser.add_argument("--head", type=Path, metavar="HEAD", help="saved head (default: the one in the exported model)")
    parser.add_argument("--data", metavar="SOURCE", help=OWN_DATA)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.csv", help="file of predictions to write")
    parser.add_argument(
        "--score",
        action="store_true",
        help="compare with the labels of the images, such as their folders, and print the accuracy",
    )
    parser.add_argument("--labels", metavar="FILE.csv", help="labels to compare with: columns file and label")
    parser.add_argument("--probabilities", action="store_true", help="write the probability of each class too")
    parser.add_argument("--raw-cells", **RAW_CELLS)
    run_options(parser)


def run(options: argparse.Namespace) -> None:
    """Classify images by a saved head: class names, confidence, and which images are unlike the labelled ones."""
    check_ending(options, "out", ".csv")
    if options.head is not None and not options.head.is_file():
        raise UserError(f"--head {options.head}: no such file; write one: bigbigan classify {options.run} --save HEAD")
    from bigbigan.apps.predict import predict, summary

    found = predict(
        options.run,
        options.head,
        options.data,
        options.out,
        labels_file=options.labels,
        score=options.score,
        probabilities=options.probabilities,
        checkpoint=options.checkpoint,
        raw_cells=options.raw_cells,
        progress=not options.quiet,
    )
    print(json.dumps(found, indent=2) if options.json else summary(found))
