"""`bigbigan list`."""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import TYPE_CHECKING

from bigbigan.cli.common import AS_JSON

if TYPE_CHECKING:
    from bigbigan.experiments import Experiment

WIDTH = 99  # columns
GROUPS = {
    "small": "one computer can train these; begin here",
    "bigan": "BiGAN and its baselines",
    "biggan": "class-conditional BigGAN",
    "table1": "the rows of Table 1; --scale 16, 32 or 64 makes them smaller",
    "table3": "Table 3: one label, clusters as labels",
    "pretext": "the baselines of Table 2",
}  # any others come last

EXAMPLES = (
    "list",
    "list --long",
    "list --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--long", action="store_true", help="add published numbers, and the settings that are not in the paper"
    )
    parser.add_argument("--json", **AS_JSON)


def run(options: argparse.Namespace) -> None:
    """List the experiments, those for one computer first; with --long, the published numbers they stand for."""
    from bigbigan.experiments import EXPERIMENTS, installed

    experiments = EXPERIMENTS | installed()
    groups: dict[str, list[Experiment]] = {group: [] for group in GROUPS}
    for experiment in experiments.values():
        groups.setdefault(experiment.name.partition("/")[0], []).append(experiment)
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
            for members in groups.values()
            for e in members
        ]
        print(json.dumps(entries, indent=2))
        return
    width = max(map(len, experiments)) + 2
    lines: list[str] = []
    for group, members in groups.items():
        if members:
            lines += ["", f"{group}: {GROUPS[group]}" if group in GROUPS else group]
        for e in members:
            lines += _wrapped(e.summary, f"{e.name:{width}}")
            if options.long:
                lines += [line for text in _details(e) for line in _wrapped(text, " " * width)]
    print("\n".join(lines[1:]))
    if not options.long:
        from bigbigan.inference.pretrained import pretrained_names

        if names := pretrained_names():
            print("\n" + "\n".join(_wrapped(f"Trained models in this package, to use as RUN: {', '.join(names)}", "")))
        print("\nTrain one: bigbigan train NAME --out RUN. Published numbers: bigbigan list --long")


def _details(e: Experiment) -> list[str]:
    """Return the published numbers that an experiment stands for, and its settings that are not in the paper."""
    from bigbigan.config import named_settings

    found = [
        f"{row}: {', '.join(f'{column} {number}' for column, number in numbers.items())}"
        for row, numbers in e.table_rows.items()
    ]
    at_own_size, *at_a_scale = (named_settings(settings) for settings in e.additions.values())
    additions = at_own_size or next((f"{settings} at --scale" for settings in at_a_scale if settings), "")
    return found + ([f"not in the paper: {additions}"] if additions else [])


def _wrapped(text: str, start: str) -> list[str]:
    """Return the lines of a text that begins after `start`, each at most `WIDTH` columns."""
    indent = " " * len(start)
    return textwrap.wrap(
        text, WIDTH, initial_indent=start, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ) or [start.rstrip()]
