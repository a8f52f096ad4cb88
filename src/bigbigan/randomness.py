"""Make random numbers a function of (seed, purpose, counter), so that a resumed run equals an uninterrupted one.

The global generators are not used. A step's noise is the same however often the run was resumed, and the data order is
the same for any number of workers.
"""

from __future__ import annotations

import hashlib

import torch

__all__ = ["keyed_generator"]


def keyed_generator(seed: int, purpose: str, counter: int = 0, device: str = "cpu") -> torch.Generator:
    """Return a new generator on `device`, whose state depends only on seed, purpose and counter."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{counter}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)
