"""Measure how far the mean latent of real images lies from the mean of P_z, and what that costs reconstructions.

    python -m reproduction.measure.latent_shift RUN ... [--count N]

latent_offset is the mean over dimensions of |mean of E(x)|, latent_spread the mean of the standard deviation; P_z has 0
and 0.577 (U(-1, 1)). latent_ratio is ‖x − G(E(x))‖ over the same distance for mismatched images, latent_ratio_centred
the same ratio after the mean of the latents is subtracted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bigbigan.apps.visualize import shown_split
from bigbigan.evaluation.targets import open_target
from bigbigan.image import reconstruction_distances
from reproduction.common import Script, as_seen


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/latent_shift.jsonl")
    script.parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    script.parser.add_argument("--data", metavar="SOURCE", help="images (default: the run's own)")
    script.parser.add_argument("--count", type=int, default=2000, help="test images (default 2000)")
    return script.run(measure, arguments)


def measure(script: Script, options: argparse.Namespace) -> None:
    for run in options.runs:
        start = time.perf_counter()
        target = open_target(str(run))
        model = target.model
        assert model is not None
        source = target.source(options.data, None, "latent_shift", needs_labels=False)
        split = shown_split(source)
        pixels, x = as_seen(model, source, split, options.count)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))  # neighbours may be of one class
        pixels, x = pixels[order], x[order]
        z = model.encode(pixels).z_mean
        assert z is not None

        def ratio(latents: Tensor, x: Tensor = x, G: torch.nn.Module = model.generator) -> float:
            with torch.no_grad():
                own, other = reconstruction_distances(x, G(latents))
            return float(own.mean() / other.mean())

        measured = {
            "latent_offset": float(z.mean(0).abs().mean()),
            "latent_spread": float(z.std(0).mean()),
            "latent_ratio": ratio(z),
            "latent_ratio_centred": ratio(z - z.mean(0)),
        }
        script.append(script.target_lines(target, measured, source=source, split=split.name, n=len(x), start=start))


if __name__ == "__main__":
    sys.exit(main())
