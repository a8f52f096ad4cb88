"""Count the arithmetic of a training step, and the minimum that its losses need.

    python -m reproduction.benchmark.minimal_flops [EXPERIMENT ...]

The minimum is the sum of forward passes of G, E, F, H and J, over N images each (docs/notes/performance.md):

    D step         G and E forward; F, H, J over 2N pairs: forward, gradients of weights, and gradients of inputs except
                   in the first layers, whose inputs are data
    G and E step   G and E forward and both gradients, likewise; on encoder pairs only F forward, and H and J forward
                   with gradients of inputs; on generator pairs only H forward, and F and J forward with gradients of
                   inputs
    E step         (training.e_steps) E forward and both gradients; F, H and J on encoder pairs, likewise

The gradient of a layer's weights, or of its inputs, costs as much as its forward pass. Recomputing E of a RevNet costs
one more forward pass of its branches. The projection of D (`discriminator.projection`) is left out. A multiply-add is 2
FLOPs; matrix products and convolutions are counted, and nothing is run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bigbigan.config import Config
from bigbigan.experiments import find
from bigbigan.image import pool_to
from bigbigan.models import construct
from bigbigan.training.flops import count_flops, step_cost
from reproduction.common import Script

NAMES = ["small/cifar10", "table1/base", "table1/revnet_x4"]
N = 2  # images that are traced; the cost scales with their number


def minimal(config: Config) -> float:
    """Return the minimum FLOPs of a step of a BigBiGAN with all three scores, at the batch size of the config."""
    with FakeTensorMode(), torch.no_grad():
        networks = construct(config)
        G, E = networks.generator, networks.encoder
        D: Any = networks.discriminator
        r, c = config.encoder.resolution, config.data.channels
        x, z = torch.zeros(N, c, r, r).contiguous(memory_format=torch.channels_last), torch.zeros(N, config.latent.dim)
        seen = pool_to(x, config.generator.resolution)
        vectors, h = D.F(seen), D.H(z)
        pair = torch.cat([*vectors, h], dim=1)
        work: dict[str, Callable[[], Any]] = {
            "G": lambda: G(z), "E": lambda: E(x), "F": lambda: D.F(seen), "H": lambda: D.H(z), "J": lambda: D.J(pair)
        }  # fmt: skip
        one = {name: count_flops(forward) for name, forward in work.items()}
        first = {
            "G": first_layers(G, work["G"], [z]), "E": first_layers(E, work["E"], [x]),
            "F": first_layers(D.F, work["F"], [seen]), "H": first_layers(D.H, work["H"], [z]),
        }  # fmt: skip
        again = count_flops(lambda: E.trunk(x)) - first["E"] if config.encoder.block == "reversible" else 0
    of_d = one["G"] + one["E"] + 2 * (3 * one["F"] - first["F"] + 3 * one["H"] - first["H"] + 3 * one["J"])
    of_e = 3 * one["E"] - first["E"] + again + one["F"] + 2 * one["H"] + 2 * one["J"]  # encoder pairs
    of_g = 3 * one["G"] - first["G"] + 2 * one["F"] + one["H"] + 2 * one["J"]  # generator pairs
    t = config.training
    return (t.d_steps * of_d + of_g + t.e_steps * of_e) * t.batch_size / N


def first_layers(network: nn.Module, forward: Callable[[], Any], data: list[torch.Tensor]) -> int:
    """Return the FLOPs of the layers whose input is the input of the network, or a part of it."""
    given = {t.untyped_storage()._cdata for t in data}
    found = 0

    def hook(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal found
        if inputs[0].untyped_storage()._cdata in given:
            found += 2 * output.numel() * module.weight[0].numel()

    handles = [m.register_forward_hook(hook) for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    forward()
    for handle in handles:
        handle.remove()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/minimal_flops.jsonl")
    script.parser.add_argument("experiments", nargs="*", default=NAMES, metavar="EXPERIMENT")
    return script.run(measure, arguments)


def measure(script: Script, options: argparse.Namespace) -> None:
    for name in options.experiments:
        start, config = time.perf_counter(), find(name).config()
        counted, minimum = step_cost(config)["flops_per_step"], minimal(config)
        script.append(
            script.result_lines(
                {"flops_per_step": counted, "minimal_flops_per_step": minimum, "flops_over_minimal": counted / minimum},
                subject="program",
                experiment=name,
                dataset="none",
                split="none",
                n=config.training.batch_size,
                seconds=time.perf_counter() - start,
            )
        )


if __name__ == "__main__":
    sys.exit(main())
