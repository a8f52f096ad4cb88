"""Use a run's encoder as a scikit-learn transformer from images to features, in pipelines and cross-validation.

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

model = make_pipeline(BigBiGANFeatures("runs/cells"), LogisticRegression(max_iter=1000))
model.fit(paths, labels)
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from torch import Tensor

from bigbigan.errors import UserError
from bigbigan.evaluation.features import digest, encoder_features
from bigbigan.image import to_nearest_uint8
from bigbigan.inference.arguments import check_at_least
from bigbigan.inference.inputs import items_of, load_items
from bigbigan.inference.loading import load
from bigbigan.inference.model import Model
from bigbigan.training.devices import default_device

__all__ = ["CACHE", "CACHE_MIB", "BigBiGANFeatures"]

FEATURES = {"avepool_feat": "avepool", "bn_crelu_feat": "bn_crelu", "z_mean": "z_mean"}
CACHE_MIB = 512


class _Cache:
    """Hold the most recently used rows of features, up to `CACHE_MIB`."""

    def __init__(self) -> None:
        self._rows: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, keys: Iterable[bytes]) -> dict[bytes, np.ndarray]:
        """Return the rows of the keys that are cached."""
        with self._lock:
            found = {key: self._rows[key] for key in keys if key in self._rows}
            for key in found:
                self._rows.move_to_end(key)
            return found

    def add(self, rows: dict[bytes, np.ndarray]) -> None:
        """Add rows, and remove those that were not used for longest if there are too many."""
        with self._lock:
            for key, row in rows.items():
                if key not in self._rows:
                    self._rows[key] = row.copy()
                    self._bytes += row.nbytes
            while self._bytes > CACHE_MIB * 2**20:
                self._bytes -= self._rows.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Remove all rows."""
        with self._lock:
            self._rows.clear()
            self._bytes = 0


CACHE = _Cache()


def _key(image: str | np.ndarray) -> bytes:
    """Return what identifies an image: its pixels; of a path, the path with the time and size of the file."""
    if isinstance(image, np.ndarray):
        return image.tobytes()
    try:
        status = os.stat(image)
    except OSError:  # missing, or a frame of a file: the time is that of the file
        try:
            status = os.stat(image.rpartition("#")[0])
        except OSError:
            return image.encode("utf-8", "surrogateescape")
    name = os.path.abspath(image).encode("utf-8", "surrogateescape")
    return name + f"\0{status.st_mtime_ns} {status.st_size}".encode()


class BigBiGANFeatures(TransformerMixin, BaseEstimator):
    """Features of images from the encoder of a run. `fit` trains nothing: it loads the encoder.

    X is a sequence of paths or of PIL images, or a data frame with one column of them; or an array, uint8 [N, H, W] or
    [N, H, W, C], or a tensor or float array [N, C, H, W] (tensors may be uint8 too). Arrays of more than 8 bits, such
    as uint16, are converted by `data.window` or, if it is given, by `value_range`. Files and PIL images are decoded as
    in training, with EXIF rotation, palettes, 16 bits and transparency (`bigbigan.data.decode`).

    Args:
        run: run folder.
        features: "bn_crelu_feat" (the paper's for linear classification), "avepool_feat" or "z_mean".
        checkpoint: "newest", or "best" by the validation metric.
        batch_size: images at a time.
        device: "cpu", "cuda", ...; by default a GPU if there is one.
        value_range: black and white of float images, such as (0, 1), and of arrays of more than 8 bits.

    Features are cached in memory, so cross-validation encodes each image once. The key of a row is the weights of the
    encoder, with the path, time and size of a file or else with the pixels. All transformers of a process share the
    cache, which holds at most `CACHE_MIB`; with `n_jobs`, each process has its own.

    After `set_params`, settings other than `batch_size` and `value_range` take effect at the next `fit`.

    Raises:
        UserError: in `fit` or `transform`: no such run, unknown features, images that cannot be read.
    """

    def __init__(
        self,
        run: str | PathLike[str],
        features: str = "bn_crelu_feat",
        checkpoint: str = "newest",
        batch_size: int = 256,
        device: str | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self.run = run
        self.features = features
        self.checkpoint = checkpoint
        self.batch_size = batch_size
        self.device = device
        self.value_range = value_range

    def fit(self, X: Any = None, y: Any = None) -> BigBiGANFeatures:
        """Load the encoder. X and y are ignored."""
        if self.features not in FEATURES:
            raise UserError(f"features is {self.features}; expected one of {', '.join(FEATURES)}")
        check_at_least(1, batch_size=self.batch_size)
        device = self.device or default_device()
        self.model_: Model = load(Path(self.run), self.checkpoint, device)
        if self.features == "z_mean" and not self.model_.config.has_generator:
            raise UserError("features is z_mean; this encoder was trained by pretext tasks and has no latents")
        self.features_ = self.features
        c = self.model_.config
        view = [c.encoder.resolution, asdict(c.data), self.features, str(device)]
        self._encoder_key = f"{digest(self.model_.encoder)} {json.dumps(view)}".encode()
        self.n_features_out_ = {
            "avepool_feat": self.model_.encoder.num_features,
            "bn_crelu_feat": 2 * self.model_.encoder.num_features,
            "z_mean": self.model_.config.latent.dim,
        }[self.features]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return features float32 [N, d], a row for each image, in the order of X."""
        if not hasattr(self, "model_"):
            self.fit()
        given = self._read(X)
        if not len(given):
            return np.empty((0, self.n_features_out_), dtype=np.float32)
        keys = [blake2b(self._encoder_key + key, digest_size=20).digest() for key in map(_key, given)]
        rows = CACHE.get(keys)
        missing = list({key: i for i, key in enumerate(keys) if key not in rows}.values())
        if missing:
            pixels = given[missing] if isinstance(given, np.ndarray) else self._pixels([given[i] for i in missing])
            name = FEATURES[self.features_]
            found = encoder_features(self.model_.encoder, pixels, [name], batch_size=self.batch_size)[name]
            rows |= {keys[i]: row for i, row in zip(missing, found, strict=True)}
            CACHE.add({keys[i]: rows[keys[i]] for i in missing})
        return np.stack([rows[key] for key in keys])

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return names such as bn_crelu_feat_0, as in the files that `bigbigan encode` writes."""
        if not hasattr(self, "model_"):
            self.fit()
        return np.array([f"{self.features_}_{i}" for i in range(self.n_features_out_)], dtype=object)

    def _read(self, X: Any) -> np.ndarray | list[str]:
        """Return X as a list, if all of it are paths, or else as the input of the encoder: uint8 [N, C, R, R]."""
        if isinstance(X, np.ndarray) and X.dtype == np.uint8:
            if X.ndim not in (3, 4) or (X.ndim == 4 and X.shape[3] not in (1, 3)):
                raise UserError(
                    f"an array of shape {list(X.shape)}; expected uint8 [N, H, W], [N, H, W, 1] or [N, H, W, 3]"
                )
            X = np.moveaxis(X if X.ndim == 4 else X[..., None], 3, 1)
        elif isinstance(X, np.ndarray) and X.dtype.kind in "iu" and X.ndim == 3:
            X = X[:, None]
        if isinstance(X, Tensor) or (isinstance(X, np.ndarray) and X.dtype.kind in "fiu"):
            return to_nearest_uint8(self.model_.prepare(X, self.value_range).cpu()).numpy()
        items = items_of(X, "X")
        if all(isinstance(item, str | PathLike) for item in items):
            return [str(item) for item in items]
        return self._pixels(items)

    def _pixels(self, items: list[Any]) -> np.ndarray:
        return load_items(items, self.model_.config, "X")

    def __getstate__(self) -> dict[str, Any]:
        # Copies and workers load the model from the run folder themselves.
        state: dict[str, Any] = super().__getstate__()
        return {k: v for k, v in state.items() if k not in ("model_", "_encoder_key")}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags
