"""Read the few-label curve from result lines: accuracy over the number of labelled images, and what it advises.

The lines are those of `evaluate --metrics curve`: top1_linear_F from N labelled images of each class, from a percentage
of each class, and from all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import log2
from typing import Any, NamedTuple

from bigbigan.evaluation.records import Subject

__all__ = ["ROWS", "Point", "advice", "curve_table", "curves", "is_point", "text"]

# The rows of the curve by title: feature and subject.
ROWS: dict[str, tuple[str, Subject]] = {
    "raw pixels": ("pixels", "pixels"),
    "PCA-whitened pixels": ("pca_pixels", "pca_pixels"),
    "untrained E": ("bn_crelu", "untrained"),
    "trained E": ("bn_crelu", "trained"),
    "encoder": ("bn_crelu", "external"),
}
OURS = ("trained E", "encoder")
NAME = re.compile(r"top1_linear_(pixels|pca_pixels|bn_crelu)(?:_(\d+)(perclass|percent))?")
ENOUGH = 1.0  # points of accuracy: if doubling the labels adds less, more labels are hardly worth having


class Point(NamedTuple):
    """Hold one point of a curve: labelled images of each class, accuracy in percent, its deviation over trials."""

    labels: int
    accuracy: float
    std: float


def is_point(metric: str) -> bool:
    """Return whether a metric is of the curve only, and has no column in the table of probes."""
    return (name := NAME.fullmatch(metric)) is not None and name[2] is not None and name[2] + name[3] != "10perclass"


def curve_table(lines: Iterable[Mapping[str, Any]]) -> tuple[list[str], dict[str, list[Mapping[str, Any] | None]]]:
    """Return the curve as a table: its columns ("10 per class", "1 %"), and the lines of each row; None: not measured.

    Both are empty unless a line is of the curve only.

    Args:
        lines: result lines (`bigbigan.evaluation.records`) of one run, data set and split; of equals the last counts.
    """
    lines = list(lines)
    if not any(is_point(line["metric"]) for line in lines):
        return [], {}
    found: dict[tuple[str, str], dict[tuple[bool, int], Mapping[str, Any]]] = {}
    for line in lines:
        if name := NAME.fullmatch(line["metric"]):
            place = (name[3] != "perclass", int(name[2] or 100))
            found.setdefault((name[1], line["subject"]), {})[place] = line
    places = sorted({place for row in found.values() for place in row})
    rows = {title: found[row] for title, row in ROWS.items() if row in found}
    columns = [f"{number} %" if of_all else f"{number} per class" for of_all, number in places]
    return columns, {title: [row.get(place) for place in places] for title, row in rows.items()}


def curves(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[Point]]:
    """Return, by title of the row, the accuracy over labelled images of each class, fewest first.

    A row with fewer than two points is omitted.

    Args:
        lines: as for `curve_table`.
    """
    columns, rows = curve_table(lines)
    found = {
        title: [
            Point(int(column.split()[0]), line["value"], line.get("std") or 0.0)
            for column, line in zip(columns, row, strict=True)
            if line is not None and column.endswith("per class")
        ]
        for title, row in rows.items()
    }
    return {title: points for title, points in found.items() if len(points) > 1}


def text(lines: Iterable[Mapping[str, Any]]) -> str:
    """Return the curve as text: a table of accuracies in percent, and the advice; "" if it was not measured."""
    lines = list(lines)
    columns, rows = curve_table(lines)
    if not columns:
        return ""
    names = [column.replace(" per class", "") for column in columns]
    out = ["accuracy, %, over labels per class, and over a share of all labels"]
    out.append(" " * 20 + "".join(name.rjust(7) for name in names))
    for title, row in rows.items():
        values = ("-" if line is None else f"{line['value']:.1f}" for line in row)
        out.append(title.ljust(20) + "".join(value.rjust(7) for value in values))
    return "\n".join([*out, *advice(curves(lines))])


def advice(found: Mapping[str, Sequence[Point]]) -> list[str]:
    """Return what `curves` say about the number of labels, as sentences; none without a curve of an encoder."""
    ours = next((found[title] for title in OURS if title in found), None)
    return [] if ours is None else [_worth(ours), *_saved(ours, found)]


def _worth(points: Sequence[Point]) -> str:
    """Say how many more labels are worth having."""
    gains = [(b.accuracy - a.accuracy) / log2(b.labels / a.labels) for a, b in pairwise(points)]
    last = len(gains)
    while last and gains[last - 1] < ENOUGH:
        last -= 1
    if last == len(gains):
        return (
            f"More labels are worth having: up to {points[-1].labels} per class, the most measured, doubling their "
            f"number still adds {gains[-1]:.1f} points of accuracy."
        )
    enough = points[last]
    return (
        f"Beyond {enough.labels} per class ({enough.accuracy:.1f} %), more labels are hardly worth having: up to "
        f"{points[-1].labels}, doubling their number adds less than {ENOUGH:g} point of accuracy."
    )


def _saved(ours: Sequence[Point], found: Mapping[str, Sequence[Point]]) -> list[str]:
    """Say how many labels the encoder saves against each kind of pixels."""
    sentences = []
    for title, points in found.items():
        if "pixels" not in title:
            continue
        best = max(points, key=lambda point: point.accuracy)
        reached = next((point for point in ours if point.accuracy >= best.accuracy), None)
        if reached is None:
            sentences.append(
                f"The encoder does not reach the best of {title}: {best.accuracy:.1f} % from {best.labels} per class."
            )
        else:
            sentences.append(
                f"With {reached.labels} labels per class the encoder reaches {reached.accuracy:.1f} %; {title} reach "
                f"{best.accuracy:.1f} % with {best.labels}."
            )
    return sentences
