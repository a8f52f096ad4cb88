"""Gather all that is known of a run. Its config is required; what else is missing stays empty or leaves its reason."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bigbigan.apps.report.markup import Html, command, missing
from bigbigan.apps.report.shown_images import ShownImages, shown_images
from bigbigan.config import Config
from bigbigan.data import Source
from bigbigan.data.sources import relative_source
from bigbigan.errors import UserError
from bigbigan.evaluation.records import RESULT, Line, Results, newest_results
from bigbigan.evaluation.splits import View
from bigbigan.inference.exported import EXPORTED
from bigbigan.inference.loading import data_card, load
from bigbigan.inference.model import Model
from bigbigan.io import read_lines
from bigbigan.training.devices import default_device
from bigbigan.training.monitor import read_metrics
from bigbigan.training.run_folder import open_data, read_config


@dataclass
class Run:
    """Hold what the sections of the page show."""

    path: Path
    config: Config
    card: dict[str, Any]  # data.json
    metrics: list[Line]
    own: Results  # on the run's own data
    others: list[Line]  # newest line of each kind on other data
    external: list[Line]  # newest line of each kind of other encoders on the run's own data
    damaged_results: int
    spec: str | None  # of the source that is shown: the given one, or the run's own
    source: Source | None
    no_source: str  # why there is none
    model: Model | None
    no_model: str
    umap: bool = False  # draw the map of features by UMAP too
    is_exported: bool = False  # an exported folder, which has results but no training log

    @cached_property
    def images(self) -> ShownImages:
        """The images that several sections show. Only if `no_images` is None."""
        assert self.source is not None
        assert self.model is not None
        E = self.model.networks.E
        encoder = None if E is None else self.model.encoder
        return shown_images(self.source, View.from_config(self.config), encoder, self.fraction)

    @property
    def fraction(self) -> float:
        """The share of the training images of `source` that the run was trained on: 1 if they are not its own."""
        if self.spec is None:
            return 1.0
        is_own = self.spec == self.card.get("spec") or (
            self.card.get("from_run") is not None and relative_source(self.spec, self.path) == self.card["from_run"]
        )
        return self.config.data.fraction if is_own else 1.0

    @property
    def no_images(self) -> Html | None:
        """What to show instead of images if there is no model or no source; None if there are both."""
        if self.model is None:
            return missing(f"Not available: {self.no_model}.")
        if self.source is None:
            other = command("report", self.path, "--data", "SOURCE")
            reason = f"Not available, as the images were not found: {self.no_source}. With other images: "
            return missing(reason, other)
        return None

    def not_yet(self, reason: str) -> Html:
        """Say why there is nothing to show, with the command that continues training."""
        if self.is_exported:
            return missing("Not part of an exported model.")
        return missing(reason, command("train", "--out", self.path))

    @property
    def evaluate(self) -> Html:
        """The command that measures the model."""
        return command("evaluate", self.path, *(["--data", "SOURCE", "--out", "DIR"] if self.is_exported else []))


def gather(
    path: Path, data: str | None, labels: str | None = None, checkpoint: str = "newest", umap: bool = False
) -> Run:
    """Read a run folder.

    Args:
        path: the run folder.
        data, labels: the source to show and a labels file for it; by default the run's own.
        checkpoint: "newest", "best" or a step.
        umap: draw the map of features by UMAP too.

    Raises:
        UserError: not a run folder.
    """
    config = read_config(path)
    is_exported = (path / EXPORTED).exists()
    try:
        card = data_card(path)
    except UserError as error:
        warnings.warn(str(error), stacklevel=2)
        card = {}
    spec = data or card.get("spec")
    source, model, no_model = None, None, ""
    no_source = "give --data SOURCE" if is_exported else "the run has no data.json"
    device = default_device()
    try:
        # The data card shows unreadable images: no number of them is an error here.
        if spec:
            source = open_data(path, data, labels, config, max_unreadable=1.0)
    except (UserError, OSError) as error:
        no_source = str(error)
    try:
        model = load(path, checkpoint, device)
    except (UserError, OSError) as error:
        if checkpoint != "newest":  # asked for by name
            raise
        no_model = str(error)
    lines, damaged = read_lines(path / "results.jsonl", RESULT)
    results = newest_results(lines, card.get("name"))
    metrics = read_metrics(path)
    return Run(
        path, config, card, metrics, *results, len(damaged), spec, source, no_source, model, no_model, umap, is_exported
    )
