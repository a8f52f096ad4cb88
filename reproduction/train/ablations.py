"""Train short variants of small/digits that differ in one choice each, and write their result lines.

    python tools/ablations.py          needs minutes a variant; finished ones are not run again

The lines go to results/ablations.jsonl; docs/experiments.md shows them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bigbigan.cli import main as bigbigan

STEPS = 600
VARIANTS: dict[str, list[str]] = {
    "as_defined": [],
    "e_rate_of_g": ["encoder.lr_multiplier=1"],
    "e_rate_times_5": ["encoder.lr_multiplier=5"],
    "sigma_from_0.7": ["encoder.stdev_bias=0"],
    "no_pair_norm": ["discriminator.pair_norm=false"],
    "full_size_rates": ["optimizer.lr_g=5e-5", "optimizer.lr_d=2e-4"],
    "equal_rates": ["optimizer.lr_g=1e-3", "optimizer.lr_d=1e-3"],
    "narrow_e": ["encoder.widths=[16,32,64]"],
    "wide_f": ["discriminator.channels=[64,256]", "discriminator.mlp_width=256"],
    "deterministic_e": ["encoder.stochastic=false"],
    "joint_score_only": ["loss.s_x=false", "loss.s_z=false"],
}
METRICS = "top1_linear_bn_crelu_10perclass,reconstruction_ratio"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    results = Path("results/ablations.jsonl")
    for name, settings in VARIANTS.items():
        run = f"runs/ablations/{name}"
        if (Path(run) / "results.jsonl").exists():
            continue
        quiet = ["log.validate_every=0", f"log.pictures_every={STEPS}", f"log.checkpoint_every={STEPS}"]
        train = ["train", "small/digits", "--out", run, "--quiet", "--steps", str(STEPS), "--set", *quiet, *settings]
        evaluate = ["evaluate", run, "--quiet", "--metrics", METRICS, "--results", str(results)]
        for command in (train, evaluate):
            if code := bigbigan(command):
                sys.exit(code)


if __name__ == "__main__":
    main()
