"""Compute how long a run was trained, in the two units that Table 2 compares: images seen, and updates of E.

A step of a BigBiGAN sees three batches, and E learns from one of them; in all other systems a step is one batch. So
at equal numbers of images seen, the E of a BigBiGAN is updated a third as often. With `training.e_steps` E is updated
more than once in a step.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bigbigan.config import named_settings
from bigbigan.evaluation.records import Line, chosen_settings
from bigbigan.experiments import EXPERIMENTS

__all__ = ["Budget", "Variant", "budget", "variants"]


class Budget(NamedTuple):
    """Hold the length of a training run."""

    images_seen: int  # drawn from the data, counted once for each batch
    updates: int  # of E
    encoder_images: int  # in the batches that gave E a gradient

    def cells(self) -> tuple[str, str]:
        """Return images seen and updates of E, as a table shows them."""
        by_encoder = f" ({self.encoder_images:,} by E)" if self.encoder_images != self.images_seen else ""
        return f"{self.images_seen:,}{by_encoder}", f"{self.updates:,}"


def budget(line: Line) -> Budget | None:
    """Return the budget of the run of a result line, or None for an external or untrained encoder."""
    if line["subject"] != "trained" or line["experiment"] not in EXPERIMENTS:
        return None
    return Budget(line["images_seen"], _updates(line), _updates(line) * _setting(line, "batch_size"))


def _updates(line: Line) -> int:
    """Return how often E was updated."""
    return int(line["steps"]) * _setting(line, "e_steps")


def _setting(line: Line, name: str) -> int:
    """Return training.NAME of the run of a result line: as recorded, or as in its experiment."""
    if (changed := line["settings"].get(f"training.{name}")) is not None:
        return int(changed)
    if (experiment := EXPERIMENTS.get(line["experiment"])) is None:
        return 1
    return int(getattr(experiment.config(line.get("scale", 0)).training, name))


class Variant(NamedTuple):
    """Name runs of an experiment with other settings, or of another length, than the runs that a table compares."""

    experiment: str
    difference: str
    lines: list[Line]  # of the untrained networks with these settings, then of the trained ones


def variants(shown: Sequence[Line], lines: Iterable[Line]) -> list[Variant]:
    """Return the runs that share a budget with the runs of a table: as many images seen, or as many updates of E.

    Args:
        shown: lines of the trained networks that the table compares, of one data set and one change of settings.
        lines: all lines that there are.
    """
    if not shown:
        return []
    split, usual = (shown[0]["dataset"], shown[0]["split"]), chosen_settings(shown[0])
    images, updates = {x["images_seen"] for x in shown}, {_updates(x) for x in shown}
    lines = [x for x in lines if (x["dataset"], x["split"]) == split]
    groups: dict[tuple[str, str, int], list[Line]] = {}
    for x in lines:
        same_budget = x["images_seen"] in images or _updates(x) in updates
        main = chosen_settings(x) == usual and x["images_seen"] in images
        if x["subject"] == "trained" and same_budget and not main:
            key = (x["experiment"], json.dumps(chosen_settings(x), sort_keys=True), x["steps"])
            groups.setdefault(key, []).append(x)
    found = []
    for (experiment, *_), trained in groups.items():
        settings = chosen_settings(trained[0])
        changed = {k: v for k, v in settings.items() if k not in usual or usual[k] != v}
        difference = named_settings(changed) or f"{_updates(trained[0]):,} updates of E"
        untrained = [
            x
            for x in lines
            if (x["subject"], x["experiment"]) == ("untrained", experiment) and chosen_settings(x) == settings
        ]
        found.append(Variant(experiment, difference, untrained + trained))
    return found
