"""Count what a training step costs without running it: parameters, FLOPs, memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bigbigan.config import Config
from bigbigan.methods import make_system
from bigbigan.methods.base import Update
from bigbigan.models import construct

__all__ = ["count_flops", "step_cost"]


def step_cost(config: Config) -> dict[str, Any]:
    """Return the parameters of each network, and FLOPs and estimated peak memory of a step at the config's batch size.

    The losses and their gradients are traced with fake tensors, for one chunk of a batch. FLOPs are 2 a multiply-add,
    of matrix products and convolutions. Memory is the sum of weights, gradients, Adam's moments and averages, and of
    what autograd stores for the costliest backward pass; the framework's overhead comes on top.
    """
    chunk = config.training.batch_size // config.training.accumulate
    stored: dict[int, int] = {}
    weights: set[int] = set()  # stored anyway, and views of them cost nothing
    peak = 0

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            stored[storage._cdata] = storage.nbytes()
        return tensor

    def use(tensor: Tensor) -> Tensor:
        nonlocal peak
        peak = max(peak, sum(stored.values()))
        stored.clear()  # a backward pass has begun; the next forward counts afresh
        return tensor

    with FakeTensorMode():
        networks = construct(config)
        weights |= {p.untyped_storage()._cdata for n in filter(None, networks) for p in n.parameters()}
        system, generator = make_system(config, networks), torch.Generator()
        r, c = config.encoder.resolution, config.data.channels
        x = torch.zeros(chunk, c, r, r).contiguous(memory_format=torch.channels_last)
        labels = {"y": torch.zeros(chunk, dtype=torch.long)} if config.data.classes > 1 else {}
        flops: dict[Update, int] = {}  # of each kind of update
        for update in dict.fromkeys(system.updates):
            with _Flops() as counter, torch.autograd.graph.saved_tensors_hooks(keep, use):
                for outcome in update(x, system.sample_noise(chunk, generator), **labels):
                    system.backward(outcome.losses)
            flops[update] = counter.total
    parameters = {name: _count(network) for name, network in networks.present().items()}
    if networks.D is not None:
        parameters |= {f"D.{name}": _count(part) for name, part in networks.D.named_children()}
    averaged = sum(parameters.get(name, 0) for name in "GE")
    fixed = 4 * (4 * sum(parameters.get(name, 0) for name in "GED") + averaged)
    return {
        "parameters": parameters,
        "flops_per_step": sum(flops[update] for update in system.updates) * config.training.accumulate,
        "images_per_step": config.training.batch_size * len(system.updates),
        "memory_bytes": fixed + peak,
    }


def count_flops(work: Callable[[], object]) -> int:
    """Count the FLOPs of matrix products and convolutions while `work` runs, 2 a multiply-add."""
    with _Flops() as counter:
        work()
    return counter.total


class _Flops(TorchDispatchMode):
    """Count the FLOPs computed within this context.

    torch's own counter also tracks modules, which fails if a backward pass runs modules again, as reversible stages do.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
