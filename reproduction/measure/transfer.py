"""Measure encoders on other data than they were trained on: every run on every source, with the baselines.

    python -m reproduction.measure.transfer --runs RUN ... --sources SOURCE ... [--max-images N]

RUN is a run folder, an exported folder, or the name of a trained model of the package (small/fashion_mnist). Baselines
are raw and whitened pixels, and the untrained encoder. Images of another size or number of channels are converted to
the encoder's, as in `bigbigan evaluate` (docs/notes/transfer.md).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from bigbigan.evaluation.metric_names import PIXELS
from bigbigan.evaluation.runner import evaluate
from bigbigan.evaluation.targets import open_target
from reproduction.common import Script

PROTOCOLS = ("top1_linear_{}_10perclass", "top1_linear_{}")


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/transfer.jsonl")
    script.parser.add_argument("--runs", nargs="+", required=True, metavar="RUN")
    script.parser.add_argument("--sources", nargs="+", required=True, metavar="SOURCE")
    script.parser.add_argument("--max-images", type=int, metavar="N", help="maximum number of images of each split")
    return script.run(measure, arguments)


def measure(script: Script, options: argparse.Namespace) -> None:
    seen = set()  # two encoders may see the same pixels, which are then measured once
    for run in options.runs:
        target = open_target(run)
        for spec in options.sources:
            features = ["bn_crelu"] if (target.view, spec) in seen else [*PIXELS, "bn_crelu"]
            seen.add((target.view, spec))
            metrics = [pattern.format(feature) for feature in features for pattern in PROTOCOLS]
            lines = evaluate(
                run, spec, metrics, script.command, progress=False, max_images=options.max_images, study=script.study
            )
            form = {"trained_on": target.trained_on, "side": target.view.resolution, "channels": target.view.channels}
            script.append([replace(x, protocol=x.protocol | form) for x in lines])


if __name__ == "__main__":
    sys.exit(main())
