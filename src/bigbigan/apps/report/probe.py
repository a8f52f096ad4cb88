"""Write the section on what the encoder learned: bars and a table of the probes, and every other result line."""

from __future__ import annotations

from typing import Any

from bigbigan.apps.report.charts import INK, MUTED, ON, SERIES, svg
from bigbigan.apps.report.contents import Results, Run, formatted
from bigbigan.apps.report.markup import Html, command, join, missing, paragraph, table, tag
from bigbigan.evaluation.records import PROBE_COLUMNS, PROBE_ROWS, better


def probe(run: Run) -> Html:
    """Return the section."""
    parts: list[object] = []
    known = {pattern.format(name) for pattern in PROBE_COLUMNS.values() for name, _ in PROBE_ROWS.values()}
    line = next((line for (metric, _), line in run.own.items() if metric in known), None)
    if line is None:
        parts.append(missing("Not measured on the run's own data. To measure: ", command("evaluate", run.path)))
    else:
        n = line.get("n", 0)
        how = (
            f"Accuracy in percent on {n:,} images (the {line['split']} split of {line['dataset']}) of a linear "
            "classifier, or of 5 nearest neighbours, on frozen features. Bars show BN+CReLU, the feature the paper "
            "probes. With 10 labels for each class, they are the mean and standard deviation over trials with other "
            "labelled images. An encoder that has learned exceeds the dotted line of the pixels, raw or whitened, "
            "especially with few labels."
        )
        bars = (_bars(run.own, title, pattern) for title, pattern in PROBE_COLUMNS.items())
        parts += [paragraph(how), tag("div", *bars, classes="charts"), _probe_table(run.own)]
    others = [line for line in run.own.values() if line["metric"] not in known] + run.others
    if others:
        columns = ("metric", "subject", "dataset", "split", "n", "steps")
        rows = [(v["metric"], formatted(v), *(v.get(key, "") for key in columns[1:])) for v in others]
        values = table(("metric", "value", *columns[1:]), rows, "numbers")
        summary = tag("summary", f"Other values ({len(rows)}): other protocols, neighbours, image quality")
        parts.append(tag("details", summary, values, **({"open": "open"} if len(rows) < 12 else {})))
    if run.damaged_results:
        parts.append(paragraph(f"{run.damaged_results} damaged lines of results.jsonl were skipped.", classes="warn"))
    return join(*parts)


def _bars(results: Results, title: str, pattern: str) -> Html:
    rows = {
        "raw pixels": ("pixels", "pixels"),
        "PCA pixels": ("pca_pixels", "pca_pixels"),
        "untrained E": ("bn_crelu", "untrained"),
        "trained E": ("bn_crelu", "trained"),
    }
    found = {row: line for row, (name, s) in rows.items() if (line := results.get((pattern.format(name), s)))}
    if not found:
        return Html()

    def draw(axes: Any) -> None:
        for place, (row, line) in enumerate(found.items()):
            value, std = line["value"], line.get("std") or 0
            axes.barh(place, value, 0.72, color=SERIES[0] if row == "trained E" else MUTED)
            if std:
                axes.errorbar(value, place, xerr=std, color=INK, capsize=3, lw=1.2)
            start, colour = (2, ON) if value > 30 else (value + std + 2, INK)
            axes.text(start, place, formatted(line), color=colour, va="center", weight="bold")
        if pixels := better(found.get("raw pixels"), found.get("PCA pixels")):
            axes.axvline(pixels["value"], color=INK, lw=0.9, ls=":")
        axes.set(xlim=(0, 102), yticks=range(len(found)), yticklabels=list(found))
        axes.tick_params(length=0)
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()

    label = f"{title}: " + ", ".join(f"{row} {formatted(line)}" for row, line in found.items())
    return tag("figure", tag("figcaption", tag("b", title)), svg(draw, label, 1.5))


def _probe_table(results: Results) -> Html:
    """Return a table of features by protocols; the highest value of each column is bold."""
    cells = {
        (row, column): line
        for row, (name, subject) in PROBE_ROWS.items()
        for column, pattern in PROBE_COLUMNS.items()
        if (line := results.get((pattern.format(name), subject)))
    }

    def cell(row: str, column: str) -> object:
        if (row, column) not in cells:
            return "not run"
        highest = max(line["value"] for (_, c), line in cells.items() if c == column)
        text = formatted(cells[row, column])
        return tag("b", text) if cells[row, column]["value"] == highest else text

    return table(
        ["", *PROBE_COLUMNS], ([row, *(cell(row, column) for column in PROBE_COLUMNS)] for row in PROBE_ROWS), "numbers"
    )
