"""Define result lines: one JSON object for each measured number. A number without such a line does not exist.

A line says which question it answers (`study`) and what was measured (`subject`); tables select lines by these fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal, NamedTuple

from bigbigan.experiments import EXPERIMENTS
from bigbigan.io import append_lines, read_lines, warn_of_damage

__all__ = [
    "EXTERNAL_ROWS",
    "PROBE_COLUMNS",
    "PROBE_ROWS",
    "Line",
    "Measurement",
    "ResultLine",
    "Results",
    "Subject",
    "append_results",
    "better",
    "chosen_settings",
    "formatted",
    "labels_of",
    "newest_results",
    "paired_lead",
    "read_results",
    "result_lines",
    "same_images",
    "transferred",
    "with_std",
]

# What a number was measured on:
#   pixels, pca_pixels   the images themselves as features, raw or PCA-whitened: the baselines
#   untrained            the networks of a run before its first step
#   trained              the networks of a run
#   external             an encoder that was trained by other code (bigbigan.evaluation.targets)
#   images               images, without features of ours: the quality of real and blurred ones
#   program              the program: its time, memory and arithmetic, whatever the weights
Subject = Literal["pixels", "pca_pixels", "untrained", "trained", "external", "images", "program"]

_PIXEL_ROWS: dict[str, tuple[str, Subject]] = {
    "raw pixels": ("pixels", "pixels"),
    "PCA-whitened pixels": ("pca_pixels", "pca_pixels"),
}
# The rows of every table of probes, (feature, subject) by title, baselines first; and those of an external encoder.
PROBE_ROWS: dict[str, tuple[str, Subject]] = _PIXEL_ROWS | {
    "untrained E, AvePool": ("avepool", "untrained"),
    "untrained E, BN+CReLU": ("bn_crelu", "untrained"),
    "trained E, AvePool": ("avepool", "trained"),
    "trained E, BN+CReLU": ("bn_crelu", "trained"),
}
EXTERNAL_ROWS: dict[str, tuple[str, Subject]] = _PIXEL_ROWS | {
    "AvePool": ("avepool", "external"),
    "BN+CReLU": ("bn_crelu", "external"),
}
PROBE_COLUMNS = {
    "linear, all labels": "top1_linear_{}",
    "linear, 10 labels per class": "top1_linear_{}_10perclass",
    "5-NN, all labels": "knn5_l2_{}",
    "5-NN, 10 labels per class": "knn5_l2_{}_10perclass",
}

TESTED = ("test", "val", "held_out")  # splits that features are tested on
LABELLED = ("top1", "top5", "knn", "balanced", "auroc", "ece", "nmi", "purity")  # names of metrics that need labels

Line = dict[str, Any]  # as read from results.jsonl or metrics.jsonl
Results = dict[tuple[str, str], Line]  # newest line by (metric, subject)


class Measurement(NamedTuple):
    """Hold a measured value.

    If it was measured in several trials, `std` is their standard deviation and `trials` has their values. Trial k uses
    the same labelled images for all features, so that features can be compared trial by trial.
    """

    value: float
    std: float | None = None
    trials: list[float] | None = None
    protocol: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class ResultLine:
    """Hold one number, with all that is needed to say what it is. `result_lines` makes these lines.

    Attributes:
        study: the question that the line answers. Commands write evaluation, classification, clustering,
            feature_extractor or bench; `bigbigan evaluate --study` names another; a script in reproduction/ writes its
            own name.
        subject: what was measured, see `Subject`.
        experiment: the experiment, or the name of an external encoder.
        scale: 0 for an experiment at its own size; 16, 32 or 64 is the resolution that replaces the paper's 128 px.
        settings: the settings in which the run differs from the experiment as defined.
        table_row: the row of a published table that the experiment stands for.
        metric: its name carries the protocol (`bigbigan.evaluation.metric_names`).
        std, trials: see `Measurement`.
        protocol: what the name of the metric does not say. Image quality: the digest of the feature extractor, and the
            number of references. Sweeps: the learning rate that was chosen. A network that was trained on other data
            than `dataset`: which ("trained_on").
        labels: of a labels file, its `sha256` (12 digits), and how many images are `without` a label.
        n: how many images (or steps, or requests) the value was measured over.
        steps, images_seen: how long the network was trained; 0 for all subjects but trained networks.
    """

    study: str
    subject: Subject
    experiment: str
    scale: int
    settings: dict[str, Any]
    table_row: str | None
    dataset: str
    split: str
    metric: str
    value: float
    std: float | None
    trials: list[float] | None = None
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


def result_lines(
    measurements: Mapping[str, Measurement | float],
    *,
    study: str,
    subject: Subject,
    experiment: str,
    dataset: str,
    split: str,
    n: int,
    seconds: float,
    command: str,
    scale: int = 0,
    settings: Mapping[str, Any] | None = None,
    labels: Mapping[str, Any] | None = None,
    seed: int = 0,
    steps: int = 0,
    images_seen: int = 0,
    device: str | None = None,
    digits: int | None = None,
) -> list[ResultLine]:
    """Return a result line for each measurement, in the order of their names.

    Args:
        measurements: by name of the metric.
        seconds: how long all of them took together.
        device: by default the one of this process.
        digits: round values to this many significant digits; by default to four decimals.

    All other arguments are fields of `ResultLine`. The row of the table is that of the experiment; commit and device
    are those of this process.
    """
    from bigbigan.training.devices import device_name  # loads torch, which readers of lines do without
    from bigbigan.training.run_folder import commit

    def rounded(value: float) -> float:
        return round(value, 4) if digits is None else float(f"{value:.{digits}g}")

    made_by = {"device": device or device_name(), "commit": commit(), "command": command}
    lines = []
    for metric, given in sorted(measurements.items()):
        m = given if isinstance(given, Measurement) else Measurement(given)
        line = ResultLine(
            study=study,
            subject=subject,
            experiment=experiment,
            scale=scale,
            settings=dict(settings or {}),
            table_row=EXPERIMENTS[experiment].table_row if experiment in EXPERIMENTS else None,
            dataset=dataset,
            split=split,
            metric=metric,
            value=rounded(m.value),
            std=None if m.std is None else rounded(m.std),
            trials=None if m.trials is None else [rounded(value) for value in m.trials],
            protocol=dict(m.protocol or {}),
            labels=dict(labels or {}),
            n=n,
            seed=seed,
            steps=steps,
            images_seen=images_seen,
            seconds=round(seconds, 2),
            **made_by,
        )
        lines.append(line)
    return lines


def transferred(line: dict[str, Any]) -> bool:
    """Return whether the encoder of a line was trained on other data than the line's.

    This also holds for baselines in a comparison of such encoders (reproduction/measure/transfer.py).
    """
    return "trained_on" in line.get("protocol", {})


def chosen_settings(line: dict[str, Any]) -> dict[str, Any]:
    """Return the changed settings of a line that somebody chose.

    The data decide how many classes there are, and whether images are mirrored or padded. If they are, earlier versions
    did the same without recording it.
    """
    by_data = {"data.classes": None, "data.mirror": "always", "data.pad": None}
    return {k: v for k, v in line["settings"].items() if k not in by_data or by_data[k] not in (None, v)}


def paired_lead(ours: dict[str, Any], base: dict[str, Any]) -> tuple[float, float] | None:
    """Return how far one value is above another, and the standard deviation of this lead over paired trials.

    Trials are paired by their labelled images. Returns None if a line has no trials, or those of other images.
    """
    a, b = ours.get("trials"), base.get("trials")
    if not a or not b or len(a) != len(b) or len(a) < 2 or not same_images(ours, base):
        return None
    leads = [x - y for x, y in zip(a, b, strict=True)]
    return mean(leads), stdev(leads)


def same_images(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two lines were measured on the same images with the same labels, as far as they say."""

    def images(line: Mapping[str, Any]) -> tuple[Any, ...]:
        labels, protocol = line.get("labels") or {}, line.get("protocol") or {}
        limited = protocol.get("train_images")  # by --max-images
        return line.get("dataset"), line.get("split"), line.get("n"), limited, labels.get("sha256")

    return images(one) == images(other)


def labels_of(line: Line) -> str | None:
    """Return the labels that a line was measured with: the digest of a file, "" for the source's own, None for none."""
    if not line["metric"].startswith(LABELLED):
        return None
    return (line.get("labels") or {}).get("sha256") or ""


def better(*lines: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the line with the highest value, of equals the first; None if there is none.

    The better of raw and whitened pixels is the baseline to compare with.
    """
    return max((line for line in lines if line is not None), key=lambda line: line["value"], default=None)


def newest_results(lines: list[Line], name: str | None) -> tuple[Results, list[Line], list[Line]]:
    """Return the newest lines of each kind: of the run on data set `name`, on other data, and of other encoders.

    Of data set `name`, lines of the test images and labels measured last are returned, and those of images of other
    kinds, such as clusters of training images, folds of cross-validation, or samples. Pixels that were measured for an
    external encoder are at that encoder's resolution, and omitted.
    """
    groups: dict[tuple[str, str, str | None], Results] = {}
    encoders = {line["experiment"] for line in lines if line["subject"] == "external"}
    external: dict[tuple[str, str, str, str], Line] = {}
    for line in lines:
        place, key = (line["dataset"], line["split"], labels_of(line)), (line["metric"], line["subject"])
        if line["subject"] == "external":
            external[(*place[:2], line["experiment"], line["metric"])] = line
        elif line["experiment"] not in encoders:
            groups[place] = groups.pop(place, {}) | {key: line}  # the split measured last comes last
    ours = [place for place in reversed(groups) if place[0] == name]
    ours.sort(key=lambda place: (place[1] not in TESTED, place[2] is None))  # stable
    own = next(iter(ours), None)
    labels = next((place[2] for place in ours if place[2] is not None), None)
    results: Results = {}
    for place in ours[1:]:
        if place[2] in (None, labels) and (place[1] not in TESTED or (own and place[1] == own[1])):
            results = groups.pop(place) | results
    results |= groups.pop(own) if own else {}
    others = [line for group in groups.values() for line in group.values()]
    measured = next((line for line in results.values() if own and (line["dataset"], line["split"]) == own[:2]), None)
    comparable = [line for line in external.values() if measured is not None and same_images(measured, line)]
    return results, others, comparable


def with_std(value: float, std: float | None, form: str = ".1f") -> str:
    """Return a value in a format, with its standard deviation if there is one: 71.3 ± 0.4."""
    return f"{value:{form}}" if std is None else f"{value:{form}} ± {std:{form}}"


def formatted(line: Mapping[str, Any]) -> str:
    """Return value and standard deviation of a result line: percentages with one decimal, others with four digits."""
    form = ".1f" if line["metric"].startswith(("top1", "top5", "knn")) else ".4g"
    return with_std(line["value"], line.get("std"), form)


# The form of a line, see `bigbigan.io.checked`: what every reader relies on. Older lines lack some of the other fields.
RESULT = {
    "study": str,
    "subject": str,
    "experiment": str,
    "scale?": int,
    "settings": {str: Any},
    "table_row?": (str, None),
    "dataset": str,
    "split": str,
    "metric": str,
    "value": float,
    "std?": (float, None),
    "trials?": ([float], None),
    "protocol?": {"references?": float, str: Any},
    "labels?": {str: Any},
    "n?": int,
    "seed": int,
    "steps": int,
    "images_seen": int,
    "command?": str,
}


def append_results(path: Path, lines: Sequence[ResultLine]) -> None:
    """Append lines to a file of result lines, which is created if it is missing.

    Raises:
        RunError: the disk is full.
        UserError: the file cannot be written.
    """
    append_lines(path, map(asdict, lines), stamp=True)


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file, oldest first; an empty list if there is no file.

    Lines that are damaged, or have no `study` or `subject`, are skipped, and a warning says which and why.
    """
    lines, damaged = read_lines(path, RESULT)
    warn_of_damage(path, damaged)
    return lines
