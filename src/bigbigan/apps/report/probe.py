"""Write the section on what the encoder learned: bars and a table of the probes, and every other result line."""

from __future__ import annotations

from typing import Any

from bigbigan.apps.report.charts import INK, MUTED, ON, SERIES, svg
from bigbigan.apps.report.contents import Run
from bigbigan.apps.report.markup import Html, captioned, command, join, key, missing, paragraph, table, tag
from bigbigan.evaluation.label_curve import OURS, advice, curve_table, curves, is_point
from bigbigan.evaluation.records import PROBE_COLUMNS, PROBE_ROWS, Line, Results, better, formatted


def probe(run: Run) -> Html:
    """Return the section."""
    parts: list[object] = []
    known = {pattern.format(name) for pattern in PROBE_COLUMNS.values() for name, _ in PROBE_ROWS.values()}
    line = next((line for (metric, _), line in run.own.items() if metric in known), None)
    if line is None:
        parts.append(missing("Not measured on the run's own data. To measure: ", run.evaluate))
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
        parts += [paragraph(how), tag("div", *bars, classes="charts"), _probe_table(run.own, run.external)]
        parts += [tag("h3", "Accuracy over the number of labels"), _label_curve(run)]
    others = [line for line in run.own.values() if line["metric"] not in known and not is_point(line["metric"])]
    others += run.others
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


def _label_curve(run: Run) -> Html:
    """Return the few-label curve with its advice, or the command that measures it."""
    lines = list(run.own.values())
    found = curves(lines)
    if not found:
        how = "Not measured; it says how many more labels are worth having, and takes minutes: "
        return missing(how, command("evaluate", run.path, "--metrics", "curve"))
    order = sorted(found, key=lambda title: title not in OURS)  # the encoder has the first colour

    def draw(axes: Any) -> None:
        for colour, title in zip(SERIES, order, strict=False):
            labels, accuracy, std = zip(*found[title], strict=True)
            axes.errorbar(labels, accuracy, yerr=std, color=colour, lw=1.8, marker="o", ms=4, capsize=2, elinewidth=1)
        places = sorted({point.labels for points in found.values() for point in points})
        axes.set_xscale("log")
        axes.set_xticks(places, [str(n) for n in places])
        axes.minorticks_off()
        axes.set_xlabel("labels per class", color=MUTED)

    last = {title: f"{found[title][-1].accuracy:.1f}" for title in order}
    entries = (key(i, title, value) for i, (title, value) in enumerate(last.items()))
    label = "Accuracy over labels per class; last: " + ", ".join(f"{title} {value}" for title, value in last.items())
    chart = captioned("Accuracy, %", entries, svg(draw, label, 2.6))
    columns, rows = curve_table(lines)
    cells = ([title, *("–" if line is None else formatted(line) for line in row)] for title, row in rows.items())
    values = tag("details", tag("summary", "Values"), table(["", *columns], cells, "numbers"))
    words = (paragraph(tag("b", sentence) if not i else sentence) for i, sentence in enumerate(advice(found)))
    return join(*words, tag("div", chart, classes="charts"), values)


def _probe_table(results: Results, external: list[Line]) -> Html:
    """Return a table of features by protocols; the highest value of each column is bold.

    External encoders that were measured on the same images have rows of their own.
    """
    cells = {
        (row, column): line
        for row, (name, subject) in PROBE_ROWS.items()
        for column, pattern in PROBE_COLUMNS.items()
        if (line := results.get((pattern.format(name), subject)))
    }

    for line in external:
        for column, pattern in PROBE_COLUMNS.items():
            if line["metric"] == pattern.format("bn_crelu"):
                cells[f"{line['experiment']}, BN+CReLU", column] = line
    rows = list(dict.fromkeys([*PROBE_ROWS, *(row for row, _ in cells)]))

    def cell(row: str, column: str) -> object:
        if (row, column) not in cells:
            return "not run"
        highest = max(line["value"] for (_, c), line in cells.items() if c == column)
        text = formatted(cells[row, column])
        return tag("b", text) if cells[row, column]["value"] == highest else text

    lines = ([row, *(cell(row, column) for column in PROBE_COLUMNS)] for row in rows)
    return table(["", *PROBE_COLUMNS], lines, "numbers")
