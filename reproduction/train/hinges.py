"""Train a BigBiGAN with one hinge for each score and one with a hinge on their sum, and draw both.

    python -m reproduction.train.hinges [--experiment NAME] [--data SOURCE] [--steps N] [--seeds N] [--out PICTURE.png]

By default small/digits for 600 steps; table1/base with --scale 32 is `table1/base` against `table1/hinge_of_sum`.
Runs go to runs/hinges/EXPERIMENT-SCALE/: each-SEED and sum-SEED. Finished ones are skipped, unfinished ones continued.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np
from matplotlib.figure import Figure

from bigbigan.data import open_source
from bigbigan.experiments import find
from bigbigan.image.grid import grid
from bigbigan.inference.loading import load
from bigbigan.training.monitor import read_metrics
from reproduction.common import Script, train_and_evaluate
from reproduction.render.chart_style import FIRST, GREY, SECOND, chart_style

HINGES = {"each": "a hinge for each score", "sum": "one hinge on the sum"}
COLOURS = {"each": FIRST, "sum": SECOND}
SCORES = {"s_x": FIRST, "s_z": SECOND, "s_xz": "#157f3b"}
METRICS = ("top1_linear_bn_crelu_10perclass", "reconstruction_ratio")


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/hinges.jsonl")
    add = script.parser.add_argument
    add("--experiment", default="small/digits", metavar="NAME")
    add("--scale", type=int, default=0, metavar="S")
    add("--data", metavar="SOURCE", help="default: the experiment's own")
    add("--steps", type=int, default=600, metavar="N")
    add("--seeds", type=int, default=1, metavar="N", help="number of seeds, 0 to N - 1 (default 1)")
    add("--set", nargs="+", default=[], metavar="a.b=value")
    add("--runs", type=Path, default=Path("runs/hinges"), metavar="DIR")
    add("--out", type=Path, default=Path("docs/pictures/hinges.png"), metavar="PICTURE")
    return script.run(train_and_draw, arguments)


def train_and_draw(script: Script, options: argparse.Namespace) -> None:
    quiet = ["log.validate_every=0", f"log.pictures_every={options.steps}", "log.every=20"]
    dataset = open_source(options.data or str(find(options.experiment).data)).name
    words = ["--data", options.data] if options.data else []
    folder = options.runs / f"{options.experiment.replace('/', '_')}-{options.scale}"
    runs: dict[str, list[Path]] = {hinge: [] for hinge in HINGES}
    for seed in range(options.seeds):
        for hinge in HINGES:
            settings = [f"loss.hinge={hinge}", *options.set]
            run = folder / f"{hinge}-{seed}"
            runs[hinge].append(run)
            train_and_evaluate(
                options.experiment,
                run,
                scale=options.scale,
                steps=options.steps,
                dataset=dataset,
                metrics=METRICS,
                study=script.study,
                results=script.results,
                settings=[f"training.seed={seed}", *quiet, *settings],
                train=lambda: words,
            )
    with chart_style():
        draw(runs, options.out)


def margins(run: Path) -> dict[str, list[float]]:
    """Return, for each score, how far encoder pairs are above generator pairs, over the logged steps."""
    lines = read_metrics(run)
    names = [key.removesuffix("_enc") for key in lines[0] if key.endswith("_enc")]
    return {name: [line[f"{name}_enc"] - line[f"{name}_gen"] for line in lines] for name in names}


def draw(runs: dict[str, list[Path]], out: Path) -> None:
    """Draw the scores and samples of the first seed, and the reconstruction ratio of all seeds."""
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    panels = figure.subplot_mosaic([["scores each", "scores sum", "ratio"], ["each", "sum", "ratio"]])
    for hinge, title in HINGES.items():
        steps = [line["step"] for line in read_metrics(runs[hinge][0])]
        axes = panels[f"scores {hinge}"]
        for name, values in margins(runs[hinge][0]).items():
            axes.plot(steps, values, color=SCORES[name], label=f"${name.replace('_', '_{')}}}$")
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set(title=title, xlabel="steps", ylabel="encoder − generator pairs")
        axes.legend()
        panels[hinge].imshow(np.asarray(grid(load(runs[hinge][0]).generate(40), 10)))
        panels[hinge].set_title(f"samples, {title}")
        panels[hinge].axis("off")
        ratios = [[line["reconstruction_ratio"] for line in read_metrics(run)] for run in runs[hinge]]
        panels["ratio"].plot(steps, [mean(r) for r in zip(*ratios, strict=True)], color=COLOURS[hinge], label=title)
    low, high = zip(*(panels[f"scores {hinge}"].get_ylim() for hinge in HINGES), strict=True)
    for hinge in HINGES:
        panels[f"scores {hinge}"].set_ylim(min(low), max(high))
    panels["ratio"].set(title="reconstruction ratio", xlabel="steps", ylim=(0, None))
    panels["ratio"].axhline(1, color=GREY, linestyle=":", linewidth=1)
    panels["ratio"].legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


if __name__ == "__main__":
    sys.exit(main())
