"""Fit the few-label probe on raw pixels, by the package's solver and by scikit-learn's default one.

    python -m reproduction.benchmark.probe_speed --data SOURCE [--side 64] [--classes 10] [--per-class 10]

For each strength C: processor seconds of a fit (for ours a sixth of the path over all strengths), the objective at our
optimum and at the end of scikit-learn's L-BFGS (float32, 300 iterations at most), and the share of test images that the
two classify differently.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from bigbigan.data import open_source
from bigbigan.evaluation.features import pixel_features
from bigbigan.evaluation.probes.logistic import STRENGTHS, few_label_trials
from bigbigan.evaluation.probes.solver import logistic_path
from bigbigan.evaluation.splits import View, load_images
from reproduction.common import Script


def objective(fitted: LogisticRegression, x: np.ndarray, labels: np.ndarray, C: float) -> float:
    """Return C times the sum of losses plus half the square of the weights, for three classes or more."""
    W = fitted.coef_.astype(np.float64)
    logits = x.astype(np.float64) @ W.T + fitted.intercept_
    losses = logsumexp(logits, axis=1) - logits[np.arange(len(x)), np.searchsorted(fitted.classes_, labels)]
    return C * float(losses.sum()) + float((W**2).sum()) / 2


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/probe_speed.jsonl")
    script.parser.add_argument("--data", required=True, metavar="SOURCE")
    script.parser.add_argument("--side", type=int, default=64, metavar="PX")
    script.parser.add_argument("--channels", type=int, default=3, metavar="N")
    script.parser.add_argument("--classes", type=int, default=10, metavar="N", help="use the first N classes, N ≥ 3")
    script.parser.add_argument("--per-class", type=int, default=10, metavar="N")
    return script.run(measure, arguments)


def measure(script: Script, options: argparse.Namespace) -> None:
    source = open_source(options.data)
    images = load_images(source, View(options.side, options.channels))
    train, test = images.train, images.test
    assert train.labels is not None
    assert test.labels is not None
    some = np.flatnonzero(train.labels < options.classes)
    picks = some[few_label_trials(train.labels[some], options.per_class, 1)[0]]
    x, labels = pixel_features(train.pixels[picks]), train.labels[picks]
    new = pixel_features(test.pixels[test.labels < options.classes])
    next(logistic_path(x[:, :64], labels, [1.0]))  # libraries start their threads
    start = time.process_time()
    ours = list(logistic_path(x, labels, STRENGTHS))
    seconds = (time.process_time() - start) / len(STRENGTHS)
    for C, optimum in zip(STRENGTHS, ours, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            start = time.process_time()
            theirs = LogisticRegression(C=C, max_iter=300).fit(x, labels)
            theirs_seconds = time.process_time() - start
        measured = {
            "fit_speed_over_sklearn": theirs_seconds / seconds,
            "fit_seconds": seconds,
            "fit_seconds_sklearn": theirs_seconds,
            "objective": objective(optimum, x, labels, C),
            "objective_sklearn": objective(theirs, x, labels, C),
            "differing_predictions_sklearn": 100 * float((optimum.predict(new) != theirs.predict(new)).mean()),
        }
        script.append(
            script.result_lines(
                measured,
                subject="program",
                experiment="bench/probe",
                dataset=source.name,
                split="train",
                n=len(x),
                settings={"C": C, "features": x.shape[1]},
                digits=6,
            )
        )


if __name__ == "__main__":
    sys.exit(main())
