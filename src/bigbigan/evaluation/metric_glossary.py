"""Explain each kind of metric: `bigbigan evaluate --list-metrics`, and the glossary in docs/evaluation.md."""

from __future__ import annotations

import functools
import re
import textwrap
from typing import NamedTuple, get_args

from bigbigan.config import Task

__all__ = [
    "FEATURE_MEANINGS",
    "GLOSSARY",
    "NETWORK_MEANINGS",
    "Entry",
    "direction_of",
    "feature_table",
    "glossary_table",
    "glossary_text",
]

WIDTH = 100  # columns of the glossary as text


class Entry(NamedTuple):
    """Explain the metrics with these names.

    F is a feature, K a number of neighbours, NET a feature extractor and TASK a pretext task. `meaning` is Markdown.
    """

    names: tuple[str, ...]
    meaning: str
    better: str  # "higher", "lower", or ""


GLOSSARY = (
    Entry(
        (
            "top1_table1_F",
            "top5_table1_F",
        ),
        "the paper's linear classifier of Table 1: zero start, Adam at 0.01, averaged weights, 5,000 steps; "
        "scored on train_val",
        "higher",
    ),
    Entry(
        (
            "top1_sweep5k_F",
            "top5_sweep5k_F",
        ),
        "the same at learning rates 1e-4, 3e-4, 1e-3, 3e-3, 1e-2; the rate is chosen on train_val, the score is "
        "on test",
        "higher",
    ),
    Entry(
        (
            "top1_sweep100k_F",
            "top5_sweep100k_F",
        ),
        "the same for 100,000 steps, the length of Table 2",
        "higher",
    ),
    Entry(
        ("top1_linear_F",),
        "L2-regularised logistic regression, solved to its optimum; the strength is chosen on held-out training images",
        "higher",
    ),
    Entry(
        ("top1_linear_F_10perclass",),
        "the same from 10 labels per class, strength by cross-validation; mean and standard deviation over 5 "
        "choices of the labelled images",
        "higher",
    ),
    Entry(("top1_linear_F_Nperclass",), "the same from N labels per class: 1, 2, 5, 20, 50, 100", "higher"),
    Entry(
        ("top1_linear_F_Ppercent",),
        "`top1_linear_F` from P percent of each class: 1, 10; mean and standard deviation over 5 choices",
        "higher",
    ),
    Entry(
        ("auroc_linear_F", "auroc_linear_F_10perclass", "auroc_linear_F_Nperclass", "auroc_linear_F_Ppercent"),
        "area under the ROC curve of these classifiers, 0 to 1; with more than two classes, the mean of each "
        "against the others",
        "higher",
    ),
    Entry(
        (
            "balanced_linear_F",
            "balanced_linear_F_10perclass",
            "balanced_linear_F_Nperclass",
            "balanced_linear_F_Ppercent",
        ),
        "accuracy as the mean over classes",
        "higher",
    ),
    Entry(
        (
            "knnK_l1_F",
            "knnK_l2_F",
        ),
        "K nearest neighbours by distance of features divided by their norm, plain votes (Appendix C)",
        "higher",
    ),
    Entry(
        ("knnK_cosine_F",),
        "K nearest neighbours, votes weighted by exp(similarity / 0.07)",
        "higher",
    ),
    Entry(
        ("knnK_euclidean_F",),
        "distance of the features as they are, from at most 50,000 references; BiGAN's 1-NN is `knn1_euclidean_F`",
        "higher",
    ),
    Entry(
        ("knn5_l2_F_10perclass",),
        "5 nearest neighbours among 10 labelled images per class",
        "higher",
    ),
    Entry(
        ("reconstruction_error",),
        "mean of ‖x − G(E(x))‖₂, pixels in [0, 1]",
        "lower",
    ),
    Entry(
        ("reconstruction_error_mismatched",),
        "the same with the reconstruction of another image",
        "",
    ),
    Entry(
        ("reconstruction_ratio",),
        "`reconstruction_error` divided by `reconstruction_error_mismatched`; 1: E has learned nothing",
        "lower",
    ),
    Entry(
        (
            "fid10k_train_NET",
            "fid10k_test_NET",
        ),
        "Fréchet distance of 10,000 samples to all training (or test) images; `fid50k_...` with 50,000 samples",
        "lower",
    ),
    Entry(
        ("kid10k_train_NET",),
        "squared maximum mean discrepancy with a cubic kernel; also with `test` and `50k`",
        "lower",
    ),
    Entry(
        (
            "precision10k_train_NET",
            "recall10k_train_NET",
        ),
        "share of samples that are near real images, and of real images that are near samples, 0 to 1; also with "
        "`test` and `50k`",
        "higher",
    ),
    Entry(
        ("is10k_NET",),
        "Inception Score over 10 parts; also `is50k_NET`",
        "higher",
    ),
    Entry(
        ("task_accuracy_TASK",),
        "percentage of correct answers to a [pretext task](notes/pretext.md) on test images; `protocol` has chance",
        "higher",
    ),
)

# The measures of lines that other commands than evaluate write, such as ece_head of classify and nmi_kmeans5_avepool.
OTHER_MEASURES = {
    "top1": "higher",
    "balanced": "higher",
    "auroc": "higher",
    "ece": "lower",
    "nmi": "higher",
    "purity": "higher",
}

FEATURE_MEANINGS = {
    "avepool": "the pooled output of E's backbone",
    "bn_crelu": "avepool standardised, then split into its positive and negative part; twice as long (Section 3.2)",
    "pixels": "raw pixels",
    "pca_pixels": "pixels along their principal components, each scaled to variance 1",
    "z_mean": "the mean of E(x), measured only if named",
    "discriminator": "D's last features of images alone, measured only if named",
    "conv1 .. conv5": "the layers of an AlexNet encoder, pooled; measured only if named",
}
NETWORK_MEANINGS = {
    "inception": "the network of published numbers",
    "mnist-cnn, cifar-resnet18": "a classifier of the same kind of images: bigbigan feature-extractor",
    "encoder": "the run's own encoder: for validation within one run, not for comparison",
}


def direction_of(metric: str) -> str:
    """Return whether a "higher" or a "lower" value of a metric of result lines is better; "" if neither, or unknown."""
    for entry in GLOSSARY:
        if any(_pattern(name).fullmatch(metric) for name in entry.names):
            return entry.better
    return OTHER_MEASURES.get(metric.partition("_")[0], "")


@functools.cache
def _pattern(name: str) -> re.Pattern[str]:
    """Return the pattern of the metrics that a name of the glossary stands for."""
    numbered = re.sub(r"10k|K(?=_)|[NP](?=per)", "[0-9]+k?", name.replace("_train_", "_(train|test)_"))
    return re.compile(re.sub(r"(?<=_)(F|NET|TASK)(?=_|$)", ".+", numbered))


def glossary_text() -> str:
    """Return the names that `--metrics` takes and what they mean, as text of at most 100 columns."""
    about = (
        "Names for --metrics; * matches any part of a name; curve is the few-label curve. K is 1, 5, 25 or 50. "
        "Accuracies are in percent."
    )
    lines = textwrap.wrap(about, WIDTH)
    for entry in GLOSSARY:
        better = f" ({entry.better} is better)" if entry.better else ""
        meaning = re.sub(r"\[([^\]]*)\]\([^)]*\)|`", r"\1", entry.meaning)
        lines += ["", *textwrap.wrap(", ".join(entry.names), WIDTH), *_indented(meaning + better)]
    for title, meanings in (("F, a feature:", FEATURE_MEANINGS), ("NET, a feature extractor:", NETWORK_MEANINGS)):
        lines += ["", title, *(line for name, text in meanings.items() for line in _indented(f"{name}: {text}"))]
    lines += ["", "TASK, a pretext task:", *_indented(", ".join(get_args(Task)))]
    return "\n".join(lines)


def glossary_table() -> str:
    """Return the glossary as a Markdown table."""
    rows = [f"| {', '.join(f'`{n}`' for n in e.names)} | {e.meaning} | {e.better} |" for e in GLOSSARY]
    return "\n".join(["| metric | what it is | better |", "|---|---|---|", *rows]).replace("|  |", "| |")


def feature_table() -> str:
    """Return the features as a Markdown table."""
    rows = [f"| {_in_code(name)} | {meaning} |" for name, meaning in FEATURE_MEANINGS.items()]
    return "\n".join(["| F | what it is |", "|---|---|", *rows])


def _in_code(names: str) -> str:
    """Return names, such as "conv1 .. conv5", each in backquotes."""
    return re.sub(r"[\w-]+", r"`\g<0>`", names)


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ")
