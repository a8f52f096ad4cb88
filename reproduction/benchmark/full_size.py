"""One real training step of full-size rows of Table 1 on photographs: time and peak memory as result lines.

    python tools/full_size_step.py --data SOURCE [--results FILE] [EXPERIMENT ...]

Batch 2, the published networks otherwise; some 7 GiB of memory and a few minutes a row on a CPU.
"""

from __future__ import annotations

import argparse
import math
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from bigbigan.config import override
from bigbigan.data import load_pixels, open_source
from bigbigan.data.batches import Batches
from bigbigan.data.loading import stored_side
from bigbigan.evaluation.records import ResultLine, append_results
from bigbigan.experiments import find
from bigbigan.training.run_folder import changed_settings, commit, default_device, device_name
from bigbigan.training.state import TrainingState
from bigbigan.training.step import training_step

ROWS = ["table1/base", "table1/revnet_x4_up_encoder_lr"]
IMAGES = 16


def measure(name: str, data: str, command: str) -> list[ResultLine]:
    config = override(find(name).config(), ["training.batch_size=2", "log.every=1"])
    source = open_source(data)
    images = source.splits["train"]
    chosen = images.subset(np.linspace(0, len(images) - 1, IMAGES).astype(np.int64))
    side = stored_side(images, config.encoder.resolution, config.data.augment)
    pixels, _ = load_pixels(chosen, side, config.data.channels, source)
    device = default_device()
    state = TrainingState(config, device)
    batches = Batches(
        torch.from_numpy(pixels).to(device),
        2,
        0,
        config.data.augment,
        config.encoder.resolution,
        mirror=config.data.mirrors,
    )
    start = time.perf_counter()
    values = {k: float(v) for k, v in training_step(state, batches).items()}
    seconds = time.perf_counter() - start
    if not all(map(math.isfinite, values.values())):
        raise SystemExit(f"{name}: not finite: {values}")
    peak = (
        torch.cuda.max_memory_allocated()
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return [
        ResultLine(
            experiment=name, scale=0, table_row=find(name).table_row, settings=changed_settings(config),
            dataset=source.name, split="train", metric=metric, value=round(value, 3), std=None, n=2, seed=0, steps=1,
            images_seen=state.images_seen, device=device_name(), seconds=round(seconds, 1), commit=commit(),
            command=command,
        )
        for metric, value in {"seconds_per_step": seconds, "peak_memory_mib": peak / 2**20, **values}.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("experiments", nargs="*", default=ROWS, metavar="EXPERIMENT")
    parser.add_argument("--data", required=True, metavar="SOURCE")
    parser.add_argument("--results", type=Path, default=Path("results/full_size.jsonl"), metavar="FILE")
    options = parser.parse_args()
    command = "python tools/full_size_step.py " + shlex.join(sys.argv[1:])
    if len(options.experiments) > 1:  # a process each: peak memory is that of a process
        rest = ["--data", options.data, "--results", str(options.results)]
        for name in options.experiments:
            subprocess.run([sys.executable, __file__, *rest, name], check=True)
        return
    for name in options.experiments:
        lines = measure(name, options.data, command)
        append_results(options.results, lines)
        print(name, {line.metric: line.value for line in lines}, flush=True)


if __name__ == "__main__":
    main()
