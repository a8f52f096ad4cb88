"""Say for each scaled-down row of Table 1 whether it differs from its base as in the paper (docs/notes/table1.md)."""

from __future__ import annotations

from math import hypot, sqrt
from statistics import mean, stdev
from typing import NamedTuple

from bigbigan.evaluation.published_tables import Cell, fill
from reproduction.render.cells import Line

COLUMNS = ("IS", "FID", "Cls.")
PUBLISHED_SEEDS = 3  # of rows with a standard deviation
BASE, HIGH_RES_E = "table1/base", "table1/high_res_e"
# Rows of the paper's second group, whose E sees 256 px, are changes of its first row.
OF_HIGH_RES_E = (
    "low_res_g", "high_res_g", "resnet101", "resnet_x2", "revnet", "revnet_x2", "revnet_x4", "resnet_up_encoder_lr",
    "revnet_x4_up_encoder_lr",
)  # fmt: skip


def claims(lines: list[Line], scale: int = 16) -> str:
    """Render, for each row, its difference from Base or High Res E: published, ours, and whether they agree.

    A difference of means is significant if it is larger than two standard errors. Our standard deviation is over seeds,
    pooled over all rows that have several. The published one is as printed; rows that were run once have the pooled
    deviation of the other rows of their group.
    """
    filled = fill("1", [x for x in lines if not x["study"].startswith("table2")], scale)
    rows = {experiment: (title, cells) for title, experiment, cells in filled.rows if experiment}
    shown: dict[str, list[str]] = {experiment: [] for experiment in rows}
    for column in COLUMNS:
        cells = {experiment: of_row[filled.columns.index(column)] for experiment, (_, of_row) in rows.items()}
        published = _published(cells)
        deviation = _pooled([(stdev(c.values), len(c.values)) for c in cells.values() if len(c.values) > 1])
        for experiment, cell in cells.items():
            reference = _reference(experiment)
            theirs = None
            if experiment in published and reference in published:
                theirs = Difference.of(published[experiment], published[reference])
            shown[experiment].append(_claim(cell, cells[reference], theirs, deviation))
    out = ["| row | next to | " + " | ".join(COLUMNS) + " |", "|---" * (2 + len(COLUMNS)) + "|"]
    for experiment, (title, of_row) in rows.items():
        if experiment != BASE and any(cell.values for cell in of_row):
            out.append(f"| {title} | {rows[_reference(experiment)][0]} | {' | '.join(shown[experiment])} |")
    return "\n".join(out if len(out) > 2 else [*out, "| not run |" + " |" * (1 + len(COLUMNS))])


def _in_high_res_group(experiment: str) -> bool:
    """Return whether a row belongs to the group of High Res E."""
    return experiment == HIGH_RES_E or experiment.removeprefix("table1/") in OF_HIGH_RES_E


def _reference(experiment: str) -> str:
    """Return the row that a row is compared with."""
    return HIGH_RES_E if _in_high_res_group(experiment) and experiment != HIGH_RES_E else BASE


class Mean(NamedTuple):
    """Hold a mean and its standard error."""

    value: float
    error: float


class Difference(NamedTuple):
    """Hold a difference of two means, and whether it is larger than two standard errors."""

    value: float
    significant: bool

    @classmethod
    def of(cls, a: Mean, b: Mean) -> Difference:
        """Subtract two means."""
        return cls(a.value - b.value, abs(a.value - b.value) >= 2 * hypot(a.error, b.error))


def _published(cells: dict[str, Cell]) -> dict[str, Mean]:
    """Return the published means of a column by row, three runs each, or one if no deviation is printed."""
    printed = {e: c.published.split(" ± ") for e, c in cells.items() if c.comparable and c.published not in ("", "–")}
    means = {}
    for experiment, (value, *deviation) in printed.items():
        if deviation:
            error = float(deviation[0]) / sqrt(PUBLISHED_SEEDS)
        else:
            group = [e for e in printed if _in_high_res_group(e) == _in_high_res_group(experiment)]
            error = _pooled([(float(printed[e][1]), PUBLISHED_SEEDS) for e in group if len(printed[e]) > 1]) or 0.0
        means[experiment] = Mean(float(value), error)
    return means


def _pooled(deviations: list[tuple[float, int]]) -> float | None:
    """Return the standard deviation pooled over rows, from that of each row and its number of runs; None if no row."""
    if not deviations:
        return None
    return sqrt(sum((n - 1) * s**2 for s, n in deviations) / sum(n - 1 for _, n in deviations))


def _claim(cell: Cell, reference: Cell, published: Difference | None, deviation: float | None) -> str:
    """Describe the difference of a row from its reference: published, ours, and the verdict.

    `deviation` is ours over seeds, None if no row has several.
    """
    if not cell.values or not reference.values:
        return "not run" if cell.exists else "–"
    ours = mean(cell.values) - mean(reference.values)
    if not cell.comparable:
        return "not comparable"
    if published is None:
        return f"{ours:+.2f}"
    text = f"{published.value:+.2f}, ours {ours:+.2f}: "
    if not published.significant:
        return text + "no claim"
    same = published.value * ours > 0
    if deviation is None:
        return text + ("same sign" if same else "other sign")
    if abs(ours) < 2 * deviation * sqrt(1 / len(cell.values) + 1 / len(reference.values)):
        return text + "undecided"
    return text + ("**agrees**" if same else "**disagrees**")
