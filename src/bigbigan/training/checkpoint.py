"""Write and read checkpoints: folders of safetensors and JSON, written atomically.

    checkpoints/step-00001000/weights.safetensors    the five networks
                              optimizer.safetensors  Adam's moments
                              state.json             step, settings, data fingerprint, versions
                              manifest.json          size and SHA-256 of each file above
    checkpoints/best.json                            which step is best, by which metric

A checkpoint is written to a temporary folder, forced to disk, and renamed; before it is removed it is renamed too.
Nothing that is read can execute code.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from bigbigan.errors import RunError, UserError
from bigbigan.io import read_json, sha256_of, sync, write_json, writing_folder
from bigbigan.io.files import TEMPORARY, WINDOWS
from bigbigan.io.locking import lock_exclusive, lock_shared, open_to_lock
from bigbigan.io.tensors import check_tensors, read_tensors, save_tensors
from bigbigan.training.state import TrainingState

__all__ = [
    "Checkpoint",
    "best_record",
    "checkpoints",
    "chosen_checkpoint",
    "load_state",
    "newest_checkpoint",
    "read_checkpoint",
    "remove_old",
    "save_best",
    "save_checkpoint",
]

FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")
SCHEMA = 1
REMOVING = ".removing-"
TRIES = 20  # of reading a run whose checkpoints are removed while they are read

# What is read from a checkpoint, see `bigbigan.io.checked`.
MANIFEST = {"schema": int, "files": {name: {"bytes": int, "sha256": str} for name in FILES}}
STATE = {"step": int, "images_seen": int, "settings?": {str: Any}}
BEST = {"step": int, "metric": str, "value": float}

T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """Hold a checkpoint folder of a run, and its step."""

    path: Path
    step: int

    def problem(self) -> str | None:
        """Return why this checkpoint is not valid, or None if it is."""
        try:
            manifest = read_json(self.path / "manifest.json", {"schema": int})
            if manifest["schema"] != SCHEMA:
                return f"schema {manifest['schema']}, this version reads {SCHEMA}"
            manifest = read_json(self.path / "manifest.json", MANIFEST)
            for name in FILES:
                path, entry = self.path / name, manifest["files"][name]
                if path.is_symlink() or path.stat().st_size != entry["bytes"]:
                    return f"{name} does not have the size it was written with"
                if sha256_of(path) != entry["sha256"]:
                    return f"{name} has changed since it was written"
            if self.info()["step"] != self.step:
                return f"its state is of step {self.info()['step']}"
        except OSError as error:
            return f"{type(error).__name__}: {error}"
        except (UserError, ValueError) as error:
            return str(error)
        return None

    def info(self) -> dict[str, Any]:
        """Return the content of state.json."""
        return read_json(self.path / "state.json", STATE)

    def tensors(self, name: str, prefix: str = "") -> dict[str, Tensor]:
        """Return the tensors of one of the two safetensors files whose names start with `prefix`."""
        return read_tensors(self.path / name, prefix)[0]


def checkpoints(run: Path) -> list[Checkpoint]:
    """Return all checkpoints of a run by their names, oldest first, not yet checked.

    Raises:
        UserError: `checkpoints` is a file or a link to nothing.
    """
    folder = run / "checkpoints"
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"{folder} is not a folder; restore it from a copy, or remove it to start without checkpoints")
    found = [
        Checkpoint(path, int(path.name.removeprefix("step-")))
        for path in folder.glob("step-*")
        if re.fullmatch(r"step-[0-9]{1,18}", path.name)
    ]
    return sorted(found, key=lambda c: c.step)


def newest_checkpoint(run: Path, rename_damaged: bool = False) -> Checkpoint | None:
    """Return the newest valid checkpoint, or None if there are no checkpoints.

    Damaged ones are skipped with a warning, and with `rename_damaged` renamed, so that training can continue from an
    earlier one.

    Raises:
        UserError: there are checkpoints but none is valid.
    """
    problems: list[tuple[Checkpoint, str]] = []
    for checkpoint in reversed(checkpoints(run)):
        problem = checkpoint.problem()
        if problem is not None and not os.path.lexists(checkpoint.path):  # removed just now by the process that trains
            continue
        if problem is None:
            for damaged, reason in problems:
                warnings.warn(f"damaged checkpoint skipped: {damaged.path}: {reason}", stacklevel=2)
                if rename_damaged:
                    shutil.rmtree(damaged.path.with_name(f"damaged-{damaged.path.name}"), ignore_errors=True)
                    damaged.path.rename(damaged.path.with_name(f"damaged-{damaged.path.name}"))
            return checkpoint
        problems.append((checkpoint, problem))
    if problems:
        raise UserError(
            f"no checkpoint in {run / 'checkpoints'} is valid ({problems[0][0].path.name}: {problems[0][1]}); "
            "restore one from a copy, or train into another --out"
        )
    return None


def read_checkpoint(run: Path, which: str | int, read: Callable[[Checkpoint], T]) -> T | None:
    """Return `read` of the checkpoint that `which` names (see `chosen_checkpoint`), or None if there are none.

    Training does not remove a checkpoint that is being read. If file locks do not work and it does, another one is
    chosen.

    Raises:
        UserError: see `chosen_checkpoint`; or checkpoints are removed faster than they can be read.
    """
    for _ in range(TRIES):
        before = [c.step for c in checkpoints(run)]
        chosen = None
        try:
            with _locked(run):
                chosen = chosen_checkpoint(run, which)
                if chosen is not None:
                    return read(chosen)
        except (OSError, UserError):
            if chosen is not None and chosen.path.exists():
                raise
            if chosen is None and before == [c.step for c in checkpoints(run)]:
                raise
        if not before and not checkpoints(run):
            return None
    raise UserError(f"{run}: training removes checkpoints faster than they can be read; raise log.keep_checkpoints")


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Lock the checkpoints that there are now against `remove_old`."""
    with ExitStack() as locks:
        for checkpoint in checkpoints(run):
            with suppress(OSError):  # removed just now, or no locks here
                descriptor = open_to_lock(checkpoint.path)
                locks.callback(os.close, descriptor)
                lock_shared(descriptor)
        yield


def chosen_checkpoint(run: Path, which: str | int) -> Checkpoint | None:
    """Return the checkpoint that `which` names, or None if there are no checkpoints.

    Args:
        run: run folder.
        which: "newest"; "best", by the metric in best.json, or the newest without one; or the number of a saved step.

    Raises:
        UserError: no such step, a damaged one, or no name of a checkpoint.
    """
    which = str(which)
    record = best_record(run) if which == "best" else None
    if which == "best" and not os.path.lexists(_best(run)):
        warnings.warn(f"{run} has no best step (log.validate_every=0): the newest is used", stacklevel=2)
        which = "newest"
    if which == "newest":
        return newest_checkpoint(run)
    if which == "best" and record is None:
        raise UserError(f"--checkpoint best: {_best(run)} is damaged; choose newest, or the number of a step")
    step = str(record["step"]) if record else which
    kept = {str(c.step): c for c in checkpoints(run)}
    if step not in kept:
        known = ", ".join(kept) or "none"
        raise UserError(f"--checkpoint {which}: {run} keeps steps {known}; expected one of these, newest or best")
    if (problem := kept[step].problem()) is not None:
        raise UserError(f"{kept[step].path} is damaged: {problem}; choose another --checkpoint")
    return kept[step]


def best_record(run: Path) -> dict[str, Any] | None:
    """Return the content of best.json: step, metric, value. None if it is missing or, with a warning, damaged."""
    if not os.path.lexists(_best(run)):
        return None
    try:
        return read_json(_best(run), BEST)
    except UserError as error:
        warnings.warn(str(error), stacklevel=2)
        return None


def _best(run: Path) -> Path:
    return run / "checkpoints" / "best.json"


def save_checkpoint(state: TrainingState, run: Path, info: dict[str, Any], keep: int) -> Checkpoint:
    """Write the state as a checkpoint of its step, then remove old ones but the newest `keep` and the best.

    Raises:
        RunError: a tensor is not finite, or the disk is full; earlier checkpoints are untouched.
    """
    folder = run / "checkpoints"
    final = folder / f"step-{state.step:08d}"
    if final.exists():  # the state is a function of the step
        return Checkpoint(final, state.step)
    weights, moments = state.weights(), state.moments()
    for name, tensor in (weights | moments).items():
        if not torch.isfinite(tensor).all():
            raise RunError(f"not saved: {name} is not finite at step {state.step}")
    try:
        with writing_folder(final) as temporary:
            for name, tensors in (("weights.safetensors", weights), ("optimizer.safetensors", moments)):
                save_tensors(temporary / name, tensors)
            info = {"schema": SCHEMA, "step": state.step, "images_seen": state.images_seen} | info
            info["settings"] = state.config.to_dict()
            write_json(temporary / "state.json", info)
            files = {n: {"bytes": (temporary / n).stat().st_size, "sha256": sha256_of(temporary / n)} for n in FILES}
            write_json(temporary / "manifest.json", {"schema": SCHEMA, "files": files})
    except (RunError, UserError) as error:
        raise RunError(f"checkpoint of step {state.step} not saved to {folder}: {error}") from error
    remove_old(run, keep)
    return Checkpoint(final, state.step)


def remove_old(run: Path, keep: int) -> None:
    """Remove all checkpoints but the newest `keep` and the best, and remains of interrupted writes and removals.

    A checkpoint is renamed first, so that readers find it complete or not at all. While best.json is damaged, and any
    checkpoint may be the best, none is removed.
    """
    folder, best = run / "checkpoints", best_record(run)
    for left in [*folder.glob(f"{REMOVING}*"), *folder.glob(f"{TEMPORARY}*")]:
        with suppress(OSError):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    if best is None and os.path.lexists(_best(run)):
        return
    for old in checkpoints(run)[:-keep]:
        if best is None or old.step != best["step"]:
            try:
                _remove(old.path)
            except OSError as error:  # nothing is lost; the next call tries again
                warnings.warn(f"{old.path} cannot be removed: {error.strerror}", stacklevel=2)


def _remove(path: Path) -> None:
    renamed = path.with_name(f"{REMOVING}{path.name}")
    with ExitStack() as locks:
        with suppress(OSError):  # no locks here
            descriptor = open_to_lock(path)
            locks.callback(os.close, descriptor)
            if not lock_exclusive(descriptor):  # it is being read; the next call removes it
                return
        if WINDOWS:  # which renames no folder with an open file in it
            locks.close()
        os.rename(path, renamed)
        sync(path.parent)
        shutil.rmtree(renamed)


def save_best(run: Path, step: int, metric: str, value: float) -> None:
    """Record the checkpoint of `step` as the best; it is kept from then on."""
    write_json(_best(run), {"step": step, "metric": metric, "value": value}, stamp=True)


def load_state(state: TrainingState, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into `state`.

    Raises:
        UserError: its tensors do not fit the networks of these settings.
    """
    stored, moments = checkpoint.tensors("weights.safetensors"), checkpoint.tensors("optimizer.safetensors")
    ours = state.weights()
    what = f"{checkpoint.path} does not fit these networks; train into another --out"
    check_tensors(stored, ours, what)
    check_tensors(moments, state.empty_moments("meta"), what)
    with torch.no_grad():
        for name, tensor in ours.items():
            tensor.copy_(stored[name])
    state.load_moments(moments)
    state.step = checkpoint.step
