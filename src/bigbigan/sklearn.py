"""Use a run's encoder as a scikit-learn transformer from images to features, in pipelines and cross-validation.

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

model = make_pipeline(BigBiGANFeatures("runs/cells"), LogisticRegression(max_iter=1000))
model.fit(paths, labels)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.base import BaseEstimator, TransformerMixin
from torch import Tensor

from bigbigan.data import DecodeLimits, ImageSet, Source, load_view
from bigbigan.data.decode import decode_pillow
from bigbigan.data.image_set import ArrayStore, FileStore
from bigbigan.data.loading import REMEDY
from bigbigan.data.names import shown
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features
from bigbigan.inference.loading import load
from bigbigan.inference.model import Model
from bigbigan.training.devices import default_device

__all__ = ["BigBiGANFeatures"]

FEATURES = {"avepool_feat": "avepool", "bn_crelu_feat": "bn_crelu", "z_mean": "z_mean"}


class BigBiGANFeatures(TransformerMixin, BaseEstimator):
    """Features of images from the encoder of a run. `fit` trains nothing: it loads the encoder.

    X is a sequence of paths or of PIL images, or a data frame with one column of them; or an array, uint8 [N, H, W] or
    [N, H, W, C], or a tensor or float array [N, C, H, W] in [-1, 1] (tensors may be uint8 too). Files and PIL images
    are decoded as in training, with EXIF rotation, palettes, 16 bits and transparency (`bigbigan.data.decode`).

    Args:
        run: run folder.
        features: "bn_crelu_feat" (the paper's for linear classification), "avepool_feat" or "z_mean".
        checkpoint: "newest", or "best" by the validation metric.
        batch_size: images at a time.
        device: "cpu", "cuda", ...; by default a GPU if there is one.

    After `set_params`, settings other than `batch_size` take effect at the next `fit`.

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
    ) -> None:
        self.run = run
        self.features = features
        self.checkpoint = checkpoint
        self.batch_size = batch_size
        self.device = device

    def fit(self, X: Any = None, y: Any = None) -> BigBiGANFeatures:
        """Load the encoder. X and y are ignored."""
        if self.features not in FEATURES:
            raise UserError(f"features is {self.features}; expected one of {', '.join(FEATURES)}")
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}; expected a whole number, at least 1")
        device = self.device or default_device()
        self.model_: Model = load(Path(self.run), self.checkpoint, device)
        if self.features == "z_mean" and not self.model_.config.has_generator:
            raise UserError("features is z_mean; this encoder was trained by pretext tasks and has no latents")
        self.features_ = self.features
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
        pixels = self._pixels(X)
        if not len(pixels):
            return np.empty((0, self.n_features_out_), dtype=np.float32)
        name = FEATURES[self.features_]
        return encoder_features(self.model_.encoder, pixels, [name], batch_size=self.batch_size)[name]

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return names such as bn_crelu_feat_0, as in the files that `bigbigan encode` writes."""
        if not hasattr(self, "model_"):
            self.fit()
        return np.array([f"{self.features_}_{i}" for i in range(self.n_features_out_)], dtype=object)

    def _pixels(self, X: Any) -> np.ndarray:
        """Return X as the input of the encoder: uint8 [N, C, R, R]."""
        c = self.model_.config
        if isinstance(X, Tensor) or (isinstance(X, np.ndarray) and X.dtype.kind == "f"):
            x = self.model_.prepare(X).cpu()
            return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
        if isinstance(X, np.ndarray) and X.dtype == np.uint8:
            if X.ndim not in (3, 4) or (X.ndim == 4 and X.shape[3] not in (1, 3)):
                raise UserError(
                    f"an array of shape {list(X.shape)}; expected uint8 [N, H, W], [N, H, W, 1] or [N, H, W, 3]"
                )
            rows = X if X.ndim == 4 else X[..., None]
            images = _image_set([str(i) for i in range(len(rows))], ArrayStore(rows))
        else:
            images = _files(_items(X), DecodeLimits(max_pixels=c.data.max_pixels))
        if not len(images):
            return np.empty((0, c.data.channels, c.encoder.resolution, c.encoder.resolution), dtype=np.uint8)
        strict = Source("X", "X", {}, max_unreadable=0.0)  # every image must have its row
        try:
            return load_view(images, c.encoder.resolution, c.data.channels, c.data.augment, strict)[0]
        except UserError as error:
            raise UserError(f"{str(error).removesuffix(f'; {REMEDY}')}; every image of X must have its row") from None

    def __getstate__(self) -> dict[str, Any]:
        # Copies and workers load the model from the run folder themselves.
        state: dict[str, Any] = super().__getstate__()
        return {k: v for k, v in state.items() if k != "model_"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags


def _items(X: Any) -> list[Any]:
    """Return the paths or images of X, one for each row."""
    if hasattr(X, "iloc") and hasattr(X, "columns"):
        if len(X.columns) != 1:
            columns = ", ".join(shown(c) for c in X.columns[:5])
            raise UserError(
                f"X is a data frame with the columns {columns}; expected its column of paths, such as X['file']"
            )
        return list(X.iloc[:, 0])
    if isinstance(X, np.ndarray) and X.dtype.kind in "OUS" and X.ndim == 2 and X.shape[1] == 1:
        return list(X[:, 0])
    if isinstance(X, str | bytes | PathLike | Image.Image | dict) or not isinstance(X, Iterable):
        kind = "one path" if isinstance(X, str | PathLike) else f"a {type(X).__name__}"
        raise UserError(f"X is {kind}; expected a list of paths or of PIL images, or one array of all images")
    return list(X)


class _FilesAndImages(FileStore):
    """Image files by their paths, and PIL images."""

    def get(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
        handle = self.handles[i]
        return decode_pillow(handle, self.limits) if isinstance(handle, Image.Image) else super().get(i)


def _files(items: Sequence[Any], limits: DecodeLimits) -> ImageSet:
    names: list[str] = []
    handles: list[Image.Image | Path] = []
    for i, item in enumerate(items):
        if isinstance(item, Image.Image):
            names.append(f"image {i}")
            handles.append(item)
        elif isinstance(item, str | PathLike):
            names.append(str(item))
            handles.append(Path(item))
        else:
            raise UserError(
                f"X has a {type(item).__name__} at place {i}; expected paths, PIL images, or one array of all images"
            )
    return _image_set(names, _FilesAndImages(names, handles, Path.read_bytes, limits))


def _image_set(names: list[str], store: ArrayStore | FileStore) -> ImageSet:
    return ImageSet("X", names, None, None, store, np.arange(len(names)))
