"""Register the experiments: importing this package fills `EXPERIMENTS`, from one module for each group.

Experiments of other packages are found by name, MODULE:NAME, or by the entry points of the group "bigbigan.experiments"
(docs/extending.md).
"""

from __future__ import annotations

import difflib
import warnings
from importlib.metadata import EntryPoint, entry_points

from bigbigan.errors import UserError
from bigbigan.experiments import bigan as bigan
from bigbigan.experiments import biggan as biggan
from bigbigan.experiments import pretext as pretext
from bigbigan.experiments import small as small
from bigbigan.experiments import table1 as table1
from bigbigan.experiments import table3 as table3
from bigbigan.experiments.registry import EXPERIMENTS, Experiment, experiment_of
from bigbigan.user_code import import_named, is_named

__all__ = ["ENTRY_POINTS", "EXPERIMENTS", "Experiment", "find", "installed"]

ENTRY_POINTS = "bigbigan.experiments"  # the group: name = "my_package.experiments:wide"


def find(name: str) -> Experiment:
    """Return the experiment of this name: of this package, of an installed one, or a function, MODULE:NAME.

    Raises:
        UserError: there is none; the message suggests the nearest name.
    """
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    points = _entry_points()
    if name in points:
        return _named(name, points[name].value)
    if is_named(name):
        return _named(name, name)
    near = difflib.get_close_matches(name, [*EXPERIMENTS, *points], n=1, cutoff=0.4)
    raise UserError(f"there is no experiment {name}; " + (f"did you mean {near[0]}?" if near else "see: bigbigan list"))


def installed() -> dict[str, Experiment]:
    """Return the experiments that other installed packages offer, by name; warn of those that cannot be imported."""
    found = {}
    for name, point in _entry_points().items():
        try:
            found[name] = _named(name, point.value)
        except UserError as error:
            warnings.warn(f"experiment {name} of another package: {error}", stacklevel=2)
    return found


def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS) if point.name not in EXPERIMENTS}


def _named(name: str, value: str) -> Experiment:
    return experiment_of(name, import_named(value, "a function that returns a bigbigan.config.Config"))
