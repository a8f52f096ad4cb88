"""`bigbigan generate`."""

from __future__ import annotations

import argparse

from bigbigan.cli.common import at_least, run_and_data, writable
from bigbigan.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run_and_data(parser, None, "DIR_OR_GRID.png folder for single images, or a grid of all")
    parser.add_argument("--count", type=int, default=64, metavar="N", help="number of images (default 64)")
    parser.add_argument(
        "--truncation", type=float, default=1.0, metavar="T", help="scale of z, above 0 to 1 (default 1)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the latents (default 0)")
    parser.add_argument("--label", type=int, metavar="K", help="class of all images, for a model trained with labels")


def run(options: argparse.Namespace) -> None:
    """Generate images, as one grid (a name ending in .png) or as single files in a folder."""
    import torch

    from bigbigan.data.formats import EXTENSIONS, NOT_READ
    from bigbigan.inference.loading import load
    from bigbigan.training.image_grid import grid, save_image
    from bigbigan.training.run_folder import default_device

    at_least(1, count=options.count)
    one, other = options.out.suffix.lower() == ".png", (*EXTENSIONS, *NOT_READ, ".pdf", ".svg", ".npz", ".zip", ".mp4")
    if not one and options.out.suffix.lower() in other:
        raise UserError(f"--out {options.out}: expected a name ending in .png for a grid, or a folder")
    writable(options.out if one else options.out / "00000.png")
    model = load(options.run, device=default_device())
    batches = model.generate_batches(options.count, options.truncation, options.seed, options.label)
    if one:
        save_image(grid(torch.cat([batch.cpu() for batch in batches])), options.out)
    else:
        for i, image in enumerate(image for batch in batches for image in batch):
            save_image(grid(image[None], min_side=1), options.out / f"{i:05d}.png")
    print(options.out)
