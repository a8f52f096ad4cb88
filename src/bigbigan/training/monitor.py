"""Write the logs of a run: metrics.jsonl, TensorBoard, and the progress bar."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from bigbigan.io import append_lines, read_lines, warn_of_damage, write_error, write_text
from bigbigan.progress import Bar

__all__ = ["Monitor", "SilentMonitor", "read_metrics"]


METRIC: dict[Any, Any] = {"step": int, str: float}  # a line, see `bigbigan.io.checked`


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl in order; skip damaged ones, such as a truncated last line, with a warning."""
    lines, damaged = read_lines(run / "metrics.jsonl", METRIC)
    warn_of_damage(run / "metrics.jsonl", damaged)
    return lines


class Monitor:
    """Write the logs of a run from `step` on. Lines after it, from before a crash, are removed first."""

    def __init__(self, run: Path, step: int, steps: int, progress: bool) -> None:
        self._path = run / "metrics.jsonl"
        kept = [line for line in read_metrics(run) if line["step"] <= step]
        if step and not kept:
            warnings.warn(f"{self._path} has no line of the {step:,} steps before this one", stacklevel=2)
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._run = run
        with self._writing():
            self._board = SummaryWriter(run / "tensorboard", purge_step=step + 1)
        self.bar = Bar(total=steps, initial=step, disable=not progress, unit="step", dynamic_ncols=True)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write a line of metrics.jsonl and the same values to TensorBoard, and show the main ones in the progress bar.

        Raises:
            RunError: the disk is full.
        """
        append_lines(self._path, [{"step": step} | values], durable=False)
        with self._writing():
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
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

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise write_error(error, self._run / "tensorboard" / "events") or error from error

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
        for close in (self.bar.close, self._board.close):
            with suppress(OSError):
                close()


class SilentMonitor(Monitor):
    """Write nothing, on all ranks but 0."""

    def __init__(self) -> None:
        self.bar = Bar(disable=True)

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def advance(self) -> None: ...

    def message(self, text: str) -> None: ...

    def close(self) -> None: ...
