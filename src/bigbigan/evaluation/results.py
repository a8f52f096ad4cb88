"""Result lines: one JSON object a measured number. A number without such a line does not exist."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

__all__ = ["PROBE_COLUMNS", "PROBE_ROWS", "ResultLine", "append_results", "paired_lead", "read_results"]

# How probe figures are laid out wherever they are shown: (feature, of the trained encoder) by row, baselines first.
PROBE_ROWS = {
    "raw pixels": ("pixels", False),
    "untrained E, AvePool": ("avepool", False),
    "untrained E, BN+CReLU": ("bn_crelu", False),
    "trained E, AvePool": ("avepool", True),
    "trained E, BN+CReLU": ("bn_crelu", True),
}
PROBE_COLUMNS = {
    "linear, all labels": "top1_linear_{}",
    "linear, 10 labels a class": "top1_linear_{}_10perclass",
    "5-NN, all labels": "knn5_l2_{}",
    "5-NN, 10 labels a class": "knn5_l2_{}_10perclass",
}


@dataclass(frozen=True, kw_only=True)
class ResultLine:
    """One number and all it takes to say what it is.

    `metric` carries the protocol (see bigbigan.evaluation.probe). `steps` 0 with `images_seen` 0 is the same
    network untrained; metrics of raw pixels have it too. `std` is over `draws`, where there were several; draw k is
    of the same labelled images in all lines of an evaluation.
    `scale` is 0 for an experiment at its own size; 32 or 64 is the resolution that stands for the paper's 128 px.
    `settings` are those in which the run differs from the experiment as defined; empty for the experiment itself.
    """

    experiment: str
    scale: int
    settings: dict[str, Any]
    table_row: str | None
    dataset: str
    split: str
    metric: str
    value: float
    std: float | None
    draws: list[float] | None = None
    n: int
    seed: int
    steps: int
    images_seen: int
    device: str
    seconds: float
    commit: str
    command: str


def paired_lead(ours: dict[str, Any], base: dict[str, Any]) -> tuple[float, float] | None:
    """By how much one figure is above another, and the standard deviation of that over draws of the same labelled
    images; None where a line has no draws."""
    a, b = ours.get("draws"), base.get("draws")
    if not a or not b or len(a) != len(b) or len(a) < 2:
        return None
    leads = [x - y for x, y in zip(a, b, strict=True)]
    return mean(leads), stdev(leads)


def append_results(path: Path, lines: list[ResultLine]) -> None:
    """Add lines to a file of result lines, made if missing."""
    with path.open("a") as file:
        file.write("".join(json.dumps(asdict(line)) + "\n" for line in lines))


def read_results(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, oldest first; an empty list where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
