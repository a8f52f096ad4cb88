"""`bigbigan data shard`."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from bigbigan.cli.common import AS_JSON, LABELS_FILE, QUIET, READING, SOURCES, at_least, open_to_read
from bigbigan.errors import UserError

EXAMPLES = (
    "data shard photos/ --out shards",
    "data shard photos/ --out shards --resolution 80 --images 10000",
    "data shard cells/ --out shards --resolution 64 --set data.window=[200,3900]",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help=f"images: {SOURCES}")
    parser.add_argument("--labels", **LABELS_FILE)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write, or to continue")
    cut = parser.add_mutually_exclusive_group()
    cut.add_argument("--size-mib", type=float, default=256, metavar="S", help="maximum size of a shard (default 256)")
    cut.add_argument("--images", type=int, metavar="N", help="number of images in a shard, instead of --size-mib")
    parser.add_argument(
        "--resolution", type=int, metavar="R", help="store R×R PNG images instead of the files: smaller and faster"
    )
    parser.add_argument("--set", **READING)
    parser.add_argument("--json", **AS_JSON)
    parser.add_argument("--quiet", **QUIET)


def run(options: argparse.Namespace) -> None:
    """Write a source as shuffled tar shards (WebDataset) with checksums; the same command continues its work."""
    from bigbigan.data import write_shards

    if not 0 < options.size_mib < math.inf:
        raise UserError(f"--size-mib {options.size_mib}: expected a number above 0")
    at_least(1, images=options.images, resolution=options.resolution)
    written = write_shards(
        open_to_read(options),
        options.out,
        options.size_mib,
        options.images,
        options.resolution,
        progress=not options.quiet,
    )
    if options.json:
        print(json.dumps(written, indent=2))
        return
    for split, n in written["splits"].items():
        print(f"{options.out / split}: {n['images']:,} images in {n['shards']:,} shards, {n['bytes'] / 2**20:,.1f} MiB")
    for note, count in written["notes"].items():
        print(f"note: {note}: {count}")
    skipped = written["skipped"]
    for file, reason in skipped[:20]:
        print(f"skipped: {file}: {reason}")
    if len(skipped) > 20:
        print(f"skipped: {len(skipped) - 20:,} more, listed in {options.out / 'index.json'}")
