"""Measure how long training takes; choose the number of steps that fits a time budget, and the faster precision.

`training.minutes` is such a budget. The number of steps is chosen once, before the first step, by timing steps of
networks that are then discarded. So a run of 10 minutes that had 2,310 steps equals the run of `training.steps=2310`,
bit by bit. `training.precision=auto` is resolved in the same way.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Literal

import torch

from bigbigan.config import Config
from bigbigan.data.batches import Batches
from bigbigan.errors import UserError
from bigbigan.training import checkpoint as ck
from bigbigan.training import distributed
from bigbigan.training.devices import synchronize
from bigbigan.training.precision import has_bfloat16
from bigbigan.training.run_folder import has_trained, read_config
from bigbigan.training.state import TrainingState
from bigbigan.training.step import training_step

__all__ = [
    "choose_precision",
    "choose_steps",
    "duration",
    "keep_chosen_precision",
    "keep_chosen_steps",
    "seconds_per_step",
]

MIN_STEPS = 3  # to measure
MAX_SECONDS = 10.0  # of measuring, once there were enough steps


def keep_chosen_steps(config: Config, run: Path) -> Config:
    """Return `config` with the number of steps that was chosen when a run with a time budget began.

    Raises:
        UserError: the run has a checkpoint and was given another budget, or none.
    """
    if not config.training.minutes or not (run / "config.json").exists():
        return config
    before = read_config(run).training
    if before.minutes != config.training.minutes:
        if not ck.checkpoints(run):
            return config
        given = f"{before.minutes:g} minutes, which were" if before.minutes else "no budget of time but"
        raise UserError(
            f"training.minutes={config.training.minutes:g}: {run} was given {given} {before.steps:,} steps; continue "
            "it with the same option, or give the total number of steps: --steps N"
        )
    return replace(config, training=replace(config.training, steps=before.steps))


def keep_chosen_precision(config: Config, run: Path) -> Config:
    """Return `config` with the precision that was chosen when a run of `training.precision=auto` began."""
    if config.training.precision != "auto" or not has_trained(run):
        return config
    return with_precision(config, read_config(run).training.precision)


def choose_precision(config: Config, batches: Batches, device: torch.device) -> Config:
    """Return `config` with `training.precision=auto` replaced by the precision of the faster step on all ranks.

    It is float32 without measuring if the device does not compute in bfloat16.
    """
    if config.training.precision != "auto":
        return config
    if distributed.maximum(not has_bfloat16(device)):
        return with_precision(config, "float32")
    seconds = {}
    precisions: tuple[Literal["float32", "bf16"], ...] = ("float32", "bf16")
    for precision in precisions:
        state = TrainingState(with_precision(config, precision), device)
        state.broadcast()
        seconds[precision] = seconds_per_step(state, batches, max_seconds=2.0)
        del state  # before the next one is built: two may not fit in memory
    faster = distributed.maximum(seconds["bf16"] < seconds["float32"] and distributed.is_first_rank())
    return with_precision(config, "bf16" if faster else "float32")


def with_precision(config: Config, precision: Literal["float32", "bf16", "auto"]) -> Config:
    """Return `config` with this `training.precision`."""
    return replace(config, training=replace(config.training, precision=precision))


def choose_steps(
    config: Config,
    batches: Batches,
    device: torch.device,
    validate: Callable[[TrainingState], float] | None,
    seconds: float,
) -> int:
    """Return how many training steps fit into a number of seconds: at least one, the same on all ranks.

    The time of validation and of the batch norm statistics that checkpoints, pictures and validation need is included,
    and so is the time of this measurement.

    Args:
        config: resolved settings; their number of steps is ignored.
        batches: the data of the run.
        device: the device to train on.
        validate: measures the validation metric of a training state; None without validation, and on all ranks but 0.
        seconds: the budget, from now on.
    """
    end = time.perf_counter() + seconds
    state = TrainingState(config, device)
    state.broadcast()
    step = seconds_per_step(state, batches, seconds / 20)
    start = time.perf_counter()
    state.fill_standing_statistics(batches)
    averages = _now(device) - start
    validation = 0.0
    with distributed.busy("measuring the validation metric once"):
        if validate is not None:
            start = time.perf_counter()
            validate(state)
            validation = _now(device) - start
    log = config.log
    intervals = [log.pictures_every, log.checkpoint_every, *([log.validate_every] if log.validate_every else [])]
    each = step + averages * _share_due(intervals)
    each += validation / log.validate_every if log.validate_every else 0.0
    left = end - time.perf_counter() - averages - validation  # all of it is due after the last step
    return int(distributed.maximum(max(1, int(left / each)) if distributed.is_first_rank() else 0))


def _share_due(intervals: Sequence[int]) -> float:
    """Return the share of steps that are a multiple of at least one of the intervals."""
    subsets = [(n, s) for n in range(1, len(intervals) + 1) for s in itertools.combinations(intervals, n)]
    return sum((-1) ** (n + 1) / math.lcm(*s) for n, s in subsets)


def seconds_per_step(state: TrainingState, batches: Batches, max_seconds: float = MAX_SECONDS) -> float:
    """Return the median duration of training steps, after one or two steps of warm-up.

    Args:
        state: a state to discard afterwards: the measured steps train it.
        batches: the data.
        max_seconds: seconds after which no further step is measured, at most 10; three steps are always measured.
    """
    for _ in range(2 if state.config.training.compile else 1):
        training_step(state, batches)
    durations: list[float] = []
    begun = _now(state.device)
    while True:
        start = time.perf_counter()
        training_step(state, batches)
        durations.append(_now(state.device) - start)
        enough = len(durations) >= MIN_STEPS and time.perf_counter() - begun >= min(max_seconds, MAX_SECONDS)
        if distributed.maximum(enough):
            return median(durations)


def _now(device: torch.device) -> float:
    synchronize(device)
    return time.perf_counter()


def duration(seconds: float) -> str:
    """Return a duration as text: "40 s", "12 min", "3 h 20 min", "5 days 2 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h"
