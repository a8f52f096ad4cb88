"""`bigbigan bench`."""

from __future__ import annotations

import argparse
import json
import math
import re
from dataclasses import asdict
from pathlib import Path

from bigbigan.cli.common import AS_JSON, at_least, device_option
from bigbigan.errors import UserError

EXAMPLES = (
    "bench small/mnist",
    "bench small/mnist --vary training.batch_size=16,32,64 --picture cost.png",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="EXPERIMENT", help="such as small/mnist; see: bigbigan list")
    parser.add_argument("--scale", type=int, default=0, metavar="S", help="scale it down: S px in place of 128")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="a.b=value", help="change settings")
    parser.add_argument(
        "--vary", metavar="a.b=V1,V2,...", help="measure for each value, such as training.batch_size=16,32,64"
    )
    parser.add_argument(
        "--steps", type=int, default=5, metavar="N", help="steps to time, after two steps of warm-up (default 5)"
    )
    parser.add_argument("--picture", type=Path, metavar="CHART.png", help="draw the cost over the varied setting")
    parser.add_argument("--results", type=Path, metavar="FILE", help="append result lines to this file")
    device_option(parser)
    parser.add_argument("--json", **AS_JSON)


def run(options: argparse.Namespace) -> None:
    """Time training steps on random images: seconds by part, images and FLOPs per second, peak memory."""
    from bigbigan.config import override
    from bigbigan.experiments import find

    at_least(1, steps=options.steps)
    name, equals, values = (options.vary or "").partition("=")
    if options.vary and not (equals and values):
        raise UserError(f"--vary {options.vary}: expected a.b=V1,V2,..., for example training.batch_size=16,32,64")
    if options.picture and (not options.vary or options.picture.suffix.lower() != ".png"):
        raise UserError(
            f"--picture {options.picture}: expected a name ending in .png, and --vary with the setting to draw it over"
        )
    base = find(options.experiment).config(options.scale)
    # at commas outside of brackets: encoder.widths=[16,16],[32,32] has two values
    varied = [f"{name}={value}" for value in re.split(r",(?![^\[]*\])", values)] if options.vary else [""]
    configs = {v.removeprefix(f"{name}="): override(base, [*options.set, *([v] if v else [])]) for v in varied}
    if any(config.training.precision == "auto" for config in configs.values()):
        raise UserError("training.precision=auto: bench expects float32 or bf16, or both in --vary")
    from bigbigan.apps.benchmark import bench, chart, result_lines
    from bigbigan.evaluation.records import append_results
    from bigbigan.training import distributed

    costs = {}
    for value, config in configs.items():
        cost = costs[value] = bench(config, options.steps)
        if not distributed.is_first_rank():
            continue
        if options.results:
            append_results(options.results, result_lines(config, cost, options.steps, options.command))
        if not options.json:
            print(f"{name}={value}: " if value else "", end="")
            parts = ", ".join(f"{part.replace('_', ' ')} {seconds:.3f}" for part, seconds in cost.parts.items())
            print(f"{cost.seconds:.3f} s per step ({parts}), {cost.images_per_second:,.0f} images/s, "
                  f"{cost.flops / 1e9:,.1f} GFLOP per step, {cost.tflops:.3g} TFLOP/s, {cost.share:.0%} of a matrix "
                  f"product's, {_memory(cost.peak_memory_mib)}", flush=True)  # fmt: skip
    if not distributed.is_first_rank():
        return
    if options.json:
        found = {value or "defined": asdict(cost) | {"share": cost.share} for value, cost in costs.items()}
        for facts in found.values():
            facts |= {name: None for name, number in facts.items() if isinstance(number, float) and math.isnan(number)}
        print(json.dumps(found, indent=2))
    if options.picture:
        chart(costs, name, options.experiment, options.picture)


def _memory(mib: float) -> str:
    return "memory unknown" if math.isnan(mib) else f"{mib:,.0f} MiB"
