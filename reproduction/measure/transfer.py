"""Train on one data set without labels, classify another with few: every run on every source, beside pixels, raw and
whitened, and the same encoder untrained.

    python tools/transfer.py --runs RUN ... --sources SOURCE ... [--most N] [--results FILE]

Images of another size or number of channels are brought to what the run's encoder takes, as `bigbigan evaluate` does
(docs/transfer.md). `python tools/render_tables.py` then writes the tables.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from bigbigan.errors import UserError
from bigbigan.evaluation.metric_names import PIXELS
from bigbigan.evaluation.records import append_results
from bigbigan.evaluation.runner import evaluate
from bigbigan.evaluation.targets import open_subject

PROTOCOLS = ("top1_linear_{}_10perclass", "top1_linear_{}")


def main() -> int:
    parser = argparse.ArgumentParser(description=" ".join((__doc__ or "").split("\n\n")[0].split()))
    parser.add_argument("--runs", nargs="+", type=Path, required=True, metavar="RUN")
    parser.add_argument("--sources", nargs="+", required=True, metavar="SOURCE")
    parser.add_argument("--most", type=int, metavar="N", help="images of each split of a source at most")
    parser.add_argument("--results", type=Path, default=Path("results/transfer.jsonl"), metavar="FILE")
    options = parser.parse_args()
    command = shlex.join(["python", "tools/transfer.py", *sys.argv[1:]])
    seen = set()  # pixels as two encoders take them alike are measured once
    try:
        for run in options.runs:
            subject = open_subject(str(run))
            for spec in options.sources:
                features = ["bn_crelu"] if (subject.view, spec) in seen else [*PIXELS, "bn_crelu"]
                seen.add((subject.view, spec))
                metrics = [pattern.format(feature) for feature in features for pattern in PROTOCOLS]
                lines = evaluate(run, spec, metrics, command, progress=False, most=options.most)
                form = {"trained_on": subject.trained_on, "side": subject.view.resolution}
                form["channels"] = subject.view.channels
                append_results(options.results, [replace(x, protocol=x.protocol | form) for x in lines])
                for x in lines:
                    print(
                        f"{subject.trained_on} -> {x.dataset}: {x.metric}, {x.steps} steps: {x.value:.1f}", flush=True
                    )
    except UserError as error:
        print(f"transfer: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
