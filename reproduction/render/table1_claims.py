"""Say for each scaled-down row of Table 1 whether it differs from its base as in the paper (docs/notes/table1.md)."""

from __future__ import annotations

from math import sqrt
from statistics import median, stdev

from bigbigan.evaluation.published_tables import Cell, fill
from reproduction.render.cells import Line
from reproduction.render.published import TABLE2

COLUMNS = ("IS", "FID", "Cls.")
BASE, HIGH_RES_E = "table1/base", "table1/high_res_e"
# Rows of the paper's second group, whose E sees 256 px, are changes of its first row.
OF_HIGH_RES_E = (
    "low_res_g", "high_res_g", "resnet101", "resnet_x2", "revnet", "revnet_x2", "revnet_x4", "resnet_up_encoder_lr",
    "revnet_x4_up_encoder_lr",
)  # fmt: skip


def claims(lines: list[Line], scale: int = 16) -> str:
    """Render, for each row, its difference from Base or High Res E: published, ours, and whether they agree.

    Ours is decided if it is larger than two of its standard deviations, by the seeds of all rows of the same group that
    have several; the published difference likewise, by the printed deviations.
    """
    filled = fill("1", [x for x in lines if x["study"] not in TABLE2], scale)
    rows = {experiment: (title, cells) for title, experiment, cells in filled.rows if experiment}
    shown: dict[str, list[str]] = {experiment: [] for experiment in rows}
    for column in COLUMNS:
        cells = {experiment: of_row[filled.columns.index(column)] for experiment, (_, of_row) in rows.items()}
        of_base = _deviation([cell for experiment, cell in cells.items() if not _in_high_res_group(experiment)])
        of_high = _deviation([cell for experiment, cell in cells.items() if _in_high_res_group(experiment)]) or of_base
        for experiment in rows:
            pair = [
                (cells[e], of_high if _in_high_res_group(e) else of_base) for e in (experiment, _reference(experiment))
            ]
            shown[experiment].append(_claim(*pair))
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


def _deviation(cells: list[Cell]) -> float | None:
    """Return the standard deviation over seeds, pooled over the rows that have several, or None."""
    several = [c.values for c in cells if len(c.values) > 1]
    if not several:
        return None
    squares = sum((len(values) - 1) * stdev(values) ** 2 for values in several)
    return sqrt(squares / sum(len(values) - 1 for values in several))


def _claim(row: tuple[Cell, float | None], reference: tuple[Cell, float | None]) -> str:
    """Describe a difference, from a row and its reference with their deviations: published, ours, and the verdict."""
    (cell, deviation), (other, other_deviation) = row, reference
    if not cell.values or not other.values:
        return "not run" if cell.exists else "–"
    ours = median(cell.values) - median(other.values)
    if not cell.published or cell.published == "–":
        return f"{ours:+.2f}"
    (value, printed), (other_value, other_printed) = _numbers(cell), _numbers(other)
    published = value - other_value
    text = f"{published:+.2f}, ours {ours:+.2f}: "
    if abs(published) < 2 * sqrt(printed**2 + other_printed**2):
        return text + "no claim"
    if deviation is None or other_deviation is None:
        return text + ("same sign" if published * ours > 0 else "other sign")
    if abs(ours) < 2 * sqrt(deviation**2 / len(cell.values) + other_deviation**2 / len(other.values)):
        return text + "undecided"
    return text + ("**agrees**" if published * ours > 0 else "**disagrees**")


def _numbers(cell: Cell) -> tuple[float, float]:
    """Return the published number and its standard deviation, or 0 if none is printed."""
    value, _, deviation = cell.published.partition(" ± ")
    return float(value), float(deviation or 0)
