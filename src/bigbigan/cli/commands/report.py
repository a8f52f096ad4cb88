"""`bigbigan report`."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

from bigbigan.cli.common import OWN_DATA, check_ending, run_and_data, run_options
from bigbigan.errors import UserError

EXAMPLES = (
    "report runs/digits",
    "report runs/photos --data photos/ --labels photos.csv --out photos.html",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run_and_data(parser, OWN_DATA, None, "run folder (train --out), exported folder, or model of this package")
    parser.add_argument(
        "--umap", action="store_true", help="also draw the map of features by UMAP (needs umap-learn; takes longer)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="page to write (default: RUN/report.html)")
    run_options(parser)


def run(options: argparse.Namespace) -> None:
    """Write a page about a run: curves, samples, reconstructions, neighbours, probes, settings, data."""
    from bigbigan.apps.report import write_report

    check_ending(options, "out", ".html", ".htm")
    if options.umap and importlib.util.find_spec("umap") is None:
        raise UserError("--umap needs umap-learn, which is not installed; pip install 'bigbigan[umap]'")
    page = write_report(
        options.run,
        options.data,
        options.labels,
        options.out,
        options.checkpoint,
        progress=not options.quiet,
        umap=options.umap,
    )
    print(json.dumps({"page": str(page)}) if options.json else page)
