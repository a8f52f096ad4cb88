"""How far the latents of real images lie from P_z in the mean, and what that costs their reconstructions.

    python tools/latent_shift.py RUN ... [--count N] [--results results/latent_shift.jsonl]

latent_offset is the mean over dimensions of |mean of E(x)|, latent_spread that of the standard deviation; P_z has 0 and
0.577 (U(-1, 1)). latent_ratio is ‖x − G(E(x))‖ over the same of images that do not belong together,
latent_ratio_centred that of latents whose mean was taken away.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from bigbigan.data import load_view, open_source
from bigbigan.evaluation.records import Figure, append_results
from bigbigan.evaluation.targets import open_subject, result_lines
from bigbigan.image import pool_to, reconstruction_distances
from bigbigan.training.run_folder import source_of


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--count", type=int, default=2000, help="test images (default 2000)")
    parser.add_argument("--results", type=Path, default=Path("results/latent_shift.jsonl"), metavar="FILE")
    options = parser.parse_args()
    for run in options.runs:
        start = time.perf_counter()
        subject = open_subject(str(run))
        model = subject.model
        assert model is not None
        source, c = open_source(source_of(run)), model.config
        split = source.splits.get("test", source.splits["train"])
        images = split.subset(range(min(options.count, len(split))))
        pixels, _ = load_view(images, c.encoder.resolution, c.data.channels, c.data.augment)
        x = pool_to(model.prepare(torch.from_numpy(pixels)), c.generator.resolution)
        z = model.encode(torch.from_numpy(pixels)).z_mean
        assert z is not None

        def ratio(latents: Tensor, x: Tensor = x, G: torch.nn.Module = model.generator) -> float:
            with torch.no_grad():
                own, other = reconstruction_distances(x, G(latents))
            return float(own.mean() / other.mean())

        figures = {
            "latent_offset": Figure(float(z.mean(0).abs().mean())),
            "latent_spread": Figure(float(z.std(0).mean())),
            "latent_ratio": Figure(ratio(z)),
            "latent_ratio_centred": Figure(ratio(z - z.mean(0))),
        }
        command = shlex.join(["python", "tools/latent_shift.py", *sys.argv[1:]])
        lines = result_lines(subject, source, split.name, len(x), figures, True, start, command)
        append_results(options.results, lines)
        for line in lines:
            print(f"{run}: {line.metric}: {line.value}")


if __name__ == "__main__":
    main()
