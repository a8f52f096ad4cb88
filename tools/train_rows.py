"""Train rows of Table 1 scaled down, each for the same steps from the same seed, and write their result lines.

    python tools/train_rows.py --data SOURCE --steps N [--scale 32] [--set a.b=value ...] [ROW ...]

Runs go to runs/table1/ and continue where they stopped; evaluated ones are left alone. Lines go to
results/table1_small.jsonl; docs/table1.md shows them beside the published ones.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bigbigan.cli import main as bigbigan

ROWS = [
    "base", "deterministic_encoder", "uniform_prior", "x_unary_only", "z_unary_only", "no_unaries", "small_g_32",
    "resnet_up_encoder_lr", "hinge_of_sum",
]  # fmt: skip
METRICS = "top1_table1_avepool,top1_table1_bn_crelu,top1_linear_avepool_10perclass,top1_linear_bn_crelu_10perclass"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", default=ROWS, metavar="ROW")
    parser.add_argument("--data", required=True, metavar="SOURCE")
    parser.add_argument("--steps", required=True, metavar="N")
    parser.add_argument("--scale", default="32", metavar="S")
    parser.add_argument("--set", nargs="+", default=[], metavar="a.b=value")
    options = parser.parse_args()
    for row in options.rows:
        run = Path("runs/table1") / f"{row}_{options.scale}"
        if (run / "results.jsonl").exists():
            continue
        train = ["train", f"table1/{row}", "--scale", options.scale, "--data", options.data, "--out", str(run)]
        settings = ["log.probe_every=0", *options.set]
        evaluate = [
            "evaluate",
            str(run),
            "--quiet",
            "--metrics",
            f"{METRICS},reconstruction_ratio",
            "--results",
            "results/table1_small.jsonl",
        ]
        for command in ([*train, "--quiet", "--steps", options.steps, "--set", *settings], evaluate):
            if code := bigbigan(command):
                sys.exit(code)


if __name__ == "__main__":
    main()
