"""The names of what can be measured. A name carries its protocol, so that a number is never without one.

    top1_linear_F             logistic regression on all labels, L2 strength chosen   probes.logistic
    top1_linear_F_10perclass  the same from 10 labelled images a class, 5 draws
    auroc_linear_F, ...       of the same classifiers the area under the ROC curve, 0 to 1; of more than two classes
    balanced_linear_F, ...    the mean of each against the rest; and accuracy as the mean over classes
    top1_table1_F, top5_...   Table 1's classifier, scored on train_val   probes.linear_heads
    top1_sweep5k_F, top5_...  Table 2's sweep of rates, 5,000 steps; scored once on the test split
    top1_sweep100k_F, ...     Table 2's own length
    knnK_DISTANCE_F           nearest neighbours: K 1, 5, 25, 50; l1, l2, cosine, euclidean   probes.knn
    knn5_l2_F_10perclass      with the labelled images of a draw alone as references
    fid10k_SPLIT_NET          of 10,000 samples against all images of SPLIT (train or test)   image_quality.metrics
    kid10k_, precision10k_, recall10k_SPLIT_NET     likewise; of 50,000 with 50k
    is10k_NET                 Inception Score, 10 parts
    reconstruction_error      mean of ‖x - G(E(x))‖₂, pixels in [0, 1]; ..._mismatched: of x and another image's G(E(x))
    reconstruction_ratio      the one over the other
    task_accuracy_TASK        right answers to a pretext task on test images; chance is in the protocol
   probes.pretext_accuracy

F is pixels, pca_pixels, avepool or bn_crelu; or, not measured unless named, z_mean, discriminator, conv1 .. conv5
(bigbigan.evaluation.features). NET is what gives features to compare images by: inception,
encoder (the run's own), or an in-domain classifier (bigbigan.evaluation.image_quality.feature_networks).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from bigbigan.config import Task
from bigbigan.errors import UserError

__all__ = ["DISTANCES", "FEATURES", "NEIGHBOURS", "PIXELS", "Metric", "default_metrics", "parse_metrics"]

PIXELS = ("pixels", "pca_pixels")  # what needs no encoder
FEATURES = (*PIXELS, "avepool", "bn_crelu")
NAMED_FEATURES = ("z_mean", "discriminator", "conv1", "conv2", "conv3", "conv4", "conv5")
NEIGHBOURS = (1, 5, 25, 50)
DISTANCES = ("l1", "l2", "cosine", "euclidean")
BY_NAME_ONLY = ("l1", "euclidean")  # l1 takes minutes for 60,000 references; euclidean is for BiGAN's table
SCORES = ("top1", "auroc", "balanced")
NETWORKS = ("inception", "encoder", "mnist-cnn", "cifar-resnet18")
QUALITY = ("fid", "kid", "precision", "recall", "is")
Kind = Literal["linear", "few_linear", "heads", "knn", "few_knn", "quality", "reconstruction", "task"]


@dataclass(frozen=True)
class Metric:
    """A parsed name. `feature` is F; of quality metrics the fields at the end are set instead."""

    name: str
    kind: Kind
    feature: str = ""
    score: str = "top1"  # of "linear" and "few_linear", see bigbigan.evaluation.probes.logistic.scores
    top: int = 1
    protocol: str = ""  # of "heads": table1, sweep5k, sweep100k
    k: int = 0
    distance: str = ""
    measure: str = ""  # of "quality": one of QUALITY
    samples: int = 0
    reference: str = ""  # train or test; none for is
    network: str = ""
    task: str = ""


def _known() -> dict[str, Metric]:
    reconstruction = ("reconstruction_ratio", "reconstruction_error", "reconstruction_error_mismatched")
    found = [Metric(name, "reconstruction") for name in reconstruction]
    for f in (*FEATURES, *NAMED_FEATURES):
        for score in SCORES:
            found.append(Metric(f"{score}_linear_{f}", "linear", f, score))
            found.append(Metric(f"{score}_linear_{f}_10perclass", "few_linear", f, score))
        for protocol, top in product(("table1", "sweep5k", "sweep100k"), (1, 5)):
            found.append(Metric(f"top{top}_{protocol}_{f}", "heads", f, top=top, protocol=protocol))
        for k, distance in product(NEIGHBOURS, DISTANCES):
            found.append(Metric(f"knn{k}_{distance}_{f}", "knn", f, k=k, distance=distance))
        found.append(Metric(f"knn5_l2_{f}_10perclass", "few_knn", f, k=5, distance="l2"))
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


def parse_metrics(names: Iterable[str]) -> list[Metric]:
    """Metrics by name; `*` stands for any characters, as in "knn*_avepool" or "*_sweep5k_*", but not for features that
    are measured only where named.

    Raises:
        UserError: a name that is not known, or a pattern nothing fits.
    """
    found: dict[str, Metric] = {}
    for name in names:
        pattern = re.compile(re.escape(name.strip()).replace(r"\*", ".*"))
        fitting = {
            known: m
            for known, m in KNOWN.items()
            if pattern.fullmatch(known) and (m.feature not in NAMED_FEATURES or m.feature in name)
        }
        if not fitting:
            raise UserError(
                f"--metrics {name}: unknown; known are names such as top1_linear_bn_crelu, top1_sweep5k_avepool, "
                "top1_linear_bn_crelu_10perclass, top1_table1_avepool, knn5_l1_avepool, fid10k_train_encoder, "
                "reconstruction_ratio, task_accuracy_rotation; * fits any part of a name"
            )
        found |= fitting
    return list(found.values())


def default_metrics(
    networks: Iterable[str], features: Iterable[str] = FEATURES, two_classes: bool = False
) -> list[Metric]:
    """What `evaluate` measures of `features` when not told: everything but what takes long on a CPU (100,000 steps,
    50,000 samples, l1 neighbours) and top-5 accuracies; image quality against the training images, by those of
    `networks` that can be compared with other runs, or by the run's own encoder where there is no other; of two classes
    AUROC and balanced accuracy too."""
    networks = set(networks)
    networks = networks - {"encoder"} or networks
    return [
        m
        for m in KNOWN.values()
        if (not m.feature or m.feature in features)
        and m.protocol != "sweep100k"
        and m.top == 1
        and (m.score == "top1" or two_classes)
        and m.distance not in BY_NAME_ONLY
        and m.samples <= 10_000
        and m.reference != "test"
        and (m.kind != "quality" or m.network in networks)
    ]
