"""Time a training step with a ResNet and with RevNets as encoder, side by side: seconds, arithmetic, memory.

    python -m reproduction.benchmark.encoders [ROW ...] [--scale 32] [--batch 16] [--steps 5] [--out PICTURE.png]

The rows are those of Table 1 that differ only in E. A RevNet-50 has a quarter of the parameters of a ResNet-50 of the
same width, so its fair match has twice the width (`revnet_x2` and `high_res_e`). Each row is measured in a process of
its own. `kept` is `revnet_x2` with activations kept instead of recomputed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bigbigan.apps.benchmark import Cost, bench, result_lines
from bigbigan.config import Config, override
from bigbigan.errors import UserError
from bigbigan.experiments import find
from bigbigan.models import construct
from reproduction.common import Script
from reproduction.render.chart_style import FIRST, SECOND, chart_style

ROWS = {
    "high_res_e": ("ResNet-50", []),
    "revnet": ("RevNet-50", []),
    "revnet_x2": ("RevNet-50 ×2", []),
    "kept": ("RevNet-50 ×2, kept", ["encoder.keep_activations=true"]),
    "resnet_x2": ("ResNet-50 ×2", []),
    "revnet_x4": ("RevNet-50 ×4", []),
}


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/encoders.jsonl")
    add = script.parser.add_argument
    add("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default: all")
    add("--scale", type=int, default=32, metavar="S")
    add("--batch", type=int, default=16, metavar="N")
    add("--steps", type=int, default=5, metavar="N", help="steps to time (default 5)")
    add("--set", nargs="+", default=[], metavar="a.b=value")
    add("--out", type=Path, default=Path("docs/pictures/encoders.png"), metavar="PICTURE")
    return script.run(measure, arguments)


def settings(row: str, options: argparse.Namespace) -> Config:
    """Return the settings of a row."""
    base = find(f"table1/{'revnet_x2' if row == 'kept' else row}").config(options.scale)
    return override(base, [f"training.batch_size={options.batch}", *ROWS[row][1], *options.set])


def measure(script: Script, options: argparse.Namespace) -> None:
    if unknown := [row for row in options.rows if row not in ROWS]:
        raise UserError(f"{', '.join(unknown)}: no such row; expected some of {', '.join(ROWS)}")
    costs: dict[str, Cost] = {}
    for row in options.rows or ROWS:
        config = settings(row, options)
        costs[row] = bench(config, options.steps)
        script.append(result_lines(config, costs[row], options.steps, script.command, script.study), show=False)
        print(f"{ROWS[row][0]}: {costs[row].seconds:.2f} s per step, {costs[row].peak_memory_mib:,.0f} MiB", flush=True)
    with chart_style():
        draw(costs, {row: trunk_parameters(settings(row, options)) for row in costs}, options.out)


def trunk_parameters(config: Config) -> int:
    """Return the number of parameters of E's backbone."""
    return sum(p.numel() for p in construct(config).encoder.trunk.parameters())


def draw(costs: dict[str, Cost], parameters: dict[str, int], out: Path) -> None:
    """Draw time, arithmetic, memory and parameters of each row as bars."""
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    names = [ROWS[row][0] for row in costs]
    colours = [FIRST if name.startswith("ResNet") else SECOND for name in names]
    charts: dict[str, list[float]] = {
        "seconds per step": [cost.seconds for cost in costs.values()],
        "GFLOP per step": [cost.flops / 1e9 for cost in costs.values()],
        "peak memory over start, MiB": [cost.peak_memory_mib - cost.before_mib for cost in costs.values()],
        "parameters of E's backbone, thousands": [parameters[row] / 1e3 for row in costs],
    }
    for axes, (title, values) in zip(figure.subplots(1, 4, sharey=True), charts.items(), strict=True):
        axes.barh(names, values, color=colours)
        axes.set_title(title, fontsize=11)
        axes.grid(visible=False, axis="y")
    axes.invert_yaxis()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


if __name__ == "__main__":
    sys.exit(main())
