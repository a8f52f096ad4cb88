"""`bigbigan reconstruct`."""

from __future__ import annotations

import argparse
import json

from bigbigan.cli.common import OWN_DATA, at_least, check_ending, run_and_data, run_options

EXAMPLES = (
    "reconstruct runs/digits --out reconstructions.png",
    "reconstruct runs/digits --refine 200 --out reconstructions.png",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run_and_data(parser, OWN_DATA, "GRID.png picture to write")
    parser.add_argument("--count", type=int, default=32, metavar="N", help="number of images (default 32)")
    parser.add_argument(
        "--refine", type=int, default=0, metavar="STEPS", help="also optimise z from E(x) for this many steps"
    )
    run_options(parser)


def run(options: argparse.Namespace) -> None:
    """Draw images x above their reconstructions G(E(x)); with --refine, also G(z) with z optimised from E(x)."""
    at_least(0, refine=options.refine)
    at_least(1, count=options.count)
    check_ending(options, "out", ".png")
    from bigbigan.apps.visualize import reconstructions
    from bigbigan.image.grid import save_image

    picture, errors = reconstructions(
        options.run,
        options.data,
        options.count,
        options.refine,
        options.labels,
        options.checkpoint,
        not options.quiet,
    )
    save_image(picture, options.out)
    if options.json:
        print(json.dumps({"grid": str(options.out), "error": errors}))
    else:
        first, *later = errors.values()
        steps = f"{options.refine} step{'s' if options.refine > 1 else ''}"
        refined = f", and {later[0]:.2f} after z is refined for {steps}" if later else ""
        print(f"wrote {options.out}: the mean error of G(E(x)) is {first:.2f}{refined} (‖x − x̂‖, pixels in [0, 1])")
