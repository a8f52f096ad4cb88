"""Run the training loop, top to bottom: data, state, steps, and what follows a step."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bigbigan.config import Config
from bigbigan.config.files import as_yaml
from bigbigan.data import fraction_of, open_source
from bigbigan.data.names import shown
from bigbigan.errors import RunError, UserError, out_of_memory
from bigbigan.io import write_json
from bigbigan.training import checkpoint as ck
from bigbigan.training import distributed
from bigbigan.training.devices import default_device
from bigbigan.training.diagnostics import (
    sample_training_images,
    write_inputs,
    write_pictures,
    write_training_images,
)
from bigbigan.training.monitor import Monitor, SilentMonitor
from bigbigan.training.precision import check_devices
from bigbigan.training.run_folder import (
    limits_of,
    open_for_training,
    read_card,
    warn_of_other_settings,
)
from bigbigan.training.signals import Stop, Stopped
from bigbigan.training.state import TrainingState
from bigbigan.training.step import check_finite, is_due, is_due_or_first, training_step
from bigbigan.training.time_budget import (
    choose_precision,
    choose_steps,
    duration,
    keep_chosen_precision,
    keep_chosen_steps,
)
from bigbigan.training.training_data import TrainingData, load_training_data, refuse_other_data, resolve_config
from bigbigan.training.validation import MakeValidation, Validation, validate, validation_is_missing
from bigbigan.user_code import import_named

__all__ = ["train"]

ESTIMATE_AFTER, ESTIMATE_SECONDS = 10, 10.0  # steps, or seconds of steps, after which the time left is printed


def train(
    config: Config,
    data: str | None,
    run: Path,
    progress: bool = True,
    labels: str | None = None,
    make_validation: MakeValidation | None = None,
    dataset: Any = None,
) -> int | None:
    """Train `config` on the source `data` in the folder `run`, from its newest checkpoint if it has one.

    `dataset` is a map-style data set to train on instead of a source (bigbigan.data.readers.datasets).

    Labels, of the source or of the file `labels`, are only used for the validation metric (`log.validation_metric`),
    unless `data.labels` makes the networks conditional. `make_validation` makes the `Validation` that measures the
    networks every `log.validate_every` steps; without it there is no validation.

    Returns:
        None when all steps are done, or the number of the signal that ended it early, with its state saved.

    Raises:
        UserError: data, settings or folder cannot be used; nothing was trained.
        RunError: a loss or gradient was not finite, or a checkpoint could not be saved.
    """
    if (data is None) == (dataset is None):
        raise UserError("train: expected one of data, a source, and dataset, a map-style data set")
    spec = data if data is not None else f"dataset:{type(dataset).__name__}"
    stop = Stop(nothing_to_save=True)
    try:
        with distributed.process_group(patience=60 * config.log.hang_minutes), stop:
            return _train(config, spec, run, progress, labels, stop, make_validation, dataset)
    except Stopped:
        with suppress(OSError):  # the terminal was closed
            print("stopped before the first step: there is nothing to save", file=sys.stderr)
        return stop.signal
    except (MemoryError, RuntimeError, OSError) as error:
        if not out_of_memory(error):
            raise
        t = config.training
        raise RunError(
            f"out of memory ({' '.join(str(error).split())[:160]}); lower training.batch_size={t.batch_size}, raise "
            f"training.accumulate={t.accumulate}, or lower data.memory_gib={config.data.memory_gib:g} for many images"
        ) from error


@dataclass(frozen=True)
class Run:
    """Hold one rank's part of a run: its folder, data, logs and validation.

    Attributes:
        folder: the run folder, which only rank 0 writes.
        data: the training data.
        monitor: the logs; silent on all ranks but 0.
        progress: whether to print how long training will take.
        validation: measures the validation metric; None on all ranks but 0, and without validation.
        resumed: whether the run was continued from a checkpoint; known to rank 0.
    """

    folder: Path
    data: TrainingData
    monitor: Monitor
    progress: bool
    validation: Validation | None
    resumed: bool

    def validate(self, state: TrainingState) -> None:
        """Measure and log the validation metric on rank 0."""
        if self.validation is not None:
            validate(self.validation, state, self.monitor, self.folder)

    def resumed_before_validation(self, state: TrainingState) -> bool:
        """Return whether the run was ended between a checkpoint and its validation; the same on all ranks."""
        validation = self.validation if self.resumed else None
        missing = validation is not None and validation_is_missing(validation, state, self.folder)
        return bool(distributed.maximum(missing))


def _train(
    config: Config,
    spec: str,
    folder: Path,
    progress: bool,
    labels: str | None,
    stop: Stop,
    make_validation: MakeValidation | None,
    dataset: Any,
) -> int | None:
    started = time.perf_counter()
    first, device = distributed.is_first_rank(), default_device()
    config = keep_chosen_precision(config, folder)
    check_devices(config, device)
    for name in config.own_code:
        import_named(name, "the code that the settings name")  # report a mistake in it before data are read
    share, limits = config.data.max_unreadable, limits_of(config)
    source = open_source(spec, labels=labels, max_unreadable=share, limits=limits, dataset=dataset)
    images = fraction_of(source.splits["train"], config.data.fraction)
    config = keep_chosen_steps(resolve_config(config, source, images, spec, folder), folder)
    _refuse_fewer_steps(config, folder)
    with open_for_training(folder, config) if first else nullcontext():
        data = load_training_data(config, source, images, spec, folder, device, progress)
        validation = None
        if config.log.validate_every and first and make_validation is not None:
            validation = make_validation(config, data.batches, data.images, source, folder)
        if not distributed.maximum(len(ck.checkpoints(folder))):
            given, config = config, measure_choices(config, data, device, validation, started, progress)
            if first and config != given:
                config.save(folder / "config.json")
        state, resumed = init_or_resume(config, data, folder, device)
        monitor = Monitor(folder, state.step, config.training.steps, progress, config) if first else SilentMonitor()
        run = Run(folder, data, monitor, progress, validation, resumed)
        announce(state, run)
        stop.nothing_to_save = False
        try:
            return run_loop(state, run, stop)
        finally:
            monitor.close()
            data.close()


def measure_choices(
    config: Config,
    data: TrainingData,
    device: torch.device,
    validation: Validation | None,
    started: float,
    progress: bool,
) -> Config:
    """Return `config` with what depends on this machine's speed: the precision, and the steps of a time budget.

    `training.precision=auto` becomes the faster precision; the budget of `training.minutes` began at `started`.
    """
    prints = progress and distributed.is_first_rank()
    if config.training.precision == "auto":
        config = choose_precision(config, data.batches, device)
        if prints:
            print(f"training.precision=auto: {config.training.precision} on this machine", file=sys.stderr)
    minutes = config.training.minutes
    if not minutes:
        return config
    left = 60 * minutes - (time.perf_counter() - started)
    measure = validation if validation is not None and validation.possible else None
    steps = choose_steps(config, data.batches, device, measure, left)
    if prints:
        print(f"training.minutes={minutes:g}: {steps:,} steps fit, as measured on this machine", file=sys.stderr)
    return replace(config, training=replace(config.training, steps=steps))


def _refuse_fewer_steps(config: Config, folder: Path) -> None:
    if (saved := ck.checkpoints(folder)) and saved[-1].step > config.training.steps:
        raise UserError(
            f"training.steps={config.training.steps}: {folder} has been trained for {saved[-1].step} steps; expected "
            "as many or more, or another --out"
        )


def init_or_resume(
    config: Config, data: TrainingData, folder: Path, device: torch.device
) -> tuple[TrainingState, bool]:
    """Return a new state, or the state of the newest checkpoint in `folder`; and, on rank 0, whether it was resumed.

    The state is the same on all ranks.

    Raises:
        UserError: the system cannot be trained on these images, or the run was started on others.
    """
    state = TrainingState(config, device)
    state.system.check_images(sample_training_images(state, data.batches, 64))
    newest = None
    if distributed.is_first_rank():
        uses_classes = config.data.labels == "classes"
        refuse_other_data(folder, data, uses_classes, uses_labels=uses_classes or config.log.validate_every > 0)
        newest = ck.newest_checkpoint(folder, rename_damaged=True)
        ck.remove_old(folder, config.log.keep_checkpoints)  # after that: damaged checkpoints must not count
        if newest is not None:
            ck.load_state(state, newest)
            warn_of_other_settings(folder, newest.info().get("settings", {}), config)
            if (folder / "data.json").exists():
                card = read_card(folder)
                data.source.remember(card.get("skipped", []), card.get("notes", {}))
        write_json(folder / "data.json", data.card, stamp=True)
    state.broadcast()
    return state, newest is not None


def announce(state: TrainingState, run: Run) -> None:
    """Print what will be trained, and write pictures of the data of a new run."""
    config, first = state.config, distributed.is_first_rank()
    if run.resumed:
        run.monitor.message(f"continuing from step {state.step}")
        return
    if run.progress:
        labels = f"{config.data.classes} classes" if config.data.classes > 1 else "labels are not used"
        mirrored = "" if config.data.mirror == "always" else "not "
        mirroring = f"; {mirrored}mirrored at random" if config.can_mirror else ""
        count, side = len(run.data.batches.pixels), config.encoder.resolution
        run.monitor.message(f"{count} images, {side} px{mirroring}; {labels}")
        if notes := run.data.source.notes:
            found = "; ".join(f"{shown(note)}: {number:,}" for note, number in notes.most_common(6))
            run.monitor.message(f"{found} (see: bigbigan data inspect)")
        if run.validation is not None and not run.validation.possible:
            run.monitor.message(
                f"log.validation_metric={run.validation.metric.name} is not measured: it needs labels and an encoder, "
                "or a generator and a feature extractor"
            )
    if first:
        run.monitor.text("settings", as_yaml(config, comments=False))
        run.monitor.pictures(0, write_training_images(state, run.data.batches, run.folder))
        write_inputs(state, run.data.batches, run.folder)


def run_loop(state: TrainingState, run: Run, stop: Stop) -> int | None:
    """Run the remaining training steps. Return the number of the signal that ended them early, or None.

    All ranks must reach the same collective calls, so knowledge of one rank is shared before it decides anything.
    """
    steps, signal, speed = state.config.training.steps, 0, Speed(state)
    validates = bool(distributed.maximum(run.validation is not None and run.validation.possible))
    if run.resumed_before_validation(state):
        state.fill_standing_statistics(run.data.batches)
        run.validate(state)
    while state.step < steps and not (signal := distributed.maximum(stop.signal or 0)):
        metrics = training_step(state, run.data.batches)
        if is_due_or_first(state.config.log.every, state.step, steps):
            logged = {name: float(value) for name, value in metrics.items()}
            logged |= {"images_seen": state.images_seen, "images_per_second": speed.since_last(state)}
            run.monitor.log(state.step, logged)
        run.monitor.advance()
        if run.progress and (seconds := speed.first_estimate(state)):
            run.monitor.message(
                f"{seconds:.3g} s per step: {steps - state.step:,} more take about "
                f"{duration(seconds * (steps - state.step))}, without pictures, checkpoints and validation"
            )
        with speed.paused():
            after_step(state, run, validates)
    if signal and state.step:
        prepare_averages(state, run)
        save(state, run)
        run.monitor.message(f"stopped at step {state.step}, saved; the same command continues")
    return signal or None


def after_step(state: TrainingState, run: Run, validates: bool) -> None:
    """Write pictures, save a checkpoint and measure the validation metric, whichever is due after this step."""
    log, steps = state.config.log, state.config.training.steps
    pictures_due = is_due_or_first(log.pictures_every, state.step, steps)
    validation_due = validates and is_due(log.validate_every, state.step, steps)
    save_due = validation_due or is_due(log.checkpoint_every, state.step, steps)
    if pictures_due or save_due:
        prepare_averages(state, run)
    if pictures_due and distributed.is_first_rank():
        run.monitor.pictures(state.step, write_pictures(state, run.data.batches, run.folder))
    if save_due:
        save(state, run)
    if validation_due:
        run.validate(state)


def prepare_averages(state: TrainingState, run: Run) -> None:
    """Fill the batch norm statistics of the averaged networks.

    Raises:
        RunError: an update was skipped because it was not finite.
    """
    check_finite(state)
    state.fill_standing_statistics(run.data.batches)


def save(state: TrainingState, run: Run) -> None:
    """Save a checkpoint of this step, and the data card, which grows while streamed images are read."""
    if not distributed.is_first_rank():
        return
    write_json(run.folder / "data.json", run.data.card, stamp=True)
    info = {
        "experiment": state.config.experiment,
        "fingerprint": run.data.card["fingerprint"],
        "torch": torch.__version__,
    }
    ck.save_checkpoint(state, run.folder, info, keep=state.config.log.keep_checkpoints)


class Speed:
    """Measure the speed of training steps, without what follows a step."""

    def __init__(self, state: TrainingState) -> None:
        self._start, self._images = time.perf_counter(), state.images_seen
        self._begun: tuple[float, int] | None = None  # when the first step was over, and its number
        self._estimated, self._pauses = False, 0.0

    def first_estimate(self, state: TrainingState) -> float:
        """Return seconds per step, once: after 10 steps, or after fewer if they take more than 10 seconds; otherwise 0.

        The first step is not counted: in it memory is allocated and networks are compiled.
        """
        now = time.perf_counter()
        if self._begun is None:
            self._begun = now, state.step
        begun, first = self._begun
        count, seconds = state.step - first, now - begun - self._pauses
        if self._estimated or not count or (count < ESTIMATE_AFTER and seconds < ESTIMATE_SECONDS):
            return 0.0
        self._estimated = True
        return seconds / count

    def since_last(self, state: TrainingState) -> float:
        """Return the images per second since the last call, or since training began."""
        now, images = time.perf_counter(), state.images_seen
        rate = (images - self._images) / (now - self._start)
        self._start, self._images = now, images
        return rate

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time spent within the context."""
        begun = time.perf_counter()
        yield
        pause = time.perf_counter() - begun
        self._start += pause
        self._pauses += pause if self._begun is not None else 0.0
