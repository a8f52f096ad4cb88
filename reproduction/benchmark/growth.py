"""Measure how the cost of a training step grows with batch, resolution, width, depth and ranks, one at a time.

    OMP_NUM_THREADS=1 python -m reproduction.benchmark.growth [--steps 3] [--picture CHART.png]
    python -m reproduction.benchmark.growth --redraw --picture CHART.png       from the result lines, without measuring

All other settings are those of `small/mnist` in colour with batches of 32. Ranks are processes of torchrun that share
the batch; on a CPU each has one thread, hence OMP_NUM_THREADS=1 for a single rank too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from bigbigan.apps.benchmark import Cost, bench, result_lines
from bigbigan.config import Config, override
from bigbigan.errors import RunError, UserError
from bigbigan.evaluation.records import read_results
from bigbigan.experiments import find
from bigbigan.training.run_folder import changed_settings
from reproduction.common import Script
from reproduction.render.chart_style import FIRST, chart_style

EXPERIMENT = "small/mnist"
COMMON = [
    "data.channels=3", "training.batch_size=32", "log.every=1000000", "training.precision=float32",
    "discriminator.joint_maps=1", "discriminator.projection=false", "encoder.widths=[16,32,64,256]",
]  # fmt: skip
WIDTHS = (64, 64, 32, 16)  # of G from 4×4 on; F and E have them in reverse, with a last block four times as wide


def networks(blocks: int = 3, width: float = 1, depth: int = 2) -> list[str]:
    """Return settings of networks of 4·2^blocks px and `width` times the width; E has `depth` blocks in each stage."""
    G = [round(width * w) for w in (*[WIDTHS[0]] * (blocks - 3), *WIDTHS)[-blocks - 1 :]]
    F = [*reversed(G[1:]), 4 * G[0]]
    return [
        f"generator.channels={G}", f"discriminator.channels={F}", f"discriminator.mlp_width={4 * G[0]}",
        f"encoder.widths={F}", f"encoder.blocks={[depth] * len(F)}", f"encoder.head_width={4 * G[0]}",
        f"encoder.resolution={4 * 2**blocks}", f"latent.dim={10 * len(G)}",
    ]  # fmt: skip


@dataclass(frozen=True)
class Axis:
    label: str
    settings: dict[str, list[str]]  # by the value that is varied


AXES = {
    "batch": Axis(
        "images per batch", {str(n): [*networks(), f"training.batch_size={n}"] for n in (8, 16, 32, 64, 128)}
    ),
    "resolution": Axis("resolution, px", {str(4 * 2**b): networks(blocks=b) for b in (2, 3, 4, 5)}),
    "width": Axis("width, times", {str(w): networks(width=w) for w in (0.5, 1, 2, 4)}),
    "depth": Axis("blocks of E a stage", {str(d): networks(depth=d) for d in (1, 2, 4, 8)}),
    "ranks": Axis("ranks, of a batch of 128", {str(r): [*networks(), "training.batch_size=128"] for r in (1, 2)}),
}


def measure(axis: str, value: str, settings: list[str], steps: int) -> tuple[Config, Cost]:
    config = override(find(EXPERIMENT).config(), [*COMMON, *settings])
    if axis != "ranks" or value == "1":
        return config, bench(config, steps)
    changed = [*COMMON, *(setting.replace(" ", "") for setting in settings)]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", value]
    command = [*start, "-m", "bigbigan", "bench", EXPERIMENT, "--steps", str(steps), "--json", "--set", *changed]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise RunError(f"torchrun with {value} ranks: {done.stderr.strip()}")
    found = json.loads(done.stdout[done.stdout.index("{") :])["defined"]
    return config, Cost(**{name: found[name] for name in Cost.__dataclass_fields__})


class Recorded(NamedTuple):
    """The values of a `Cost` that the picture shows."""

    seconds: float
    peak_memory_mib: float


def draw(costs: Mapping[str, Mapping[str, Cost | Recorded]], path: Path) -> None:
    """Draw seconds per step and peak memory over each varied setting, both axes logarithmic."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    panels = figure.subplots(2, len(costs), sharey="row", sharex="col")
    for column, (axis, found) in enumerate(costs.items()):
        places = [float(value) for value in found]
        for row, values in enumerate(
            ([c.seconds for c in found.values()], [c.peak_memory_mib for c in found.values()])
        ):
            ax = panels[row][column]
            ax.plot(places, values, "o-", color=FIRST)
            ax.set_xscale("log", base=2)
            ax.set_yscale("log", base=2)
            ax.set_xticks(places, list(found), minor=False)
            ax.yaxis.set_major_locator(LogLocator(base=2, subs=(1.0,)))
            ax.yaxis.set_major_formatter("{x:,g}")
            ax.minorticks_off()
            ax.tick_params(axis="y", labelleft=column == 0)
        panels[1][column].set_xlabel(AXES[axis].label)
    panels[0][0].set_ylabel("seconds per step")
    panels[1][0].set_ylabel("peak memory, MiB")
    panels[1][0].set_ylim(256, 2560)  # a common power of two below and above all values
    figure.savefig(path, dpi=90)


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/bench_growth.jsonl")
    script.parser.add_argument("--steps", type=int, default=3, help="steps to time, after two of warm-up (default 3)")
    script.parser.add_argument("--redraw", action="store_true", help="draw the picture from the result lines")
    script.parser.add_argument("--picture", type=Path, metavar="CHART.png")
    return script.run(measure_all, arguments)


def measure_all(script: Script, options: argparse.Namespace) -> None:
    costs: dict[str, dict[str, Cost]] = {}
    if options.redraw:
        if options.picture is None:
            raise UserError("--redraw: give --picture CHART.png")
        with chart_style():
            draw(recorded(options.results), options.picture)
        return
    for axis, varied in AXES.items():
        for value, settings in varied.settings.items():
            config, cost = measure(axis, value, settings, options.steps)
            costs.setdefault(axis, {})[value] = cost
            print(f"{axis} {value}: {cost.seconds:.3f} s per step, {cost.peak_memory_mib:,.0f} MiB, "
                  f"{cost.flops / 1e9:,.1f} GFLOP", flush=True)  # fmt: skip
            lines = result_lines(config, cost, options.steps, script.command, script.study)
            script.append(lines, show=False)
    if options.picture:
        with chart_style():
            draw(costs, options.picture)


def recorded(path: Path) -> dict[str, dict[str, Recorded]]:
    """Return the newest measurement of each varied setting, with the values that the picture shows.

    Raises:
        UserError: a setting has no result lines.
    """
    found = {
        (json.dumps(line["settings"], sort_keys=True), line["device"].startswith("2 ranks"), line["metric"]): line
        for line in read_results(path)
    }
    costs: dict[str, dict[str, Recorded]] = {}
    for axis, varied in AXES.items():
        for value, settings in varied.settings.items():
            config = override(find(EXPERIMENT).config(), [*COMMON, *settings])
            key = json.dumps(changed_settings(config), sort_keys=True), (axis, value) == ("ranks", "2")
            seconds, memory = (found.get((*key, metric)) for metric in ("seconds_per_step", "peak_memory_mib"))
            if seconds is None or memory is None:
                raise UserError(f"{path} has no lines of {axis} {value}; measure again, without --redraw")
            costs.setdefault(axis, {})[value] = Recorded(seconds["value"], memory["value"])
    return costs


if __name__ == "__main__":
    sys.exit(main())
