"""Train a classifier on all labelled images of a source and keep it: `classify --save`."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import torch

from bigbigan.data import ImageSet, Source
from bigbigan.data.loading import stream_view
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features
from bigbigan.evaluation.probes.saved_head import fit_head, quality_by_name
from bigbigan.evaluation.records import Measurement, ResultLine, append_results
from bigbigan.evaluation.splits import lacks_classes, warn_of_copies
from bigbigan.evaluation.targets import open_target
from bigbigan.inference.head import Head, Preprocessing
from bigbigan.inference.model import Model
from bigbigan.progress import Bar

__all__ = ["save_head"]


def save_head(
    run: str,
    data: str | None,
    out: Path,
    command: str,
    *,
    labels_file: str | None = None,
    progress: bool = False,
    checkpoint: str = "newest",
) -> tuple[Head, list[ResultLine]]:
    """Train a classifier on BN+CReLU features of the labelled images of the train split, and write it to `out`.

    It is measured on the labelled images of the test split (or val, if test has none), or else on held-out folds of the
    images it is trained on. The result lines are also appended to the run's results.jsonl.

    Args:
        run: a run folder or an exported model.
        data: a labelled source; by default the run's own.
        out: the file of the head, which is replaced.
        command: recorded in result lines.
        labels_file: a file of labels (bigbigan.data.labels); by default the run's own.
        progress: show images/s and time left.
        checkpoint: of a run, "newest", "best" or a step.

    Returns:
        The head; and result lines top1_head, balanced_head, auroc_head, ece_head and unlike_head: the percentage of
        images that it finds unlike the training images. Their protocol has the `digest` of the head.

    Raises:
        UserError: an external encoder, no labels of two or more classes, or a file that cannot be written.
    """
    target = open_target(run, which=checkpoint)
    if target.model is None:
        raise UserError(f"--save: {run} is an external encoder; expected a run (train --out) or an exported model")
    source, model = target.source(data, labels_file, f"classify {run}"), target.model
    train = _labelled(source.splits["train"])
    given = [source.splits[name] for name in ("test", "val") if name in source.splits]
    test = next((labelled for images in given if (labelled := _labelled(images)) is not None), None)
    if reason := lacks_classes(source, train or source.splits["train"], test):
        raise UserError(reason)
    assert train is not None
    start = time.perf_counter()
    view = target.view
    preprocessing = Preprocessing(view.resolution, view.channels, view.augment, train.store.pads)
    found, train, digests = _features(model, source, train, preprocessing, progress)
    assert train.labels is not None
    assert train.classes is not None
    head, measured, n = fit_head(
        found["bn_crelu"],
        found["avepool"],
        train.labels,
        train.classes,
        train.groups,
        preprocessing,
        model.encoder,
        model.config,
        model.step,
    )
    split = "folds"
    if test is None:
        first = {digest: i for i, digest in reversed([*enumerate(digests)])}
        unit = np.arange(len(train)) if train.groups is None else train.groups
        copies = sum(unit[first[digest]] != unit[i] for i, digest in enumerate(digests))
        warn_of_copies(source, copies, len(train), "labelled images are copies of others, and in other groups")
    else:
        found, test, tested = _features(model, source, test, preprocessing, progress)
        known = set(digests)
        warn_of_copies(source, sum(d in known for d in tested), len(test), "test images are also training images")
        measured, split, n = _measured(head, found, test), test.name, len(test)
    head.save(out)
    lines = target.result_lines(
        {f"{name}_head": Measurement(value, protocol={"head": head.digest}) for name, value in measured.items()},
        source=source,
        split=split,
        n=n,
        subject="trained",
        start=start,
        study="classification",
        command=command,
    )
    if lines and (path := target.results_file(out)) is not None:
        append_results(path, lines)
    return head, lines


def _labelled(images: ImageSet) -> ImageSet | None:
    """Return the images that have a label; None if none has."""
    known = np.flatnonzero(images.labels >= 0) if images.labels is not None else np.arange(0)
    return images.subset(known) if len(known) else None


def _features(
    model: Model, source: Source, images: ImageSet, view: Preprocessing, progress: bool
) -> tuple[dict[str, np.ndarray], ImageSet, list[bytes]]:
    """Return AvePool and BN+CReLU features, each float32 [N, d], of the images that can be read.

    Also return these images, and a digest of the pixels of each.
    """
    parts, numbers, digests = [], [], list[bytes]()
    images.store.pads = view.pads
    with Bar(total=len(images), desc=f"encode {images.name}", unit=" images", disable=not progress) as bar:
        for pixels, kept in stream_view(images, view.resolution, view.channels, view.augment, source, bar=bar):
            parts.append(encoder_features(model.encoder, pixels, ["avepool", "bn_crelu"]))
            numbers.append(kept)
            digests += [hashlib.blake2b(x.tobytes(), digest_size=16).digest() for x in pixels]
    features = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return features, images.subset(np.concatenate(numbers)), digests


def _measured(head: Head, features: dict[str, np.ndarray], images: ImageSet) -> dict[str, float]:
    """Return the `quality` of a head on images it was not trained on, and the percentage of unlike images."""
    found = head.predict(*(torch.from_numpy(features[name]) for name in ("bn_crelu", "avepool")))
    labels = [images.class_name(i) for i in range(len(images))]
    measured = quality_by_name(found.probabilities, head.classes, labels)
    return measured | {"unlike": 100 * found.unlike_training.float().mean().item()}
