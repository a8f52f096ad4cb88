"""Say whether a run worked, in words."""

from __future__ import annotations

import math

from bigbigan.apps.report.contents import Line, Run, formatted
from bigbigan.apps.report.markup import Html, command, paragraph, tag
from bigbigan.evaluation.records import better, paired_lead

FEW = "top1_linear_{}_10perclass"


def verdict(run: Run) -> Html:
    """Return the verdict, computed from result lines on BN+CReLU, the feature the paper probes."""
    few, ratio = (run.own.get((metric, "trained")) for metric in (FEW.format("bn_crelu"), "reconstruction_ratio"))
    evaluate = command("evaluate", run.path)
    kind, lead, words = "", "No verdict on the features.", list[object]()
    if not run.config.has_encoder:
        lead, words = (
            "No encoder.",
            ["This is a GAN: it learns to generate images; the only features are its discriminator's."],
        )
    elif few is not None:
        baselines = (("pixels", "pixels"), ("pca_pixels", "pca_pixels"), ("bn_crelu", "untrained"))
        raw, pca, untrained = (run.own.get((FEW.format(name), subject)) for name, subject in baselines)
        pixels = better(raw, pca)
        beats = [
            _compare(few, pixels, "raw pixels" if pixels is raw else "PCA-whitened pixels"),
            _compare(few, untrained, "the untrained encoder"),
        ]
        kind = ("bad", "unclear", "good")[min(mark for mark, _ in beats)]
        lead = {"good": "It worked.", "unclear": "Not clearly, so far.", "bad": "Not yet."}[kind]
        words.append(
            "With 10 labels for each class, a linear classifier on the trained encoder's features has an accuracy of "
            f"{formatted(few)} % on {few.get('n', 0):,} unseen images: {'; '.join(text for _, text in beats)}."
        )
    elif run.own:
        words.append(
            "The probe with 10 labels for each class was not run: no labels, or only other metrics were asked for."
        )
    else:
        lead = "Not evaluated yet."
        words += ["To measure what the encoder learned: ", evaluate, "."]
    logged = [m["reconstruction_ratio"] for m in run.metrics if "reconstruction_ratio" in m]
    if ratio or logged:
        value, when = (ratio["value"], "") if ratio else (logged[-1], " in the last batch logged")
        words.append(f" Reconstruction error, matched / mismatched: {value:.3f}{when} (1 = nothing learned).")
    step = (few or ratio or {}).get("steps")
    if step and run.model is not None and step != run.model.step:
        words += [f" Measured at step {step:,}; the newest checkpoint is of step {run.model.step:,}: ", evaluate, "."]
    return paragraph(tag("b", lead), " ", *words, classes=f"verdict {kind}")


def _compare(ours: Line, base: Line | None, name: str) -> tuple[int, str]:
    """Compare two lines: return 0 if ours is not above the other, 1 if above, 2 if clearly above; and words.

    Clearly is by more than two standard deviations of the difference, which is taken trial by trial if the trials are
    known.
    """
    if base is None:
        return 1, f"{name} not measured"
    gap = round(ours["value"], 1) - round(base["value"], 1)  # of the rounded values that the page shows
    paired = paired_lead(ours, base)
    clear = abs(gap) > 2 * (paired[1] if paired else math.hypot(ours.get("std") or 0, base.get("std") or 0))
    text = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'} {name} ({base['value']:.1f})"
    return (gap > 0) * (1 + clear), f"{text}, {'more' if clear else 'less'} than two standard deviations"
