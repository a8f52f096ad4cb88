"""Provide the feature extractors that FID, KID, precision, recall and Inception Score compare images by.

inception        the reference network of published values (bigbigan.evaluation.image_quality.inception)
encoder          the run's own averaged encoder, AvePool
mnist-cnn        small in-domain classifiers, trained by `bigbigan feature-extractor NAME --data SOURCE` and kept in the
cifar-resnet18   cache; for images that Inception was not trained for, and for machines without its weights

Values by different extractors do not compare: the extractor is part of a metric's name, and the digest of its weights
is part of the result line.
"""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbigan.compute import images_per_pass
from bigbigan.data import ImageSet, Source, Unreadable, fingerprint, quick_fingerprint
from bigbigan.data.held_out import has_labels
from bigbigan.data.readers.download import cache_folder
from bigbigan.data.sources import is_known
from bigbigan.errors import UserError
from bigbigan.evaluation.features import digest
from bigbigan.evaluation.image_quality.inception import inception_file, load_inception
from bigbigan.evaluation.records import Measurement, ResultLine, result_lines
from bigbigan.evaluation.splits import View, read_split, split_by_label
from bigbigan.image import resize, to_channels, to_float
from bigbigan.io import checked, parse_json
from bigbigan.io.tensors import check_tensors, read_tensors, save_tensors
from bigbigan.models.resnet import BasicBlock, ResNetV2
from bigbigan.progress import Bar
from bigbigan.randomness import keyed_generator

__all__ = [
    "CLASSIFIERS",
    "FeatureExtractor",
    "available_extractors",
    "classifier_file",
    "open_extractor",
    "train_classifier",
    "warn_of_other_images",
]


@dataclass(frozen=True)
class FeatureExtractor:
    """Wrap a network as the quality metrics use it.

    Attributes:
        name: part of the metric's name.
        digest: first 12 hex digits of the SHA-256 of its weights.
        outputs: maps uint8 images [N, C, R, R] to features [N, d] and class logits [N, K], or None without classes.
    """

    name: str
    digest: str
    outputs: Callable[[Tensor], tuple[Tensor, Tensor | None]]

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features [N, d] and logits [N, K] of any number of images, on the CPU."""
        parts = [self.outputs(chunk) for chunk in pixels.split(images_per_pass(250))]
        logits = [second.cpu() for _, second in parts if second is not None]
        return torch.cat([first.cpu() for first, _ in parts]), torch.cat(logits) if logits else None


class Classifier(nn.Module):
    """Classify images by a trunk with features [N, num_features] and a linear layer on them."""

    def __init__(self, trunk: nn.Module, num_features: int, classes: int) -> None:
        super().__init__()
        self.trunk, self.fc = trunk, nn.Linear(num_features, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits of images [N, C, R, R] in [-1, 1]."""
        features = self.trunk(x)
        return features, self.fc(features)


def mnist_cnn(channels: int) -> nn.Module:
    """Build three 3×3 convolutions with pooling and a layer of 128 units: features [N, 128], not negative."""
    layers: list[nn.Module] = []
    for a, b in pairwise((channels, 32, 64, 64)):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU())


@dataclass(frozen=True)
class Recipe:
    """Say how to build and train an in-domain classifier."""

    trunk: Callable[[int], nn.Module]  # takes the number of image channels
    features: int
    resolution: int
    augment: bool  # shift images by up to 4 px and, if the data allow it (`Source.mirrorable`), mirror them
    epochs: int


CLASSIFIERS = {
    "mnist-cnn": Recipe(mnist_cnn, 128, 32, False, 3),
    "cifar-resnet18": Recipe(
        lambda channels: ResNetV2(channels, (64, 128, 256, 512), (2, 2, 2, 2), BasicBlock), 512, 32, True, 15
    ),
}


def classifier_file(name: str, dataset: str) -> Path:
    """Return the path of a classifier trained on a data set, in the cache."""
    dataset = re.sub(r"[/\\]", "_", dataset)  # the index of shards names it, and may come from anybody
    return cache_folder() / "networks" / f"{name}-{dataset}.safetensors"


def train_classifier(
    name: str, source: Source, epochs: int | None, device: torch.device, command: str, progress: bool = True
) -> tuple[Path, ResultLine]:
    """Train an in-domain classifier on the labels of the training split, and save it in the cache.

    Returns:
        The file, and a result line with its accuracy on the test split.

    Raises:
        UserError: no such classifier, no labels, too few images, or no test split.
    """
    if name not in CLASSIFIERS:
        raise UserError(f"feature-extractor {name}: unknown; expected one of {', '.join(CLASSIFIERS)}")
    recipe = CLASSIFIERS[name]
    images = source.splits["train"]
    if not all(split in source.splits and has_labels(source.splits[split]) for split in ("train", "test")):
        raise UserError(f"{source.spec} has no labelled train and test split; {name} is trained on labels")
    start = time.perf_counter()
    channels = channels_of(source)
    view = View(recipe.resolution, channels)
    train, test = (split_by_label(read_split(source, source.splits[s], view))[0] for s in ("train", "test"))
    assert train.labels is not None
    assert test.labels is not None
    classes = int(train.labels.max()) + 1
    if len(train) < 2 * classes:
        raise UserError(
            f"{source.spec} has {len(train):,} labelled training images of {classes:,} classes; {name} needs "
            f"{2 * classes:,} or more, two for each class"
        )
    with torch.random.fork_rng(devices=[]):  # layers draw their weights from the global generator
        torch.manual_seed(0)
        network = Classifier(recipe.trunk(channels), recipe.features, classes).to(device)
    epochs = epochs or recipe.epochs
    x, y = torch.from_numpy(train.pixels).to(device), torch.from_numpy(train.labels).to(device)
    steps, batch = _train(name, network, x, y, epochs, source.mirrorable, progress)
    network.eval()
    chunks = torch.from_numpy(test.pixels).split(images_per_pass(500))
    with torch.no_grad():
        predicted = torch.cat([_outputs(network, chunk)[1].argmax(1).cpu() for chunk in chunks])
    top1 = 100 * float((predicted.numpy() == test.labels).mean())
    facts = {"name": name, "dataset": source.name, "channels": channels, "classes": classes, "top1_test": top1}
    facts |= {"fingerprint": fingerprint(images), "quick_fingerprint": quick_fingerprint(images), "epochs": epochs}
    facts["mirrored"] = recipe.augment and source.mirrorable
    path = classifier_file(name, source.name)
    save_tensors(path, network.state_dict(), {"bigbigan": json.dumps(facts)}, digest=True)
    (line,) = result_lines(
        {"top1": Measurement(top1, protocol={"network": digest(network)[:12], "epochs": epochs})},
        study="feature_extractor",
        subject="trained",
        experiment=f"feature-extractor/{name}",
        dataset=source.name,
        split="test",
        n=len(test),
        seconds=time.perf_counter() - start,
        command=command,
        steps=steps,
        images_seen=steps * batch,
    )
    return path, line


def _train(
    name: str, network: Classifier, x: Tensor, y: Tensor, epochs: int, mirror: bool, progress: bool
) -> tuple[int, int]:
    """Train the classifier `name` on uint8 images [N, C, R, R] with labels [N], on one device.

    Args:
        name, network: the classifier.
        x, y: images and labels.
        epochs: how often each image is used.
        mirror: whether augmentation mirrors images.
        progress: show steps/s and time left.

    Returns:
        The number of steps, and of images in each.
    """
    generator, augment = keyed_generator(0, name), CLASSIFIERS[name].augment
    batch = min(128, len(x))
    steps = epochs * (len(x) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=max(1, steps))
    order = torch.empty(0, dtype=torch.long)
    for _ in Bar(range(steps), f"training {name}", unit="step", disable=not progress):
        if len(order) < batch:
            order = torch.randperm(len(x), generator=generator)
        picks, order = order[:batch].to(x.device), order[batch:]
        images = augmented(x[picks], generator, mirror) if augment else x[picks]
        loss = F.cross_entropy(_outputs(network, images)[1], y[picks])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return steps, batch


def augmented(x: Tensor, generator: torch.Generator, mirror: bool = True) -> Tensor:
    """Return uint8 images [N, C, R, R] as float in [0, 255], each shifted by up to 4 px at random.

    With `mirror`, half of the images are mirrored too.
    """
    side, n = x.shape[-1], len(x)
    padded = F.pad(x.float(), (4, 4, 4, 4), mode="reflect")
    place = torch.arange(side, device=x.device)
    rows, columns = (torch.randint(9, (n, 1), generator=generator).to(x.device) + place for _ in "yx")
    mirrored = (torch.rand(n, 1, generator=generator) < 0.5).to(x.device)
    columns = torch.where(mirrored & mirror, columns.flip(1), columns)
    each = torch.arange(n, device=x.device).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def channels_of(source: Source) -> int:
    """Return 3 if any of the first 8 training images that can be read has colour, else 1."""
    images = source.splits["train"]
    found: list[int] = []
    for i in range(len(images)):
        with suppress(Unreadable):  # counted when the pixels are read
            found.append(images.load(i).shape[-1])
        if len(found) == 8:
            break
    return max(found, default=1)


def available_extractors(dataset: str, own_encoder: bool) -> list[str]:
    """Return the feature extractors that need no preparation.

    They are the classifiers trained on this data set, the run's own encoder, and Inception if its weights are in the
    cache.
    """
    ready = [name for name in CLASSIFIERS if classifier_file(name, dataset).exists()]
    ready += ["encoder"] if own_encoder else []
    return ready + (["inception"] if inception_file().exists() else [])


def warn_of_other_images(name: str, source: Source, train: ImageSet) -> None:
    """Warn if the classifier `name` was trained on other images than `train`, all training images of a source.

    Only the name of a source is in the name of the file, and two folders may have one name. Known data sets, such as
    mnist and mnist:PATH, are not compared.
    """
    path = classifier_file(name, source.name)
    if name not in CLASSIFIERS or is_known(source.spec) or not path.exists():
        return
    with suppress(UserError, KeyError, ValueError):  # a damaged file is reported when it is opened
        facts = checked(parse_json(read_tensors(path)[1]["bigbigan"]), {"quick_fingerprint": str})
        if facts["quick_fingerprint"] != quick_fingerprint(train):
            warnings.warn(
                f"{name} was trained on other images than the training images of {source.spec}: of another source "
                f"called {source.name}, or before they changed; to train it on these: "
                f"bigbigan feature-extractor {name} --data {source.spec}",
                stacklevel=2,
            )


def open_extractor(
    name: str, dataset: str, encoder: nn.Module | None, resolution: int, device: torch.device
) -> FeatureExtractor:
    """Return the feature extractor of this name for images of `dataset`.

    Args:
        name: inception, encoder, or an in-domain classifier.
        dataset: name of the data set.
        encoder, resolution: the run's own encoder, if it has one, and the side of its images.
        device: the device to compute on.

    Raises:
        UserError: it is not available; the message names the command that makes it or the file to fetch.
    """
    if name == "inception":
        inception = load_inception(device)
        return FeatureExtractor(name, digest(inception)[:12], lambda pixels: inception(pixels.to(device)))
    if name == "encoder":
        if encoder is None:
            raise UserError("a GAN has no encoder to compare images by; name another feature extractor")
        E: Any = encoder

        def features(pixels: Tensor) -> tuple[Tensor, None]:
            x = to_float(pixels.to(device))
            return E.features(x if x.shape[-1] == resolution else resize(x, resolution)), None

        return FeatureExtractor(name, digest(E)[:12], features)
    path = classifier_file(name, dataset)
    if not path.exists():
        raise UserError(f"{name} is not trained for {dataset} yet: bigbigan feature-extractor {name} --data {dataset}")
    try:
        tensors, metadata = read_tensors(path)
        facts = checked(parse_json(metadata["bigbigan"]), {"channels": int, "classes": int})
        recipe = CLASSIFIERS[name]
        network = Classifier(recipe.trunk(facts["channels"]), recipe.features, facts["classes"])
        check_tensors(tensors, network.state_dict(), str(path))
        network.load_state_dict(tensors)
    except UserError as error:
        raise UserError(f"{error}; delete it and train {name} again") from None
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}); delete it and train {name} again") from None
    network.to(device).eval()
    channels, resolution = facts["channels"], recipe.resolution
    return FeatureExtractor(
        name, digest(network)[:12], lambda p: _outputs(network, _as_trained(p, channels, resolution))
    )


def _outputs(network: Classifier, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return features and logits of images with values in [0, 255]."""
    x = to_float(pixels.to(network.fc.weight.device))
    features, logits = network(x.contiguous(memory_format=torch.channels_last))
    return features, logits


def _as_trained(pixels: Tensor, channels: int, resolution: int) -> Tensor:
    if pixels.shape[1] != channels:  # G draws colour images and the data are grey, or the other way round
        pixels = torch.from_numpy(to_channels(pixels.permute(0, 2, 3, 1).numpy(), channels)).permute(0, 3, 1, 2)
    if pixels.shape[-1] == resolution:
        return pixels
    return resize(pixels.float(), resolution).round().clamp(0, 255).to(torch.uint8)
