"""`bigbigan cluster`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from bigbigan.cli.common import (
    LABELS_FILE,
    OWN_DATA,
    RAW_CELLS,
    RESULTS,
    RUN_OR_ENCODER,
    at_least,
    check_ending,
    is_own_results,
    run_options,
)

EXAMPLES = ("cluster runs/photos --clusters 20 --out clusters.csv --sheet clusters.png",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=RUN_OR_ENCODER)
    parser.add_argument("--data", metavar="SOURCE", help=OWN_DATA)
    parser.add_argument("--labels", **LABELS_FILE | {"help": "true labels to compare the clusters with"})
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE.csv", help="file of images and their clusters to write"
    )
    parser.add_argument("--clusters", type=int, default=50, metavar="K", help="number of clusters (default 50)")
    parser.add_argument(
        "--features",
        choices=("avepool", "bn_crelu", "z_mean"),
        default="avepool",
        help="features to cluster (default avepool)",
    )
    parser.add_argument("--sheet", type=Path, metavar="SHEET.png", help="draw a row of images for each cluster")
    parser.add_argument("--raw-cells", **RAW_CELLS)
    parser.add_argument("--results", **RESULTS)
    run_options(parser)


def run(options: argparse.Namespace) -> None:
    """Cluster images by an encoder's features, and write the clusters as labels for a conditional BigGAN."""
    at_least(2, clusters=options.clusters)
    check_ending(options, "out", ".csv")
    check_ending(options, "sheet", ".png")
    from bigbigan.apps.cluster import cluster
    from bigbigan.evaluation.records import append_results
    from bigbigan.evaluation.results_text import results_table

    lines, found = cluster(
        options.run,
        options.data,
        options.out,
        options.command,
        clusters=options.clusters,
        feature=options.features,
        sheet=options.sheet,
        labels=options.labels,
        raw_cells=options.raw_cells,
        progress=not options.quiet,
        checkpoint=options.checkpoint,
    )
    if options.results and not is_own_results(options.results, options.run):
        append_results(options.results, lines)
    if options.json:
        print(json.dumps({**found, "results": [asdict(line) for line in lines]}, indent=2))
        return
    if lines:
        print(results_table(lines))
    sizes = found["sizes"]
    print(f"{options.out}: {sum(sizes):,} images in {len(sizes)} clusters of {min(sizes):,} to {max(sizes):,}")
