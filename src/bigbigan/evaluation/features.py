"""Features of whole image sets, and the proof that measuring them changed nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from bigbigan.averaging import standing_statistics
from bigbigan.data.batches import to_float
from bigbigan.models.encoder import Encoder
from bigbigan.randomness import keyed_generator

__all__ = ["encoder_features", "fill_statistics", "pixel_features", "unchanged"]


@torch.no_grad()
def encoder_features(encoder: Encoder, pixels: np.ndarray, batch_size: int = 500) -> dict[str, np.ndarray]:
    """AvePool, BN+CReLU and z_mean of uint8 images [N, C, R, R], each float32 [N, d]."""
    device = next(encoder.parameters()).device
    parts: dict[str, list[Tensor]] = {"avepool": [], "bn_crelu": [], "z_mean": []}
    for chunk in torch.from_numpy(pixels).split(batch_size):
        x = to_float(chunk.to(device)).contiguous(memory_format=torch.channels_last)
        q, avepool, bn_crelu = encoder.all_outputs(x)
        for name, value in (("avepool", avepool), ("bn_crelu", bn_crelu), ("z_mean", q.mean)):
            parts[name].append(value.cpu())
    return {name: torch.cat(values).numpy() for name, values in parts.items()}


def pixel_features(pixels: np.ndarray) -> np.ndarray:
    """Raw pixels as features: float32 [N, C·R·R] in [0, 1]."""
    return pixels.reshape(len(pixels), -1).astype(np.float32) / 255


def fill_statistics(encoder: Encoder, pixels: np.ndarray, seed: int, batches: int = 16, size: int = 256) -> None:
    """Standing statistics for an encoder outside a run, such as an untrained one; from images, without labels."""
    noise = keyed_generator(seed, "standing")
    device = next(encoder.parameters()).device

    def run() -> object:
        picks = torch.randint(len(pixels), (size,), generator=noise)
        return encoder.all_outputs(to_float(torch.from_numpy(pixels)[picks].to(device)))

    standing_statistics(encoder, encoder, (run for _ in range(batches)))


@contextmanager
def unchanged(network: nn.Module) -> Iterator[None]:
    """Raises AssertionError on leaving when any weight or buffer of `network` is not what it was on entering."""
    before = _digest(network)
    yield
    if _digest(network) != before:
        raise AssertionError("the encoder changed while it was being evaluated")


def _digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
