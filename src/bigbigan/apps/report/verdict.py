"""Say whether a run worked, in words."""

from __future__ import annotations

from bigbigan.apps.report.contents import Run
from bigbigan.apps.report.markup import Html, paragraph, tag
from bigbigan.evaluation.verdict import FEW, judge


def verdict(run: Run) -> Html:
    """Return the verdict, computed from result lines on BN+CReLU, the feature the paper probes."""
    few, ratio = (run.own.get((metric, "trained")) for metric in (FEW.format("bn_crelu"), "reconstruction_ratio"))
    judged = judge(run.own)
    evaluate = run.evaluate
    kind, lead, words = "", "No verdict on the features.", list[object]()
    if not run.config.has_encoder:
        lead, words = (
            "No encoder.",
            ["This is a GAN: it learns to generate images; the only features are its discriminator's."],
        )
    elif judged is not None:
        kind, lead = judged.kind, judged.lead
        words.append(judged.numbers)
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
        words += [f" Measured at step {step:,}; the checkpoint shown is of step {run.model.step:,}: ", evaluate, "."]
    return paragraph(tag("b", lead), " ", *words, classes=f"verdict {kind}")
