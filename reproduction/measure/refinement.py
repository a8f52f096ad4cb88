"""Latents refined by optimisation, begun at E(x) and at random: error over steps as a chart and as result lines.

    python tools/refinement.py RUN [--data SOURCE] [--count N] [--steps N] [--results FILE] [--out PICTURE.png]

`refine_steps_from_encoder` is the number of steps from E(x) that reach what random starts reach in all of theirs.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure as Chart

from bigbigan.data import load_view, open_source
from bigbigan.evaluation.records import Figure, append_results
from bigbigan.evaluation.targets import open_subject, result_lines
from bigbigan.training.run_folder import source_of

DRAWS = 3  # of random starts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", metavar="SOURCE")
    parser.add_argument("--count", type=int, default=128, help="images (default 128)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--results", type=Path, default=Path("results/refinement.jsonl"), metavar="FILE")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/refinement.png"), metavar="PICTURE")
    options = parser.parse_args()
    start = time.perf_counter()
    subject = open_subject(str(options.run))
    model = subject.model
    assert model is not None
    source, c = open_source(options.data or source_of(options.run)), model.config
    split = source.splits.get("test", source.splits["train"])
    picks = np.linspace(0, len(split) - 1, options.count).round().astype(np.int64)
    pixels, _ = load_view(split.subset(picks), c.encoder.resolution, c.data.channels, c.data.augment)
    x = torch.from_numpy(pixels)
    encoder = model.refine(x, options.steps).errors.mean(1)
    starts = [model.sample_prior(len(x), seed=draw) for draw in range(DRAWS)]
    random = torch.stack([model.refine(x, options.steps, z=z).errors.mean(1) for z in starts])
    reached = (encoder <= random[:, -1].mean()).nonzero()
    protocol = {"steps": options.steps, "random_draws": DRAWS}
    figures = {
        "refine_error_at_encoder": Figure(float(encoder[0]), protocol=protocol),
        "refine_error_from_encoder": Figure(float(encoder[-1]), protocol=protocol),
        "refine_error_from_random": Figure(float(random[:, -1].mean()), float(random[:, -1].std()), protocol=protocol),
    }
    if len(reached):
        figures["refine_steps_from_encoder"] = Figure(float(reached[0]), protocol=protocol)
    command = shlex.join(["python", "tools/refinement.py", *sys.argv[1:]])
    lines = result_lines(subject, source, split.name, len(x), figures, True, start, command)
    append_results(options.results, lines)
    for line in lines:
        print(f"{line.metric}: {line.value}")
    _chart(encoder, random, options.out)


def _chart(encoder: torch.Tensor, random: torch.Tensor, out: Path) -> None:
    chart = Chart(figsize=(7, 4), layout="constrained")
    axes = chart.subplots()
    steps = np.arange(len(encoder))
    axes.plot(steps, encoder, color="#1f5fa8", label="from E(x)")
    axes.plot(steps, random.mean(0), color="#c2410c", label=f"from random z, mean of {len(random)} draws")
    axes.axhline(float(random[:, -1].mean()), color="#4a5560", linestyle=":", linewidth=1)
    axes.set(xlabel="steps of Adam on z", ylabel="mean ‖x − G(z)‖, pixels in [0, 1]", ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    out.parent.mkdir(parents=True, exist_ok=True)
    chart.savefig(out, dpi=100)


if __name__ == "__main__":
    main()
