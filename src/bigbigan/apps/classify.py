"""Train a classifier on few labels on top of a run's encoder; write its predictions and how far to trust them.

frozen      logistic regression on BN+CReLU features; strength chosen by cross-validation on the labelled images
fine-tuned  the encoder and a linear layer trained together; number of epochs chosen on a fifth of the labelled images,
            then trained on all of them
scratch     for comparison, the same network trained from its initial weights on the labelled images only, with a
            learning rate for that

Confidence is the softmax at a temperature fitted on labelled images the classifier had not seen (Guo et al. 2017). The
baselines are pixels, raw and PCA-whitened, and the same encoder untrained. Images held out for a choice or calibration
never share a group (`ImageSet.groups`) with images that a classifier is trained on.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import log_softmax
from torch import Tensor, nn

from bigbigan.compute import images_per_pass
from bigbigan.data.csv_cells import writing_csv
from bigbigan.data.held_out import hold_out
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features, pca_pixels, pixel_features
from bigbigan.evaluation.probes.calibration import calibration_error, fit_temperature
from bigbigan.evaluation.probes.logistic import (
    class_scores,
    cross_validated,
    distinct_trials,
    few_label_trials,
    fraction_trials,
    mean_over_trials,
    scores,
)
from bigbigan.evaluation.probes.solver import logistic_path
from bigbigan.evaluation.records import ResultLine, Subject, append_results
from bigbigan.evaluation.splits import Images, Split, lacks_classes, load_images
from bigbigan.evaluation.targets import Target, open_target
from bigbigan.image import to_float
from bigbigan.progress import Bar

__all__ = ["Labels", "classify"]

MAX_EPOCHS = 30  # of training a network
MIN_STEPS = 5  # of an epoch, which passes over few labelled images several times
BATCH = 32
PATIENCE = 10  # epochs without improvement after which training stops


@dataclass(frozen=True)
class Labels:
    """Say how many images are labelled: `per_class` of each class, or a `fraction` of each class (at least one)."""

    per_class: int | None = None
    fraction: float | None = None

    @property
    def name(self) -> str:
        """The part of a metric's name that says how many images are labelled."""
        return f"{self.per_class}perclass" if self.per_class else f"{100 * (self.fraction or 0):g}percent"

    def sample(self, labels: np.ndarray, trials: int) -> list[np.ndarray]:
        """Return the indices of the labelled images of each trial, from the labels of all images [N].

        It is one trial if there is nothing to choose.
        """
        if self.per_class:
            return distinct_trials(few_label_trials(labels, self.per_class, trials))
        assert self.fraction is not None
        return distinct_trials(fraction_trials(labels, self.fraction, trials))


def classify(
    run: str,
    data: str | None,
    labels: Labels,
    out: Path,
    command: str,
    *,
    labels_file: str | None = None,
    finetune: bool = False,
    scratch: bool = False,
    trials: int = 5,
    progress: bool = True,
    raw_cells: bool = False,
    checkpoint: str = "newest",
) -> list[ResultLine]:
    """Train classifiers on few labels, write the predictions of the first trial, and return the result lines.

    The file (.csv) has a row for each image whose label the first trial did not use: file, split, label (as in the
    source; empty if there is none), predicted, confidence. Names are written as `bigbigan.data.csv_cells.cell` does.

    Args:
        run: a run folder, or a frozen encoder (`bigbigan.evaluation.targets`).
        data: a labelled source; by default the run's own.
        labels: how many labels of the training split are used.
        out: the predictions file.
        command: recorded in the lines.
        labels_file: a file of labels (bigbigan.data.labels); by default the run's own.
        finetune: train the encoder too.
        scratch: compare with the same network trained from scratch.
        trials: how many times accuracy is measured, each time with other labelled images; once if there are no others.
        progress: show time left.
        raw_cells: write names as they are, even if a spreadsheet would take them for formulas.
        checkpoint: of a run, "newest", "best" or a step.

    Raises:
        UserError: no labels, too few images, or a file that cannot be written.
    """
    if out.suffix.lower() != ".csv":
        raise UserError(f"--out {out}: expected a name ending in .csv")
    target = open_target(run, which=checkpoint)
    if (finetune or scratch) and target.model is None:
        raise UserError(f"{run}: only the encoder of a run can be trained here, with --finetune or --scratch")
    source = target.source(data, labels_file, f"classify {run}")
    images = load_images(source, target.view, everything=True, progress=progress)
    train, test = images.train, images.test
    if reason := lacks_classes(source, train, test):
        raise UserError(reason)
    assert train.labels is not None
    assert test.labels is not None
    names = source.splits["train"].classes
    assert names is not None
    classes, counts = np.unique(train.labels, return_counts=True)
    if labels.per_class and labels.per_class > counts.min():
        fewest = int(classes[counts.argmin()])
        warnings.warn(
            f"--labels-per-class {labels.per_class}: class {names[fewest]} has only {counts.min():,} labelled training "
            "images; all images of such classes are used",
            stacklevel=2,
        )
    methods = _methods(target, images, finetune, scratch, target.mirrors(source))
    lines: list[ResultLine] = []
    chosen = labels.sample(train.labels, trials)
    total = len(methods) * len(chosen)
    with Bar(total=total, desc="classify", unit="classifier", disable=not progress) as bar:
        for metric, subject, method in methods:
            bar.part(metric)
            start = time.perf_counter()
            found: dict[str, list[float]] = {"top1": [], "balanced": [], "auroc": [], "ece": []}
            for trial, known in enumerate(chosen):
                written = trial == 0 and method is methods[-1][2]
                tested = slice(len(train), len(train) + len(test))
                logits = method(known, trial, slice(None) if written else tested)
                test_logits = logits[tested] if written else logits
                values = scores(test_logits, test.labels) | {"ece": 100 * calibration_error(test_logits, test.labels)}
                for name, of_trials in found.items():
                    of_trials.append(values[name])
                if written:
                    _write(out, [train, test, *images.others], known, logits, names, raw_cells)
                bar.update()
            measured = {f"{name}_{metric}_{labels.name}": mean_over_trials(values) for name, values in found.items()}
            if len(np.unique(test.labels)) < 2:
                del measured[f"auroc_{metric}_{labels.name}"]  # not defined for one class
            lines += target.result_lines(
                measured,
                source=source,
                split=test.name,
                n=len(test),
                subject=subject,
                start=start,
                study="classification",
                command=command,
            )
    if (path := target.results_file(out)) is not None:
        append_results(path, lines)
    return lines


# Labelled indices, number of the trial, images wanted -> calibrated logits of these images.
Method = Callable[[np.ndarray, int, slice], np.ndarray]


def _methods(
    target: Target, images: Images, finetune: bool, scratch: bool, mirror: bool
) -> list[tuple[str, Subject, Method]]:
    """Return (name, subject, method) for each classifier: baselines first, the requested one last.

    With `mirror`, whole networks are trained on mirrored images too.
    """
    pixels = np.concatenate([split.pixels for split in (images.train, images.test, *images.others)])
    assert images.train.labels is not None
    y, groups = images.train.labels, images.train.groups

    def frozen(features: np.ndarray) -> Method:
        def method(known: np.ndarray, trial: int, wanted: slice) -> np.ndarray:
            known_groups = None if groups is None else groups[known]
            return frozen_logits(features, known, y[known], known_groups)[wanted]

        return method

    found: list[tuple[str, Subject, Method]] = [
        ("frozen_pixels", "pixels", frozen(pixel_features(pixels))),
        ("frozen_pca_pixels", "pca_pixels", frozen(pca_pixels(images.training_pixels)(pixels))),
    ]
    for subject in target.subjects[1:]:
        encoder = target.encoder(subject, images.training_pixels)
        features = encoder_features(encoder, pixels)["bn_crelu"]
        found.append(("frozen_bn_crelu", subject, frozen(features)))
    tuned: list[tuple[str, Subject, float]] = [("scratch", "untrained", 1e-3)] if scratch else []
    tuned += [("finetuned", "trained", 3e-4)] if finetune else []
    for name, subject, rate in tuned:
        encoder = target.encoder(subject, images.training_pixels)
        found.append((name, subject, _tuner(encoder, pixels, y, groups, target, rate, mirror)))
    return sorted(found, key=lambda method: method[1] in ("trained", "external"))


def frozen_logits(
    features: np.ndarray, known: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None
) -> np.ndarray:
    """Return calibrated logits [N, classes] of all features [N, d].

    The classifier is trained on the features at `known`, with their labels and groups.
    """
    x = features[known]
    strength, tested, unseen = cross_validated(x, labels, groups)
    logits = class_scores(next(logistic_path(x, labels, [strength])), features)
    if not len(tested):  # no images to calibrate on
        return logits
    present, y = np.unique(labels, return_inverse=True)
    return logits / fit_temperature(unseen[:, present], y[tested])


def _tuner(
    encoder: nn.Module,
    pixels: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    target: Target,
    rate: float,
    mirror: bool = False,
) -> Method:
    """Return a method that trains the whole network from the encoder's weights.

    `rate` is the learning rate of its trunk; with `mirror`, half of the images are mirrored.
    """
    x = torch.from_numpy(pixels)
    device = target.device

    def method(known: np.ndarray, trial: int, wanted: slice) -> np.ndarray:
        y, known_groups = labels[known], None if groups is None else groups[known]
        kept, held_out = hold_out(len(known), max(1, len(known) // 5), trial, known_groups)
        validation, training = known[held_out], known[kept]
        classes = int(y.max()) + 1
        first = _Tuned(encoder, classes, mirror, trial, rate).to(device)
        losses: list[float] = []
        unseen: list[np.ndarray] = []
        while len(losses) < MAX_EPOCHS and len(losses) - int(np.argmin(losses or [0])) <= PATIENCE:
            first.epoch(x[training], torch.from_numpy(labels[training]))
            unseen.append(first.logits(x[validation]))
            losses.append(F.cross_entropy(torch.from_numpy(unseen[-1]), torch.from_numpy(labels[validation])).item())
        best = int(np.argmin(losses))
        second = _Tuned(encoder, classes, mirror, trial, rate).to(device)
        for _ in range(best + 1):
            second.epoch(x[known], torch.from_numpy(y))
        return second.logits(x[wanted]) / fit_temperature(unseen[best], labels[validation])

    return method


class _Tuned(nn.Module):
    """Train a copy of an encoder together with a linear layer on its features."""

    def __init__(self, encoder: nn.Module, classes: int, mirror: bool, seed: int, rate: float) -> None:
        super().__init__()
        E: Any = copy.deepcopy(encoder)
        self.encoder = E
        self.head = nn.Linear(E.num_features, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.requires_grad_(True)
        self.mirror, self.generator = mirror, torch.Generator().manual_seed(seed)
        trunk = self.encoder.trunk.parameters()
        groups = [{"params": trunk, "lr": rate}, {"params": self.head.parameters(), "lr": 3e-3}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=1e-2)

    def epoch(self, x: Tensor, y: Tensor) -> None:
        """Train on one pass over uint8 images [N, C, R, R] and labels [N], or on several passes over few images."""
        self.train()
        device = self.head.weight.device
        passes = max(1, -(-MIN_STEPS * BATCH // len(x)))
        order = torch.cat([torch.randperm(len(x), generator=self.generator) for _ in range(passes)])
        for picks in order.split(BATCH):
            if len(picks) < 2:  # batch norm needs two
                continue
            images = to_float(x[picks].to(device))
            if self.mirror:
                mirrored = torch.rand(len(picks), 1, 1, 1, generator=self.generator).to(device) < 0.5
                images = torch.where(mirrored, images.flip(3), images)
            loss = F.cross_entropy(self.head(self.encoder.features(images)), y[picks].to(device))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    @torch.no_grad()
    def logits(self, x: Tensor) -> np.ndarray:
        self.eval()
        device = self.head.weight.device
        chunks = x.split(images_per_pass(500))
        parts = [self.head(self.encoder.features(to_float(chunk.to(device)))).cpu() for chunk in chunks]
        return torch.cat(parts).double().numpy()


def _write(
    out: Path, splits: list[Split], known: np.ndarray, logits: np.ndarray, classes: list[str], raw: bool
) -> None:
    """Write the predictions of all images except those of the first split at `known`."""
    confidence = np.exp(log_softmax(logits, axis=1)).max(1)
    predicted = logits.argmax(1)
    with writing_csv(out, raw) as write:
        write("file", "split", "label", "predicted", "confidence")
        row = 0
        skipped = set(known.tolist())
        for split in splits:
            for i, k in enumerate(split.labels if split.labels is not None else np.full(len(split), -1)):
                if row not in skipped:
                    label = classes[k] if k >= 0 else ""
                    write(split.files[i], split.name, label, classes[predicted[row]], f"{confidence[row]:.4f}")
                row += 1
