"""Optimise latents from E(x) and from random starts: the error over steps, as a chart and as result lines.

    python -m reproduction.measure.refinement RUN [--data SOURCE] [--count N] [--steps N] [--out PICTURE.png]

`refine_steps_from_encoder` is the number of steps from E(x) that reach the final error of random starts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from bigbigan.apps.visualize import shown_split
from bigbigan.evaluation.records import Measurement
from bigbigan.evaluation.targets import open_target
from reproduction.common import Script, as_seen
from reproduction.render.chart_style import FIRST, GREY, SECOND, chart_style

STARTS = 3  # random starts


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/refinement.jsonl")
    script.parser.add_argument("run", type=Path)
    script.parser.add_argument("--data", metavar="SOURCE")
    script.parser.add_argument("--count", type=int, default=128, help="images (default 128)")
    script.parser.add_argument("--steps", type=int, default=300)
    script.parser.add_argument("--out", type=Path, default=Path("docs/pictures/refinement.png"), metavar="PICTURE")
    return script.run(measure, arguments)


def measure(script: Script, options: argparse.Namespace) -> None:
    target = open_target(str(options.run))
    model = target.model
    assert model is not None
    source = target.source(options.data, None, "refinement", needs_labels=False)
    split = shown_split(source)
    x, _ = as_seen(model, source, split, options.count)
    encoder = model.refine(x, options.steps).errors.mean(1)
    starts = [model.sample_prior(len(x), seed=seed) for seed in range(STARTS)]
    random = torch.stack([model.refine(x, options.steps, z=z).errors.mean(1) for z in starts])
    reached = (encoder <= random[:, -1].mean()).nonzero()
    protocol = {"steps": options.steps, "random_starts": STARTS}
    measured = {
        "refine_error_at_encoder": Measurement(float(encoder[0]), protocol=protocol),
        "refine_error_from_encoder": Measurement(float(encoder[-1]), protocol=protocol),
        "refine_error_from_random": Measurement(
            float(random[:, -1].mean()), float(random[:, -1].std()), protocol=protocol
        ),
    }
    if len(reached):
        measured["refine_steps_from_encoder"] = Measurement(float(reached[0]), protocol=protocol)
    script.append(script.target_lines(target, measured, source=source, split=split.name, n=len(x)))
    with chart_style():
        _chart(encoder, random, options.out)


def _chart(encoder: torch.Tensor, random: torch.Tensor, out: Path) -> None:
    chart = Figure(figsize=(7, 4), layout="constrained")
    axes = chart.subplots()
    steps = np.arange(len(encoder))
    axes.plot(steps, encoder, color=FIRST, label="from E(x)")
    axes.plot(steps, random.mean(0), color=SECOND, label=f"from random z, mean of {len(random)} trials")
    axes.axhline(float(random[:, -1].mean()), color=GREY, linestyle=":", linewidth=1)
    axes.set(xlabel="steps of Adam on z", ylabel="mean ‖x − G(z)‖, pixels in [0, 1]", ylim=(0, None))
    axes.legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    chart.savefig(out)


if __name__ == "__main__":
    sys.exit(main())
