"""Report the settings and the cost of a run without training it (`train --dry-run`)."""

from __future__ import annotations

import json
from typing import Any

import torch

from bigbigan.apps.benchmark import matmul_tflops, random_batches
from bigbigan.config import Config
from bigbigan.data import fraction_of, open_source
from bigbigan.data.image_set import memory_free
from bigbigan.data.readers.download import is_cached
from bigbigan.training.devices import default_device
from bigbigan.training.flops import step_cost
from bigbigan.training.run_folder import limits_of
from bigbigan.training.state import TrainingState
from bigbigan.training.time_budget import choose_precision, duration, seconds_per_step

__all__ = ["dry_run", "report"]

MAX_SECONDS = 20.0  # a step that must take longer is not measured


def dry_run(
    config: Config, data: str | None, default_data: str | None = None, labels: str | None = None
) -> dict[str, Any]:
    """Return the settings of a run, the cost of a step (see `step_cost`), and how long training takes on this machine.

    Args:
        config: settings.
        data, labels: the source and its labels file; images are counted but not read. None: no source.
        default_data: the experiment's own source, which is used if it need not be downloaded.

    Returns:
        `config`, `additions`, `parameters`, `flops_per_step`, `memory_bytes`; `seconds_per_step`, the median of a few
        steps on random images, and `hours` for training.steps, both None if a step would take too long or more memory
        than is free; `least_hours`, at the rate of a matrix product; `images` and `steps_per_epoch`, None without a
        source.
    """
    cost = step_cost(config)
    device = default_device()
    least = cost["flops_per_step"] / matmul_tflops(device) / 1e12
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory_free()
    seconds = None
    if least <= MAX_SECONDS and cost["memory_bytes"] < 0.3 * free:  # a step takes more
        batches = random_batches(config, device)
        config = choose_precision(config, batches, device)
        seconds = seconds_per_step(TrainingState(config, device), batches, max_seconds=2.0)
    if data is None and default_data is not None and (default_data == "digits" or is_cached(default_data)):
        data = default_data
    images = steps = None
    if data is not None:
        source = open_source(data, labels=labels, limits=limits_of(config))
        images = len(fraction_of(source.splits["train"], config.data.fraction))
        steps = -(-images // cost["images_per_step"])
    hours = config.training.steps / 3600
    return {
        "config": config.to_dict(),
        "additions": config.additions,
        **cost,
        "seconds_per_step": seconds,
        "hours": None if seconds is None else seconds * hours,
        "least_hours": least * hours,
        "images": images,
        "steps_per_epoch": steps,
    }


def report(config: Config, found: dict[str, Any]) -> str:
    """Return what `dry_run` found as text."""
    t = config.training
    lines = [json.dumps(found["config"], indent=2)]
    lines += [f"{name:10} {count:>14,} parameters" for name, count in found["parameters"].items()]
    lines.append(
        f"one step of {t.batch_size} images: {found['flops_per_step'] / 1e9:,.1f} GFLOP, "
        f"about {found['memory_bytes'] / 2**20:,.0f} MiB in float32"
    )
    if found["steps_per_epoch"] is not None:
        epoch = found["steps_per_epoch"]
        lines.append(
            f"{found['images']:,} images: {epoch:,} steps per epoch; "
            f"{t.steps:,} steps are {t.steps / epoch:,.1f} epochs"
        )
    else:
        lines.append("steps per epoch: unknown without --data SOURCE")
    if found["seconds_per_step"] is not None:
        lines.append(
            f"one step here, measured: {found['seconds_per_step']:.3g} s; {t.steps:,} steps take about "
            f"{duration(3600 * found['hours'])}, without pictures, checkpoints and validation"
        )
    else:
        lines.append(
            f"a step is too large to measure here; at the rate of this machine's matrix product {t.steps:,} steps take "
            f"{duration(3600 * found['least_hours'])} or more"
        )
    if t.minutes:
        lines.append(f"training.minutes={t.minutes:g}: the number of steps will be chosen when training starts")
    return "\n".join(lines)
