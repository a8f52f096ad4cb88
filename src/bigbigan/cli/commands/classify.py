"""`bigbigan classify`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from bigbigan.cli.common import OWN_DATA, RAW_CELLS, RESULTS, run_and_data, run_options
from bigbigan.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run_and_data(parser, f"labelled {OWN_DATA}", "FILE.csv file of predictions and their confidence")
    count = parser.add_mutually_exclusive_group(required=True)
    count.add_argument(
        "--labels-per-class", type=int, metavar="N", help="number of labelled images of each class to use"
    )
    count.add_argument(
        "--label-fraction", type=float, metavar="P", help="share of each class to use as labelled images, above 0 to 1"
    )
    parser.add_argument("--finetune", action="store_true", help="fine-tune the encoder too, and compare")
    parser.add_argument(
        "--scratch", action="store_true", help="compare with the same network trained only on the labelled images"
    )
    parser.add_argument(
        "--trials",
        type=int,
        default=5,
        metavar="K",
        help="number of trials, each with other labelled images (default 5)",
    )
    parser.add_argument("--raw-cells", **RAW_CELLS)
    parser.add_argument("--results", **RESULTS)
    run_options(parser)


def run(options: argparse.Namespace) -> None:
    """Train a classifier on few labels, write its predictions, and measure it with its baselines."""
    if options.labels_per_class is not None and options.labels_per_class < 1:
        raise UserError(f"--labels-per-class {options.labels_per_class}: expected at least 1")
    if options.label_fraction is not None and not 0 < options.label_fraction <= 1:
        raise UserError(f"--label-fraction {options.label_fraction}: expected a number above 0 and up to 1")
    if options.trials < 1:
        raise UserError(f"--trials {options.trials}: expected at least 1")
    from bigbigan.apps.classify import Labels, classify
    from bigbigan.evaluation.records import append_results, results_table

    lines = classify(
        str(options.run),
        options.data,
        Labels(options.labels_per_class, options.label_fraction),
        options.out,
        options.command,
        labels_file=options.labels,
        finetune=options.finetune,
        scratch=options.scratch,
        trials=options.trials,
        progress=not options.quiet,
        raw_cells=options.raw_cells,
        checkpoint=options.checkpoint,
    )
    if options.results:
        append_results(options.results, lines)
    print(json.dumps([asdict(line) for line in lines], indent=2) if options.json else results_table(lines))
    if not options.json:
        print(options.out)
