"""Fit the few-label probe on raw pixels, by the package's solver and by scikit-learn's default one, as result lines.

    python tools/bench_probe.py --data SOURCE [--side 64] [--classes 10] [--per-class 10] [--results FILE]

For each strength C: processor seconds of a fit (for ours a sixth of the whole path over strengths), the objective at
which scikit-learn's L-BFGS (float32, 300 iterations at most) ends over the optimum, and the share of test images that
the two put in different classes.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from bigbigan.data import open_source
from bigbigan.evaluation.features import pixel_features
from bigbigan.evaluation.probes.logistic import STRENGTHS, few_label_draws
from bigbigan.evaluation.probes.solver import logistic_path
from bigbigan.evaluation.records import ResultLine, append_results
from bigbigan.evaluation.splits import View, load_labelled
from bigbigan.training.run_folder import commit, device_name


def objective(fitted: LogisticRegression, x: np.ndarray, labels: np.ndarray, C: float) -> float:
    """C times the sum of losses, and half the square of the weights; of three classes or more."""
    W = fitted.coef_.astype(np.float64)
    logits = x.astype(np.float64) @ W.T + fitted.intercept_
    losses = logsumexp(logits, axis=1) - logits[np.arange(len(x)), np.searchsorted(fitted.classes_, labels)]
    return C * float(losses.sum()) + float((W**2).sum()) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, metavar="SOURCE")
    parser.add_argument("--side", type=int, default=64, metavar="PX")
    parser.add_argument("--channels", type=int, default=3, metavar="N")
    parser.add_argument("--classes", type=int, default=10, metavar="N", help="the first so many, three or more")
    parser.add_argument("--per-class", type=int, default=10, metavar="N")
    parser.add_argument("--results", type=Path, default=Path("results/probe_speed.jsonl"), metavar="FILE")
    options = parser.parse_args()
    began = time.perf_counter()
    source = open_source(options.data)
    train, test = load_labelled(source, View(options.side, options.channels), 0)
    assert train.labels is not None
    assert test.labels is not None
    some = np.flatnonzero(train.labels < options.classes)
    picks = some[few_label_draws(train.labels[some], options.per_class, 1)[0]]
    x, labels = pixel_features(train.pixels[picks]), train.labels[picks]
    new = pixel_features(test.pixels[test.labels < options.classes])
    next(logistic_path(x[:, :64], labels, [1.0]))  # libraries start their threads
    start = time.process_time()
    ours = list(logistic_path(x, labels, STRENGTHS))
    seconds = (time.process_time() - start) / len(STRENGTHS)
    lines = []
    for C, optimum in zip(STRENGTHS, ours, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            start = time.process_time()
            theirs = LogisticRegression(C=C, max_iter=300).fit(x, labels)
            usual = time.process_time() - start
        figures = {
            "fit_speed_over_sklearn": usual / seconds,
            "fit_seconds": seconds,
            "fit_seconds_sklearn": usual,
            "objective": objective(optimum, x, labels, C),
            "objective_sklearn": objective(theirs, x, labels, C),
            "differing_predictions_sklearn": 100 * float((optimum.predict(new) != theirs.predict(new)).mean()),
        }
        print(f"C = {C:g}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
        lines += [
            ResultLine(
                experiment="bench/probe", scale=0, settings={"C": C, "features": x.shape[1]}, table_row=None,
                dataset=source.name, split="train", metric=name, value=round(value, 6), std=None, n=len(x), seed=0,
                steps=0, images_seen=0, device=device_name(), seconds=round(time.perf_counter() - began, 1),
                commit=commit(), command=shlex.join(["python", "tools/bench_probe.py", *sys.argv[1:]]),
            )
            for name, value in figures.items()
        ]  # fmt: skip
    append_results(options.results, lines)


if __name__ == "__main__":
    main()
