"""Write the section on the data: what was read, what was skipped, how many images of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bigbigan.apps.contact_sheet import class_sheet, contact_sheet
from bigbigan.apps.report.contents import Run
from bigbigan.apps.report.markup import Html, command, join, missing, paragraph, picture, table, tag
from bigbigan.data import Source, fingerprint, inspect
from bigbigan.data.image_set import fraction_of
from bigbigan.data.streaming import FINGERPRINTED

MAX_INSPECTED = 100_000  # a source with more images is described without reading them all


def data_card(run: Run) -> Html:
    """Return the section."""
    card, source = run.card, run.source
    notes, skipped = card.get("notes", {}), card.get("skipped", [])
    total = len(skipped)
    conditional = run.config.data.labels == "classes"
    if conditional:
        networks = "G and D were" if run.config.has_generator else "E was"
        labels = f"{networks} trained with labels of {run.config.data.classes} classes."
    else:
        labels = "Training used no labels."
        if source is None or any(images.labels is not None for images in source.splits.values()):
            labels += " Evaluation did"
            validates = run.config.log.validate_every > 0
            labels += ", and so did the validation metric, which changes no weight." if validates else "."
    rows: list[Sequence[object]] = [("source", run.spec or "not recorded")]
    parts: list[object] = []
    if source is not None and source.labels is not None:
        rows.append(("labels file", source.labels.path))
    if source is None:
        rows.append(("training images", card.get("images", "not recorded")))
        parts.append(missing(f"The images were not read: {run.no_source}. The facts above were recorded by the run."))
    elif sum(map(len, source.splits.values())) > MAX_INSPECTED:
        rows += [(f"{name} split", f"{len(images):,} images") for name, images in source.splits.items()]
        parts.append(
            missing("Too many images to read them all here. To inspect them: ", command("data", "inspect", run.spec))
        )
    else:
        facts = inspect(source)
        notes, skipped, total = facts["notes"], facts["skipped"], facts["skipped_count"]
        rows += [(f"{name} split", _describe(split)) for name, split in facts["splits"].items()]
        rows += [(f"in both {pair}", tag("mark", f"{n:,} images")) for pair, n in facts["shared"].items()]
        parts.append(_classes(facts["splits"]))
        if card.get("fingerprint") not in (None, *_fingerprints(source, run.fraction)):
            parts.append(paragraph("These are not the images the run was trained on.", classes="warn"))
    if skipped:
        summary = tag("summary", f"{total:,} files were skipped; the first of them:")
        parts.append(tag("details", summary, table(("file", "reason"), skipped[:20]), open="open"))
    if source is not None and conditional and source.splits["train"].labels is not None:
        sheet = class_sheet(source.splits["train"])
        parts.append(picture(sheet, "training images, one row for each class", "training images by class"))
    elif source is not None:
        parts.append(picture(contact_sheet(source), "drawn at random from the training split", "training images"))
    return join(paragraph(labels), table([], [*rows, *((kind, f"{n:,}") for kind, n in notes.items())]), *parts)


def _fingerprints(source: Source, fraction: float) -> set[str]:
    """Return the fingerprints that a run on these images records: in memory of the readable ones, streamed of some."""
    images, bad = fraction_of(source.splits["train"], fraction), {file for file, _ in source.skipped}
    readable = images.subset([i for i, file in enumerate(images.files) if file not in bad])
    return {fingerprint(readable), fingerprint(images, FINGERPRINTED)}


def _describe(split: dict[str, Any]) -> str:
    """Return one line about a split, from the facts of `bigbigan.data.inspect`."""
    text = [f"{split['count']:,} images"]
    if split["sizes"]:
        low, high = ("×".join(map(str, split["sizes"][key])) for key in ("min", "max"))
        text.append(f"{low} px" if low == high else f"{low} to {high} px")
    text += [f"{n:,} {kind}" for kind, n in split["channels"].items() if n]
    text += [f"{split[key]:,} {key}" for key in ("unreadable", "duplicates") if split[key]]
    return ", ".join([*text, "labelled" if split["labelled"] else "no labels"])


def _classes(splits: dict[str, Any], max_rows: int = 20) -> Html:
    """Return the number of images of each class in each split; with many classes, of the largest and the smallest."""
    counts = splits["train"]["classes"] or {}
    names, omitted = list(counts), len(counts) - max_rows
    if omitted > 0:
        names.sort(key=lambda name: -counts[name])
        names[max_rows // 2 : -max_rows // 2] = []
    rows = [
        (
            name,
            *(f"{(split['classes'] or {}).get(name, 0):,}" for split in splits.values()),
            tag("div", classes="bar", style=f"width:{100 * counts[name] / max(1, *counts.values()):.1f}%"),
        )
        for name in names
    ]
    between = paragraph(f"Not shown: {omitted} classes of sizes in between.") if omitted > 0 else ""
    return join(table(("class", *splits, ""), rows, "classes"), between) if rows else Html()
