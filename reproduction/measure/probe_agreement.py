"""Nearest neighbours and the paper's linear classifiers beside scikit-learn's, on the features of a run.

    python tools/probe_agreement.py RUN [--data SOURCE] [--results FILE]

Writes result lines of ours (knnK_l2_F, top1_sweep100k_F) and of scikit-learn's on the same features (..._sklearn):
KNeighborsClassifier, and LogisticRegression without a penalty.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from bigbigan.data import open_source
from bigbigan.evaluation.features import encoder_features
from bigbigan.evaluation.probes.knn import knn_accuracies
from bigbigan.evaluation.probes.linear_heads import PROTOCOLS, TABLE2_RATES, cached_batches, top_accuracy, train_heads
from bigbigan.evaluation.records import Figure, append_results
from bigbigan.evaluation.splits import load_labelled, train_val
from bigbigan.evaluation.targets import open_subject, result_lines
from bigbigan.training.run_folder import source_of

NAMES = ("avepool", "bn_crelu")
NEIGHBOURS = (1, 5, 25)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", metavar="SOURCE")
    parser.add_argument("--results", type=Path, default=Path("results/agreement.jsonl"), metavar="FILE")
    options = parser.parse_args()
    subject = open_subject(str(options.run))
    source = open_source(options.data or source_of(options.run))
    train, test = load_labelled(source, subject.view, subject.seed)
    assert train.labels is not None
    assert test.labels is not None
    encoder, device = subject.encoder("trained", train.pixels), subject.device
    known, new = (encoder_features(encoder, split.pixels, NAMES) for split in (train, test))
    held = train_val(len(train))
    rest = np.setdiff1d(np.arange(len(train)), held)
    start, figures = time.perf_counter(), dict[str, Figure]()
    for name in NAMES:
        ours = knn_accuracies(known[name], train.labels, new[name], test.labels, [(k, "l2") for k in NEIGHBOURS])
        a, b = (f[name] / np.linalg.norm(f[name], axis=1, keepdims=True) for f in (known, new))
        for k in NEIGHBOURS:
            theirs = KNeighborsClassifier(k, algorithm="brute").fit(a, train.labels).score(b, test.labels)
            figures |= {f"knn{k}_l2_{name}": Figure(ours[k, "l2"]), f"knn{k}_l2_{name}_sklearn": Figure(100 * theirs)}
    sizes = {name: known[name].shape[1] for name in NAMES}
    batches = cached_batches([{n: known[n][rest] for n in NAMES}], train.labels[rest], subject.seed, device)
    classes, steps = int(train.labels.max()) + 1, PROTOCOLS["sweep100k"]
    heads = train_heads(batches, sizes, classes, TABLE2_RATES, steps, device, progress=True)
    chosen = top_accuracy(heads, {n: known[n][held] for n in NAMES}, train.labels[held], 1, device)
    final = top_accuracy(heads, new, test.labels, 1, device)
    for name in NAMES:
        rate = max(TABLE2_RATES, key=lambda r, name=name: chosen[name, r])
        figures[f"top1_sweep100k_{name}"] = Figure(final[name, rate], protocol={"rate": rate})
        scale = known[name].std(0) + 1e-6  # the optimum without a penalty is the same; the search for it is shorter
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = LogisticRegression(C=np.inf, max_iter=300).fit(known[name][rest] / scale, train.labels[rest])
        theirs = 100 * fitted.score(new[name] / scale, test.labels)
        figures[f"top1_sweep100k_{name}_sklearn"] = Figure(theirs)
    command = shlex.join(["python", "tools/probe_agreement.py", *sys.argv[1:]])
    lines = result_lines(subject, source, test.name, len(test), figures, True, start, command)
    append_results(options.results, lines)
    for line in lines:
        print(f"{line.metric}: {line.value}")


if __name__ == "__main__":
    main()
