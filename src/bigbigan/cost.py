"""What a training step costs, found by running a small one and scaling: parameters, FLOPs, memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bigbigan.config import Config
from bigbigan.data.batches import Batches
from bigbigan.state import TrainingState
from bigbigan.train import training_step

__all__ = ["step_cost"]


def step_cost(config: Config) -> dict[str, Any]:
    """Parameters of each network, FLOPs and estimated peak memory of a step at the config's batch size.

    FLOPs are counted (2 a multiply-add) on a real step of two images and scaled to the batch. Memory is that of
    weights, gradients, Adam's moments and averages, plus what autograd keeps for the costlier of the two
    backward passes, likewise scaled; a framework's own overhead comes on top.
    """
    small = 2
    state = TrainingState(config, torch.device("cpu"))
    G, E, D = state.networks
    parameters = {
        "G": _count(G), "E": _count(E), "D": _count(D),
        **{f"D.{name}": _count(part) for name, part in D.named_children()},
    }  # fmt: skip
    r, c = config.encoder.resolution, config.data.channels
    batches = Batches(torch.zeros(small, c, r, r, dtype=torch.uint8), small, seed=0, flip=False)
    held: list[int] = [0]
    seen: set[int] = set()
    peak = 0

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in seen and not isinstance(tensor, torch.nn.Parameter):
            seen.add(tensor.data_ptr())
            held[0] += tensor.numel() * tensor.element_size()
        return tensor

    def use(tensor: Tensor) -> Tensor:
        nonlocal peak
        peak = max(peak, held[0])
        held[0] = 0  # a backward pass has begun; the next forward counts afresh
        seen.clear()
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, use):
        training_step(state, batches)
    scale = config.training.batch_size / small
    fixed = sum(parameters[n] for n in "GED") * 4 * 4 + (parameters["G"] + parameters["E"]) * 4
    return {
        "parameters": parameters,
        "flops_per_step": int(counter.get_total_flops() * scale),
        "memory_bytes": int(fixed + peak * scale),
    }


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
