"""`bigbigan table`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import bigbigan
from bigbigan.cli.common import AS_JSON
from bigbigan.errors import UserError

EXAMPLES = (
    "table 1",
    "table 1 --scale 16 --format markdown",
    "table bigan --dataset fashion-mnist",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="table: 1, 2, 3 or bigan")
    parser.add_argument(
        "--scale",
        type=int,
        metavar="S",
        help="use runs scaled down: S px (16, 32 or 64) in place of 128; 0: full size (default: full size if a row was "
        "trained at it, else the scale with most results)",
    )
    parser.add_argument(
        "--dataset", metavar="NAME", help="use only result lines of this data set, such as fashion-mnist"
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="folder of result lines (default: ./results if there is one, else those that come with the package)",
    )
    parser.add_argument(
        "--format", choices=("text", "markdown", "html"), default="text", help="output format (default text)"
    )
    parser.add_argument("--json", **AS_JSON)


def own_results() -> Path:
    """Return ./results if it exists, else the package's result lines, else the repository's."""
    package = Path(bigbigan.__file__).parent
    repository = package.parents[1] / "results"
    return next((f for f in (Path("results"), package / "results", repository) if f.is_dir()), Path("results"))


def run(options: argparse.Namespace) -> None:
    """Fill a published table from result lines: published numbers next to ours, or "not run"."""
    from bigbigan.evaluation.published_tables import fill, fullest_scale
    from bigbigan.evaluation.records import read_results
    from bigbigan.evaluation.table_formats import FORMATS

    folder = options.results or own_results()
    if not folder.is_dir():
        raise UserError(f"--results {folder} is not a folder; expected a folder of result lines in *.jsonl files")
    is_run = (folder / "config.json").exists() or (folder / "metrics.jsonl").exists()
    files = [folder / "results.jsonl"] if is_run else sorted(folder.glob("*.jsonl"))
    if is_run and not files[0].exists():
        raise UserError(f"--results {folder} has no results.jsonl; measure the run first: bigbigan evaluate {folder}")
    lines = [line for path in files for line in read_results(path)]
    fullest = fullest_scale(options.name, lines, options.dataset)
    scale = fullest if options.scale is None else options.scale
    table = fill(options.name, lines, scale, options.dataset)
    if table.filled_cells < fill(options.name, lines, fullest, options.dataset).filled_cells:
        size = f"scale {scale}" if scale else "full size"
        table.notes.insert(0, f"{'few' if table.filled_cells else 'no'} results at {size}; more with --scale {fullest}")
    print(json.dumps(table.as_dict(), indent=2) if options.json else FORMATS[options.format](table))
