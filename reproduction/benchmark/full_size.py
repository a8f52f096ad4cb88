"""Take one real training step of full-size rows of Table 1 on photographs: time and peak memory.

    python -m reproduction.benchmark.full_size --data SOURCE [EXPERIMENT ...]

The batch is 2, otherwise the networks are the published ones. A row takes some 7 GiB of memory and a few minutes on a
CPU.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence

import torch

from bigbigan.apps.benchmark import peak_memory_mib
from bigbigan.config import override
from bigbigan.data import load_pixels, open_source
from bigbigan.data.batches import Batches
from bigbigan.data.loading import stored_side
from bigbigan.errors import RunError
from bigbigan.experiments import find
from bigbigan.training.devices import default_device
from bigbigan.training.run_folder import changed_settings
from bigbigan.training.state import TrainingState
from bigbigan.training.step import training_step
from reproduction.common import Script

ROWS = ["table1/base", "table1/revnet_x4_up_encoder_lr"]
IMAGES = 16


def measure(script: Script, name: str, data: str) -> None:
    config = override(find(name).config(), ["training.batch_size=2", "log.every=1"])
    source = open_source(data)
    images = source.splits["train"]
    chosen = images.subset(images.spread(IMAGES))
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
        raise RunError(f"{name}: not finite: {values}")
    script.append(
        script.result_lines(
            {"seconds_per_step": seconds, "peak_memory_mib": peak_memory_mib(device), **values},
            subject="program",
            experiment=name,
            dataset=source.name,
            split="train",
            n=2,
            seconds=seconds,
            settings=changed_settings(config),
            steps=1,
            images_seen=state.images_seen,
        )
    )


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/full_size.jsonl")
    script.parser.add_argument("experiments", nargs="*", default=ROWS, metavar="EXPERIMENT")
    script.parser.add_argument("--data", required=True, metavar="SOURCE")
    return script.run(measure_all, arguments)


def measure_all(script: Script, options: argparse.Namespace) -> None:
    if len(options.experiments) == 1:
        return measure(script, options.experiments[0], options.data)
    for name in options.experiments:  # each in a process, for a peak of memory of its own
        print(script.in_subprocess("--data", options.data, "--results", str(options.results), name), end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
