"""Compute features of whole image sets, and the digest of a network's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import eigh
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from bigbigan.compute import encoder_batch_size
from bigbigan.errors import UserError
from bigbigan.image import to_float
from bigbigan.models.batch_norm import standing_statistics
from bigbigan.randomness import keyed_generator

__all__ = [
    "PCAPixels",
    "Pixels",
    "digest",
    "encoder_features",
    "fill_statistics",
    "outputs",
    "pca_pixels",
    "pixel_features",
]

PIXELS_SIDE = 64
PCA_VARIANCE = 0.8  # share of the variance that the components carry
PCA_COMPONENTS = 256  # maximum
FEW_COMPONENTS = 64
DENSE = 2_000  # rows of a matrix up to which all its eigenvectors are computed together
PCA_IMAGES = 5_000  # maximum number of images that the components are computed from
MAX_LAYER_SIZE = 9_216  # maximum length of the features of a layer; AlexNet's own pool5 has as many
DEFAULT_FEATURES = ("avepool", "bn_crelu")


class Pixels(Protocol):
    """Give uint8 images [N, C, R, R] by index, from an array or decoded when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: np.ndarray, /) -> np.ndarray: ...


@torch.no_grad()
def encoder_features(
    encoder: Any,
    pixels: np.ndarray,
    names: Sequence[str] = DEFAULT_FEATURES,
    *,
    batch_size: int | None = None,
    mirrored: bool = False,
) -> dict[str, np.ndarray]:
    """Return the features of images by name, each float32 [N, d]; see `outputs` for the names.

    Args:
        encoder: an encoder with the methods that `outputs` calls.
        pixels: uint8 [N, C, R, R].
        names: features to compute.
        batch_size: images in one pass (default: see `bigbigan.compute.encoder_batch_size`).
        mirrored: whether to mirror the images left to right first.

    Raises:
        UserError: features that are not finite.
    """
    device = encoder.device if hasattr(encoder, "device") else next(encoder.parameters()).device
    batch_size = batch_size or encoder_batch_size(pixels.shape[-1], torch.device(device).type)
    parts: dict[str, list[Tensor]] = {}
    for chunk in torch.from_numpy(pixels).split(batch_size):
        x = to_float(chunk.to(device)).contiguous(memory_format=torch.channels_last)
        for name, value in outputs(encoder, x.flip(3) if mirrored else x, names).items():
            parts.setdefault(name, []).append(value.cpu())
    features = {name: torch.cat(values).numpy() for name, values in parts.items()}
    for values in features.values():
        check_finite(values)
    return features


def check_finite(features: np.ndarray) -> None:
    """Raise UserError if features [N, d] are not finite: no probe can use them."""
    if count := int((~np.isfinite(features)).any(1).sum()):
        raise UserError(
            f"{count:,} of {len(features):,} images have features that are not finite numbers: the encoder has "
            "diverged; use an earlier checkpoint, or train with a lower rate"
        )


def outputs(encoder: Any, x: Tensor, names: Sequence[str] = DEFAULT_FEATURES) -> dict[str, Tensor]:
    """Return the features of images, float [N, C, R, R] in [-1, 1], by name, each [N, d].

    avepool         the output of E's trunk; the last hidden layer of BiGAN's E
    bn_crelu        batch norm and CReLU of avepool, Section 3.2
    z_mean          E(x)
    conv1 .. conv5  the layers of an AlexNet trunk, pooled to at most 9,216 numbers
    discriminator   the layer before the score, if `encoder` is a D
    """
    layers = [name for name in names if name.startswith("conv")]
    maps = encoder.trunk.maps(x) if layers else []
    out = {name: _pooled(maps[int(name.removeprefix("conv")) - 1]) for name in layers}
    if len(layers) == len(names):
        return out
    features = encoder.features(x)
    known: dict[str, Callable[[], Tensor]] = {
        "avepool": lambda: features,
        "discriminator": lambda: features,
        "bn_crelu": lambda: encoder.bn_crelu(features),
        "z_mean": lambda: encoder.posterior(features).mean,
    }
    return out | {name: known[name]() for name in names if name in known}


def _pooled(maps: Tensor) -> Tensor:
    """Average maps [N, C, H, W] over the finest even grid that gives no more than MAX_LAYER_SIZE numbers."""
    side = min(maps.shape[-1], int((MAX_LAYER_SIZE / maps.shape[1]) ** 0.5))
    return F.adaptive_avg_pool2d(maps, side).flatten(1)


def pixel_features(pixels: np.ndarray, mirrored: bool = False) -> np.ndarray:
    """Return raw pixels as features, float32 [N, C·R·R] in [0, 1]. Images above 64 px are averaged down to 64."""
    x = pixels[..., ::-1] if mirrored else pixels
    if x.shape[-1] > PIXELS_SIDE:
        chunks = torch.from_numpy(np.ascontiguousarray(x)).split(500)
        x = torch.cat([F.adaptive_avg_pool2d(c.float(), PIXELS_SIDE) for c in chunks]).numpy()
    return x.reshape(len(x), -1).astype(np.float32) / 255


@dataclass(frozen=True)
class PCAPixels:
    """Project pixels on principal components, each scaled to variance 1.

    Attributes:
        center: mean of `pixel_features`, float64 [d].
        components: directions divided by their standard deviations, float64 [k, d].
    """

    center: np.ndarray
    components: np.ndarray

    def __call__(self, pixels: np.ndarray, mirrored: bool = False) -> np.ndarray:
        """Return features, float32 [N, k], of uint8 images [N, C, R, R], or of their mirror images."""
        chunks = np.split(pixels, range(1_000, len(pixels), 1_000))
        parts = [(pixel_features(chunk, mirrored) - self.center) @ self.components.T for chunk in chunks]
        return np.concatenate(parts).astype(np.float32)


def pca_pixels(pixels: np.ndarray) -> PCAPixels:
    """Compute the principal components of unlabelled images, uint8 [N, C, R, R].

    If there are more than 5,000 images, 5,000 are drawn by a fixed seed. The components are the fewest that carry 80 %
    of the variance, 256 at most. Whitening gives each component the same weight, so more components make few labels
    less useful: those of little variance are mostly noise.
    """
    if len(pixels) > PCA_IMAGES:
        pixels = pixels[np.random.default_rng(0).permutation(len(pixels))[:PCA_IMAGES]]
    x = pixel_features(pixels).astype(np.float64)
    mean = x.mean(0)
    x -= mean
    n, d = x.shape
    square = x @ x.T if n < d else x.T @ x
    maximum = min(PCA_COMPONENTS, len(square))
    total = float(np.trace(square))
    spread, vectors = _leading(square, maximum, PCA_VARIANCE * total)
    count = min(int(np.searchsorted(spread.cumsum(), PCA_VARIANCE * total)) + 1, maximum)
    spread, vectors = np.maximum(spread[:count], 1e-12 * total + 1e-300), vectors[:, :count]
    directions = (vectors / np.sqrt(spread)).T @ x if n < d else vectors.T
    largest = directions[np.arange(count), np.abs(directions).argmax(1)]
    directions *= np.sign(largest + (largest == 0))[:, None]  # a sign that does not depend on the algorithm
    return PCAPixels(mean, directions * np.sqrt(n / spread)[:, None])


def _leading(square: np.ndarray, maximum: int, enough: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest eigenvalues of a symmetric matrix and their vectors, in falling order.

    They are as many as have the sum `enough`, or more; `maximum` at most.
    """
    n = len(square)
    if n <= DENSE:
        spread, vectors = eigh(square, subset_by_index=(n - maximum, n - 1))
        return spread[::-1], vectors[:, ::-1]
    for count in (FEW_COMPONENTS, maximum):  # a few are found several times as fast, and mostly enough
        spread, vectors = eigsh(square, count, v0=np.random.default_rng(0).normal(size=n), tol=1e-9)
        if spread.sum() >= enough:
            break
    order = np.argsort(-spread)
    return spread[order], vectors[:, order]


def fill_statistics(
    network: nn.Module, through: Callable[[Tensor], object], pixels: Pixels, seed: int, batches: int = 16
) -> None:
    """Fill the batch norm statistics of a network outside a run, such as an untrained one, from unlabelled images.

    Args:
        network: the network whose batch norms are filled.
        through: passes images, float [256, C, R, R] in [-1, 1], through the network.
        pixels: uint8 [N, C, R, R], or what decodes images by index.
        seed: chooses the images.
        batches: number of batches of 256 images; fewer if they would show each image more than about four times.
    """
    batches = min(batches, -(-4 * len(pixels) // 256))
    noise = keyed_generator(seed, "standing")
    device = next(network.parameters()).device

    def run() -> object:
        picks = torch.randint(len(pixels), (256,), generator=noise)
        x = to_float(torch.from_numpy(pixels[picks.numpy()]).to(device))
        return through(x.contiguous(memory_format=torch.channels_last))  # faster on a CPU

    standing_statistics(network, network, (run for _ in range(batches)))


def digest(network: nn.Module) -> str:
    """Return the SHA-256 of all weights and buffers, in hexadecimal digits."""
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
