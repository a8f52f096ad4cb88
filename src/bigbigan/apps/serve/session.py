"""Answer what the page asks of a model: samples, reconstructions, neighbours, classes. Needs no gradio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bigbigan.apps.visualize import REFERENCES, pixel_error, shown_split, spread
from bigbigan.data import DecodeLimits, ImageSet, Unreadable
from bigbigan.data.image_set import FileStore, fraction_of
from bigbigan.data.loading import center_crop, read_noted
from bigbigan.data.names import shown
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features
from bigbigan.evaluation.probes.knn import nearest
from bigbigan.image import pool_to
from bigbigan.image.crop_sizes import viewed_side
from bigbigan.image.grid import grid
from bigbigan.inference.head import Head
from bigbigan.inference.loading import class_names, load
from bigbigan.io import regular_bytes
from bigbigan.training.devices import default_device
from bigbigan.training.run_folder import limits_of, open_data

__all__ = ["LIMITS", "MAX_INTERPOLATION", "MAX_SAMPLES", "MAX_STEPS", "NEIGHBOURS", "Reconstruction", "ServedModel"]

LIMITS = DecodeLimits(max_bytes=16 * 2**20)  # of an uploaded image
SIDE = 192  # minimum side of an image on the page, in pixels
EXAMPLES = 12  # example images on the page
NEIGHBOURS = 8
MAX_SAMPLES, MAX_STEPS, MAX_INTERPOLATION = 100, 1_000, 16  # of one request


class Reconstruction(NamedTuple):
    """Hold an image that G made from x, and its distance from x: ‖x − x̂‖₂, pixels in [0, 1]."""

    picture: Image.Image
    error: float


class ServedModel:
    """Hold a model, example images, and what a visitor may ask of them, one request at a time.

    Args:
        run: see `bigbigan.load`.
        data: source of the examples and of the neighbours; by default the run's own, if it still exists.
        labels: file of their labels, in place of the source's own.
        progress: whether to show a progress bar for reading the training images.
        checkpoint: of a run, "newest", "best" or a step.
        head: file of a saved head that classifies images; by default the one in an exported model.

    Attributes:
        examples: uint8 [N, C, R, R] as E sees them; empty without an encoder or a source.
        missing: why there are no examples and neighbours, or "".

    Raises:
        UserError: no such run, a head of another encoder, or the given source cannot be used.
    """

    def __init__(
        self,
        run: Path,
        data: str | None = None,
        labels: str | None = None,
        progress: bool = False,
        checkpoint: str = "newest",
        head: Path | None = None,
    ) -> None:
        self.model = load(run, checkpoint, default_device())
        if head is not None:
            self.model.head = Head.load(head)
            self.model.head.check(self.model.encoder, run, head)
        _ = self.model.generator  # the page shows images of G: raises if there is none
        c = self.model.config
        self.classes = class_names(run, c)
        self.examples = np.empty((0, c.data.channels, c.encoder.resolution, c.encoder.resolution), np.uint8)
        self.missing, self._known = "", None
        kept = self.model.head
        own = None if kept is None else kept.preprocessing.pads  # as the images that the head was trained on
        self._pads = own or c.data.pad == "always"
        if not self.encodes:
            if data or labels:
                raise UserError("--data and --labels: this model has no encoder for images")
            return
        try:
            source = open_data(run, data, labels, c)
        except UserError as error:
            if data or labels:
                raise
            self.missing = str(error)
            return
        if data is None:  # of its own images, those that the run was trained on
            source.splits["train"] = fraction_of(source.splits["train"], c.data.fraction)
        train = source.splits["train"]
        self._pads = train.store.pads if own is None else own
        self.examples, _ = spread(self.model, source, shown_split(source), EXAMPLES)
        self._references, self._known = spread(self.model, source, train, REFERENCES, progress)
        self._features = self._features_of(self._references)

    @property
    def encodes(self) -> bool:
        """Whether there is an encoder."""
        return self.model.networks.E is not None

    @property
    def classifies(self) -> bool:
        """Whether there is a saved head."""
        return self.model.head is not None

    @property
    def finds_neighbours(self) -> bool:
        """Whether there are training images to search."""
        return self._known is not None

    def read(self, path: str | Path) -> np.ndarray:
        """Read an image file as E sees it, uint8 [C, R, R], with the decoder of training images.

        Raises:
            UserError: it is not an image, damaged, or larger than `LIMITS`.
        """
        path, c = Path(path), self.model.config
        limits = replace(limits_of(c), max_bytes=LIMITS.max_bytes)
        store = FileStore([path.name], [_content(path)], lambda content: content, limits)
        store.pads = self._pads  # so that MNIST's 28 px are padded as in training
        images = ImageSet("upload", [path.name], None, None, store, np.arange(1))
        side = viewed_side(c.encoder.resolution, c.data.augment, store.pads)
        try:
            return center_crop(read_noted(images, 0, side, c.data.channels)[0], c.encoder.resolution).copy()
        except Unreadable as error:
            raise UserError(f"{shown(path.name)} cannot be used: {error}") from None

    def samples(self, count: int, truncation: float, seed: int, label: int | None = None) -> Image.Image:
        """Return a grid of `count` samples; see `Model.generate`."""
        _check_range("images", count, 1, MAX_SAMPLES)
        return _picture(self.model.generate(count, truncation, seed, label), side=SIDE if count <= 16 else SIDE // 2)

    def view(self, image: np.ndarray) -> Image.Image:
        """Return an image, uint8 [C, R, R], as a picture."""
        return _picture(self._x(image))

    def reconstruct(self, image: np.ndarray) -> Reconstruction:
        """Return G(E(x))."""
        return self._reconstruction(image, self.model.reconstruct(self._x(image)))

    def refine(
        self, image: np.ndarray, steps: int, after_step: Callable[[int], object] | None = None
    ) -> Reconstruction:
        """Return G(z), z optimised for `steps` steps from E(x); `after_step` is called with the number of each."""
        _check_range("steps", steps, 1, MAX_STEPS)
        z = self.model.refine(self._x(image), steps, after_step=after_step).z
        return self._reconstruction(image, self.model.generate(z))

    def neighbours(self, image: np.ndarray, count: int = NEIGHBOURS) -> list[tuple[Image.Image, str]]:
        """Return the nearest training images, nearest first, each with its distance and its class or file name.

        The distance is 1 − the cosine of BN+CReLU features: 0 is equal, 1 unrelated.
        """
        close, places = nearest(self._features_of(image[None]), self._features, count, "cosine")
        return [
            (self.view(self._references[i]), f"{max(0.0, 1 - s):.3f} {self._name(i)}")
            for i, s in zip(places[0].tolist(), close[0].tolist(), strict=True)
        ]

    def classify(self, image: np.ndarray) -> tuple[dict[str, float], str]:
        """Return the probability of each class by the saved head, and a warning if the image is unusual, or ""."""
        found = self.model.predict(self._x(image))
        probabilities = dict(zip(map(shown, found.classes), found.probabilities[0].tolist(), strict=True))
        unlike = "This image is unlike the training images: do not rely on its class."
        return probabilities, unlike if found.unlike_training[0] else ""

    def interpolate(self, image: np.ndarray, other: np.ndarray, steps: int) -> Image.Image:
        """Return a strip: the image, `steps` images interpolated between the two encodings, the other image."""
        _check_range("steps", steps, 2, MAX_INTERPOLATION)
        between = self.model.interpolate(self._x(image), self._x(other), steps)[0]
        return _picture(torch.cat([self._target(image), between, self._target(other)]), columns=steps + 2)

    def _name(self, i: int) -> str:
        known = self._known
        assert known is not None
        return known.class_name(i) or shown(Path(known.files[i]).name)

    def _features_of(self, pixels: np.ndarray) -> Tensor:
        return torch.from_numpy(encoder_features(self.model.encoder, pixels, ["bn_crelu"])["bn_crelu"])

    def _x(self, image: np.ndarray) -> Tensor:
        """Return x as E takes it, [1, C, R, R]."""
        return self.model.prepare(torch.from_numpy(image)[None])

    def _target(self, image: np.ndarray) -> Tensor:
        """Return x at the size of G's images."""
        return pool_to(self._x(image), self.model.config.generator.resolution)

    def _reconstruction(self, image: np.ndarray, x_hat: Tensor) -> Reconstruction:
        return Reconstruction(_picture(x_hat), pixel_error(self._target(image), x_hat))


def _content(path: Path) -> bytes | Unreadable:
    try:
        return regular_bytes(path, LIMITS.max_bytes)
    except (OSError, ValueError) as error:
        return Unreadable(getattr(error, "strerror", None) or str(error))


def _picture(images: Tensor, columns: int | None = None, side: int = SIDE) -> Image.Image:
    return grid(images, columns, gap=4, min_side=side)


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UserError(f"{name}: {value}; expected {low} to {high}")
