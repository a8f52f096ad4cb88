"""Name what can be measured. A name carries its protocol, so that no number is without one.

    top1_linear_F             logistic regression on all labels, L2 strength chosen   probes.logistic
    top1_linear_F_10perclass  the same from 10 labelled images per class, 5 trials
    top1_linear_F_Nperclass, top1_linear_F_Ppercent    the same from N images of each class (1, 2, 5, 20, 50, 100), or
                              from P percent of each class (1, 10): the few-label curve, which `curve` names as a whole
                              for pixels, pca_pixels and bn_crelu   evaluation.label_curve
    auroc_linear_F, ...       area under the ROC curve of the same classifiers, 0 to 1; with more than two classes, the
                              mean over each class against the others
    balanced_linear_F, ...    their accuracy as the mean over classes
    top1_table1_F, top5_...   Table 1's classifier, scored on train_val   probes.linear_heads
    top1_sweep5k_F, top5_...  Table 2's sweep of rates, 5,000 steps; scored once on the test split
    top1_sweep100k_F, ...     the same with Table 2's own number of steps
    knnK_DISTANCE_F           nearest neighbours: K 1, 5, 25, 50; l1, l2, cosine, euclidean   probes.knn
    knn5_l2_F_10perclass      the same with only the labelled images of a trial as references
    fid10k_SPLIT_NET          10,000 samples against all images of SPLIT (train or test)   image_quality.metrics
    kid10k_, precision10k_, recall10k_SPLIT_NET     likewise; 50k for 50,000 samples
    is10k_NET                 Inception Score, 10 parts
    reconstruction_error      mean of ‖x - G(E(x))‖₂, pixels in [0, 1]
    reconstruction_error_mismatched     the same for x and another image's G(E(x))
    reconstruction_ratio      the first divided by the second
    task_accuracy_TASK        accuracy in a pretext task on test images; chance is in the protocol
                              probes.pretext_accuracy
    MODULE:NAME               a function of your own, of features and labels of the training and the test images;
                              measured on F = pixels and avepool as NAME_F

F is pixels, pca_pixels, avepool or bn_crelu; or, only if named, z_mean, discriminator, conv1 .. conv5
(bigbigan.evaluation.features). NET is the feature extractor that compares images: inception, encoder (the run's own),
or an in-domain classifier (bigbigan.evaluation.image_quality.feature_extractors).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from bigbigan.config import Task
from bigbigan.errors import UserError
from bigbigan.user_code import check_module, is_named

__all__ = ["DISTANCES", "FEATURES", "NEIGHBOURS", "PIXELS", "Metric", "default_metrics", "parse_metrics"]

PIXELS = ("pixels", "pca_pixels")  # features that need no encoder
FEATURES = (*PIXELS, "avepool", "bn_crelu")
NAMED_FEATURES = ("z_mean", "discriminator", "conv1", "conv2", "conv3", "conv4", "conv5")
OWN_FEATURES = ("pixels", "avepool")  # that functions of the user's own are given
NEIGHBOURS = (1, 5, 25, 50)
DISTANCES = ("l1", "l2", "cosine", "euclidean")
BY_NAME_ONLY = ("l1", "euclidean")  # l1 takes minutes for 60,000 references; euclidean is for BiGAN's table
SCORES = ("top1", "auroc", "balanced")
PER_CLASS = (1, 2, 5, 10, 20, 50, 100)  # labelled images of each class
PERCENT = (1, 10)  # labelled images in percent of each class; 100 percent is top1_linear_F
CURVE = "curve"  # names the few-label curve: top1_linear_F with every number of labels
NETWORKS = ("inception", "encoder", "mnist-cnn", "cifar-resnet18")
QUALITY = ("fid", "kid", "precision", "recall", "is")
Kind = Literal["linear", "few_linear", "heads", "knn", "few_knn", "quality", "reconstruction", "task", "own"]


@dataclass(frozen=True)
class Metric:
    """Hold a parsed name. `feature` is F; quality metrics have the fields at the end instead."""

    name: str
    kind: Kind
    feature: str = ""
    score: str = "top1"  # of "linear" and "few_linear", see bigbigan.evaluation.probes.logistic.scores
    per_class: int = 0  # of "few_linear": labelled images of each class
    percent: int = 0  # or labelled images in percent of each class
    top: int = 1
    protocol: str = ""  # of "heads": table1, sweep5k, sweep100k
    k: int = 0
    distance: str = ""
    measure: str = ""  # of "quality": one of QUALITY
    samples: int = 0
    reference: str = ""  # train or test; "" for the Inception Score
    network: str = ""
    task: str = ""
    function: str = ""  # of "own": MODULE:NAME


def _known() -> dict[str, Metric]:
    reconstruction = ("reconstruction_ratio", "reconstruction_error", "reconstruction_error_mismatched")
    found = [Metric(name, "reconstruction") for name in reconstruction]
    for f in (*FEATURES, *NAMED_FEATURES):
        for score in SCORES:
            found.append(Metric(f"{score}_linear_{f}", "linear", f, score))
            for n in PER_CLASS:
                found.append(Metric(f"{score}_linear_{f}_{n}perclass", "few_linear", f, score, per_class=n))
            for p in PERCENT:
                found.append(Metric(f"{score}_linear_{f}_{p}percent", "few_linear", f, score, percent=p))
        for protocol, top in product(("table1", "sweep5k", "sweep100k"), (1, 5)):
            found.append(Metric(f"top{top}_{protocol}_{f}", "heads", f, top=top, protocol=protocol))
        for k, distance in product(NEIGHBOURS, DISTANCES):
            found.append(Metric(f"knn{k}_{distance}_{f}", "knn", f, k=k, distance=distance))
        found.append(Metric(f"knn5_l2_{f}_10perclass", "few_knn", f, per_class=10, k=5, distance="l2"))
    found += [Metric(f"task_accuracy_{task}", "task", task=task) for task in get_args(Task)]
    for measure, samples, net in product(QUALITY, ("10k", "50k"), NETWORKS):
        count = int(samples[:-1]) * 1000
        if measure == "is":
            if net == "encoder":  # has no classes
                continue
            found.append(Metric(f"is{samples}_{net}", "quality", measure="is", samples=count, network=net))
            continue
        for split in ("train", "test"):
            name = f"{measure}{samples}_{split}_{net}"
            found.append(Metric(name, "quality", measure=measure, samples=count, reference=split, network=net))
    return {m.name: m for m in found}


KNOWN = _known()


def _only_of_curve(metric: Metric) -> bool:
    return metric.kind == "few_linear" and metric.per_class != 10


def _curve() -> dict[str, Metric]:
    kinds = ("linear", "few_linear")
    features = (*PIXELS, "bn_crelu")
    return {n: m for n, m in KNOWN.items() if m.kind in kinds and m.feature in features and m.score == "top1"}


def parse_metrics(names: Iterable[str]) -> list[Metric]:
    """Return the metrics of these names.

    `*` stands for any characters, as in "knn*_avepool" or "*_sweep5k_*", but not for features that are measured only if
    named. The few-label curve is matched by "curve", and by patterns with "per", as in "top1_linear_avepool_*per*".

    Raises:
        UserError: a name that is not known, or a pattern that matches none.
    """
    found: dict[str, Metric] = {}
    for name in names:
        if is_named(name.strip()):
            own = _own(name.strip())
            if taken := [n for n, metric in own.items() if n in KNOWN or found.get(n, metric) != metric]:
                raise UserError(f"--metrics {name}: {taken[0]} is the name of another metric; rename the function")
            found |= own
            continue
        pattern = re.compile(re.escape(name.strip()).replace(r"\*", ".*"))
        matching = (
            _curve()
            if name.strip() == CURVE
            else {
                known: m
                for known, m in KNOWN.items()
                if pattern.fullmatch(known)
                and (m.feature not in NAMED_FEATURES or m.feature in name)
                and ("per" in name or not _only_of_curve(m))
            }
        )
        if not matching:
            raise UserError(
                f"--metrics {name}: unknown; known are names such as top1_linear_bn_crelu, top1_sweep5k_avepool, "
                "top1_linear_bn_crelu_10perclass, top1_table1_avepool, knn5_l1_avepool, fid10k_train_encoder, "
                "reconstruction_ratio, task_accuracy_rotation, curve; * matches any part of a name; "
                "MODULE:NAME is a function of your own"
            )
        found |= matching
    return list(found.values())


def _own(function: str) -> dict[str, Metric]:
    """Return the metrics that a function of the user's own measures. Raises UserError if its module is not there."""
    check_module(function)
    short = re.split("[:.]", function)[-1]
    return {name: Metric(name, "own", f, function=function) for f in OWN_FEATURES if (name := f"{short}_{f}")}


def default_metrics(
    networks: Iterable[str], features: Iterable[str] = FEATURES, two_classes: bool = False
) -> list[Metric]:
    """Return the metrics that `evaluate` measures by default.

    They leave out top-5 accuracies and what takes long on a CPU: 100,000 steps, 50,000 samples, l1 neighbours, the
    few-label curve.

    Args:
        networks: feature extractors that are available. Image quality, against the training images, is measured by
            those whose values compare with other runs, or by the run's own encoder if there is no other.
        features: features to measure.
        two_classes: whether to add AUROC and balanced accuracy.
    """
    networks = set(networks)
    networks = networks - {"encoder"} or networks
    return [
        m
        for m in KNOWN.values()
        if (not m.feature or m.feature in features)
        and m.protocol != "sweep100k"
        and not _only_of_curve(m)
        and m.top == 1
        and (m.score == "top1" or two_classes)
        and m.distance not in BY_NAME_ONLY
        and m.samples <= 10_000
        and m.reference != "test"
        and (m.kind != "quality" or m.network in networks)
    ]
