"""`bigbigan encode`."""

from __future__ import annotations

import argparse

from bigbigan.cli.common import OWN_DATA, RAW_CELLS, run_and_data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run_and_data(parser, OWN_DATA, "FILE .npz, .csv or .parquet")
    parser.add_argument(
        "--features",
        metavar="NAME,...",
        help="avepool_feat, bn_crelu_feat, z_mean; of each image also anomaly_score, reconstruction_error, score_x, "
        "score_z, score_xz; default: all features that the encoder has",
    )

    parser.add_argument("--raw-cells", **RAW_CELLS)


def run(options: argparse.Namespace) -> None:
    """Write features or scores of every image of a source, with file names and labels."""
    from bigbigan.apps.encode import encode

    features = options.features.split(",") if options.features else None
    count = encode(options.run, options.data, options.out, features, options.labels, options.raw_cells)
    print(f"{options.out}: {count} images")
