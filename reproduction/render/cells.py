"""Select result lines, and format them as cells of tables."""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean, stdev
from typing import Any

from bigbigan.evaluation.records import chosen_settings, transferred, with_std
from bigbigan.experiments import EXPERIMENTS

Line = dict[str, Any]  # a result line (bigbigan.evaluation.records)


def readable(line: Line) -> Line:
    """Return a line with its device as a table shows it: "1 thread"."""
    return line | {"device": line["device"].replace(" 1 threads", " 1 thread")} if "device" in line else line


def of_study(lines: list[Line], *studies: str) -> list[Line]:
    """Return the lines of these studies."""
    return [x for x in lines if x["study"] in studies]


PRECISION = "training.precision"
AUTOMATIC = {name for name, e in EXPERIMENTS.items() if e.config().training.precision == "auto"}  # the machine decides
# Settings of lines that were recorded before these experiments were changed to what docs/notes/encoder_search.md found.
FIRST_RECIPE: dict[str, dict[str, Any]] = {
    experiment: {"discriminator.joint_maps": 1, "discriminator.projection": False, "encoder.widths": widths}
    for experiment, widths in {
        "small/mnist": [16, 32, 64, 256],
        "small/fashion_mnist": [16, 32, 64, 256],
        "small/cifar10": [32, 64, 128, 512],
        "small/folder64": [16, 32, 64, 128, 256],
    }.items()
}
FIRST_RECIPE["small/folder64"]["encoder.augment"] = []  # now it hides a square of each image from E
FIRST_RECIPE["small/cifar10"] |= {"encoder.augment": [], "encoder.stdev_bias": -3.0, "training.e_steps": 1}


def changes(line: Line) -> tuple[dict[str, Any], bool]:
    """Return the settings of a line that somebody changed, and whether from the first recipe of a small experiment."""
    chosen = chosen_settings(line)
    if line["experiment"] in AUTOMATIC:
        chosen.pop(PRECISION, None)
    first = FIRST_RECIPE.get(line["experiment"])
    is_first = first is not None and first.items() <= chosen.items()
    return {k: v for k, v in chosen.items() if not (is_first and k in (first or {}))}, is_first


def title_of(experiment: str, line: Line | None) -> str:
    """Return the name of an experiment for a table, and whether the line is of its first recipe."""
    return f"`{experiment}`" + (", first recipe" if line is not None and changes(line)[1] else "")


def newest(lines: list[Line], experiment: str, metric: str, subject: str) -> Line | None:
    """Return the last line of this experiment as it is or was first defined, metric and subject, or None."""
    wanted = (experiment, metric, subject)
    return last(
        lines,
        lambda x: (
            (x["experiment"], x["metric"], x["subject"]) == wanted
            and not changes(x)[0]
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
    return "not run" if line is None else with_std(line["value"], line["std"], f".{digits}f")


def cell_of_seeds(lines: list[Line], digits: int = 1) -> str:
    """Return the mean over seeds, with its standard deviation, of lines of one metric; with one seed as `cell` does."""
    by_seed = {x["seed"]: x for x in lines}  # the last of each
    if len(by_seed) < 2:
        return cell(next(iter(by_seed.values()), None), digits)
    values = [x["value"] for x in by_seed.values()]
    return with_std(mean(values), stdev(values), f".{digits}f")
