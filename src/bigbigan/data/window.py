"""Reduce pixels of more than 8 bits to 8: by a window of values, or by the range of their format.

A microscope's 12 bits in a 16-bit file fill a sixteenth of its range, and the upper 8 bits of such an image are black.
A window says which value becomes black and which white. It is the same for all images of a run, so brightness can be
compared between images.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Sampler", "ToBytes", "Window"]

ToBytes = Callable[[np.ndarray], np.ndarray]  # values of any range -> uint8 of the same shape


@dataclass(frozen=True)
class Window:
    """Map values linearly, so that `black` becomes 0 and `white` 255; values outside are clipped, NaN is black."""

    black: float
    white: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return uint8 values of the same shape."""
        precise: np.ndarray = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
        scaled = (precise - self.black) * (255 / (self.white - self.black))
        return np.rint(np.nan_to_num(np.clip(scaled, 0, 255))).astype(np.uint8)


class Sampler:
    """Collect a sample of the values of many images; in place of a `Window` while images are decoded.

    Args:
        per_image: how many values of each image are kept, drawn by a fixed seed; all of an image with fewer.
    """

    def __init__(self, per_image: int) -> None:
        self.per_image = per_image
        self.samples: list[np.ndarray] = []
        self._lock = threading.Lock()

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Keep a sample of the values; return a black image of their shape."""
        flat = values.reshape(-1)
        if len(flat) > self.per_image:
            flat = flat[np.random.default_rng(0).integers(len(flat), size=self.per_image)]
        finite = flat[np.isfinite(flat)].astype(np.float64)
        with self._lock:
            self.samples.append(finite)
        return np.zeros(values.shape, dtype=np.uint8)

    def percentiles(self, percentages: tuple[float, ...]) -> tuple[float, ...] | None:
        """Return percentiles of all values; None if there are none."""
        values = np.concatenate(self.samples) if self.samples else np.empty(0)
        return tuple(float(v) for v in np.percentile(values, percentages)) if len(values) else None
