"""Result lines: one JSON object a measured number. A number without such a line does not exist."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from bigbigan.io import append_lines, read_lines, warn_of_damage

__all__ = [
    "PROBE_COLUMNS",
    "PROBE_ROWS",
    "Figure",
    "ResultLine",
    "append_results",
    "better",
    "chosen_settings",
    "paired_lead",
    "read_results",
    "results_table",
    "transferred",
]

# How probe figures are laid out wherever they are shown: (feature, of the trained encoder) by row, baselines first.
PROBE_ROWS = {
    "raw pixels": ("pixels", False),
    "PCA-whitened pixels": ("pca_pixels", False),
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


class Figure(NamedTuple):
    """A measured number; `std` over draws (or parts) where there were several, and each draw. Draw k is of the same
    labelled images for all features, so that features are compared draw by draw."""

    value: float
    std: float | None = None
    draws: list[float] | None = None
    protocol: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class ResultLine:
    """One number and all it takes to say what it is.

    `metric` carries the protocol (see bigbigan.evaluation.probes.logistic). `steps` 0 with `images_seen` 0 is the same
    network untrained; metrics of raw pixels have it too. `std` is over `draws`, where there were several; draw k is
    of the same labelled images in all lines of an evaluation.
    `scale` is 0 for an experiment at its own size; 32 or 64 is the resolution that stands for the paper's 128 px.
    `protocol` says what the name cannot: of image quality the network's digest and how many references there were; of
    a sweep the rate that was chosen; of what was trained on other data than `dataset`, which ("trained_on").
    `labels`, where they come from a labels file: its `sha256`, 12 digits, and how many images it leaves `without`.
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
    protocol: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)
    n: int
    seed: int
    steps: int
    images_seen: int
    device: str
    seconds: float
    commit: str
    command: str


def transferred(line: dict[str, Any]) -> bool:
    """Whether a line is of what was trained on other data, or part of a comparison of such (tools/transfer.py)."""
    return "trained_on" in line.get("protocol", {})


def chosen_settings(line: dict[str, Any]) -> dict[str, Any]:
    """The changed settings of a line that somebody chose. The data decide how many classes there are. They also decide
    whether images are mirrored; where they are, that is what earlier versions did without saying so."""
    by_data = {"data.classes": None, "data.mirror": "always"}
    return {k: v for k, v in line["settings"].items() if k not in by_data or by_data[k] not in (None, v)}


def paired_lead(ours: dict[str, Any], base: dict[str, Any]) -> tuple[float, float] | None:
    """By how much one figure is above another, and the standard deviation of that over draws of the same labelled
    images; None where a line has no draws."""
    a, b = ours.get("draws"), base.get("draws")
    if not a or not b or len(a) != len(b) or len(a) < 2:
        return None
    leads = [x - y for x, y in zip(a, b, strict=True)]
    return mean(leads), stdev(leads)


def better(*lines: dict[str, Any] | None) -> dict[str, Any] | None:
    """The line with the highest value, the first of equals; None where there is none. Of pixels, raw and whitened, it
    is the baseline to compare with."""
    return max((line for line in lines if line is not None), key=lambda line: line["value"], default=None)


# What every reader of a line relies on, see `bigbigan.io.checked`; lines of older versions have fewer parts.
RESULT = {
    "experiment": str,
    "scale?": int,
    "settings": {str: Any},
    "table_row?": (str, None),
    "dataset": str,
    "split": str,
    "metric": str,
    "value": float,
    "std?": (float, None),
    "draws?": ([float], None),
    "protocol?": {"references?": float, str: Any},
    "labels?": {str: Any},
    "n?": int,
    "seed": int,
    "steps": int,
    "images_seen": int,
    "command?": str,
}


def append_results(path: Path, lines: list[ResultLine]) -> None:
    """Add lines to a file of result lines, made if missing.

    Raises:
        RunError: the disk is full. UserError: the file cannot be written.
    """
    append_lines(path, map(asdict, lines), stamp=True)


def read_results(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, oldest first; an empty list where there is no file. Lines that are damaged or no results
    are left out, and a warning says which."""
    lines, damaged = read_lines(path, RESULT)
    warn_of_damage(path, damaged)
    return lines


def results_table(lines: list[ResultLine]) -> str:
    """Lines as text: probe figures as a table, a row a feature, baselines first; then image quality."""
    by_metric: dict[tuple[str, bool], ResultLine] = {(line.metric, line.steps > 0): line for line in lines}
    frozen = all(line.steps == 0 for line in lines)  # an encoder made elsewhere, with no untrained twin
    patterns = PROBE_COLUMNS | {"Table 1's classifier": "top1_table1_{}", "Table 2's, 5k steps": "top1_sweep5k_{}"}
    columns = {
        title: pattern
        for title, pattern in patterns.items()
        if any(line.metric == pattern.format(name) for line in lines for name, _ in PROBE_ROWS.values())
    }
    out = ["top-1 accuracy, %".ljust(24) + "".join(title.rjust(26) for title in columns)] if columns else []
    for title, (name, trained) in PROBE_ROWS.items():
        if frozen and trained:
            continue
        found = [by_metric.get((pattern.format(name), trained)) for pattern in columns.values()]
        if any(found):
            shown = title.removeprefix("untrained E, ") if frozen else title
            out.append(shown.ljust(24) + "".join(_figure(line).rjust(26) for line in found))
    for line in lines:
        if line.metric == "reconstruction_ratio":
            out.append(f"reconstruction error over that of shuffled pairs: {line.value:.3f} (1 = nothing learned)")
    shown_above = {pattern.format(name) for pattern in columns.values() for name, _ in PROBE_ROWS.values()}
    rest = [line for line in lines if line.metric not in {*shown_above, "reconstruction_ratio", "evaluation_seconds"}]
    for line in rest:
        whose = "" if line.steps or frozen or line.metric.endswith("_pixels") else " (untrained)"
        chance = f" (chance {line.protocol['chance']:g})" if "chance" in line.protocol else ""
        out.append(f"{line.metric}{whose}: {_figure(line, 1 if line.value >= 10 else 3)}{chance}")
    for line in lines:
        if line.metric == "evaluation_seconds":
            parts = ", ".join(f"{part} {seconds:.0f}" for part, seconds in line.protocol.items())
            out.append(f"took {line.value:.0f} s: {parts}")
    if without := max((line.labels.get("without", 0) for line in lines), default=0):
        out.append(f"{without:,} images without a label: left out")
    return "\n".join(out)


def _figure(line: ResultLine | None, digits: int = 1) -> str:
    if line is None:
        return "-"
    return f"{line.value:.{digits}f}" + ("" if line.std is None else f" ± {line.std:.{digits}f}")
