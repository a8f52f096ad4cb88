"""`bigbigan export`."""

from __future__ import annotations

import argparse

from bigbigan.cli.common import CHECKPOINT, QUIET, run_and_data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run_and_data(parser, None, "DIR folder to write")
    parser.add_argument("--onnx", action="store_true", help="write E and G as ONNX files too")
    parser.add_argument("--checkpoint", **CHECKPOINT)
    parser.add_argument("--quiet", **QUIET)


def run(options: argparse.Namespace) -> None:
    """Export a model to a folder: safetensors, settings and a model card; with --onnx, ONNX files too."""
    from bigbigan.integrations.export import export

    print(export(options.run, options.out, options.checkpoint, options.onnx, progress=not options.quiet))
