"""`bigbigan list`."""

from __future__ import annotations

import argparse
import json

from bigbigan.cli.common import AS_JSON, named_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", **AS_JSON)


def run(options: argparse.Namespace) -> None:
    """List the experiments, the rows of published tables that they stand for, and their published numbers."""
    from bigbigan.experiments import EXPERIMENTS

    if options.json:
        entries = [
            {
                "name": e.name,
                "summary": e.summary,
                "data": e.data,
                "table_row": e.table_row,
                "published": e.published,
                "table_rows": e.table_rows,
                "scales": e.scales,
                "additions": e.additions,
            }
            for e in EXPERIMENTS.values()
        ]
        print(json.dumps(entries, indent=2))
        return
    width = max(map(len, EXPERIMENTS))
    for e in EXPERIMENTS.values():
        line = f"{e.name:{width}}  {e.summary}"
        for row, numbers in e.table_rows.items():
            line += f"  [{row}: {', '.join(f'{column} {number}' for column, number in numbers.items())}]"
        at_own_size, *at_a_scale = (named_settings(settings) for settings in e.additions.values())
        additions = at_own_size or next((f"{settings} at --scale" for settings in at_a_scale if settings), "")
        print(line + (f"  (not in the paper: {additions})" if additions else ""))
