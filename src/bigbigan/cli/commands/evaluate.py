"""`bigbigan evaluate`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from bigbigan.cli.common import LABELS_FILE, OWN_DATA, RESULTS, RUN_OR_ENCODER, at_least, is_own_results, run_options

EXAMPLES = (
    "evaluate runs/digits",
    "evaluate runs/photos --labels photos.csv --metrics 'top1_linear_*,knn5_l2_*'",
    "evaluate timm:resnet50 --data photos/",
    "evaluate --list-metrics",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=RUN_OR_ENCODER)
    parser.add_argument("--data", metavar="SOURCE", help=OWN_DATA)
    parser.add_argument("--labels", **LABELS_FILE)
    parser.add_argument(
        "--metrics",
        metavar="NAME,...",
        help="such as top1_linear_bn_crelu, top1_sweep5k_avepool, knn5_l1_avepool, fid10k_train_encoder; * matches any "
        "part of a name; curve: accuracy over the number of labels (default: all that the run and the data allow, "
        "except slow ones)",
    )
    parser.add_argument("--list-metrics", action=_ListMetrics, nargs=0, help="print the names of all metrics, and exit")
    parser.add_argument(
        "--max-images", type=int, metavar="N", help="use at most N images of each split, drawn by a fixed seed"
    )
    parser.add_argument(
        "--resolution", type=int, metavar="R", help="resolution of the images that an external encoder takes"
    )
    parser.add_argument("--channels", type=int, choices=(1, 3), help="channels of those images")
    parser.add_argument("--results", **RESULTS)
    parser.add_argument(
        "--study",
        default="evaluation",
        metavar="NAME",
        help="name of the study in the result lines (default evaluation)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write results.jsonl to DIR, and nothing to RUN")
    run_options(parser)


class _ListMetrics(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *given: object) -> None:
        from bigbigan.evaluation.metric_glossary import glossary_text

        print(glossary_text())
        parser.exit()


def run(options: argparse.Namespace) -> None:
    """Measure a run or a frozen encoder with its baselines, pixels and the untrained encoder; write result lines."""
    from bigbigan.evaluation.metric_names import parse_metrics

    at_least(2, max_images=options.max_images)
    metrics = [name.strip() for name in options.metrics.split(",")] if options.metrics else None
    if metrics:
        parse_metrics(metrics)
    from bigbigan.evaluation.label_curve import is_point, text
    from bigbigan.evaluation.records import append_results
    from bigbigan.evaluation.results_text import results_table
    from bigbigan.evaluation.runner import evaluate
    from bigbigan.evaluation.verdict import judge

    lines = evaluate(
        options.run,
        options.data,
        metrics,
        options.command,
        progress=not options.quiet,
        labels=options.labels,
        resolution=options.resolution,
        channels=options.channels,
        checkpoint=options.checkpoint,
        max_images=options.max_images,
        out=options.out,
        study=options.study,
    )
    if options.results and not is_own_results(options.results, options.run, options.out):
        append_results(options.results, lines)
    if options.json:
        print(json.dumps([asdict(line) for line in lines], indent=2))
        return
    shown = [line for line in lines if not is_point(line.metric)]
    print(results_table(shown, everything=metrics is not None))
    if curve := text([asdict(line) for line in lines]):
        print(curve)
    measured = {line.metric for line in lines}
    if metrics is None and "reconstruction_ratio" in measured and not any(name.startswith("top1") for name in measured):
        print("no accuracy was measured, as labels are needed: give --labels FILE.csv")
    if verdict := judge({(line.metric, line.subject): asdict(line) for line in lines}):
        print(f"\n{verdict}")
