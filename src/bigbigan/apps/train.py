"""Train with early stopping: the training loop together with the metrics of `bigbigan.evaluation`."""

from __future__ import annotations

from pathlib import Path

from bigbigan.config import Config
from bigbigan.evaluation.early_stopping import ValidationMetric
from bigbigan.training import loop

__all__ = ["train"]


def train(config: Config, data: str, run: Path, progress: bool = True, labels: str | None = None) -> int | None:
    """Train `config` on the source `data` in the folder `run` and measure `log.validation_metric` meanwhile.

    See `bigbigan.training.loop.train` for arguments, return value and errors.
    """
    return loop.train(config, data, run, progress, labels, make_validation=ValidationMetric)
