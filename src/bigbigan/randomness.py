"""Every random draw is a function of (seed, purpose, counter), so nothing depends on when a run was resumed.

No draw touches the global generators. A step's noise is the same whether the run reached it in one go or
after three crashes, and the data order is the same for any number of workers.
"""

from __future__ import annotations

import hashlib

import torch

__all__ = ["keyed_generator"]


def keyed_generator(seed: int, purpose: str, counter: int = 0, device: str = "cpu") -> torch.Generator:
    """A fresh generator on `device`, determined by the three keys and nothing else."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{counter}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)
