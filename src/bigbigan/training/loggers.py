"""Send metrics, pictures and text of a run to TensorBoard, Weights & Biases, or a logger of the user's own.

A logger is an object with the methods of `Logger`. `log.loggers` names those of a run; the names of the user's own are
MODULE:NAME, where NAME is called as NAME(run, config, step) with the run folder, the settings, and the step that
training continues from, 0 for a new run.

`Loggers` passes everything on to all of them. A logger that fails is disabled with one warning: it never stops
training. After a crash, training continues from the last checkpoint and repeats some steps; these
are not passed on a second time. TensorBoard gets them again instead, and hides the first ones.
"""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from bigbigan.config import Config
from bigbigan.io import read_json, regular_bytes, write_json, write_text
from bigbigan.user_code import import_named, message_and_place

__all__ = ["Logger", "Loggers", "TensorBoard", "WandB"]

PASSED = "logged.json"  # in a run folder until they are reached: the last steps passed on before it was continued


class Logger(Protocol):
    """Define what a logger does. Steps never fall, and a name comes at most once for a step."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take the metrics of a training step, by name."""

    def pictures(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        """Take pictures by name: "data" at step 0, and "samples" and "reconstructions" of the averaged networks."""

    def text(self, name: str, text: str) -> None:
        """Take a text, such as the settings as YAML, when a run starts."""

    def close(self) -> None:
        """End, when training ends or stops."""


class TensorBoard:
    """Write to the folder tensorboard/ of a run."""

    def __init__(self, run: Path, config: Config, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(run / "tensorboard", purge_step=step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def pictures(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        for name, picture in pictures.items():
            self._board.add_image(name, np.asarray(picture), step, dataformats="HWC")

    def text(self, name: str, text: str) -> None:
        self._board.add_text(name, "\n".join(f"    {line}" for line in text.splitlines()))  # a block of code

    def close(self) -> None:
        self._board.close()


class WandB:
    """Write to Weights & Biases, as one run with an id that stays in wandb-id.txt of the run folder.

    WANDB_PROJECT (by default "bigbigan"), WANDB_MODE and the other variables of wandb apply.
    """

    def __init__(self, run: Path, config: Config, step: int) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "bigbigan",
            name=run.resolve().name,
            id=_wandb_id(run / "wandb-id.txt"),
            resume="allow",
            dir=run,
            config=config.to_dict(),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def pictures(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        self._run.log({name: self._wandb.Image(picture) for name, picture in pictures.items()}, step=step)

    def text(self, name: str, text: str) -> None:
        self._run.summary[name] = text

    def close(self) -> None:
        self._run.finish()


def _wandb_id(file: Path) -> str:
    """Return the id in a file, which is made if it is missing."""
    if not file.exists():
        write_text(file, secrets.token_hex(8))
    return regular_bytes(file, 100).decode().strip()


KNOWN: dict[str, Callable[[Path, Config, int], Logger]] = {"tensorboard": TensorBoard, "wandb": WandB}


class Loggers:
    """Pass on what a run logs from `step` on to all loggers of its settings.

    Args:
        run: run folder.
        config: its settings.
        step: the step that training continues from, 0 for a new run.
        logged, pictured: the last steps whose metrics and pictures were logged before training was continued, or -1.
    """

    def __init__(self, run: Path, config: Config, step: int, logged: int, pictured: int) -> None:
        before = read_json(run / PASSED, {"scalars": int, "pictures": int}) if (run / PASSED).exists() else {}
        self._passed = {
            "scalars": max(logged, before.get("scalars", -1)),
            "pictures": max(pictured, before.get("pictures", -1)),
        }
        self._file, self._begin, self._step = run / PASSED, step, step
        if max(self._passed.values()) > step:
            write_json(self._file, self._passed)
        self._loggers: dict[str, Logger] = {}
        for name in config.log.loggers:
            make = KNOWN.get(name) or import_named(name, "a logger: a class or function of (run, config, step)")
            try:
                self._loggers[name] = make(run, config, step)
            except Exception as error:
                _warn(name, error)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Pass on metrics of a step, unless that was done before training was continued."""
        self._step = step
        # If no later step was logged, what comes now for that step is a validation that had not been measured.
        repeats = self._passed["scalars"] > self._begin
        self._each(lambda logger: logger.scalars(step, values), repeated=repeats and step <= self._passed["scalars"])

    def pictures(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        """Pass on pictures of a step, likewise."""
        self._each(lambda logger: logger.pictures(step, pictures), repeated=step <= self._passed["pictures"])

    def text(self, name: str, text: str) -> None:
        """Pass on a text."""
        self._each(lambda logger: logger.text(name, text))

    def close(self) -> None:
        """Close all loggers."""
        if self._step >= max(self._passed.values()):
            with suppress(OSError):
                self._file.unlink(missing_ok=True)
        self._each(lambda logger: logger.close())

    def _each(self, use: Callable[[Logger], Any], repeated: bool = False) -> None:
        for name, logger in list(self._loggers.items()):
            if repeated and not isinstance(logger, TensorBoard):
                continue
            try:
                use(logger)
            except Exception as error:
                del self._loggers[name]
                _warn(name, error)


def _warn(name: str, error: BaseException) -> None:
    warnings.warn(
        f"the logger {name} failed and is disabled ({message_and_place(error)}); training continues, and "
        "metrics.jsonl has all metrics",
        stacklevel=3,
    )
