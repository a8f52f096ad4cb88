"""Register the experiments: importing this package fills `EXPERIMENTS`, from one module for each group."""

from __future__ import annotations

import difflib

from bigbigan.errors import UserError
from bigbigan.experiments import bigan as bigan
from bigbigan.experiments import biggan as biggan
from bigbigan.experiments import pretext as pretext
from bigbigan.experiments import small as small
from bigbigan.experiments import table1 as table1
from bigbigan.experiments import table3 as table3
from bigbigan.experiments.registry import EXPERIMENTS, Experiment

__all__ = ["EXPERIMENTS", "Experiment", "find"]


def find(name: str) -> Experiment:
    """Return the experiment of this name.

    Raises:
        UserError: there is none; the message suggests the nearest name.
    """
    if name not in EXPERIMENTS:
        near = difflib.get_close_matches(name, EXPERIMENTS, n=1, cutoff=0.4)
        raise UserError(
            f"there is no experiment {name}; " + (f"did you mean {near[0]}?" if near else "see: bigbigan list")
        )
    return EXPERIMENTS[name]
