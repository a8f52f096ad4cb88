"""Compare our nearest neighbours and the paper's linear classifiers with scikit-learn's, on the features of a run.

    python -m reproduction.measure.probe_agreement RUN [--data SOURCE]

Writes our values (knnK_l2_F, top1_sweep100k_F) and scikit-learn's on the same features (..._sklearn):
KNeighborsClassifier, and LogisticRegression without a penalty.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from bigbigan.evaluation.features import encoder_features
from bigbigan.evaluation.probes.knn import knn_accuracies
from bigbigan.evaluation.probes.linear_heads import PROTOCOLS, TABLE2_RATES, cached_batches, top_accuracy, train_heads
from bigbigan.evaluation.records import Measurement
from bigbigan.evaluation.splits import load_images, train_val
from bigbigan.evaluation.targets import open_target
from reproduction.common import Script

NAMES = ("avepool", "bn_crelu")
NEIGHBOURS = (1, 5, 25)


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/agreement.jsonl")
    script.parser.add_argument("run", type=Path)
    script.parser.add_argument("--data", metavar="SOURCE")
    return script.run(measure, arguments)


def measure(script: Script, options: argparse.Namespace) -> None:
    target = open_target(str(options.run))
    source = target.source(options.data, None, "probe_agreement")
    images = load_images(source, target.view)
    train, test = images.train, images.test
    assert train.labels is not None
    assert test.labels is not None
    encoder, device = target.encoder("trained", train.pixels), target.device
    known, new = (encoder_features(encoder, split.pixels, NAMES) for split in (train, test))
    held_out = train_val(len(train))
    kept = np.setdiff1d(np.arange(len(train)), held_out)
    start, measured = time.perf_counter(), dict[str, Measurement | float]()
    for name in NAMES:
        ours = knn_accuracies(known[name], train.labels, new[name], test.labels, [(k, "l2") for k in NEIGHBOURS])
        a, b = (f[name] / np.linalg.norm(f[name], axis=1, keepdims=True) for f in (known, new))
        for k in NEIGHBOURS:
            theirs = KNeighborsClassifier(k, algorithm="brute").fit(a, train.labels).score(b, test.labels)
            measured |= {f"knn{k}_l2_{name}": ours[k, "l2"], f"knn{k}_l2_{name}_sklearn": 100 * theirs}
    sizes = {name: known[name].shape[1] for name in NAMES}
    batches = cached_batches([{n: known[n][kept] for n in NAMES}], train.labels[kept], target.seed, device)
    classes, steps = int(train.labels.max()) + 1, PROTOCOLS["sweep100k"]
    heads = train_heads(batches, sizes, classes, TABLE2_RATES, steps, device, progress=True)
    validation = top_accuracy(heads, {n: known[n][held_out] for n in NAMES}, train.labels[held_out], 1, device)
    final = top_accuracy(heads, new, test.labels, 1, device)
    for name in NAMES:
        by_rate = {r: validation[name, r] for r in TABLE2_RATES}
        rate = max(by_rate, key=by_rate.__getitem__)
        measured[f"top1_sweep100k_{name}"] = Measurement(final[name, rate], protocol={"rate": rate})
        scale = known[name].std(0) + 1e-6  # without a penalty this does not change the optimum, and shortens the search
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = LogisticRegression(C=np.inf, max_iter=300).fit(known[name][kept] / scale, train.labels[kept])
        theirs = 100 * fitted.score(new[name] / scale, test.labels)
        measured[f"top1_sweep100k_{name}_sklearn"] = theirs
    script.append(script.target_lines(target, measured, source=source, split=test.name, n=len(test), start=start))


if __name__ == "__main__":
    sys.exit(main())
