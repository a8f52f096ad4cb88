"""Time steps of bigan/mnist against a plain eager loop over the same networks, in turns, as result lines.

    python tools/bench_bigan.py [--results FILE] [--rounds N] [--steps N] [--compiled] [--bf16]

With --compiled our loop with training.compile=true takes its turns as well, with --bf16 that in bfloat16.

The plain loop is what one writes down first: images as floats, pairs for D's step made without gradient, then made
again with gradient for the step of G and E, whose backward pass also fills D's gradients; torch's Adam as it comes.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from bigbigan.config import Config, override
from bigbigan.data.batches import Batches
from bigbigan.evaluation.records import ResultLine, append_results
from bigbigan.experiments import find
from bigbigan.image import to_float
from bigbigan.models import build
from bigbigan.training.run_folder import commit, default_device, device_name
from bigbigan.training.state import TrainingState
from bigbigan.training.step import training_step

NAME = "bigan/mnist"
VARIANTS = {"compiled": ("training.compile=true", "eager"), "bf16": ("training.precision=bf16", "float32")}


def plain_loop(config: Config, pixels: torch.Tensor) -> Callable[[], object]:
    device, o, n = pixels.device, config.optimizer, config.training.batch_size
    G, E, D = build(config, device)
    assert E is not None
    assert D is not None
    images = to_float(pixels)
    rates = {"lr": o.lr_d, "betas": o.betas, "weight_decay": o.weight_decay}
    optimizer_d = torch.optim.Adam(D.parameters(), **rates)
    optimizer_eg = torch.optim.Adam([*G.parameters(), *E.parameters()], **rates)

    def step() -> None:
        x = images[torch.randint(len(images), (n,), device=device)]
        z = torch.rand(n, config.latent.dim, device=device) * 2 - 1
        with torch.no_grad():
            z_hat, x_hat = E(x).mean, G(z)
        loss_d = (F.softplus(-D(x, z_hat)["s_xz"]).mean() + F.softplus(D(x_hat, z)["s_xz"]).mean()) / 2
        optimizer_d.zero_grad()
        loss_d.backward()
        optimizer_d.step()
        loss_eg = (F.softplus(D(x, E(x).mean)["s_xz"]).mean() + F.softplus(-D(G(z), z)["s_xz"]).mean()) / 2
        optimizer_eg.zero_grad()
        loss_eg.backward()
        optimizer_eg.step()

    return step


def our_loop(config: Config, pixels: torch.Tensor) -> Callable[[], object]:
    state, batches = TrainingState(config, pixels.device), Batches(pixels, config.training.batch_size, 0)
    return lambda: training_step(state, batches)


def rate(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Steps per second."""
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return steps / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results/bigan_speed.jsonl"), metavar="FILE")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=40, help="of each loop in a round")
    for name, (setting, _) in VARIANTS.items():
        parser.add_argument(f"--{name}", action="store_true", help=f"time {setting} beside it")
    options = parser.parse_args()
    began, device = time.perf_counter(), default_device()
    config = override(find(NAME).config(), ["log.every=1000000"])
    pixels = torch.randint(0, 256, (20_000, 1, 28, 28), dtype=torch.uint8, device=device)
    loops = {"ours": our_loop(config, pixels), "plain": plain_loop(config, pixels)}
    variants = {name: of for name, of in VARIANTS.items() if getattr(options, name)}
    loops |= {name: our_loop(override(config, [setting]), pixels) for name, (setting, _) in variants.items()}
    for step in loops.values():
        rate(step, 5, device)
    rounds = [{name: rate(step, options.steps, device) for name, step in loops.items()} for _ in range(options.rounds)]
    figures = {f"steps_per_second_{name}": [r[name] for r in rounds] for name in loops}
    figures["steps_per_second_over_plain"] = [r["ours"] / r["plain"] for r in rounds]
    for name, (_, usual) in variants.items():
        figures[f"steps_per_second_{name}_over_{usual}"] = [r[name] / r["ours"] for r in rounds]
    lines = [
        ResultLine(
            experiment=NAME, scale=0, settings={}, table_row=None, dataset="noise", split="train", metric=metric,
            value=round(statistics.median(values), 3), std=round(statistics.stdev(values), 3),
            draws=[round(v, 3) for v in values], n=options.steps, seed=0, steps=0, images_seen=0, device=device_name(),
            seconds=round(time.perf_counter() - began, 1), commit=commit(),
            command=shlex.join(["python", "tools/bench_bigan.py", *sys.argv[1:]]),
        )
        for metric, values in figures.items()
    ]  # fmt: skip
    append_results(options.results, lines)
    for line in lines:
        print(f"{line.metric}: {line.value} ± {line.std}")


if __name__ == "__main__":
    main()
