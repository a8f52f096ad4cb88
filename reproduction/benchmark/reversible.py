"""Memory and time of reversible stages against plain autograd, over depth.

    python tools/bench_reversible.py    some ten minutes; results/reversible.jsonl and docs/pictures/reversible.png

Blocks of input (16, 128, 32, 32), each two couplings of BN-ReLU-3×3 conv twice at half the width; one process a point;
memory is the peak resident size less that before the first pass, time the best of three forward and backward passes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

from bigbigan.evaluation.records import ResultLine, append_results, read_results
from bigbigan.models.revnet import ReversibleStage
from bigbigan.training.run_folder import commit, device_name

DEPTHS = (2, 4, 8, 16, 32)
RESULTS, PICTURE = Path("results/reversible.jsonl"), Path("docs/pictures/reversible.png")


def branch(width: int) -> nn.Sequential:
    half = [[nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False)] for _ in range(2)]
    return nn.Sequential(*half[0], *half[1])


def resident() -> dict[str, float]:
    """Resident and peak resident memory of this process, MiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {key: int(lines[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM")}


def point(blocks: int, recompute: bool) -> dict[str, float]:
    """Extra memory in MiB and seconds of a forward and backward pass, in this process."""
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


def measure() -> None:
    for blocks in DEPTHS:
        for recompute in (True, False):
            start = time.perf_counter()
            command = [sys.executable, __file__, "--point", str(blocks), str(recompute)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            seconds = round(time.perf_counter() - start, 1)
            append_results(
                RESULTS,
                [
                    ResultLine(
                        experiment="bench/reversible", scale=0, table_row=None, dataset="random", split="none", n=1,
                        settings={"blocks": blocks, "encoder.keep_activations": not recompute},
                        metric=metric, value=round(value, 3), std=None, seed=0, steps=0, images_seen=0, seconds=seconds,
                        device=device_name(), commit=commit(), command="python tools/bench_reversible.py",
                    )
                    for metric, value in found.items()
                ],
            )  # fmt: skip


def draw() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    newest = {
        (line["metric"], line["settings"]["encoder.keep_activations"], line["settings"]["blocks"]): line["value"]
        for line in read_results(RESULTS)
    }
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    titles = {"extra_memory_mib": "memory, MiB", "forward_backward_seconds": "forward and backward, s"}
    for axis, (metric, title) in zip(axes, titles.items(), strict=True):
        for keep, label in ((True, "activations kept"), (False, "recomputed")):
            axis.plot(DEPTHS, [newest[metric, keep, n] for n in DEPTHS], "o-", label=label)
        axis.set(xlabel="reversible blocks", title=title, xscale="log", xticks=DEPTHS, xticklabels=DEPTHS, ylim=0)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--point", nargs=2, metavar=("BLOCKS", "RECOMPUTE"), help="one alone, as JSON")
    if one := parser.parse_args().point:
        print(json.dumps(point(int(one[0]), one[1] == "True")))
    else:
        measure()
        draw()
