"""Features of whole image sets, and the proof that measuring them changed nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbigan.averaging import standing_statistics
from bigbigan.data.batches import to_float
from bigbigan.models.encoder import Encoder
from bigbigan.randomness import keyed_generator

__all__ = ["digest", "encoder_features", "fill_statistics", "pixel_features", "unchanged"]

PIXELS_SIDE = 64


@torch.no_grad()
def encoder_features(
    encoder: Any, pixels: np.ndarray, batch_size: int = 500, mirrored: bool = False
) -> dict[str, np.ndarray]:
    """AvePool, BN+CReLU and z_mean of uint8 images [N, C, R, R], or of their mirror images; each float32 [N, d].

    `encoder` has `features`, `bn_crelu` and, if it has latents, `posterior`.
    """
    device = encoder.device if hasattr(encoder, "device") else next(encoder.parameters()).device
    parts: dict[str, list[Tensor]] = {}
    for chunk in torch.from_numpy(pixels).split(batch_size):
        x = to_float(chunk.to(device)).contiguous(memory_format=torch.channels_last)
        for name, value in outputs(encoder, x.flip(3) if mirrored else x).items():
            parts.setdefault(name, []).append(value.cpu())
    return {name: torch.cat(values).numpy() for name, values in parts.items()}


def outputs(encoder: Any, x: Tensor) -> dict[str, Tensor]:
    """What `encoder_features` gives, of images float [N, C, R, R] in [-1, 1]."""
    avepool = encoder.features(x)
    out = {"avepool": avepool, "bn_crelu": encoder.bn_crelu(avepool)}
    return out | {"z_mean": encoder.posterior(avepool).mean} if hasattr(encoder, "posterior") else out


def pixel_features(pixels: np.ndarray, mirrored: bool = False) -> np.ndarray:
    """Raw pixels as features: float32 [N, C·R·R] in [0, 1]; images of more than 64 px averaged down to 64."""
    x = pixels[..., ::-1] if mirrored else pixels
    if x.shape[-1] > PIXELS_SIDE:
        chunks = torch.from_numpy(np.ascontiguousarray(x)).split(500)
        x = torch.cat([F.adaptive_avg_pool2d(c.float(), PIXELS_SIDE) for c in chunks]).numpy()
    return x.reshape(len(x), -1).astype(np.float32) / 255


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
    before = digest(network)
    yield
    if digest(network) != before:
        raise AssertionError("the encoder changed while it was being evaluated")


def digest(network: nn.Module) -> str:
    """SHA-256 of all weights and buffers, hex."""
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
