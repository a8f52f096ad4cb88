"""Measure how alike the samples of BiGAN's GANs are after one epoch, from several seeds, to find mode collapse.

    python -m reproduction.train.bigan_starts ROW ... --data SOURCE [--seeds N] [--set a.b=value ...] [--runs DIR]

sample_spread is the mean distance of two samples over the mean distance of two training images, of 500 each: near 1 if
G draws as many kinds of images as there are, near 0 if it draws one. Learning rates are constant in this epoch.
Finished runs are skipped, unfinished ones continued.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bigbigan.config import override
from bigbigan.data import open_source
from bigbigan.errors import UserError
from bigbigan.evaluation.records import append_results
from bigbigan.evaluation.targets import open_target
from bigbigan.experiments import find
from reproduction.common import Script, as_seen, bigbigan, metrics_of

STEPS, COUNT = 469, 500  # an epoch of MNIST


def spread(x: Tensor) -> float:
    """Return the mean distance of two different images of [N, ...]."""
    return float(torch.pdist(x.flatten(1)).mean())


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/bigan_starts.jsonl")
    script.parser.add_argument("rows", nargs="+", metavar="ROW", help="mnist, discriminator, joint_latent_regressor")
    script.parser.add_argument("--data", required=True, metavar="SOURCE")
    script.parser.add_argument("--seeds", type=int, default=10, metavar="N", help="0 to N - 1 (default 10)")
    script.parser.add_argument("--set", nargs="+", default=[], metavar="a.b=value")
    script.parser.add_argument("--runs", type=Path, default=Path("runs/bigan-starts"), metavar="DIR")
    return script.run(train_and_measure, arguments)


def train_and_measure(script: Script, options: argparse.Namespace) -> None:
    if options.seeds < 1:
        raise UserError(f"--seeds {options.seeds}: expected at least 1")
    dataset = open_source(options.data).name
    for row in options.rows:
        for seed in range(options.seeds):
            start = time.perf_counter()
            run = options.runs / "-".join([row, *options.set, str(seed)])
            settings = [*options.set, f"training.seed={seed}", "optimizer.lr_final=1", "log.standing_batches=100"]
            config = override(find(f"bigan/{row}").config(), settings)
            if "sample_spread" in metrics_of(run, config, STEPS, dataset):
                print(f"{run}: finished, skipped", flush=True)
                continue
            train = ["train", f"bigan/{row}", "--data", options.data, "--out", str(run), "--steps", str(STEPS)]
            bigbigan(*train, "--quiet", "--set", *settings)
            target = open_target(str(run))
            model = target.model
            assert model is not None
            source = target.source(None, None, "samples")
            images = source.splits["train"]
            _, real = as_seen(model, source, images, min(COUNT, len(images)))
            measured = {"sample_spread": spread(model.generate(len(real))) / spread(real)}
            lines = script.target_lines(target, measured, source=source, split="train", n=len(real), start=start)
            script.append(lines)
            append_results(run / "results.jsonl", lines)


if __name__ == "__main__":
    sys.exit(main())
