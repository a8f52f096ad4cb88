"""Time training steps: images/s and GFLOP/s of each small experiment on this machine, one JSON line each.

    python tools/bench.py [EXPERIMENT ...]

The machine's own matrix multiplication is timed in the same run, so that the figures can be read as a share of it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import torch

from bigbigan.cost import step_cost
from bigbigan.data.batches import Batches
from bigbigan.experiments import EXPERIMENTS, find
from bigbigan.run import device_name
from bigbigan.state import TrainingState
from bigbigan.train import default_device, training_step


def matmul_gflops(device: torch.device) -> float:
    """Best float32 matrix multiplication rate of a few tries, GFLOP/s."""
    a = torch.randn(1024, 1024, device=device)
    return 2 * 1024**3 / min(timed(lambda: a @ a, device) for _ in range(10)) / 1e9


def timed(work, device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    device = default_device()
    peak = matmul_gflops(device)
    for name in sys.argv[1:] or [n for n in EXPERIMENTS if n.startswith("small/")]:
        config = find(name).config()
        r, c, t = config.encoder.resolution, config.data.channels, config.training
        state = TrainingState(config, device)
        pixels = torch.randint(0, 256, (4 * t.batch_size, c, r, r), dtype=torch.uint8, device=device)
        batches = Batches(pixels, t.batch_size, 0, config.data.augment)
        training_step(state, batches)
        seconds = statistics.median(timed(lambda s=state, b=batches: training_step(s, b), device) for _ in range(5))
        rate = step_cost(config)["flops_per_step"] / seconds / 1e9
        line = {
            "experiment": name, "seconds_per_step": round(seconds, 4),
            "images_per_second": round(t.batch_size * (t.d_steps + 1) / seconds, 1),
            "gflop_per_second": round(rate, 1), "share_of_matmul": round(rate / peak, 3), "device": device_name(),
        }  # fmt: skip
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
