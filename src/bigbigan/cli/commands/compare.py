"""`bigbigan compare`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bigbigan.cli.common import AS_JSON, check_ending, check_run
from bigbigan.errors import UserError

EXAMPLES = ("compare runs/digits-0 runs/digits-1 --out comparison.html",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="run folders (train --out) or exported models, two or more"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="also write a page with curves and samples")
    parser.add_argument("--json", **AS_JSON)


def run(options: argparse.Namespace) -> None:
    """Compare runs: settings that differ, results side by side, and a page with their curves and samples."""
    if len(options.runs) < 2:
        raise UserError(f"one run is given ({options.runs[0]}); expected two or more")
    check_ending(options, "out", ".html", ".htm")
    for path in options.runs:
        check_run(path)
    from bigbigan.apps.compare import compare

    comparison = compare(options.runs)
    if options.out is not None:
        from bigbigan.apps.report.comparison import write_comparison

        write_comparison(comparison, options.out)
    print(json.dumps(comparison.as_dict(), indent=2) if options.json else comparison.text())
    if options.out is not None and not options.json:
        print(options.out)
