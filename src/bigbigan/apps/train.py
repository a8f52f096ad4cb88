"""Train with early stopping: the training loop together with the metrics of `bigbigan.evaluation`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bigbigan.config import Config
from bigbigan.errors import UserError
from bigbigan.evaluation.early_stopping import ValidationMetric
from bigbigan.experiments import find
from bigbigan.training import loop

__all__ = ["train"]


def train(
    config: Config | str,
    data: str | None = None,
    run: str | Path = "",
    progress: bool = True,
    labels: str | None = None,
    *,
    dataset: Any = None,
) -> int | None:
    """Train `config` in the folder `run`, and measure `log.validation_metric` meanwhile.

    Args:
        config: settings, such as `bigbigan.experiments.find("small/digits").config()`, or the name of an experiment.
        data: a source, as `--data`.
        run: run folder to create, or to continue.
        progress: show a progress bar.
        labels: a labels file (bigbigan.data.labels).
        dataset: instead of `data`, a map-style data set, such as a `torch.utils.data.Dataset`, or a dictionary of them
            by split; see `bigbigan.data.readers.datasets`.

    See `bigbigan.training.loop.train` for the return value and errors.
    """
    if not str(run):
        raise UserError("train: run is missing; expected a folder to train in")
    if isinstance(config, str):
        config = find(config).config()
    if not isinstance(config, Config):
        raise UserError(f"train: config is a {type(config).__name__}; expected settings, or the name of an experiment")
    return loop.train(config, data, Path(run), progress, labels, make_validation=ValidationMetric, dataset=dataset)
