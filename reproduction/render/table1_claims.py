"""Say for each scaled-down row of Table 1 whether it differs from its base as in the paper (docs/notes/table1.md)."""

from __future__ import annotations

from math import sqrt
from statistics import median, stdev

from bigbigan.evaluation.published_tables import Cell, fill
from reproduction.render.cells import Line
from reproduction.render.published import TABLE2

COLUMNS = ("IS", "FID", "Cls.")
# Rows of the paper's second group, whose E sees 256 px, are changes of its first row.
OF_HIGH_RES_E = (
    "low_res_g", "high_res_g", "resnet101", "resnet_x2", "revnet", "revnet_x2", "revnet_x4", "resnet_up_encoder_lr",
    "revnet_x4_up_encoder_lr",
)  # fmt: skip


def claims(lines: list[Line], scale: int = 16) -> str:
    """Render, for each row, its difference from Base or High Res E: published, ours, and whether they agree.

    Ours is decided if it is larger than two standard deviations, by the seeds of Base; the published difference
    likewise, by the printed deviations.
    """
    filled = fill("1", [x for x in lines if x["study"] not in TABLE2], scale)
    rows = {experiment: (title, cells) for title, experiment, cells in filled.rows if experiment}
    base = rows["table1/base"][1]
    out = ["| row | next to | " + " | ".join(COLUMNS) + " |", "|---" * (2 + len(COLUMNS)) + "|"]
    for experiment, (title, cells) in rows.items():
        reference = "table1/high_res_e" if experiment.removeprefix("table1/") in OF_HIGH_RES_E else "table1/base"
        other_title, others = rows[reference]
        if experiment == reference or not any(c.values for c in cells):
            continue
        shown = []
        for column in COLUMNS:
            i = filled.columns.index(column)
            shown.append(_claim(cells[i], others[i], base[i]))
        out.append(f"| {title} | {other_title} | {' | '.join(shown)} |")
    return "\n".join(out if len(out) > 2 else [*out, "| not run |" + " |" * (1 + len(COLUMNS))])


def _claim(cell: Cell, other: Cell, base: Cell) -> str:
    """Describe a difference: published, ours, and the verdict."""
    if not cell.values or not other.values:
        return "not run"
    ours = median(cell.values) - median(other.values)
    if not cell.published or cell.published == "–":
        return f"{ours:+.2f}"
    (value, deviation), (other_value, other_deviation) = _numbers(cell), _numbers(other)
    published = value - other_value
    text = f"{published:+.2f}, ours {ours:+.2f}: "
    if abs(published) < 2 * sqrt(deviation**2 + other_deviation**2):
        return text + "no claim"
    if len(base.values) < 2:
        return text + ("same sign" if published * ours > 0 else "other sign")
    if abs(ours) < 2 * stdev(base.values) * sqrt(1 / len(cell.values) + 1 / len(other.values)):
        return text + "undecided"
    return text + ("**agrees**" if published * ours > 0 else "**disagrees**")


def _numbers(cell: Cell) -> tuple[float, float]:
    """Return the published number and its standard deviation, or 0 if none is printed."""
    value, _, deviation = cell.published.partition(" ± ")
    return float(value), float(deviation or 0)
