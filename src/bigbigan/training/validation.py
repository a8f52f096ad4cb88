"""Validate during training: measure a metric of the averaged networks, and record which step is best by it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from bigbigan.config import Config
from bigbigan.data import ImageSet, Source
from bigbigan.data.batches import Batches
from bigbigan.training import checkpoint as ck
from bigbigan.training import distributed
from bigbigan.training.monitor import Monitor, read_metrics
from bigbigan.training.state import TrainingState
from bigbigan.training.step import is_due

__all__ = ["MakeValidation", "Validation", "validate", "validation_is_missing"]


class Validation(Protocol):
    """Measure the networks of a training state, without changing a weight (early stopping).

    Attributes:
        metric: the metric; its `name` is logged.
        possible: whether the data and the networks allow it.
        lower_is_better: whether a lower value is better.
    """

    metric: Any

    @property
    def possible(self) -> bool: ...

    @property
    def lower_is_better(self) -> bool: ...

    def __call__(self, state: TrainingState) -> float: ...


# Makes a Validation of: settings, batches, the images they are made of, source, run folder. See `bigbigan.apps.train`.
MakeValidation = Callable[[Config, Batches, ImageSet, Source, Path], Validation]


def validate(validation: Validation, state: TrainingState, monitor: Monitor, run: Path) -> None:
    """Measure and log the validation metric, and record the step in best.json if it is the best of those kept.

    The value is logged last, unless it is NaN: if the run is killed before that, the validation is repeated
    (`validation_is_missing`).
    """
    metric = validation.metric.name
    with distributed.busy(f"measuring {metric}"):
        value = validation(state)
    best, kept = ck.best_record(run), {c.step for c in ck.checkpoints(run)} - {state.step}
    values = [(x["step"], x[metric]) for x in read_metrics(run) if x["step"] in kept and metric in x]
    if best is not None and best["step"] in kept and best["metric"] == metric:
        values.append((best["step"], best["value"]))
    sign = -1 if validation.lower_is_better else 1
    if known := [(step, v) for step, v in [*values, (state.step, value)] if not math.isnan(v)]:
        step, top = max(known, key=lambda pair: sign * pair[1])  # the first of equals
        if best != {"step": step, "metric": metric, "value": top}:
            ck.save_best(run, step, metric, top)
    if not math.isnan(value):
        monitor.log(state.step, {metric: value})


def validation_is_missing(validation: Validation, state: TrainingState, run: Path) -> bool:
    """Return whether the run was ended after it saved a checkpoint and before the validation that was due then."""
    log = state.config.log
    due = validation.possible and is_due(log.validate_every, state.step, state.config.training.steps)
    return due and not any(x["step"] == state.step and log.validation_metric in x for x in read_metrics(run))
