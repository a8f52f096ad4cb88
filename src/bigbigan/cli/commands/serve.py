"""`bigbigan serve`."""

from __future__ import annotations

import argparse
from pathlib import Path

from bigbigan.cli.common import OWN_DATA, run_and_data, run_options

EXAMPLES = (
    "serve runs/photos",
    "serve runs/photos --port 8000 --device cpu",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run_and_data(parser, f"example {OWN_DATA}", None)
    parser.add_argument(
        "--head",
        type=Path,
        metavar="HEAD",
        help="saved head (classify --save) that classifies your images (default: the one in an exported model)",
    )
    parser.add_argument(
        "--host",
        action="append",
        metavar="NAME",
        help="address to listen on (default 127.0.0.1: this machine only); further --host add names it answers to",
    )
    parser.add_argument(
        "--port", type=int, default=7860, metavar="N", help="port to listen on, 0 for any free one (default 7860)"
    )
    run_options(parser)


def run(options: argparse.Namespace) -> None:
    """Serve a local web page to try a model: samples, an image of your own, interpolations."""
    from bigbigan.apps.serve import serve

    host, *names = options.host or ["127.0.0.1"]
    serve(
        options.run,
        host,
        options.port,
        options.data,
        options.labels,
        names,
        checkpoint=options.checkpoint,
        progress=not options.quiet,
        as_json=options.json,
        head=options.head,
    )
