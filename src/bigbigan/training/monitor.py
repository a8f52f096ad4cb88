"""Write the logs of a run: metrics.jsonl, the loggers of its settings, and the progress bar."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from bigbigan.config import Config
from bigbigan.io import append_lines, read_lines, warn_of_damage, write_text
from bigbigan.progress import Bar
from bigbigan.training.loggers import Loggers

__all__ = ["Monitor", "SilentMonitor", "read_metrics"]


METRIC: dict[Any, Any] = {"step": int, str: float}  # a line, see `bigbigan.io.checked`


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl in order; skip damaged ones, such as a truncated last line, with a warning."""
    lines, damaged = read_lines(run / "metrics.jsonl", METRIC)
    warn_of_damage(run / "metrics.jsonl", damaged)
    return lines


class Monitor:
    """Write the logs of a run from `step` on. Lines after it, from before a crash, are removed first.

    Args:
        run: run folder.
        step: the step that training continues from, 0 for a new run.
        steps: all training steps of the run.
        progress: whether to show a progress bar.
        config: the settings, which name the loggers; None for no logger.
    """

    def __init__(self, run: Path, step: int, steps: int, progress: bool, config: Config | None = None) -> None:
        self._path = run / "metrics.jsonl"
        lines = read_metrics(run)
        kept = [line for line in lines if line["step"] <= step]
        if step and not kept:
            warnings.warn(f"{self._path} has no lines of the {step:,} earlier steps", stacklevel=2)
        self._loggers: Loggers | None = None
        if config is not None:  # before the lines are cut: the last of them is what was passed to the loggers
            logged = max((line["step"] for line in lines), default=-1)
            self._loggers = Loggers(run, config, step, logged, _pictured(run))
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self.bar = Bar(total=steps, initial=step, disable=not progress, unit="step")

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write a line of metrics.jsonl, pass the values to the loggers, and show the main ones in the progress bar.

        Raises:
            RunError: the disk is full.
        """
        append_lines(self._path, [{"step": step} | values], durable=False)
        if self._loggers is not None:
            self._loggers.scalars(step, values)
        shown = {
            "loss_d": "D",
            "loss_eg": "EG",
            "s_xz_enc": "s_xz enc",
            "s_xz_gen": "gen",
            "reconstruction_ratio": "rec",
        }
        short = {text: f"{values[name]:.2f}" for name, text in shown.items() if name in values}
        if "images_per_second" in values:
            short = {"img/s": f"{values['images_per_second']:.0f}"} | short
        self.bar.set_postfix(short, refresh=False)

    def pictures(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        """Pass pictures, by name, to the loggers."""
        if self._loggers is not None:
            self._loggers.pictures(step, pictures)

    def text(self, name: str, text: str) -> None:
        """Pass a text to the loggers."""
        if self._loggers is not None:
            self._loggers.text(name, text)

    def advance(self) -> None:
        """Count a step."""
        with suppress(OSError):  # the terminal was closed: the run has its state to save
            self.bar.update()

    def message(self, text: str) -> None:
        """Print a line above the bar, on standard error."""
        with suppress(OSError):
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Close the logs, ignoring what can no longer be written: another error may be ending the run."""
        with suppress(OSError):
            self.bar.close()
        if self._loggers is not None:
            self._loggers.close()


class SilentMonitor(Monitor):
    """Write nothing, on all ranks but 0."""

    def __init__(self) -> None:
        self.bar = Bar(disable=True)

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def pictures(self, step: int, pictures: Mapping[str, Image.Image]) -> None: ...

    def text(self, name: str, text: str) -> None: ...

    def advance(self) -> None: ...

    def message(self, text: str) -> None: ...

    def close(self) -> None: ...


def _pictured(run: Path) -> int:
    """Return the last step that has pictures in samples/, -1 if there are none."""
    steps = [path.stem.removeprefix("samples-") for path in run.glob("samples/samples-*.png")]
    return max((int(step) for step in steps if step.isdecimal()), default=-1)
