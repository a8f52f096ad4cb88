"""Checkpoints: folders of safetensors and JSON that are whole or not there.

    checkpoints/step-00001000/weights.safetensors    the five networks
                              optimizer.safetensors  Adam's moments
                              state.json             step, configuration's seed, data fingerprint, versions
                              manifest.json          size and SHA-256 of each file above
    checkpoints/best.json                            which step is best, by which figure

A checkpoint is written beside its place, forced to disk, and renamed. Nothing that is read can execute code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bigbigan.errors import RunError, UserError
from bigbigan.state import TrainingState

__all__ = [
    "Checkpoint",
    "best_record",
    "checkpoints",
    "chosen_checkpoint",
    "load_state",
    "newest_checkpoint",
    "save_best",
    "save_checkpoint",
]

FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")
SCHEMA = 1


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    step: int

    def problem(self) -> str | None:
        """Why this checkpoint cannot be trusted, or None."""
        try:
            manifest = json.loads((self.path / "manifest.json").read_text())
            if manifest["schema"] != SCHEMA:
                return f"schema {manifest['schema']}, this version reads {SCHEMA}"
            for name in FILES:
                path, entry = self.path / name, manifest["files"][name]
                if path.is_symlink() or path.stat().st_size != entry["bytes"]:
                    return f"{name} has not the size it was written with"
                if _sha256(path) != entry["sha256"]:
                    return f"{name} has changed since it was written"
            if self.info()["step"] != self.step:
                return f"its state is of step {self.info()['step']}"
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"{type(error).__name__}: {error}"
        return None

    def info(self) -> dict[str, Any]:
        return json.loads((self.path / "state.json").read_text())

    def tensors(self, name: str, prefix: str = "") -> dict[str, Tensor]:
        """The tensors of one of the two safetensors files whose names start with `prefix`."""
        with safe_open(self.path / name, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118


def checkpoints(run: Path) -> list[Checkpoint]:
    """All checkpoints of a run, oldest first, not yet checked."""
    found = [
        Checkpoint(path, int(path.name.removeprefix("step-")))
        for path in (run / "checkpoints").glob("step-*")
        if path.is_dir() and path.name.removeprefix("step-").isdigit()
    ]
    return sorted(found, key=lambda c: c.step)


def newest_checkpoint(run: Path, set_aside: bool = False) -> Checkpoint | None:
    """The newest sound checkpoint, or None where there is none at all. A damaged one is passed over with a
    warning, and with `set_aside` renamed, so that training can go on from the one before.

    Raises:
        UserError: there are checkpoints but none is sound.
    """
    problems: list[tuple[Checkpoint, str]] = []
    for checkpoint in reversed(checkpoints(run)):
        problem = checkpoint.problem()
        if problem is None:
            for damaged, reason in problems:
                warnings.warn(f"damaged checkpoint passed over: {damaged.path}: {reason}", stacklevel=2)
                if set_aside:
                    shutil.rmtree(damaged.path.with_name(f"damaged-{damaged.path.name}"), ignore_errors=True)
                    damaged.path.rename(damaged.path.with_name(f"damaged-{damaged.path.name}"))
            return checkpoint
        problems.append((checkpoint, problem))
    if problems:
        raise UserError(
            f"no checkpoint in {run / 'checkpoints'} is sound ({problems[0][0].path.name}: {problems[0][1]}); "
            "restore one from a copy, or train into another --out"
        )
    return None


def chosen_checkpoint(run: Path, which: str) -> Checkpoint | None:
    """The checkpoint that `which` names: "newest"; "best", by the figure in best.json, or newest where there is none;
    or the number of a step that is kept. None where there is no checkpoint at all.

    Raises:
        UserError: no such step, a damaged one, or no name of a checkpoint.
    """
    if which == "newest" or (which == "best" and best_record(run) is None):
        return newest_checkpoint(run)
    record = best_record(run)
    step = str(record["step"]) if which == "best" and record else which
    kept = {str(c.step): c for c in checkpoints(run)}
    if step not in kept:
        known = ", ".join(kept) or "none"
        raise UserError(f"--checkpoint {which}: {run} keeps steps {known}; expected one of these, newest or best")
    if (problem := kept[step].problem()) is not None:
        raise UserError(f"{kept[step].path} is damaged: {problem}; choose another --checkpoint")
    return kept[step]


def best_record(run: Path) -> dict[str, Any] | None:
    """The content of best.json: step, metric, value."""
    try:
        record = json.loads((run / "checkpoints" / "best.json").read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"step", "metric", "value"} <= record.keys() else None


def save_checkpoint(state: TrainingState, run: Path, info: dict[str, Any], keep: int) -> Checkpoint:
    """Write the state as a checkpoint of its step, then remove old ones but the newest `keep` and the best.

    Raises:
        RunError: a tensor is not finite, or the disk does not take it; what was there before is untouched.
    """
    folder = run / "checkpoints"
    final = folder / f"step-{state.step:08d}"
    if final.exists():  # the state is a function of the step
        return Checkpoint(final, state.step)
    weights, moments = state.weights(), state.moments()
    for name, tensor in (weights | moments).items():
        if not torch.isfinite(tensor).all():
            raise RunError(f"not saved: {name} is not finite at step {state.step}")
    aside = folder / f".writing-step-{state.step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".writing-*"):
            shutil.rmtree(stale)
        aside.mkdir()
        for name, tensors in (("weights.safetensors", weights), ("optimizer.safetensors", moments)):
            save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, aside / name)
        info = {"schema": SCHEMA, "step": state.step, "images_seen": state.images_seen} | info
        (aside / "state.json").write_text(json.dumps(info, indent=2) + "\n")
        files = {n: {"bytes": (aside / n).stat().st_size, "sha256": _sha256(aside / n)} for n in FILES}
        (aside / "manifest.json").write_text(json.dumps({"schema": SCHEMA, "files": files}, indent=2) + "\n")
        for name in (*FILES, "manifest.json"):
            _sync(aside / name)
        _sync(aside)
        os.rename(aside, final)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        free = shutil.disk_usage(run).free / 2**20
        raise RunError(
            f"checkpoint of step {state.step} not saved to {folder} ({free:.0f} MiB free): {error}"
        ) from error
    best = best_record(run)
    for old in checkpoints(run)[:-keep]:
        if best is None or old.step != best.get("step"):
            shutil.rmtree(old.path)
    return Checkpoint(final, state.step)


def save_best(run: Path, step: int, metric: str, value: float) -> None:
    """Name the checkpoint of `step` the best; it is kept from then on."""
    aside, final = run / "checkpoints" / ".best.json", run / "checkpoints" / "best.json"
    aside.write_text(json.dumps({"step": step, "metric": metric, "value": value}) + "\n")
    _sync(aside)
    os.replace(aside, final)


def load_state(state: TrainingState, checkpoint: Checkpoint) -> None:
    """Put a checkpoint into `state`.

    Raises:
        UserError: its tensors are not those of this configuration's networks.
    """
    stored = checkpoint.tensors("weights.safetensors")
    ours = state.weights()
    wrong = sorted(stored.keys() ^ ours.keys()) or [k for k, t in ours.items() if t.shape != stored[k].shape]
    if wrong:
        raise UserError(f"{checkpoint.path} does not fit these networks, first at {wrong[0]}; train into another --out")
    with torch.no_grad():
        for name, tensor in ours.items():
            tensor.copy_(stored[name])
    state.load_moments(checkpoint.tensors("optimizer.safetensors"))
    state.step = checkpoint.step


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
