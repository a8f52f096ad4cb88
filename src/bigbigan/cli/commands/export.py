"""`bigbigan export`."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from bigbigan.cli.common import run_and_data, run_options

EXAMPLES = (
    "export runs/photos --out photos_model",
    "export runs/photos --out photos_model --checkpoint best --onnx --license cc-by-4.0",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run_and_data(parser, None, "DIR folder to write")
    parser.add_argument(
        "--head", type=Path, metavar="HEAD", help="saved head (classify --save) to put into the exported model"
    )
    parser.add_argument("--onnx", action="store_true", help="write E, G and the classifier as ONNX files too")
    parser.add_argument(
        "--compact", action="store_true", help="write weights in float16 and omit D: about a quarter of the size"
    )
    parser.add_argument(
        "--license",
        default="other",
        metavar="NAME",
        help="licence of the weights for the model card, such as cc-by-4.0 (default other)",
    )
    run_options(parser)


def run(options: argparse.Namespace) -> None:
    """Export a model to a folder: safetensors, settings and a model card; with --onnx, ONNX files too."""
    from bigbigan.integrations.export import export

    folder = export(
        options.run,
        options.out,
        checkpoint=options.checkpoint,
        onnx=options.onnx,
        progress=not options.quiet,
        head=options.head,
        compact=options.compact,
        license=options.license,
    )
    if options.json:
        print(json.dumps({"folder": str(folder)}))
    else:
        print(f"{folder}\nto share it: hf upload OWNER/NAME {shlex.quote(str(folder))}")
