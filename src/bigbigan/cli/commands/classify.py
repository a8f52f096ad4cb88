"""`bigbigan classify`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bigbigan.cli.common import (
    OWN_DATA,
    RAW_CELLS,
    RESULTS,
    at_least,
    check_ending,
    is_own_results,
    run_and_data,
    run_options,
)
from bigbigan.errors import UserError

if TYPE_CHECKING:
    from bigbigan.evaluation.records import ResultLine

TRIALS = 5
EXAMPLES = (
    "classify runs/photos --labels-per-class 20 --out predictions.csv",
    "classify runs/photos --label-fraction 0.1 --finetune --out predictions.csv",
    "classify runs/photos --labels photos.csv --save head.safetensors",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run_and_data(parser, f"labelled {OWN_DATA}", None)
    count = parser.add_mutually_exclusive_group()
    count.add_argument(
        "--labels-per-class", type=int, metavar="N", help="number of labelled images of each class to use"
    )
    count.add_argument(
        "--label-fraction", type=float, metavar="P", help="share of each class to use as labelled images, above 0 to 1"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE.csv", help="file of predictions and their confidence to write"
    )
    parser.add_argument(
        "--save",
        type=Path,
        metavar="HEAD.safetensors",
        help="train a classifier on all labelled images and keep it in this file, for predict and export",
    )
    parser.add_argument("--finetune", action="store_true", help="fine-tune the encoder too, and compare")
    parser.add_argument(
        "--scratch", action="store_true", help="compare with the same network trained only on the labelled images"
    )
    parser.add_argument(
        "--trials",
        type=int,
        metavar="K",
        help=f"number of trials, each with other labelled images (default {TRIALS})",
    )
    parser.add_argument("--raw-cells", **RAW_CELLS)
    parser.add_argument("--results", **RESULTS)
    run_options(parser)


def run(options: argparse.Namespace) -> None:
    """Train a classifier on few labels, write its predictions, and measure it with its baselines; or keep one."""
    few = options.labels_per_class is not None or options.label_fraction is not None
    _check(options, few)
    from bigbigan.evaluation.records import append_results
    from bigbigan.evaluation.results_text import classifiers_table, head_text

    lines: list[ResultLine] = []
    if few:
        from bigbigan.apps.classify import Labels, classify

        lines += classify(
            str(options.run),
            options.data,
            Labels(options.labels_per_class, options.label_fraction),
            options.out,
            options.command,
            labels_file=options.labels,
            finetune=options.finetune,
            scratch=options.scratch,
            trials=TRIALS if options.trials is None else options.trials,
            progress=not options.quiet,
            raw_cells=options.raw_cells,
            checkpoint=options.checkpoint,
        )
    text = [classifiers_table(lines), str(options.out)] if few else []
    if options.save is not None:
        from bigbigan.apps.save_head import save_head

        head, of_head = save_head(
            str(options.run),
            options.data,
            options.save,
            options.command,
            labels_file=options.labels,
            progress=not options.quiet,
            checkpoint=options.checkpoint,
        )
        lines += of_head
        about = f"{options.save}: {len(head.classes)} classes, {head.images:,} labelled images"
        text += [head_text(of_head), about] if of_head else [about]
    if options.results and not is_own_results(options.results, options.run):
        append_results(options.results, lines)
    if options.json:
        print(json.dumps([asdict(line) for line in lines], indent=2))
        return
    print("\n".join(text))


def _check(options: argparse.Namespace, few: bool) -> None:
    """Raise UserError if options are missing, contradict each other, or have impossible values."""
    at_least(1, labels_per_class=options.labels_per_class, trials=options.trials)
    if options.label_fraction is not None and not 0 < options.label_fraction <= 1:
        raise UserError(f"--label-fraction {options.label_fraction}: expected a number above 0 and up to 1")
    if not few and options.save is None:
        raise UserError(
            "nothing to do: --labels-per-class N or --label-fraction P measures a classifier, --save HEAD.safetensors "
            "keeps one; at least one is required"
        )
    if few and options.out is None:
        raise UserError("--out is required: the file of predictions to write, such as --out predictions.csv")
    for name in ("out", "finetune", "scratch", "trials", "raw_cells") if not few else ():
        if getattr(options, name):
            option = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{option} needs --labels-per-class N or --label-fraction P; --save alone keeps a classifier"
            )
    check_ending(options, "save", ".safetensors")
