"""`bigbigan generate`."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bigbigan.cli.common import at_least, run_and_data, run_options, writable
from bigbigan.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


EXAMPLES = (
    "generate runs/digits --out samples.png",
    "generate runs/digits --count 1000 --truncation 0.7 --out samples",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run_and_data(parser, None, "DIR_OR_GRID.png folder for single images, or a grid of all")
    parser.add_argument("--count", type=int, default=64, metavar="N", help="number of images (default 64)")
    parser.add_argument(
        "--truncation", type=float, default=1.0, metavar="T", help="scale of z, above 0 to 1 (default 1)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the latents (default 0)")
    parser.add_argument(
        "--label", metavar="CLASS", help="name or number of the class of all images, for a model trained with labels"
    )
    run_options(parser)


def run(options: argparse.Namespace) -> None:
    """Generate images, as one grid (a name ending in .png) or as single files in a folder."""
    import torch

    from bigbigan.apps.sheet import in_rows, sheet, tiles_of
    from bigbigan.data.formats import EXTENSIONS, NOT_READ
    from bigbigan.image.grid import grid, save_image
    from bigbigan.inference.loading import class_names, load
    from bigbigan.training.devices import default_device

    at_least(1, count=options.count)
    one, other = options.out.suffix.lower() == ".png", (*EXTENSIONS, *NOT_READ, ".pdf", ".svg", ".npz", ".zip", ".mp4")
    if not one and options.out.suffix.lower() in other:
        raise UserError(f"--out {options.out}: expected a name ending in .png for a grid, or a folder")
    writable(options.out if one else options.out / "00000.png")
    if not one:
        _refuse_earlier_images(options.out, options.count)
    model = load(options.run, options.checkpoint, default_device())
    label = None if options.label is None else _class_number(options.label, class_names(options.run, model.config))
    made = model.generate_batches(options.count, options.truncation, options.seed, label)
    batches = _with_progress(made, options.count, options.quiet)
    if one:
        tiles = tiles_of(torch.cat([batch.cpu() for batch in batches]))
        columns = math.ceil(math.sqrt(len(tiles)))
        given = f"truncation {options.truncation:g}, seed {options.seed}"
        given += "" if options.label is None else f", class {options.label}"
        save_image(sheet(in_rows(tiles, columns), title=f"G(z): {given}"), options.out)
    else:
        for i, image in enumerate(image for batch in batches for image in batch):
            save_image(grid(image[None], min_side=1), options.out / f"{i:05d}.png")
    print(json.dumps({"out": str(options.out), "images": options.count}) if options.json else options.out)


def _class_number(given: str, names: list[str]) -> int:
    """Return the number of the class of that name, or else the given number."""
    from bigbigan.data.names import listed, shown

    if given in names:
        return names.index(given)
    try:
        return int(given)
    except ValueError:
        known = f"{listed(names)}, or a number" if names else "none: this model was trained without labels"
        raise UserError(f"--label {shown(given)}: no such class; expected {known}") from None


def _refuse_earlier_images(folder: Path, count: int) -> None:
    """Raise UserError if a folder has other images, or images of an earlier call that these would not replace."""
    from bigbigan.data.formats import EXTENSIONS
    from bigbigan.data.names import extension
    from bigbigan.image.grid import is_foreign

    images = [p for p in sorted(folder.iterdir()) if extension(p.name) in EXTENSIONS] if folder.is_dir() else []
    if foreign := next(filter(is_foreign, images), None):
        raise UserError(f"--out {folder} has other images, such as {foreign.name}; choose another folder")
    earlier = [p.name for p in folder.glob("*.png") if re.fullmatch(r"\d{5,}", p.stem) and int(p.stem) >= count]
    if earlier:
        raise UserError(
            f"--out {folder} has {len(earlier):,} more images of an earlier call, such as {min(earlier)}; choose "
            "another folder, or remove them"
        )


def _with_progress(batches: Iterator[Tensor], count: int, quiet: bool) -> Iterator[Tensor]:
    """Yield the batches with a progress bar of images, which begins once the first is made: it may be a mistake."""
    from bigbigan.progress import Bar

    bar = None
    for batch in batches:
        bar = bar or Bar(total=count, desc="generate", unit=" images", disable=quiet)
        bar.update(len(batch))
        yield batch
    if bar is not None:
        bar.close()
