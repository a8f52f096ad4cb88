"""Time steps of bigan/mnist and of a plain eager loop over the same networks, in turns.

    python -m reproduction.benchmark.bigan_speed [--rounds N] [--steps N] [--compiled] [--bf16]

--compiled also times our loop with training.compile=true, and --bf16 our loop in bfloat16.

The plain loop is what one writes first: images as floats; pairs for the D step computed without gradient, then again
with gradient for the step of G and E, whose backward pass also fills the gradients of D; torch's default Adam.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from bigbigan.config import Config, override
from bigbigan.data.batches import Batches
from bigbigan.experiments import find
from bigbigan.image import to_float
from bigbigan.models import build
from bigbigan.training.devices import default_device, synchronize
from bigbigan.training.state import TrainingState
from bigbigan.training.step import training_step
from reproduction.common import Script, measured

NAME = "bigan/mnist"
VARIANTS = {"compiled": ("training.compile=true", "eager"), "bf16": ("training.precision=bf16", "float32")}


def plain_loop(config: Config, pixels: torch.Tensor) -> Callable[[], object]:
    device, o, n = pixels.device, config.optimizer, config.training.batch_size
    networks = build(config, device)
    G, E, D = networks.generator, networks.encoder, networks.discriminator
    images = to_float(pixels)
    rates: dict[str, Any] = {"lr": o.lr_d, "betas": o.betas, "weight_decay": o.weight_decay}
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
    """Return steps per second."""
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize(device)
    return steps / (time.perf_counter() - start)


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/bigan_speed.jsonl")
    script.parser.add_argument("--rounds", type=int, default=11)
    script.parser.add_argument("--steps", type=int, default=40, help="steps of each loop in a round (default 40)")
    for name, (setting, _) in VARIANTS.items():
        script.parser.add_argument(f"--{name}", action="store_true", help=f"time {setting} too")
    return script.run(measure, arguments)


def measure(script: Script, options: argparse.Namespace) -> None:
    device = default_device()
    config = override(find(NAME).config(), ["log.every=1000000"])
    pixels = torch.randint(0, 256, (20_000, 1, 28, 28), dtype=torch.uint8, device=device)
    loops = {"ours": our_loop(config, pixels), "plain": plain_loop(config, pixels)}
    variants = {name: variant for name, variant in VARIANTS.items() if getattr(options, name)}
    loops |= {name: our_loop(override(config, [setting]), pixels) for name, (setting, _) in variants.items()}
    for step in loops.values():
        rate(step, 5, device)
    rounds = [{name: rate(step, options.steps, device) for name, step in loops.items()} for _ in range(options.rounds)]
    rates = {f"steps_per_second_{name}": [r[name] for r in rounds] for name in loops}
    rates["steps_per_second_over_plain"] = [r["ours"] / r["plain"] for r in rounds]
    for name, (_, base) in variants.items():
        rates[f"steps_per_second_{name}_over_{base}"] = [r[name] / r["ours"] for r in rounds]
    found = {name: measured(values) for name, values in rates.items()}
    script.append(
        script.result_lines(found, subject="program", experiment=NAME, dataset="noise", split="train", n=options.steps)
    )


if __name__ == "__main__":
    sys.exit(main())
