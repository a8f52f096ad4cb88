"""Train Table 1's base at two learning rates of E, and draw the first-layer filters of both (Appendix A of the paper).

    python -m reproduction.train.filters --data SOURCE [--steps N] [--eta 1 10] [--set a.b=value] [--out PICTURE.png]

The network is `table1/base --scale 32` with the full-size stem, whose filters are 7×7, and backbone widths that give
it 32 of them. Runs go to runs/filters/: eta-1 and eta-10. Finished ones are skipped, unfinished ones continued.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor, nn

from bigbigan.config import override
from bigbigan.data import open_source
from bigbigan.evaluation.records import append_results
from bigbigan.evaluation.targets import open_target
from bigbigan.experiments import find
from bigbigan.image.grid import grid
from bigbigan.models import build
from reproduction.common import Script, bigbigan, metrics_of

EXPERIMENT, SCALE = "table1/base", 32
SETTINGS = [
    "encoder.stem=imagenet", "encoder.widths=[128,128,128,256]", "training.batch_size=32",
    "training.ema_decay=0",  # averages of a short run would be close to its initial weights
]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/filters.jsonl")
    add = script.parser.add_argument
    add("--data", required=True, metavar="SOURCE")
    add("--steps", type=int, default=300, metavar="N")
    add("--eta", type=float, nargs="+", default=[1.0, 10.0], metavar="ETA", help="E's rate over G's (default 1 10)")
    add("--set", nargs="+", default=[], metavar="a.b=value")
    add("--runs", type=Path, default=Path("runs/filters"), metavar="DIR")
    add("--out", type=Path, default=Path("docs/pictures/filters.png"), metavar="PICTURE")
    return script.run(train_and_draw, arguments)


def train_and_draw(script: Script, options: argparse.Namespace) -> None:
    base = find(EXPERIMENT).config(SCALE)
    drawn: dict[str, Tensor] = {}
    quiet = ["log.validate_every=0", f"log.pictures_every={options.steps}"]
    dataset = open_source(options.data).name
    for eta in options.eta:
        settings = [*SETTINGS, f"encoder.lr_multiplier={eta:g}", *options.set]
        run = options.runs / f"eta-{eta:g}"
        finished = "filter_change" in metrics_of(run, override(base, settings), options.steps, dataset)
        if finished:
            print(f"{run}: finished, skipped", flush=True)
        else:
            bigbigan(
                "train", EXPERIMENT, "--scale", str(SCALE), "--data", options.data, "--out", str(run), "--quiet",
                "--steps", str(options.steps), "--set", *quiet, *settings,
            )  # fmt: skip
        start, target = time.perf_counter(), open_target(str(run))
        assert target.model is not None
        before, after = first_filters(build(target.model.config).encoder), first_filters(target.model.encoder)
        drawn.setdefault("untrained", before)
        drawn[f"η = {eta:g}"] = after
        if not finished:
            record(script, target, run, start, {"untrained": (before, before), "trained": (before, after)})
    draw(drawn, options.steps, options.out)


def record(script: Script, target: Any, run: Path, start: float, filters: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Append the result lines of a run to its own results.jsonl and to the file of --results."""
    source = target.source(None, None, "filters", needs_labels=False)
    for subject, (before, after) in filters.items():
        measured = {"filter_roughness": roughness(after)}
        if subject == "trained":
            measured["filter_change"] = float((after - before).norm() / before.norm())
        lines = script.target_lines(
            target, measured, source=source, split="none", n=len(after), subject=subject, start=start  # type: ignore[arg-type]
        )  # fmt: skip
        script.append(lines)
        append_results(run / "results.jsonl", lines)


def first_filters(network: nn.Module) -> Tensor:
    """Return the weights of a network's first convolution, [filters, C, side, side]."""
    return next(m.weight.detach().clone() for m in network.modules() if isinstance(m, nn.Conv2d))


def roughness(filters: Tensor) -> float:
    """Return the mean squared difference of neighbouring weights, over that of weights in random order.

    1 is noise, 0 is constant; smooth filters lie between. For filters [N, C, side, side], side at least 2, as a median
    over filters.
    """
    down, right = filters.diff(dim=2).square(), filters.diff(dim=3).square()
    neighbours = (down.flatten(1).mean(1) + right.flatten(1).mean(1)) / 2
    variance = filters.flatten(2).var(2, correction=1).mean(1)  # of each channel's weights around their mean
    return float((neighbours / (2 * variance)).median())


def draw(filters: dict[str, Tensor], steps: int, out: Path) -> None:
    """Draw each network's filters, every one scaled to its own largest weight."""
    figure = Figure(figsize=(4 * len(filters), 2.7), layout="constrained")
    for axes, (title, weights) in zip(figure.subplots(1, len(filters), squeeze=False)[0], filters.items(), strict=True):
        scaled = weights / weights.abs().amax((1, 2, 3), keepdim=True)
        axes.imshow(grid(scaled, 8, gap=2))
        axes.set_title(title if title == "untrained" else f"{title}, {steps:,} steps")
        axes.axis("off")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
