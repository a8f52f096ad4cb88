"""Train short variants of small/digits that differ in one choice each, and measure them (docs/notes/experiments.md).

    python -m reproduction.train.ablations [VARIANT ...]

A variant takes minutes. Finished variants are skipped, unfinished ones continued.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bigbigan.errors import UserError
from reproduction.common import Script, train_and_evaluate

EXPERIMENT, STEPS = "small/digits", 600
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
METRICS = ("top1_linear_bn_crelu_10perclass", "reconstruction_ratio")


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/ablations.jsonl")
    script.parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"of {', '.join(VARIANTS)}; default: all")
    return script.run(train_and_measure, arguments)


def train_and_measure(script: Script, options: argparse.Namespace) -> None:
    if unknown := [name for name in options.variants if name not in VARIANTS]:
        raise UserError(f"{', '.join(unknown)}: no such variant; expected some of {', '.join(VARIANTS)}")
    for name in options.variants or VARIANTS:
        quiet = ["log.validate_every=0", f"log.pictures_every={STEPS}", f"log.checkpoint_every={STEPS}"]
        train_and_evaluate(
            EXPERIMENT,
            Path("runs/ablations") / name,
            steps=STEPS,
            dataset="digits",
            metrics=METRICS,
            study=script.study,
            results=script.results,
            settings=[*quiet, *VARIANTS[name]],
        )


if __name__ == "__main__":
    sys.exit(main())
