"""`bigbigan encode`."""

from __future__ import annotations

import argparse
import json

from bigbigan.cli.common import OWN_DATA, RAW_CELLS, run_and_data, run_options

EXAMPLES = (
    "encode runs/photos --out features.csv",
    "encode runs/photos --data new_photos/ --features z_mean,anomaly_score --out features.npz",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run_and_data(parser, OWN_DATA, "FILE file to write: .npz, .csv or .parquet")
    parser.add_argument(
        "--features",
        metavar="NAME,...",
        help="features: avepool_feat, bn_crelu_feat, z_mean; scores of an image: anomaly_score, reconstruction_error, "
        "score_x, score_z, score_xz (default: all features of the encoder)",
    )
    parser.add_argument("--raw-cells", **RAW_CELLS)
    run_options(parser)


def run(options: argparse.Namespace) -> None:
    """Write the features or scores of every image of a source, with file names and labels."""
    from bigbigan.apps.feature_file import check_request

    features = [name.strip() for name in options.features.split(",")] if options.features else None
    check_request(options.out, features)
    from bigbigan.apps.encode import encode

    count = encode(
        options.run,
        options.data,
        options.out,
        features,
        options.labels,
        options.raw_cells,
        progress=not options.quiet,
        checkpoint=options.checkpoint,
    )
    if options.json:
        print(json.dumps({"file": str(options.out), "images": count}))
    else:
        print(f"{options.out}: {count} images")
