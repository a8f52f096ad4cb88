"""`bigbigan neighbours`."""

from __future__ import annotations

import argparse
import json

from bigbigan.cli.common import OWN_DATA, at_least, check_ending, run_and_data, run_options

EXAMPLES = ("neighbours runs/photos --out neighbours.png",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run_and_data(parser, OWN_DATA.replace("images", "images to look up", 1), "GRID.png picture to write")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="number of images (default 8)")
    parser.add_argument(
        "--neighbours", type=int, default=8, metavar="K", help="number of neighbours of each image (default 8)"
    )
    run_options(parser)


def run(options: argparse.Namespace) -> None:
    """Draw images together with the training images nearest to them in feature space."""
    at_least(1, count=options.count, neighbours=options.neighbours)
    check_ending(options, "out", ".png")
    from bigbigan.apps.visualize import neighbours
    from bigbigan.image.grid import save_image

    picture, found = neighbours(
        options.run,
        options.data,
        options.count,
        options.neighbours,
        options.labels,
        options.checkpoint,
        not options.quiet,
    )
    save_image(picture, options.out)
    print(json.dumps(found, indent=2) if options.json else options.out)
