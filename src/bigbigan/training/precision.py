"""Set how the forward passes of training compute: in float32 or bfloat16, eagerly or compiled.

Weights, optimizers, losses, batch norm's statistics and spectral norm are always float32, and so are the averaged
networks, which are evaluated.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bigbigan.config import Config
from bigbigan.errors import UserError
from bigbigan.models import PretextEncoder
from bigbigan.training import distributed

__all__ = ["check_devices", "has_bfloat16", "prepare"]


def check_devices(config: Config, device: torch.device) -> None:
    """Check device, precision and batch split, and set the device up for training.

    Raises:
        UserError: a batch cannot be split as set, the device has no bfloat16, or there is no compiler.
    """
    t, ranks = config.training, distributed.world_size()
    if config.system == "pretext" and ranks > 1:  # tasks compare images with others of the batch, and count colours
        raise UserError(
            "system=pretext trains in one process; start it without torchrun; to save memory, raise training.accumulate"
        )
    if t.batch_size % (t.accumulate * ranks):
        raise UserError(
            f"training.batch_size={t.batch_size} cannot be cut for {ranks} processes of torchrun and "
            f"training.accumulate={t.accumulate}; expected a multiple of {t.accumulate * ranks}"
        )
    if t.batch_size // (t.accumulate * ranks) < 2:
        raise UserError(
            f"training.batch_size={t.batch_size} leaves one image for each of {ranks} processes of torchrun and "
            f"{t.accumulate} chunks; expected at least {2 * t.accumulate * ranks}"
        )
    if t.precision == "bf16" and device.type == "cuda" and not has_bfloat16(device):
        raise UserError("training.precision=bf16: this GPU cannot compute in bfloat16; expected float32")
    if t.compile and device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise UserError("training.compile=true needs a C++ compiler, g++ or what CXX names; install one, or set false")
    if t.compile:
        torch.compiler.reset()  # code compiled by an earlier run in this process counts towards a limit
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as torch's convolutions compute anyway


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a GPU or processor computes in bfloat16 itself, without emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def prepare(network: nn.Module, precision: str, compiled: bool, device: torch.device) -> None:
    """Make calls of `network` use `training.precision` and `training.compile`. Their outputs are float32.

    For the encoder of a pretext task this covers the maps of its trunk, which all tasks use, but not the heads.
    """
    owner, name = (network.trunk, "final_map") if isinstance(network, PretextEncoder) else (network, "forward")
    forward = original = getattr(owner, name)
    if compiled:
        # A graph for each shape and mode (with gradient, without, ...), of which there are few. On a GPU, kernels are
        # launched as CUDA graphs, from which small networks gain most.
        mode = "reduce-overhead" if device.type == "cuda" else None
        forward = torch.compile(forward, dynamic=False, mode=mode)
    if precision == "bf16":
        forward = _in_bf16(forward, device.type)
    if forward is not original:
        setattr(owner, name, forward)


def _in_bf16(forward: Callable[..., Any], device: str) -> Callable[..., Any]:
    def wrapped(*arguments: Any) -> Any:
        # One context for each call: autocast's cache of weights must not outlive a pass without gradient.
        with torch.autocast(device, torch.bfloat16):
            out = forward(*arguments)
        return _float(out)

    return wrapped


def _float(out: Any) -> Any:
    """Convert a tensor, or a dictionary or dataclass of tensors, to float32."""
    if isinstance(out, Tensor):
        return out.float()
    if isinstance(out, dict):
        return {name: _float(value) for name, value in out.items()}
    return dataclasses.replace(out, **{f.name: _float(getattr(out, f.name)) for f in dataclasses.fields(out)})
