"""Hold the compute options of a command: the device, and the number of images in one pass through a network.

The command line sets both before it runs a command (`computing`); `bigbigan.training.devices.default_device` and
`images_per_pass` read them where networks are used. In Python, `bigbigan.load` and the others take a device instead.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bigbigan.errors import UserError

__all__ = [
    "AUTO",
    "DEVICES",
    "check_device_name",
    "chosen_device",
    "computing",
    "encoder_batch_size",
    "has_float64",
    "images_per_pass",
    "reuse_freed_memory",
]

AUTO = "auto"  # a GPU if there is one, else the CPU
DEVICES = "auto, cpu, cuda, cuda:N or mps"
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
NAME = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


@dataclass(frozen=True)
class Compute:
    """Hold the choices of one command.

    Attributes:
        device: a name that `check_device_name` accepts.
        batch_size: images in one pass through a network; None is the default of each place.
    """

    device: str = AUTO
    batch_size: int | None = None


_chosen = Compute()  # of the process, not of a thread: the page of `serve` computes in several


def check_device_name(name: str) -> str:
    """Return the name of a device; raise UserError if it has no such form. Loads no torch."""
    if not NAME.fullmatch(name):
        raise UserError(f"--device {name}: expected {DEVICES}")
    return name


@contextmanager
def computing(device: str = AUTO, batch_size: int | None = None) -> Iterator[None]:
    """Use this device, and pass this many images through a network at once, until the context ends.

    Raises:
        UserError: not the name of a device, or a batch size below 1.
    """
    global _chosen
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: expected at least 1")
    before, _chosen = _chosen, Compute(check_device_name(device), batch_size)
    try:
        yield
    finally:
        _chosen = before


def has_float64(device_type: str) -> bool:
    """Return whether devices of this type compute in float64, as all do but Apple's GPUs."""
    return device_type != "mps"


def chosen_device() -> str:
    """Return the name of the device to compute on, or "auto"."""
    return _chosen.device


def images_per_pass(default: int) -> int:
    """Return how many images to pass through a network at once: `--batch-size`, or else `default`."""
    return _chosen.batch_size or default


def encoder_batch_size(resolution: int, device_type: str) -> int:
    """Return how many images to pass through E at once: `--batch-size`, or else as many as are fast.

    On a CPU the feature maps must fit into the caches: 128 images at 32 px, 32 at 64 px. Other devices take 500.
    """
    fast = max(8, min(128, 128 * 32**2 // resolution**2)) if device_type == "cpu" else 500
    return images_per_pass(fast)


def reuse_freed_memory() -> bool:
    """Let the C library keep freed memory for the next tensors; return whether it can (glibc, on Linux).

    By default glibc gives large blocks back to the system, which must then clear and map the same memory again for
    every operation. Keeping it is faster if a process allocates the same sizes over and over; peak memory grows, by
    38 % in the step of biggan/32_pytorch (docs/notes/performance.md).
    Has no effect if the user has set a MALLOC_ variable of glibc's.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
