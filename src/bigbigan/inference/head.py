"""Keep a linear classifier of a run's encoder: its head, a file that `classify --save` writes and `predict` reads.

A head is one safetensors file with the tensors `weight`, `bias` and `references`, and JSON with a checksum, as in other
files of a run, under "head" in its metadata. Nothing in it can execute code. It belongs to one encoder, whose weights
it knows by their digest.

Confidence is the softmax of the logits at a temperature fitted on labelled images that the classifier had not seen (Guo
et al. 2017, https://arxiv.org/abs/1706.04599). An image is unlike the training images if its mean distance to the five
nearest of them is larger than that of 99 % of the labelled images to the other ones. Distance is 1 − the cosine of
AvePool features.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbigan.errors import UserError
from bigbigan.io import checked, parse_json, stamped, unstamped, warn_of_change
from bigbigan.io.tensors import check_tensors, digest_of, read_tensors, save_tensors

__all__ = ["NEAREST", "Head", "Prediction", "Preprocessing", "distances", "mean_of_nearest"]

SCHEMA = 1
NEAREST = 5  # reference images whose distances are averaged
FEATURES = ("bn_crelu",)  # of `Model.encode`, by its names without _feat
FORM = {  # form of the JSON, see `bigbigan.io.checked`
    "schema": int,
    "classes": [str],
    "features": str,
    "preprocessing": {"resolution": int, "channels": int, "augment": str, "pads": bool},
    "strength": float,
    "temperature": float,
    "max_distance": (float, None),
    "images": int,
    "encoder": str,
    "experiment": str,
    "step": int,
}


@dataclass(frozen=True)
class Preprocessing:
    """Say how an image file becomes the input of E.

    Attributes:
        resolution: side R of the input, in pixels.
        channels: 1 (grey) or 3 (colour).
        augment: augmentation of training, which says how much of the image is seen (`image.crop_sizes.viewed_side`).
        pads: whether squares a little smaller than R are padded with zeros (`bigbigan.image.resize_square`).
    """

    resolution: int
    channels: int
    augment: str
    pads: bool


@dataclass
class Prediction:
    """Hold the predictions of a head for N images.

    Attributes:
        classes: the names of the K classes.
        probabilities: calibrated, float32 [N, K].
        distance: mean distance to the nearest training images, float32 [N], 0 to 2.
        unlike_training: whether that is larger than for nearly all training images, bool [N].
    """

    classes: tuple[str, ...]
    probabilities: Tensor
    distance: Tensor
    unlike_training: Tensor

    @property
    def names(self) -> list[str]:
        """The name of the most probable class of each image."""
        return [self.classes[k] for k in self.probabilities.argmax(1).tolist()]

    @property
    def confidence(self) -> Tensor:
        """The probability of that class, float32 [N]."""
        return self.probabilities.amax(1)


@dataclass(frozen=True, eq=False)
class Head:
    """Hold a linear classifier on the features of one encoder.

    Attributes:
        classes: names of the K classes.
        weight, bias: float32 [K, d] and [K].
        references: AvePool features of labelled training images, scaled to length 1, float16 [n, num_features].
        max_distance: mean distance to the nearest references from which an image is unlike the training images; None if
            there were too few images to choose it.
        temperature: that logits are divided by.
        strength: inverse L2 strength C of the logistic regression.
        features: of E that are classified: "bn_crelu".
        preprocessing: how image files become the input of E.
        images: number of labelled images it was trained on.
        encoder: digest of the weights of E.
        experiment, step: of the run that E is from.
    """

    classes: tuple[str, ...]
    weight: Tensor
    bias: Tensor
    references: Tensor
    max_distance: float | None
    temperature: float
    strength: float
    features: str
    preprocessing: Preprocessing
    images: int
    encoder: str
    experiment: str
    step: int

    @property
    def digest(self) -> str:
        """The first 12 digits of the SHA-256 of its tensors, which its file records; result lines name a head by it."""
        return digest_of({"weight": self.weight, "bias": self.bias, "references": self.references})[:12]

    def predict(self, features: Tensor, avepool: Tensor) -> Prediction:
        """Classify images by their features, float [N, d], and AvePool features [N, num_features], on any device."""
        probabilities, distance = self.network().to(features.device)(features, avepool)
        limit = math.inf if self.max_distance is None else self.max_distance
        return Prediction(self.classes, probabilities, distance, distance > limit)

    def network(self) -> HeadNetwork:
        """Return the head as a module, without class names."""
        return HeadNetwork(self)

    def check(self, E: nn.Module, run: object, name: object = "the saved head") -> None:
        """Raise UserError unless this head, called `name`, belongs to the encoder `E` of `run`."""
        if self.encoder != digest_of(E.state_dict()):
            raise UserError(
                f"{name} does not belong to the encoder of {run}: it was saved for {self.experiment} after "
                f"{self.step:,} steps; give that checkpoint, or save a new head: bigbigan classify RUN --save HEAD"
            )

    def save(self, path: Path) -> None:
        """Write the head to a file. Raises UserError or RunError if it cannot be written."""
        about = {"schema": SCHEMA, **{key: getattr(self, key) for key in FORM if key != "schema"}}
        about |= {"classes": list(self.classes), "preprocessing": asdict(self.preprocessing)}
        tensors = {"weight": self.weight, "bias": self.bias, "references": self.references}
        save_tensors(path, tensors, {"format": "pt", "head": json.dumps(stamped(about))}, digest=True)

    @classmethod
    def load(cls, path: str | Path) -> Head:
        """Read a head that `classify --save` wrote.

        Raises:
            UserError: the file is missing or damaged, or is no head of this version.
        """
        if not isinstance(path, str | os.PathLike):
            raise UserError(f"head is a {type(path).__name__}; expected the path of a saved head")
        path = Path(path)
        tensors, metadata = read_tensors(path)
        if not {"head", "sha256"} <= set(metadata):
            raise UserError(f"{path} is not a saved head; expected a file of: bigbigan classify RUN --save HEAD")
        try:
            about, changed = unstamped(parse_json(metadata["head"]))
            if (schema := checked(about, {"schema": int})["schema"]) != SCHEMA:
                raise UserError(f"{path} has schema {schema}, this version reads {SCHEMA}")
            about = checked(about, FORM)
            problem = _problem(about)
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); save it again: bigbigan classify RUN --save HEAD") from None
        if problem:
            raise UserError(f"{path} is damaged ({problem}); save it again: bigbigan classify RUN --save HEAD")
        if changed:
            warn_of_change(path)
        _check_shapes(tensors, len(about["classes"]), path)
        preprocessing = Preprocessing(**about.pop("preprocessing"))
        values: dict[str, Any] = {key: about[key] for key in FORM if key not in ("schema", "preprocessing", "classes")}
        values |= tensors
        return cls(classes=tuple(about["classes"]), preprocessing=preprocessing, **values)


class HeadNetwork(nn.Module):
    """Compute a head: features [N, d] and AvePool features to probabilities [N, K] and distances to the nearest [N]."""

    weight: Tensor
    bias: Tensor
    references: Tensor

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.register_buffer("weight", head.weight / head.temperature)
        self.register_buffer("bias", head.bias / head.temperature)
        self.register_buffer("references", head.references.float())

    def forward(self, features: Tensor, avepool: Tensor) -> tuple[Tensor, Tensor]:
        near = mean_of_nearest(distances(avepool, self.references))
        return F.linear(features, self.weight, self.bias).softmax(1), near


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Return 1 − the cosine [N, n] of vectors [N, d] and vectors of length 1 [n, d]."""
    return 1 - F.normalize(x, dim=1) @ y.T


def mean_of_nearest(found: Tensor) -> Tensor:
    """Return the mean [N] of the smallest distances of each row [N, n].

    These are five, or one fewer than there are references: each of these has that many others.
    """
    count = min(NEAREST, max(1, found.shape[1] - 1))
    return found.topk(count, dim=1, largest=False).values.mean(1)


def _problem(about: dict[str, Any]) -> str:
    """Return what is wrong with the values of a head's JSON, which has the right form; or ""."""
    if len(about["classes"]) < 2 or len(set(about["classes"])) < len(about["classes"]):
        return "classes are not two or more different names"
    if about["features"] not in FEATURES:
        return f"features are {about['features']!r}; expected {', '.join(FEATURES)}"
    if not 0 < about["temperature"] < math.inf:
        return f"temperature is {about['temperature']}; expected a number above 0"
    if about["max_distance"] is not None and not math.isfinite(about["max_distance"]):
        return f"max_distance is {about['max_distance']}; expected a number"
    return ""


def _check_shapes(tensors: dict[str, Tensor], classes: int, path: Path) -> None:
    """Raise UserError unless the tensors of a head have shapes that fit each other, and finite values."""
    ranks = {"weight": 2, "references": 2}
    for name, rank in ranks.items():
        if name not in tensors or tensors[name].ndim != rank or 0 in tensors[name].shape:
            raise UserError(f"{path} is damaged: it has no {name} with {rank} dimensions")
    d, n = tensors["weight"].shape[1], len(tensors["references"])
    expected = {
        "weight": torch.empty(classes, d, device="meta"),
        "bias": torch.empty(classes, device="meta"),
        "references": torch.empty(n, d // 2, dtype=torch.float16, device="meta"),  # CReLU doubles their number
    }
    check_tensors(tensors, expected, f"{path} is damaged")
