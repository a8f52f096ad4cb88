"""Print published tables with our results as text, Markdown or HTML."""

from __future__ import annotations

import html
from collections.abc import Callable

from bigbigan.evaluation.published_tables import FilledTable

__all__ = ["FORMATS", "as_markdown"]


def _grid(table: FilledTable) -> list[list[str]]:
    """Return the cells as text: for each column the published number and ours, after the budget if there is one.

    A column without published numbers has only ours.
    """
    published = [any(cells[i].published for _, _, cells in table.rows) for i in range(len(table.columns))]
    head = [""]
    for column, both in zip(table.columns, published, strict=True):
        head += [column, "ours"] if both else [f"{column} (ours)"]
    body = []
    for title, _, cells in table.rows:
        row = [title]
        for c, both in zip(cells, published, strict=True):
            row += [c.published or "–"] if both else []
            row.append(c.ours)
        body.append(row)
    if table.budgets is not None:
        head[1:1] = ["images seen", "updates of E"]
        for row, spent in zip(body, table.budgets, strict=True):
            row[1:1] = spent.cells() if spent else ("–", "–")
    return [head, *body]


def as_text(table: FilledTable) -> str:
    """Return the table as aligned text."""
    grid = _grid(table)
    widths = [max(len(row[i]) for row in grid) for i in range(len(grid[0]))]
    lines = [
        "  ".join(
            text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in grid
    ]
    return "\n".join([table.title, "", *lines, *([""] if table.notes else []), *table.notes])


def as_markdown(table: FilledTable) -> str:
    """Return the table as Markdown."""
    head, *body = _grid(table)
    rows = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]
    return "\n".join([f"**{table.title}**", "", *rows, *(f"\n{note}." for note in table.notes)])


def as_html(table: FilledTable) -> str:
    """Return the table as HTML."""
    head, *body = _grid(table)

    def row(tag: str, cells: list[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    rows = "\n".join([row("th", head), *(row("td", cells) for cells in body)])
    notes = "\n".join(f"<p>{html.escape(note)}.</p>" for note in table.notes)
    return f"<table>\n<caption>{html.escape(table.title)}</caption>\n{rows}\n</table>\n{notes}"


FORMATS: dict[str, Callable[[FilledTable], str]] = {"text": as_text, "markdown": as_markdown, "html": as_html}
