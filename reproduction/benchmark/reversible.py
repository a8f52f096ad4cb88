"""Measure memory and time of reversible stages and of plain autograd, over depth.

    python -m reproduction.benchmark.reversible    takes about ten minutes; draws docs/pictures/reversible.png

Blocks have inputs (16, 128, 32, 32); each has two couplings of two BN-ReLU-3×3 convs at half the width. Each point is
measured in a process of its own. Memory is the peak resident size minus the size before the first pass; time is the
fastest of three forward and backward passes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from bigbigan.evaluation.records import read_results
from bigbigan.models.revnet import ReversibleStage
from reproduction.common import Script
from reproduction.render.chart_style import FIRST, SECOND, chart_style

DEPTHS = (2, 4, 8, 16, 32)
PICTURE = Path("docs/pictures/reversible.png")


def branch(width: int) -> nn.Sequential:
    half = [[nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False)] for _ in range(2)]
    return nn.Sequential(*half[0], *half[1])


def resident() -> dict[str, float]:
    """Return resident and peak resident memory of this process, MiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {key: int(lines[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM")}


def point(blocks: int, recompute: bool) -> dict[str, float]:
    """Return extra memory in MiB and seconds of a forward and backward pass, in this process."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    stage = ReversibleStage([branch(64) for _ in range(2 * blocks)], recompute)
    x = torch.randn(16, 128, 32, 32, requires_grad=True)
    before, seconds = resident()["VmRSS"], []
    for _ in range(3):
        start = time.perf_counter()
        stage(x).square().mean().backward()
        seconds.append(time.perf_counter() - start)
    return {"extra_memory_mib": resident()["VmHWM"] - before, "forward_backward_seconds": min(seconds)}


def measure(script: Script) -> None:
    for blocks in DEPTHS:
        for recompute in (True, False):
            start = time.perf_counter()
            measured = json.loads(script.in_subprocess("--point", str(blocks), str(recompute)))
            script.append(
                script.result_lines(
                    measured,
                    subject="program",
                    experiment="bench/reversible",
                    dataset="random",
                    split="none",
                    n=1,
                    seconds=time.perf_counter() - start,
                    settings={"blocks": blocks, "encoder.keep_activations": not recompute},
                )
            )


def draw(results: Path) -> None:
    """Draw memory and time over depth, with activations kept and recomputed."""
    newest = {
        (line["metric"], line["settings"]["encoder.keep_activations"], line["settings"]["blocks"]): line["value"]
        for line in read_results(results)
    }
    titles = {"extra_memory_mib": "memory, MiB", "forward_backward_seconds": "forward and backward, s"}
    with chart_style():
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        for axes, (metric, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
            for keep, label, color in ((True, "activations kept", FIRST), (False, "recomputed", SECOND)):
                axes.plot(DEPTHS, [newest[metric, keep, n] for n in DEPTHS], "o-", color=color, label=label)
            axes.set(xlabel="reversible blocks", title=title, xscale="log", xticks=DEPTHS, xticklabels=DEPTHS, ylim=0)
            axes.minorticks_off()
            axes.legend()
        figure.savefig(PICTURE)


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/reversible.jsonl")
    script.parser.add_argument(
        "--point", nargs=2, metavar=("BLOCKS", "RECOMPUTE"), help="measure one point and print it as JSON"
    )
    return script.run(work, arguments)


def work(script: Script, options: argparse.Namespace) -> None:
    if options.point:
        blocks, recompute = options.point
        print(json.dumps(point(int(blocks), recompute == "True")))
        return
    measure(script)
    draw(options.results)


if __name__ == "__main__":
    sys.exit(main())
