"""`bigbigan data inspect`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bigbigan.cli.common import AS_JSON, LABELS_FILE, READING, SOURCES, check_ending, open_to_read

EXAMPLES = (
    "data inspect photos/ --out sheet.png",
    "data inspect photos.zip --labels photos.csv",
    "data inspect photos/ --groups groups.csv",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help=f"images: {SOURCES}")
    parser.add_argument("--labels", **LABELS_FILE)
    parser.add_argument("--set", **READING)
    parser.add_argument("--out", type=Path, metavar="SHEET.png", help="contact sheet to write")
    parser.add_argument(
        "--groups",
        type=Path,
        metavar="GROUPS.csv",
        help="labels file to write, which puts identical images into one group, so that no split divides them",
    )
    parser.add_argument("--json", **AS_JSON)


def run(options: argparse.Namespace) -> None:
    """Count the images, sizes and labels of a source, list unreadable files, and draw a contact sheet."""
    check_ending(options, "out", ".png")
    check_ending(options, "groups", ".csv")
    from bigbigan.apps.contact_sheet import contact_sheet
    from bigbigan.data import inspect
    from bigbigan.data.copies import write_groups
    from bigbigan.image.grid import save_image

    source = open_to_read(options)
    facts = inspect(source)
    if options.json and options.out:
        facts["sheet"] = str(options.out)
    if options.groups:
        count = write_groups(source, facts["copies"], options.groups)
    print(json.dumps(facts, indent=2) if options.json else _describe(facts))
    if options.groups and not options.json:
        print(f"wrote {options.groups}: {count:,} group{'s' * (count != 1)} of images")
    if options.out:
        save_image(contact_sheet(source), options.out)
        if not options.json:
            print(f"wrote {options.out}: training images, drawn at random")


def _describe(facts: dict[str, Any]) -> str:
    """Return what `inspect` found as text."""
    from bigbigan.data.readers.folders import NOT_AN_IMAGE

    lines = [f"{facts['spec']}"]
    for name, split in facts["splits"].items():
        sizes, kinds = split["sizes"], [f"{n} {kind}" for kind, n in split["channels"].items() if n]
        if sizes is None:
            lines.append(f"{name}: {split['count']} files, none readable")
            continue
        width, height = sizes["most_common"]["size"]
        more = sizes["different"] - 1
        others = f", {more} other size{'s' if more > 1 else ''}" if more else ""
        lines.append(f"{name}: {split['count']} images ({', '.join(kinds)}), mostly {width}x{height}{others}, "
                     f"{split['duplicates']} duplicates, {split['unreadable']} unreadable")  # fmt: skip
        if split["classes"]:
            counts = [f"{label} ({n})" for label, n in split["classes"].items()]
            more = f", ... {len(counts)} classes" if len(counts) > 12 else ""
            more += f"; {split['unlabelled']} without a label" if split["unlabelled"] else ""
            lines.append("  labels: " + ", ".join(counts[:12]) + more)
        else:
            lines.append("  no labels")
    lines += [f"{n} images are in both of {pair}" for pair, n in facts["shared"].items()]
    ignored = {note: n for note, n in facts["notes"].items() if note.startswith(f"{NOT_AN_IMAGE} (")}
    lines += [f"note: {note}: {n}" for note, n in facts["notes"].items() if note not in ignored]
    if ignored:
        kinds = [f"{n} {note.rpartition('(')[2][:-1]}" for note, n in ignored.items()]
        lines.append(f"note: {NOT_AN_IMAGE}: {', '.join(kinds)}")
    lines += [f"skipped: {file}: {reason}" for file, reason in facts["skipped"][:20]]
    if len(facts["skipped"]) > 20:
        lines.append(f"skipped: {len(facts['skipped']) - 20:,} more; --json lists all of them")
    lines += [f"remedy: {remedy}" for remedy in facts["remedies"]]
    return "\n".join(lines)
