"""Classify every image of a source by a saved head, and write the predictions as a CSV file: `predict`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from bigbigan.compute import images_per_pass
from bigbigan.data.csv_cells import writing_csv
from bigbigan.data.loading import stream_view
from bigbigan.data.names import shown
from bigbigan.errors import UserError
from bigbigan.inference.head import Head
from bigbigan.inference.loading import load
from bigbigan.progress import Bar
from bigbigan.training.devices import default_device
from bigbigan.training.run_folder import open_data

__all__ = ["predict", "summary"]


def predict(
    run: Path,
    head: Path | None,
    data: str | None,
    out: Path,
    *,
    probabilities: bool = False,
    checkpoint: str = "newest",
    raw_cells: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Write a row for each image: file, class, confidence, unlike_training.

    Images are decoded by threads, classified and written batch by batch, so memory does not grow with their number.

    Args:
        run: a run folder or an exported model.
        head: a file that `classify --save` wrote; by default the head in the exported model.
        data: a source; by default the run's own.
        out: the CSV file.
        probabilities: write the probability of each class too, in columns called probability_CLASS.
        checkpoint: of a run, "newest", "best" or a step.
        raw_cells: write names as they are, even if a spreadsheet would take them for formulas
            (`bigbigan.data.csv_cells`).
        progress: show images/s and time left.

    Returns:
        The `file`; the numbers of `images`, of images `unlike_training`, and of `unreadable` images, which have no row;
        and the number of images of each class in `classes`.

    Raises:
        UserError: no head, a head of another encoder, or a source that cannot be used. No incomplete file is left.
    """
    if out.suffix.lower() != ".csv":
        raise UserError(f"--out {out}: expected a name ending in .csv")
    model = load(run, checkpoint, default_device())
    kept_head = model.head if head is None else Head.load(head)
    if kept_head is None:
        raise UserError(
            f"{run} has no saved head; give one: --head HEAD (bigbigan classify {run} --save HEAD writes it)"
        )
    kept_head.check(model.encoder, run, head or "the saved head")
    source, view = open_data(run, data, None, model.config), kept_head.preprocessing
    counts = dict.fromkeys(kept_head.classes, 0)
    images_read = unlike = 0
    total = sum(map(len, source.splits.values()))
    with (
        Bar(total=total, desc="predict", unit=" images", disable=not progress) as bar,
        writing_csv(out, raw_cells) as write,
    ):
        more = [f"probability_{name}" for name in kept_head.classes] if probabilities else []
        write("file", "class", "confidence", "unlike_training", *more)
        for images in source.splits.values():
            images.store.pads = view.pads  # as the images that the head was trained on
            seen = (view.resolution, view.channels, view.augment)
            for pixels, kept in stream_view(images, *seen, source, images_per_pass(500), bar):
                found = model.predict(torch.from_numpy(pixels), kept_head)
                names, flags = found.names, found.unlike_training.tolist()
                for row, i in enumerate(kept.tolist()):
                    each = [f"{p:.4f}" for p in found.probabilities[row].tolist()] if probabilities else []
                    sure = f"{found.confidence[row]:.4f}"
                    write(images.files[i], names[row], sure, str(flags[row]).lower(), *each)
                for name, count in Counter(names).items():
                    counts[name] += count
                images_read, unlike = images_read + len(kept), unlike + sum(flags)
    return {
        "file": str(out),
        "images": images_read,
        "unlike_training": unlike,
        "unreadable": total - images_read,
        "classes": counts,
    }


def summary(found: dict[str, Any]) -> str:
    """Return what `predict` returned as a line for people."""
    counts = ", ".join(f"{shown(name)} {count:,}" for name, count in found["classes"].items() if count)
    unlike = f"; {found['unlike_training']:,} unlike the training images" if found["unlike_training"] else ""
    return f"{found['file']}: {found['images']:,} images: {counts}{unlike}"
