"""`bigbigan label-next`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bigbigan.cli.common import LABELS_FILE, OWN_DATA, RAW_CELLS, RUN_OR_ENCODER, at_least, check_ending, run_options

EXAMPLES = ("label-next runs/photos --count 20 --out to_label.csv --sheet to_label.png",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=RUN_OR_ENCODER)
    parser.add_argument("--data", metavar="SOURCE", help=OWN_DATA)
    parser.add_argument("--labels", **LABELS_FILE | {"help": "labels given so far (default: the source's own)"})
    parser.add_argument("--count", type=int, default=20, metavar="N", help="number of images to label (default 20)")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE.csv", help="file of images to write, with a column to fill in"
    )
    parser.add_argument("--sheet", type=Path, metavar="SHEET.png", help="draw the images, in the order of the file")
    parser.add_argument("--raw-cells", **RAW_CELLS)
    run_options(parser)


def run(options: argparse.Namespace) -> None:
    """Choose the images to label next: typical images of the clusters that have no labels yet."""
    at_least(1, count=options.count)
    check_ending(options, "out", ".csv")
    check_ending(options, "sheet", ".png")
    from bigbigan.apps.label_next import label_next

    rows, labelled = label_next(
        options.run,
        options.data,
        options.count,
        options.out,
        sheet=options.sheet,
        labels=options.labels,
        checkpoint=options.checkpoint,
        raw_cells=options.raw_cells,
        progress=not options.quiet,
    )
    if options.json:
        print(json.dumps({"file": str(options.out), "images": rows, "labelled": labelled}, indent=2))
        return
    earlier = f", then the {labelled:,} labelled so far" if labelled else ""
    print(
        f"{options.out}: {len(rows)} images to label{earlier}; fill in the column label, then give the file to --labels"
    )
    if options.labels is not None and labelled:
        print(f"use it in place of {options.labels}: it has all labels, groups and splits of that file")
