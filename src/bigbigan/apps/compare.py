"""Compare runs: the settings that differ, and their results side by side. No model is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bigbigan.config import Config
from bigbigan.config.schema import flat
from bigbigan.errors import UserError
from bigbigan.evaluation.records import (
    PROBE_COLUMNS,
    PROBE_ROWS,
    RESULT,
    Line,
    Results,
    formatted,
    newest_results,
    same_images,
)
from bigbigan.evaluation.results_text import other_titles
from bigbigan.inference.loading import data_card, model_folder
from bigbigan.io import read_lines
from bigbigan.training.monitor import read_metrics
from bigbigan.training.run_folder import read_config, read_environment

__all__ = ["Compared", "Comparison", "comparable", "compare"]

WIDTH, TITLE, CELL = 100, 44, 16  # columns of the table for the terminal, of its titles, and of its other cells
LEFT_OUT = ("5-NN, 10 labels per class",)  # probes that are not among the main results
# Settings that say nothing about what was learned.
OMITTED = ("log.",)
# The order of the results: these first, all others by name.
FIRST = (
    "top1_linear_bn_crelu_10perclass",
    "top1_linear_bn_crelu",
    "top1_linear_pixels_10perclass",
    "top1_linear_pca_pixels_10perclass",
    "reconstruction_ratio",
)
SUBJECTS = ("trained", "untrained", "pixels", "pca_pixels")


@dataclass
class Compared:
    """Hold what is known of one run: `results` are its newest lines on its own data, by metric and subject."""

    name: str
    path: Path
    config: Config
    data: str
    device: str
    metrics: list[Line]
    results: Results

    @property
    def settings(self) -> dict[str, Any]:
        """All settings by name, with the data; without those of logging."""
        found = {k: v for k, v in flat(self.config.to_dict()).items() if not k.startswith(OMITTED)}
        return {"data": self.data} | found


@dataclass
class Comparison:
    """Hold runs to compare, in the order given."""

    runs: list[Compared]

    @property
    def differing(self) -> dict[str, list[Any]]:
        """The settings in which runs differ: a value for each run."""
        every = [run.settings for run in self.runs]
        names = dict.fromkeys(name for settings in every for name in settings)
        values = {name: [settings.get(name) for settings in every] for name in names}
        return {name: of_runs for name, of_runs in values.items() if any(v != of_runs[0] for v in of_runs)}

    @property
    def results(self) -> dict[tuple[str, str], list[Line | None]]:
        """By metric and subject, the result line of each run; None where it was not measured."""
        keys = {key for run in self.runs for key in run.results if key[0] != "evaluation_seconds"}

        def place(key: tuple[str, str]) -> tuple[int, list[tuple[str, int]], int]:
            metric, subject = key
            rank = FIRST.index(metric) if metric in FIRST else len(FIRST)
            parts = [(text, int(number or 0)) for text, number in re.findall(r"(\D+)(\d*)", metric)]
            return rank, parts, SUBJECTS.index(subject) if subject in SUBJECTS else len(SUBJECTS)

        return {key: [run.results.get(key) for run in self.runs] for key in sorted(keys, key=place)}

    @property
    def repeats(self) -> dict[str, list[int]]:
        """The runs that differ only in their seed, as indices, by the name of the group; groups of two or more.

        Runs with the same seed too are copies of each other, or repeat what should be the same: they are not averaged.
        """
        groups: dict[str, list[int]] = {}
        for i, run in enumerate(self.runs):
            same = {k: v for k, v in run.settings.items() if k != "training.seed"}
            groups.setdefault(json.dumps(same, sort_keys=True), []).append(i)
        seeds = [run.config.training.seed for run in self.runs]
        found = [g for g in groups.values() if len(g) > 1 and len({seeds[i] for i in g}) == len(g)]
        return {f"{self.runs[group[0]].name}, {len(group)} seeds": group for group in found}

    @property
    def warnings(self) -> list[str]:
        """Why values of a row must not be compared, one line a reason."""
        found = self.results
        steps = {x["steps"] for (_, s), lines in found.items() if s == "trained" for x in lines if x is not None}
        different_steps = ["The runs were measured after different numbers of steps."] if len(steps) > 1 else []
        measured = [[x for x in lines if x is not None] for lines in found.values()]
        if any(not same_images(lines[0], x) for lines in measured for x in lines):
            return [*different_steps, "The runs were measured on different images or labels: no best value is marked."]
        return different_steps + [
            f"{metric}: measured by different feature extractors, so the values do not compare."
            for (metric, _), lines in found.items()
            if not comparable(lines)
        ]

    def spread(self, lines: Sequence[Line | None], group: Sequence[int]) -> str:
        """Return mean ± standard deviation over the runs of a group, in the form of `formatted`.

        Returns "" if a run lacks the value, or if feature extractors differ.
        """
        found = [line for i in group if (line := lines[i]) is not None]
        if len(found) < len(group) or not comparable(found):
            return ""
        values = [line["value"] for line in found]
        return formatted(dict(found[0]) | {"value": mean(values), "std": stdev(values)})

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON types."""
        return {
            "runs": [str(run.path) for run in self.runs],
            "settings": self.differing,
            "results": [
                {
                    "metric": metric,
                    "subject": subject,
                    "values": [None if line is None else line["value"] for line in lines],
                    "std": [None if line is None else line.get("std") for line in lines],
                    "steps": [None if line is None else line["steps"] for line in lines],
                }
                for (metric, subject), lines in self.results.items()
            ],
            "repeats": {name: [self.runs[i].name for i in group] for name, group in self.repeats.items()},
            "warnings": self.warnings,
        }

    def short(self) -> dict[str, dict[str, list[Line | None]]]:
        """Return the main results in words: lines by heading and title of the row.

        They are those of the short table of `evaluate`, without 5-NN of few labels: the accuracies of the probes, a
        heading for each, then reconstruction and image quality.
        """
        found, out = self.results, dict[str, dict[str, list[Line | None]]]()
        for heading, pattern in PROBE_COLUMNS.items():
            if heading in LEFT_OUT:
                continue
            rows = {title: (pattern.format(feature), subject) for title, (feature, subject) in PROBE_ROWS.items()}
            out[f"{heading}, %"] = {title: found[key] for title, key in rows.items() if key in found}
        out["other values"] = {title: found[key] for key, title in other_titles(found).items()}
        return {heading: rows for heading, rows in out.items() if rows}

    def text(self) -> str:
        """Return the settings that differ and the main results for the terminal, at most `WIDTH` columns wide.

        Runs that do not fit next to each other follow below, in tables of their own.
        """
        repeats = self.repeats
        head = ["", *(run.name for run in self.runs), *repeats]
        settings = [[name, *map(shown, values), *[""] * len(repeats)] for name, values in self.differing.items()]
        table = [head, *(settings or [["no setting differs", *[""] * (len(head) - 1)]])]
        short = self.short()
        table += [[""] * len(head)] * bool(short)
        for heading, rows in short.items():
            table.append([heading, *[""] * (len(head) - 1)])
            for title, lines in rows.items():
                cells = ["-" if line is None else formatted(line) for line in lines]
                spreads = (self.spread(lines, group) or "-" for group in repeats.values())
                table.append([f"  {title}", *cells, *spreads])
        head[1:] = [name if len(name) <= CELL else f"...{name[3 - CELL :]}" for name in head[1:]]
        table = [[_cut(row[0], TITLE), *(_cut(cell, CELL) for cell in row[1:])] for row in table]
        count = len(self.results) - sum(len(rows) for rows in short.values())
        more = [f"{count} more values: --json prints them, --out FILE.html shows them"] if count else []
        return "\n".join([*_tables(table), *more, *self.warnings])


def comparable(lines: Sequence[Line | None]) -> bool:
    """Return whether the values of one metric compare: on the same images, and by one feature extractor."""
    found = [x for x in lines if x is not None]
    networks = {x.get("protocol", {}).get("network") for x in found}
    return len(networks) < 2 and all(same_images(found[0], x) for x in found)


def _tables(table: list[list[str]]) -> list[str]:
    """Return the lines of a table, or of several with some of its columns each if it is too wide."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    fitting = max(1, (WIDTH - widths[0]) // (2 + max(widths[1:])))
    lines: list[str] = []
    for start in range(1, len(widths), fitting):
        part = range(start, min(start + fitting, len(widths)))
        lines += [""] * (start > 1)
        for row in table:
            lines.append("  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in part)]).rstrip())
    return lines


def _cut(text: str, width: int) -> str:
    """Return text of at most `width` characters."""
    return text if len(text) <= width else text[: width - 3] + "..."


def row_title(metric: str, subject: str) -> str:
    """Return the title of a row of results."""
    return metric if subject in ("trained", "pixels", "pca_pixels") else f"{metric}, {subject}"


def shown(value: Any) -> str:
    """Return a setting as text."""
    return value if isinstance(value, str) else json.dumps(value)


def compare(paths: Sequence[Path]) -> Comparison:
    """Read runs to compare them.

    Args:
        paths: run folders, whose training may be at any step, or exported models, which have no curves; folders, or
            names of models (`bigbigan.load`).

    Raises:
        UserError: a folder is neither, or is given twice.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError("the same run is given twice; expected different run folders")
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    known: dict[str, str] = {}
    return Comparison([_read(model_folder(path), name, known) for path, name in zip(paths, names, strict=True)])


def _read(path: Path, name: str, known: dict[str, str]) -> Compared:
    """Read a run. `known` has the names of data by fingerprint: an exported model may have a neutral name for them."""
    config = read_config(path)
    try:
        card = data_card(path)
    except UserError:
        card = {}
    recorded = card.get("name", "not recorded")
    data = known.setdefault(card.get("fingerprint", recorded), recorded)
    lines, _ = read_lines(path / "results.jsonl", RESULT)
    lines = [line | {"dataset": data} if line["dataset"] == recorded else line for line in lines]
    results, _, _ = newest_results(lines, data if "name" in card else None)
    device = read_environment(path).get("device", "not recorded")
    return Compared(name, path, config, data, str(device), read_metrics(path), results)
