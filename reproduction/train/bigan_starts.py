"""How often a GAN of BiGAN's table is lost in its first epoch: trains from several seeds and looks at the samples.

    python tools/bigan_starts.py ROW ... --data SOURCE [--seeds N] [--set a.b=value ...] [--results FILE] [--runs DIR]

sample_spread is the mean distance of two samples over that of two training images, of 500 each: near 1 where G
draws as many kinds of images as there are, near 0 where it draws one. Rates are constant for so long. A run that was
finished is not trained again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from bigbigan.cli import main as bigbigan
from bigbigan.data import load_view
from bigbigan.evaluation.records import Figure, append_results, read_results
from bigbigan.evaluation.targets import open_subject, result_lines
from bigbigan.image import pool_to

STEPS, COUNT = 469, 500  # an epoch of MNIST


def spread(x: Tensor) -> float:
    """Mean distance of two different images of [N, ...]."""
    return float(torch.pdist(x.flatten(1)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", metavar="ROW", help="mnist, discriminator, joint_latent_regressor")
    parser.add_argument("--data", required=True, metavar="SOURCE")
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="0 to N - 1 (default 10)")
    parser.add_argument("--set", nargs="+", default=[], metavar="a.b=value")
    parser.add_argument("--results", type=Path, default=Path("results/bigan_starts.jsonl"), metavar="FILE")
    parser.add_argument("--runs", type=Path, default=Path("runs/bigan-starts"), metavar="DIR")
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"--seeds {options.seeds}: expected at least 1")
    command = shlex.join(["python", "tools/bigan_starts.py", *sys.argv[1:]])
    for row in options.rows:
        for seed in range(options.seeds):
            start = time.perf_counter()
            run = options.runs / "-".join([row, *options.set, str(seed)])
            if read_results(run / "results.jsonl"):
                continue
            settings = [*options.set, f"training.seed={seed}", "optimizer.lr_final=1", "log.standing_batches=100"]
            train = ["train", f"bigan/{row}", "--data", options.data, "--out", str(run), "--steps", str(STEPS)]
            if code := bigbigan([*train, "--quiet", "--set", *settings]):
                sys.exit(code)
            subject = open_subject(str(run))
            model = subject.model
            assert model is not None
            source, c = subject.source(None, None, "samples"), model.config
            images = source.splits["train"].subset(range(COUNT))
            pixels, _ = load_view(images, c.encoder.resolution, c.data.channels, c.data.augment)
            real = pool_to(model.prepare(torch.from_numpy(pixels)), c.generator.resolution)
            figures = {"sample_spread": Figure(spread(model.generate(COUNT)) / spread(real))}
            lines = result_lines(subject, source, "train", COUNT, figures, True, start, command)
            for file in (run / "results.jsonl", options.results):
                append_results(file, lines)
            print(f"{run}: {lines[0].metric} {lines[0].value:.3f}", flush=True)


if __name__ == "__main__":
    main()
