"""`classify`: a classifier from a few labels on top of a run's encoder, its predictions and how far to trust them.

frozen      logistic regression on BN+CReLU features; strength chosen by cross-validation on the labelled images
fine-tuned  the encoder and a linear layer trained on together; length chosen on a fifth of the labelled images, then
            trained on all of them

Confidence is the softmax at a temperature fitted on labelled images the classifier had not seen (Guo et al. 2017).
Beside stand the same on raw pixels and on the untrained encoder; for fine-tuning, the same network trained from its
initial weights on the same labels.
"""

from __future__ import annotations

import copy
import csv
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from torch import Tensor, nn
from tqdm import tqdm

from bigbigan.data.batches import to_float
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features, pixel_features, unchanged
from bigbigan.evaluation.probe import STRENGTHS, few_label_draws
from bigbigan.evaluation.results import Figure, ResultLine, append_results
from bigbigan.evaluation.splits import Images, Split, load_images
from bigbigan.evaluation.subjects import Subject, open_subject, result_lines

__all__ = ["Labels", "calibration_error", "classify", "fit_temperature"]

EPOCHS = 30  # of fine-tuning, at most


@dataclass(frozen=True)
class Labels:
    """How many images are labelled: `per_class` of each class, or a `fraction` of each class (at least one)."""

    per_class: int | None = None
    fraction: float | None = None

    @property
    def name(self) -> str:
        return f"{self.per_class}perclass" if self.per_class else f"{100 * (self.fraction or 0):g}percent"

    def draw(self, labels: np.ndarray, number: int) -> np.ndarray:
        """Indices of the labelled images of draw `number`."""
        if self.per_class:
            return few_label_draws(labels, self.per_class, number + 1)[number]
        assert self.fraction is not None
        rng = np.random.default_rng(number)
        members = [rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
        return np.concatenate([m[: max(1, round(self.fraction * len(m)))] for m in members])


def classify(
    run: str,
    data: str | None,
    labels: Labels,
    out: Path,
    command: str,
    *,
    labels_file: str | None = None,
    finetune: bool = False,
    draws: int = 5,
    progress: bool = True,
) -> list[ResultLine]:
    """Train classifiers on few labels, write the predictions of the first draw, and give the result lines.

    The file (.csv) has a row for each image whose label was not used in the first draw: filename, split, label (as the
    source has it; empty where there is none), predicted, confidence.

    Args:
        run: a run folder, or a frozen encoder (`bigbigan.evaluation.subjects`).
        data: a labelled source; by default the run's own.
        labels: how many labels of the training split are used.
        out: the predictions file.
        command: recorded in the lines.
        labels_file: where labels are those of a file (bigbigan.data.labels); by default the one of the run.
        finetune: train the encoder too.
        draws: how often, with other labelled images, the accuracy is measured.
        progress: show time left.

    Raises:
        UserError: no labels, too few images, or a file that cannot be written.
    """
    if out.suffix != ".csv":
        raise UserError(f"--out {out}: expected a name ending in .csv")
    subject = open_subject(run)
    if finetune and subject.model is None:
        raise UserError(f"{run}: only the encoder of a run can be fine-tuned here")
    source = subject.source(data, labels_file, f"classify {run}")
    images = load_images(source, subject.view, subject.seed, everything=True)
    train, test = images.train, images.test
    if train.labels is None or test.labels is None or len(np.unique(train.labels)) < 2:
        raise UserError(f"{source.spec} has no labels of two or more classes to learn from")
    names = source.splits["train"].classes or [str(c) for c in range(int(train.labels.max()) + 1)]
    methods = _methods(subject, images, finetune)
    lines: list[ResultLine] = []
    bar = tqdm(total=len(methods) * draws, desc="classify", disable=not progress)
    for metric, trained, method in methods:
        start = time.perf_counter()
        accuracy, error = [], []
        for number in range(draws):
            known = labels.draw(train.labels, number)
            logits = method(known, number)
            of_test = logits[len(train) : len(train) + len(test)]
            accuracy.append(100 * float((of_test.argmax(1) == test.labels).mean()))
            error.append(100 * calibration_error(of_test, test.labels))
            if number == 0 and (metric, trained) == methods[-1][:2]:
                _write(out, [train, test, *images.others], known, logits, names)
            bar.update()
        figures = {f"top1_{metric}_{labels.name}": _over(accuracy), f"ece_{metric}_{labels.name}": _over(error)}
        lines += result_lines(subject, source, test.name, len(test), figures, trained, start, command)
    bar.close()
    if subject.run is not None:
        append_results(subject.run / "results.jsonl", lines)
    return lines


def _over(values: list[float]) -> Figure:
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Figure(float(np.mean(values)), std, values if len(values) > 1 else None)


Method = Callable[[np.ndarray, int], np.ndarray]  # labelled indices, number of the draw -> calibrated logits of all


def _methods(subject: Subject, images: Images, finetune: bool) -> list[tuple[str, bool, Method]]:
    """Name, whether it uses what was trained, and the method; what the user asked for last."""
    pixels = np.concatenate([split.pixels for split in (images.train, images.test, *images.others)])
    assert images.train.labels is not None
    y = images.train.labels

    def frozen(features: np.ndarray) -> Method:
        return lambda known, number: frozen_logits(features, known, y[known])

    found = [("frozen_pixels", False, frozen(pixel_features(pixels)))]
    for kind in subject.kinds[1:]:
        encoder = subject.encoder(kind, images.seen)
        with unchanged(encoder):
            features = encoder_features(encoder, pixels)["bn_crelu"]
        found.append(("frozen_bn_crelu", kind == "trained", frozen(features)))
    if finetune:
        for kind in subject.kinds[1:]:
            encoder = subject.encoder(kind, images.seen)
            found.append(("finetuned", kind == "trained", _finetuner(encoder, pixels, y, subject)))
    return found


def frozen_logits(features: np.ndarray, known: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Calibrated logits [N, classes] of all features [N, d], from the labelled ones at `known`."""
    x = features[known]
    folds = min(3, int(np.bincount(labels)[np.unique(labels)].min()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if folds < 2:  # one image of some class: nothing to choose or to calibrate by
            return _columns(LogisticRegression(max_iter=300).fit(x, labels).decision_function(features), labels)
        split = StratifiedKFold(folds, shuffle=True, random_state=0)
        tried = {}
        for strength in STRENGTHS:
            unseen = cross_val_predict(
                LogisticRegression(C=strength, max_iter=300), x, labels, cv=split, method="decision_function"
            )
            tried[strength] = _columns(unseen, labels)
        best = max(STRENGTHS, key=lambda c: float((tried[c].argmax(1) == labels).mean()))
        classifier = LogisticRegression(C=best, max_iter=300).fit(x, labels)
    return _columns(classifier.decision_function(features), labels) / fit_temperature(tried[best], labels)


def _columns(decision: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A decision function as logits with a column for each class number; classes without a label are out of reach."""
    if decision.ndim == 1:
        decision = np.stack([np.zeros_like(decision), decision], axis=1)
    out = np.full((len(decision), int(labels.max()) + 1), -1e9)
    out[:, np.unique(labels)] = decision
    return out


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T in [0.05, 20] for which softmax(logits / T) gives unseen labels the highest likelihood."""

    def loss(log_t: float) -> float:
        return -float(log_softmax(logits / np.exp(log_t), axis=1)[np.arange(len(labels)), labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error in [0, 1]: mean gap of confidence and accuracy over bins of equal width."""
    probabilities = np.exp(log_softmax(logits, axis=1))
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(confidence[which == b].mean() - right[which == b].mean()) * (which == b).sum() for b in np.unique(which)
    ]
    return float(sum(gaps) / len(labels))


def _finetuner(encoder: nn.Module, pixels: np.ndarray, labels: np.ndarray, subject: Subject) -> Method:
    x = torch.from_numpy(pixels)
    flip, device = subject.view.augment != "none", subject.device

    def method(known: np.ndarray, number: int) -> np.ndarray:
        y = labels[known]
        order = np.random.default_rng(number).permutation(len(known))
        cut = max(1, len(known) // 5)
        chosen, rest = known[order[:cut]], known[order[cut:]]
        classes = int(y.max()) + 1
        first = _Tuned(encoder, classes, flip, number).to(device)
        losses, unseen = [], []
        for _ in range(EPOCHS):
            first.epoch(x[rest], torch.from_numpy(labels[rest]))
            unseen.append(first.logits(x[chosen]))
            losses.append(F.cross_entropy(torch.from_numpy(unseen[-1]), torch.from_numpy(labels[chosen])).item())
        best = int(np.argmin(losses))
        second = _Tuned(encoder, classes, flip, number).to(device)
        for _ in range(best + 1):
            second.epoch(x[known], torch.from_numpy(y))
        return second.logits(x) / fit_temperature(unseen[best], labels[chosen])

    return method


class _Tuned(nn.Module):
    """A copy of an encoder's trunk with a linear layer, trained together."""

    def __init__(self, encoder: nn.Module, classes: int, flip: bool, seed: int) -> None:
        super().__init__()
        E = copy.deepcopy(encoder)
        self.trunk: nn.Module = E.trunk  # type: ignore[assignment]
        self.head = nn.Linear(int(E.num_features), classes)  # type: ignore[arg-type]
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.requires_grad_(True)
        self.flip, self.generator = flip, torch.Generator().manual_seed(seed)
        groups = [{"params": self.trunk.parameters(), "lr": 3e-4}, {"params": self.head.parameters(), "lr": 3e-3}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=1e-2)

    def epoch(self, x: Tensor, y: Tensor, batch: int = 32) -> None:
        """One pass over uint8 images [N, C, R, R] and labels [N]."""
        self.train()
        device = self.head.weight.device
        for picks in torch.randperm(len(x), generator=self.generator).split(batch):
            if len(picks) < 2:  # batch norm needs two
                continue
            images = to_float(x[picks].to(device))
            if self.flip:
                mirrored = torch.rand(len(picks), 1, 1, 1, generator=self.generator).to(device) < 0.5
                images = torch.where(mirrored, images.flip(3), images)
            loss = F.cross_entropy(self.head(self.trunk(images)), y[picks].to(device))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    @torch.no_grad()
    def logits(self, x: Tensor) -> np.ndarray:
        self.eval()
        device = self.head.weight.device
        parts = [self.head(self.trunk(to_float(chunk.to(device)))).cpu() for chunk in x.split(500)]
        return torch.cat(parts).double().numpy()


def _write(out: Path, splits: list[Split], known: np.ndarray, logits: np.ndarray, classes: list[str]) -> None:
    """The predictions of all images but those of the first split at `known`, written aside and then renamed."""
    confidence = np.exp(log_softmax(logits, axis=1)).max(1)
    predicted = logits.argmax(1)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = out.with_name(f".{out.name}")
        with aside.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["filename", "split", "label", "predicted", "confidence"])
            row = 0
            skipped = set(known.tolist())
            for split in splits:
                for i, k in enumerate(split.labels if split.labels is not None else np.full(len(split), -1)):
                    if row not in skipped:
                        label = classes[k] if k >= 0 else ""
                        guess = [classes[predicted[row]], f"{confidence[row]:.4f}"]
                        writer.writerow([split.files[i], split.name, label, *guess])
                    row += 1
        aside.replace(out)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
