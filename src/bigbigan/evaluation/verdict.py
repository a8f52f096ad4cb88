"""Say in words whether training was worth it: the trained encoder against pixels and the untrained encoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from bigbigan.evaluation.records import better, paired_lead, same_images, with_std

__all__ = ["Verdict", "judge"]

FEW = "top1_linear_{}_10perclass"
Line = Mapping[str, Any]


class Verdict(NamedTuple):
    """Hold a verdict: its kind, a sentence of a few words, and the sentence with the numbers behind it."""

    kind: Literal["good", "unclear", "bad"]
    lead: str
    numbers: str

    def __str__(self) -> str:
        return f"{self.lead} {self.numbers}"


def judge(lines: Mapping[tuple[str, str], dict[str, Any]]) -> Verdict | None:
    """Return the verdict on a run, from its probe on BN+CReLU with 10 labels per class; None if that was not measured.

    Args:
        lines: result lines by metric and subject.
    """
    few = lines.get((FEW.format("bn_crelu"), "trained"))
    if few is None:
        return None
    baselines = (("pixels", "pixels"), ("pca_pixels", "pca_pixels"), ("bn_crelu", "untrained"))
    found = (lines.get((FEW.format(name), subject)) for name, subject in baselines)
    raw, pca, untrained = (line if line is not None and same_images(few, line) else None for line in found)
    pixels = better(raw, pca)
    above_pixels, of_pixels = _compare(few, pixels, "raw pixels" if pixels is raw else "PCA-whitened pixels")
    above_untrained, of_untrained = _compare(few, untrained, "the untrained encoder")
    kind: Literal["good", "unclear", "bad"]
    if min(above_pixels, above_untrained) == 2:
        kind, lead = "good", "It worked: the features are clearly better than pixels and than the untrained encoder's."
    elif above_untrained == 2:
        kind = "bad" if above_pixels == 0 else "unclear"
        than = "no better than pixels" if kind == "bad" else "not clearly better than pixels"
        compared = f"they are {than} on these images" if pixels else "they were not compared with pixels"
        lead = f"Training improved the features clearly; {compared}."
    elif min(above_pixels, above_untrained) == 0:
        kind, lead = "bad", "The features are not better than the baselines yet."
    else:
        kind, lead = "unclear", "The features are not clearly better than the baselines so far."
    images = "images held out with their labels" if few.get("split") == "held_out" else "unseen images"
    numbers = (
        "With up to 10 labels for each class, a linear classifier on the trained encoder's features has an accuracy of "
        f"{with_std(few['value'], few.get('std'))} % on {few.get('n', 0):,} {images}: {of_pixels}; {of_untrained}."
    )
    return Verdict(kind, lead, numbers)


def _compare(ours: Line, base: Line | None, name: str) -> tuple[int, str]:
    """Compare two lines: return 0 if ours is not above the other, 1 if above, 2 if clearly above; and words.

    Clearly is by more than two standard deviations over trials, taken trial by trial if the trials are known, and by
    more than the test images leave open (one-sided, at 95 %). Without several trials nothing is clear.
    """
    if base is None:
        return 1, f"{name} not measured"
    gap = round(ours["value"], 1) - round(base["value"], 1)  # of the rounded values that are shown
    if not gap:
        return 0, f"equal to {name} ({base['value']:.1f})"
    text = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'} {name} ({base['value']:.1f})"
    above = int(gap > 0)
    paired = paired_lead(dict(ours), dict(base))
    if paired is None and not (ours.get("std") and base.get("std")):
        return above, f"{text}, from one choice of labelled images"
    spread = paired[1] if paired else math.hypot(ours["std"], base["std"])
    if abs(gap) <= 2 * spread:
        return above, f"{text}, less than two standard deviations"
    if abs(gap) <= 1.645 * _sampling_error(ours, base):
        return above, f"{text}, which so few test images do not settle"
    return 2 * above, f"{text}, more than two standard deviations"


def _sampling_error(ours: Line, base: Line) -> float:
    """Return the standard error of a difference of two accuracies in percent that the number of test images leaves.

    It assumes independent test images; using the same images for both makes it smaller by an unknown amount.
    """
    n = ours.get("n") or math.inf
    shares = [line["value"] / 100 for line in (ours, base)]
    return 100 * math.sqrt(sum(p * (1 - p) for p in shares) / n)
