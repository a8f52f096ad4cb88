"""Choose the device to compute on, and ask it for its name, its memory and to finish its work."""

from __future__ import annotations

import torch
from torch.distributed import is_torchelastic_launched

from bigbigan.compute import AUTO, DEVICES, chosen_device
from bigbigan.errors import UserError

__all__ = ["default_device", "device_name", "peak_memory", "synchronize", "usable_device"]


def usable_device(device: str | torch.device) -> torch.device:
    """Return the device; raise UserError if this machine does not have it."""
    try:
        found = torch.device(device)
        if found.type != "meta":  # its tensors have no values
            torch.empty(0, device=found)
            return found
        reason = "its tensors have no values"
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]  # torch's own advice follows
    raise UserError(f"device is {device}: {reason}; expected cpu, or cuda on a machine with a GPU")


def default_device() -> torch.device:
    """Return the device that `--device` names.

    By default it is the GPU (the first in `CUDA_VISIBLE_DEVICES`) if there is one, else the CPU. Apple's GPU, "mps", is
    used only if it is named: it has no float64, and nothing has been measured on it.

    Raises:
        UserError: this machine does not have the device, or each process of torchrun needs one of its own.
    """
    name = chosen_device()
    if name == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if is_torchelastic_launched() and (":" in name or name == "mps"):
        raise UserError(f"--device {name}: under torchrun each process uses a GPU of its own; expected cuda or cpu")
    try:
        return usable_device(name)
    except UserError as error:
        reason = str(error).removeprefix(f"device is {name}: ").rpartition("; ")[0]
        raise UserError(f"--device {name}: {reason}; expected another of {DEVICES}") from None


def device_name(device: torch.device | None = None) -> str:
    """Return the name of a device for result lines: of a GPU, "mps", or "cpu" with the number of threads.

    Args:
        device: by default the default device.
    """
    device = default_device() if device is None else device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all its work; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory(device: torch.device) -> int | None:
    """Return the bytes that tensors on a GPU have taken at most; None for other devices, which do not record it."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
