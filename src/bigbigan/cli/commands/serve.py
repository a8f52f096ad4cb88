"""`bigbigan serve`."""

from __future__ import annotations

import argparse

from bigbigan.cli.common import run_and_data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run_and_data(parser, "of the examples and nearest images; by default that of the run", None)
    parser.add_argument(
        "--host",
        action="append",
        metavar="NAME",
        help="where to serve (default 127.0.0.1: to this machine alone); given again, another name it is reached by",
    )
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="default %(default)s; 0: any that is free")


def run(options: argparse.Namespace) -> None:
    """Serve a page to try a model with: samples, an image of your own, walks between two."""
    from bigbigan.apps.serve import serve

    host, *names = options.host or ["127.0.0.1"]
    serve(options.run, host, options.port, options.data, options.labels, names)
