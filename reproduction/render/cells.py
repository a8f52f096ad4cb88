"""Select result lines, and format them as cells of tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bigbigan.evaluation.records import chosen_settings, transferred

Line = dict[str, Any]  # a result line (bigbigan.evaluation.records)


def of_study(lines: list[Line], *studies: str) -> list[Line]:
    """Return the lines of these studies."""
    return [x for x in lines if x["study"] in studies]


def newest(lines: list[Line], experiment: str, metric: str, subject: str) -> Line | None:
    """Return the last line of this experiment as defined, metric and subject, or None if it was not run."""
    wanted = (experiment, metric, subject)
    return last(
        lines,
        lambda x: (
            (x["experiment"], x["metric"], x["subject"]) == wanted
            and not chosen_settings(x)
            and not x.get("scale")
            and not transferred(x)
        ),
    )


def last(lines: list[Line], fits: Callable[[Line], bool]) -> Line | None:
    """Return the last line that fits, or None."""
    return next((x for x in reversed(lines) if fits(x)), None)


def newest_by(lines: list[Line], *keys: str) -> dict[tuple[Any, ...], float]:
    """Return the value of the last line for each combination of these fields or settings."""
    return {tuple(x[k] if k in x else x["settings"].get(k) for k in keys): x["value"] for x in lines}


def cell(line: Line | None, digits: int = 1) -> str:
    """Return the value of a line, with its standard deviation, as a cell of a table."""
    if line is None:
        return "not run"
    return f"{line['value']:.{digits}f}" + (f" ± {line['std']:.{digits}f}" if line["std"] is not None else "")
