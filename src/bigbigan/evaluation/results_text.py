"""Print result lines: the probes as one table in words, baselines first, then the other values, each on a line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from bigbigan.evaluation.metric_names import PIXELS
from bigbigan.evaluation.records import (
    EXTERNAL_ROWS,
    PROBE_COLUMNS,
    PROBE_ROWS,
    ResultLine,
    better,
    paired_lead,
    with_std,
)

__all__ = ["classifiers_table", "head_text", "other_titles", "results_table"]

TITLE = 24  # width of the column of row titles
CELL = 18  # width of the others: four columns fit in 100 characters

# Printed after the name of a metric, for lines outside the table of probes.
_SUBJECT_NOTES = {"pixels": " (raw pixels)", "pca_pixels": " (PCA-whitened pixels)", "untrained": " (untrained)"}
_RECONSTRUCTION = "reconstruction_ratio"
_TIME = "evaluation_seconds"
_QUALITY = re.compile(r"(fid|is)(\d+)k_(?:(train|test)_)?(.+)")
# Rows of the table of `classify`: (classifier, subject) by title, baselines first.
_CLASSIFIERS = {
    "raw pixels": ("frozen_pixels", "pixels"),
    "PCA-whitened pixels": ("frozen_pca_pixels", "pca_pixels"),
    "untrained E": ("frozen_bn_crelu", "untrained"),
    "whole network, scratch": ("scratch", "untrained"),
    "trained E": ("frozen_bn_crelu", "trained"),
    "external encoder": ("frozen_bn_crelu", "external"),
    "trained E, fine-tuned": ("finetuned", "trained"),
}
_SCORES = {
    "top1": ("accuracy", "%"),
    "balanced": ("balanced accuracy", "%"),
    "auroc": ("AUROC", "0 to 1"),
    "ece": ("calibration error", "%"),
}


def results_table(lines: Sequence[ResultLine], everything: bool = True) -> str:
    """Return lines as text of at most 100 columns: the probes as a table, then the other values, each on a line.

    Args:
        lines: of one evaluation.
        everything: print each value; otherwise the table, reconstruction and image quality, and how many others there
            are.
    """
    by_metric: dict[tuple[str, str], ResultLine] = {(line.metric, line.subject): line for line in lines}
    rows = EXTERNAL_ROWS if any(line.subject == "external" for line in lines) else PROBE_ROWS
    columns = {
        title: pattern
        for title, pattern in PROBE_COLUMNS.items()
        if any((pattern.format(name), subject) in by_metric for name, subject in rows.values())
    }
    in_table = {(pattern.format(name), subject) for pattern in columns.values() for name, subject in rows.values()}
    out = []
    if columns:
        short = (title.replace("labels per class", "per class") for title in columns)
        first, second = zip(*(title.split(", ") for title in short), strict=True)
        out += ["top-1 accuracy, %".ljust(TITLE) + _cells(first), " " * TITLE + _cells(second)]
    for title, (name, subject) in rows.items():
        cells = [by_metric.get((pattern.format(name), subject)) for pattern in columns.values()]
        if any(cells):
            out.append(title.ljust(TITLE) + _cells([_value(line) for line in cells]))
    out += _lead(by_metric)
    of_pixels = [(pattern.format(name), name) for pattern in columns.values() for name in PIXELS]
    if columns and not by_metric.keys() & set(of_pixels):
        out.append(f"pixels, to compare with, were not measured: --metrics {','.join(m for m, _ in of_pixels[:2])}")
    elif not everything and (left_out := _heads_left_out({metric for metric, _ in by_metric})):
        out.append(f"skipped the linear heads on raw pixels, which take long here: --metrics {','.join(left_out)}")
    for line in lines:
        if line.metric == _RECONSTRUCTION:
            out.append(f"reconstruction error, matched / mismatched: {line.value:.3f} (1 = nothing learned)")
    others = [
        line
        for line in lines
        if (line.metric, line.subject) not in in_table and line.metric not in (_RECONSTRUCTION, _TIME)
    ]
    shown = others if everything else [line for line in others if line.metric.startswith(("fid", "is1", "task"))]
    for line in shown:
        chance = f" (chance {line.protocol['chance']:g})" if "chance" in line.protocol else ""
        digits = 1 if line.value >= 10 else 3
        out.append(f"{line.metric}{_SUBJECT_NOTES.get(line.subject, '')}: {_value(line, digits)}{chance}")
    if count := len(others) - len(shown):
        out.append(f"{count} more values: --json prints them, and bigbigan evaluate --list-metrics explains them")
    out += [
        f"took {line.value:.0f} s: " + ", ".join(f"{part} {seconds:.0f}" for part, seconds in line.protocol.items())
        for line in lines
        if line.metric == _TIME
    ]
    return "\n".join(out + _skipped(lines))


def _heads_left_out(measured: set[str]) -> list[str]:
    """Return the names of the linear heads on raw pixels that a default evaluation has skipped."""
    names = [(f"top1_{protocol}_avepool", f"top1_{protocol}_pixels") for protocol in ("table1", "sweep5k")]
    return [pixels for avepool, pixels in names if avepool in measured and pixels not in measured]


def other_titles(keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return what the short table of `results_table` shows below the probes: titles in words by (metric, subject).

    They are the reconstruction ratio, FID, the Inception Score and pretext tasks.
    """
    found: dict[tuple[str, str], str] = {}
    for metric, subject in sorted(keys, key=lambda key: (key[0] != _RECONSTRUCTION, key)):
        of = _SUBJECT_NOTES.get(subject, "")
        if metric == _RECONSTRUCTION:
            found[metric, subject] = f"reconstruction, matched / mismatched{of}"
        elif match := _QUALITY.fullmatch(metric):
            kind, thousands, split, network = match.groups()
            name = "FID" if kind == "fid" else "Inception Score"
            found[metric, subject] = ", ".join([name + of, f"{thousands}k samples", *filter(None, [split]), network])
        elif metric.startswith("task_accuracy_"):
            found[metric, subject] = f"task {metric.removeprefix('task_accuracy_')}{of}, accuracy in %"
    return found


def classifiers_table(lines: Sequence[ResultLine]) -> str:
    """Return the lines of `classify` as a table: a row for each classifier, baselines first.

    Accuracy, the mean of the accuracies of the classes, AUROC, and the expected calibration error of the confidence.
    """
    found: dict[tuple[str, str, str], ResultLine] = {}
    labels = ""
    for line in lines:
        score, _, name = line.metric.partition("_")
        name, _, labels = name.rpartition("_")
        found[name, line.subject, score] = line
    scores = {score: words for score, words in _SCORES.items() if any(key[2] == score for key in found)}
    first, second = zip(*scores.values(), strict=True)
    out = [
        f"{_in_words(labels)}; {lines[0].n:,} {lines[0].split.replace('held_out', 'held-out')} images",
        "classifier".ljust(TITLE) + _cells(first),
        " " * TITLE + _cells(second),
    ]
    for title, key in _CLASSIFIERS.items():
        cells = [found.get((*key, score)) for score in scores]
        if any(cells):
            digits = [3 if score == "auroc" else 1 for score in scores]
            texts = [_value(line, n) for line, n in zip(cells, digits, strict=True)]
            out.append(title.ljust(TITLE) + _cells(texts))
    return "\n".join(out + _skipped(lines))


def head_text(lines: Sequence[ResultLine]) -> str:
    """Return the lines of `classify --save` as a sentence, after which pixels are named to compare with."""
    found = {line.metric.removesuffix("_head"): line.value for line in lines}
    scores = [
        f"{words} {found[score]:{'.3f' if score == 'auroc' else '.1f'}}{unit if unit == '%' else ''}"
        for score, (words, unit) in _SCORES.items()
        if score in found
    ]
    unlike = f"; {found['unlike']:.1f}% found unlike the training images" if "unlike" in found else ""
    images = f"{lines[0].n:,} images of the {lines[0].split} split"
    if lines[0].split == "folds":  # strength and temperature were chosen on them too
        images = "held-out folds of cross-validation (a little too good)"
    return (
        f"on the {images}: {', '.join(scores)}{unlike}\n"
        "to compare with pixels: bigbigan classify RUN --labels-per-class N --out FILE.csv"
    )


def _in_words(labels: str) -> str:
    """Return the end of a metric's name in words: "20perclass" is "20 labels per class"."""
    if labels.endswith("perclass"):
        return f"{labels.removesuffix('perclass')} labels per class"
    return f"{labels.removesuffix('percent')} % of the labels"


def _lead(by_metric: dict[tuple[str, str], ResultLine]) -> list[str]:
    """Return a line that says how far the encoder is above pixels with 10 labels per class; none if not measured."""

    def line(feature: str, *subjects: str) -> dict[str, object] | None:
        found = (by_metric.get((f"top1_linear_{feature}_10perclass", subject)) for subject in subjects)
        return next((asdict(one) for one in found if one is not None), None)

    ours = line("bn_crelu", "trained", "external") or line("avepool", "trained", "external")
    base = better(line("pixels", "pixels"), line("pca_pixels", "pca_pixels"))
    lead = paired_lead(ours, base) if ours and base else None
    if lead is None:
        return []
    difference = f"{abs(lead[0]):.1f} ± {lead[1]:.1f} points {'above' if lead[0] >= 0 else 'below'}"
    return [f"with 10 labels per class, E is {difference} the better of the two kinds of pixels"]


def _skipped(lines: Sequence[ResultLine]) -> list[str]:
    without = max((line.labels.get("without", 0) for line in lines), default=0)
    return [f"skipped {without:,} images without a label"] if without else []


def _cells(texts: Sequence[str]) -> str:
    return "".join(text.rjust(CELL) for text in texts)


def _value(line: ResultLine | None, digits: int = 1) -> str:
    return "-" if line is None else with_std(line.value, line.std, f".{digits}f")
