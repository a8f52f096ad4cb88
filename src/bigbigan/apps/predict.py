"""Classify every image of a source by a saved head, and write the predictions as a CSV file: `predict`."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bigbigan.compute import images_per_pass
from bigbigan.data.csv_cells import writing_csv
from bigbigan.data.image_set import Source
from bigbigan.data.loading import stream_view
from bigbigan.data.names import listed, shown
from bigbigan.errors import UserError
from bigbigan.evaluation.probes.saved_head import quality_by_name
from bigbigan.inference.head import Head
from bigbigan.inference.loading import load
from bigbigan.progress import Bar
from bigbigan.training.devices import default_device
from bigbigan.training.run_folder import is_own_data, open_data

__all__ = ["predict", "summary"]


def predict(
    run: Path,
    head: Path | None,
    data: str | None,
    out: Path,
    *,
    labels_file: str | None = None,
    score: bool = False,
    probabilities: bool = False,
    checkpoint: str = "newest",
    raw_cells: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Write a row for each image: file, class, confidence, unlike_training; with `score` also its truth: its label.

    Images are decoded by threads, classified and written batch by batch, so memory does not grow with their number; but
    with `score` the probabilities of labelled images are kept.

    Args:
        run: a run folder or an exported model.
        head: a file that `classify --save` wrote; by default the head in the exported model.
        data: a source; by default the run's own.
        out: the CSV file.
        labels_file: a file of labels (bigbigan.data.labels) to compare the predictions with.
        score: compare the predictions with the labels of the source, or of that file.
        probabilities: write the probability of each class too, in columns called probability_CLASS.
        checkpoint: of a run, "newest", "best" or a step.
        raw_cells: write names as they are, even if a spreadsheet would take them for formulas
            (`bigbigan.data.csv_cells`).
        progress: show images/s and time left.

    Returns:
        The `file`; the numbers of `images`, of images `unlike_training`, and of `unreadable` images, which have no row;
        and the number of images of each class in `classes`. With `score`, `scores` has `n`, the number of labelled
        images, those `of_other_classes` than the head's, and the `quality` of the predictions for all n.

    Raises:
        UserError: no head, a head of another encoder, a source that cannot be used, or no label to compare with. No
            incomplete file is left.
    """
    if out.suffix.lower() != ".csv":
        raise UserError(f"--out {out}: expected a name ending in .csv")
    score = score or labels_file is not None
    if score and data is None:
        raise UserError("--score and --labels need --data SOURCE: labelled images that the head was not trained on")
    model = load(run, checkpoint, default_device())
    kept_head = model.head if head is None else Head.load(head)
    if kept_head is None:
        raise UserError(
            f"{run} has no saved head; give one: --head HEAD (bigbigan classify {run} --save HEAD writes it)"
        )
    kept_head.check(model.encoder, run, head or "the saved head")
    tolerated = None if data is None else 1.0  # new images are few, and those that can be read are of use
    source, view = open_data(run, data, labels_file, model.config, tolerated), kept_head.preprocessing
    if score:
        _check_labels(source, kept_head)
        if is_own_data(run, source):
            warnings.warn(
                f"{source.spec} has the images of {run}: if the head was trained on them, the accuracy is too good",
                stacklevel=2,
            )
    labels: list[str] = []
    labelled: list[Tensor] = []  # the probabilities of images with a label
    counts = dict.fromkeys(kept_head.classes, 0)
    images_read = unlike = 0
    total = sum(map(len, source.splits.values()))
    with (
        Bar(total=total, desc="predict", unit=" images", disable=not progress) as bar,
        writing_csv(out, raw_cells) as write,
    ):
        more = ["truth"] if score else []
        more += [f"probability_{name}" for name in kept_head.classes] if probabilities else []
        write("file", "class", "confidence", "unlike_training", *more)
        for images in source.splits.values():
            images.store.pads = view.pads  # as the images that the head was trained on
            seen = (view.resolution, view.channels, view.augment)
            for pixels, kept in stream_view(images, *seen, source, images_per_pass(500), bar):
                found = model.predict(torch.from_numpy(pixels), kept_head)
                names, flags = found.names, found.unlike_training.tolist()
                truth = [images.class_name(i) for i in kept.tolist()] if score else []
                for row, i in enumerate(kept.tolist()):
                    each = truth[row : row + 1]
                    each += [f"{p:.4f}" for p in found.probabilities[row].tolist()] if probabilities else []
                    sure = f"{found.confidence[row]:.4f}"
                    write(images.files[i], names[row], sure, str(flags[row]).lower(), *each)
                known = [row for row, name in enumerate(truth) if name]
                labelled.append(found.probabilities[known].cpu())
                labels += [truth[row] for row in known]
                for name, count in Counter(names).items():
                    counts[name] += count
                images_read, unlike = images_read + len(kept), unlike + sum(flags)
        if score and not labels:
            raise UserError("--score: none of the labelled images can be read")
    result: dict[str, Any] = {
        "file": str(out),
        "images": images_read,
        "unlike_training": unlike,
        "unreadable": total - images_read,
        "classes": counts,
    }
    if score:
        others = sum(name not in counts for name in labels)
        measured = quality_by_name(torch.cat(labelled), kept_head.classes, labels)
        result["scores"] = {"n": len(labels), "of_other_classes": others, **measured}
    return result


def _check_labels(source: Source, head: Head) -> None:
    """Raise UserError unless an image of the source has one of the head's classes as its label."""
    found = sorted({images.class_name(i) for images in source.splits.values() for i in range(len(images))} - {""})
    if not found:
        raise UserError(
            f"--score: {source.spec} has no labels; give --labels FILE.csv, or a folder for each class (a single one "
            "is not read as a class)"
        )
    if not set(found) & set(head.classes):
        raise UserError(
            f"--score: no label in {source.spec} is a class of the head: the labels are {listed(found)}, the classes "
            f"{listed(head.classes)}"
        )


def summary(found: dict[str, Any]) -> str:
    """Return what `predict` returned as text for people: a line, and one more for the scores."""
    counts = ", ".join(f"{shown(name)} {count:,}" for name, count in found["classes"].items() if count)
    unlike = f"; {found['unlike_training']:,} unlike the training images" if found["unlike_training"] else ""
    lines = [f"{found['file']}: {found['images']:,} images: {counts}{unlike}"]
    if scores := found.get("scores"):
        lacking = scores["of_other_classes"]
        others = f" ({lacking:,} of classes that the head lacks)" if lacking else ""
        auroc = f", AUROC {scores['auroc']:.3f}" if "auroc" in scores else ""
        lines.append(
            f"{scores['n']:,} labelled images{others}: accuracy {scores['top1']:.1f} %, balanced "
            f"{scores['balanced']:.1f} %{auroc}, calibration error {scores['ece']:.1f} %"
        )
    return "\n".join(lines)
