"""`bigbigan interpolate`."""

from __future__ import annotations

import argparse
import json

from bigbigan.cli.common import OWN_DATA, at_least, check_ending, run_and_data, run_options
from bigbigan.errors import UserError

EXAMPLES = (
    "interpolate runs/digits --out interpolations.png",
    "interpolate runs/digits --out interpolations.gif",
    "interpolate runs/digits --latents --seed 3 --out interpolations.png",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run_and_data(parser, OWN_DATA, "GRID.png picture to write, or an animation of all of them (.gif)")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="number of interpolations (default 8)")
    parser.add_argument("--steps", type=int, default=8, metavar="K", help="images in an interpolation (default 8)")
    parser.add_argument("--latents", action="store_true", help="interpolate between latents drawn from P_z instead")
    parser.add_argument("--seed", type=int, metavar="S", help="seed of those latents (default 0)")
    run_options(parser)


def run(options: argparse.Namespace) -> None:
    """Draw interpolations between the encodings of images, or between random latents."""
    at_least(2, steps=options.steps)
    at_least(1, count=options.count)
    check_ending(options, "out", ".png", ".gif")
    for name in ("data", "labels") if options.latents else ():
        if (given := getattr(options, name)) is not None:
            raise UserError(f"--{name} {given}: --latents needs no images; remove --{name} or --latents")
    if options.seed is not None and not options.latents:
        raise UserError(f"--seed {options.seed}: only latents are drawn; remove --seed or add --latents")
    from bigbigan.apps.visualize import interpolations, latent_interpolations
    from bigbigan.image.grid import save_animation, save_image

    if options.latents:
        found = latent_interpolations(
            options.run, options.count, options.steps, options.seed or 0, options.checkpoint, not options.quiet
        )
    else:
        found = interpolations(
            options.run,
            options.data,
            options.count,
            options.steps,
            options.labels,
            options.checkpoint,
            not options.quiet,
        )
    if options.out.suffix.lower() == ".gif":
        save_animation(found.frames(), options.out)
    else:
        save_image(found.picture(), options.out)
    print(json.dumps({"grid": str(options.out)}) if options.json else options.out)
