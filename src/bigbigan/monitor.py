"""What a run writes while it trains: metrics.jsonl, TensorBoard, and the progress bar."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from bigbigan.progress import Bar

__all__ = ["Monitor", "Silence", "read_metrics"]


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl in order; a torn last line is left out."""
    lines = []
    path = run / "metrics.jsonl"
    for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict) or "step" not in line:
            break
        lines.append(line)
    return lines


class Monitor:
    """Opens the logs of a run at `step`; lines after it, from before a crash, are dropped first."""

    def __init__(self, run: Path, step: int, steps: int, progress: bool) -> None:
        path = run / "metrics.jsonl"
        kept = [line for line in read_metrics(run) if line["step"] <= step]
        aside = path.with_suffix(".aside")
        aside.write_text("".join(json.dumps(line) + "\n" for line in kept))
        aside.replace(path)
        self._file = path.open("a")
        self._board = SummaryWriter(run / "tensorboard", purge_step=step + 1)
        self.bar = Bar(total=steps, initial=step, disable=not progress, unit="step", dynamic_ncols=True)

    def log(self, step: int, values: dict[str, float]) -> None:
        """One line of metrics.jsonl, the same to TensorBoard, the gist to the bar."""
        self._file.write(json.dumps({"step": step} | values) + "\n")
        self._file.flush()
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

    def say(self, text: str) -> None:
        """A line above the bar, on standard error."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        self.bar.close()
        self._board.close()
        self._file.close()


class Silence(Monitor):
    """That of ranks which write nothing."""

    def __init__(self) -> None:
        self.bar = Bar(disable=True)

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def say(self, text: str) -> None: ...

    def close(self) -> None: ...
