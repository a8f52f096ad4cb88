"""Open the model under evaluation: a run, or any frozen encoder, so that all methods are measured by the same protocol.

RUN                       a run folder, an exported one, or a name on the Hugging Face Hub
timm:NAME                 a model of timm with its published weights; timm:local-dir:FOLDER is one saved in timm's form
hub:REPO:ENTRY            a torch.hub entry; REPO is owner/name on GitHub, or a folder with a hubconf.py
python:MODULE:NAME        a callable: images float [N, C, R, R] in [-1, 1] to features [N, d]
"""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbigan.compute import images_per_pass
from bigbigan.data import DecodeLimits, Source, open_source
from bigbigan.data.readers.offline import offline_if_unreachable
from bigbigan.errors import UserError, type_and_message
from bigbigan.evaluation.features import Pixels, fill_statistics
from bigbigan.evaluation.records import Measurement, ResultLine, Subject, result_lines
from bigbigan.evaluation.splits import View
from bigbigan.image import pool_to, to_float
from bigbigan.inference.exported import EXPORTED
from bigbigan.inference.loading import data_card, load, model_folder
from bigbigan.inference.model import Model
from bigbigan.models import build
from bigbigan.training.devices import default_device
from bigbigan.training.run_folder import changed_settings, limits_of, open_data, read_card
from bigbigan.user_code import import_named

__all__ = ["Frozen", "Target", "open_target"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean, standard deviation
KINDS = ("timm", "hub", "python")


class Frozen(nn.Module):
    """Wrap an external encoder, with the two features that evaluation asks of an encoder.

    Args:
        network: maps images, float [N, C, R, R], normalised, to features [N, d], or to maps [N, d, H, W], which are
            averaged.
        device: the device of the network; images are moved there.
        mean, std: the normalisation that the network expects, for images in [0, 1]; None leaves them in [-1, 1].
    """

    def __init__(
        self,
        network: Callable[[Tensor], Any],
        device: torch.device,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = mean, std
        self.device = device
        self.feature_mean: Tensor | None = None
        self.feature_stdev: Tensor | None = None

    def features(self, x: Tensor) -> Tensor:
        """Return features [N, d] of images [N, C, R, R] in [-1, 1].

        Raises:
            UserError: the network fails on images of this shape, or returns something else than features.
        """
        if self.mean is not None and self.std is not None:
            mean, std = (torch.tensor(v, device=x.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
            x = ((x + 1) / 2 - mean) / std
        try:
            out = self.network(x)
        except Exception as error:  # an external network may raise anything on images that it does not accept
            raise UserError(
                f"the encoder fails on images {list(x.shape)}: {type_and_message(error)}; "
                "--resolution and --channels set the shape of its images"
            ) from error
        if not isinstance(out, Tensor) or out.ndim not in (2, 4) or len(out) != len(x):
            got = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise UserError(f"the encoder returns {got} for {len(x)} images; expected a tensor [N, d] or [N, d, H, W]")
        return (out if out.ndim == 2 else out.mean((2, 3))).float()

    @torch.no_grad()
    def fit(self, pixels: Pixels) -> None:
        """Compute the statistics of BN+CReLU from at most 4,096 of the training images, uint8 [N, C, R, R]."""
        picks = np.random.default_rng(0).permutation(len(pixels))[:4096]
        size = images_per_pass(256)
        chunks = (torch.from_numpy(pixels[part]) for part in np.split(picks, range(size, len(picks), size)))
        features = torch.cat([self.features(to_float(chunk.to(self.device))) for chunk in chunks])
        variance, self.feature_mean = torch.var_mean(features, 0, correction=0)
        self.feature_stdev = (variance + 1e-5).sqrt()  # as in batch norm

    def bn_crelu(self, features: Tensor) -> Tensor:
        """Return [relu(h), relu(-h)] of h, the features scaled to mean 0 and variance 1 over the training images."""
        if self.feature_mean is None or self.feature_stdev is None:
            raise RuntimeError("call fit before bn_crelu")
        h = (features - self.feature_mean) / self.feature_stdev
        return torch.cat([F.relu(h), F.relu(-h)], dim=1)


class DiscriminatorFeatures(nn.Module):
    """Wrap D as a feature extractor (BiGAN's baseline "D"), for images at E's resolution in [-1, 1]."""

    def __init__(self, D: nn.Module, resolution: int) -> None:
        super().__init__()
        self.D, self.resolution = D, resolution

    def features(self, x: Tensor) -> Tensor:
        """Return D's features [N, d] of images [N, C, R, R]."""
        return self.D.features(pool_to(x, self.resolution))  # type: ignore[operator]


@dataclass
class Target:
    """Hold the model under evaluation, and what its result lines say of it."""

    experiment: str
    view: View
    device: torch.device
    seed: int = 0
    scale: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    trained_on: str | None = None  # name of a data set
    steps: int = 0
    images_seen: int = 0
    max_unreadable: float = 0.05
    run: Path | None = None
    model: Model | None = None  # of a run
    frozen: Frozen | None = None  # of any other encoder

    def source(self, data: str | None, labels: str | None, verb: str, needs_labels: bool = True) -> Source:
        """Open the source to measure on: the given one with the given labels file, or the run's own.

        If the run's labels file is missing, continue without labels unless they are needed.

        Raises:
            UserError: there is none.
        """
        config = None if self.model is None else self.model.config
        if self.run is not None:
            return open_data(self.run, data, labels, config, self.max_unreadable, needs_labels)
        if data is None:
            raise UserError(f"{verb}: --data SOURCE is missing: images, at least some of them labelled")
        limits = limits_of(config) if config else DecodeLimits()
        source = open_source(data, labels=labels, max_unreadable=self.max_unreadable, limits=limits)
        if config is not None:  # of an exported model
            source.set_padding(config.data.pad)
        return source

    @property
    def trained_classes(self) -> list[str] | None:
        """The names of the classes of the run's own images, by number; None if they are not recorded."""
        try:
            return None if self.run is None else read_card(self.run).get("classes")
        except UserError:
            return None

    def mirrors(self, source: Source) -> bool:
        """Return whether classifiers are trained on mirrored images of a source too.

        They are if the run was, and if the source is the run's own or may be mirrored.
        """
        return self.view.mirror and (source.mirrorable or source.name == self.trained_on)

    def results_file(self, out: Path) -> Path | None:
        """Return the file for a run's result lines: in the run folder, or next to `out` if that is not writable."""
        if self.run is None or os.access(self.run, os.W_OK):
            return None if self.run is None else self.run / "results.jsonl"
        path = out.parent / "results.jsonl"
        warnings.warn(f"{self.run} is not writable: result lines are added to {path}", stacklevel=3)
        return path

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """What is measured, baselines first: pixels, the untrained encoder of a run, then the encoder itself."""
        return ("pixels", "external") if self.model is None else ("pixels", "untrained", "trained")

    def encoder(self, subject: Subject, pixels: Pixels) -> nn.Module:
        """Return the encoder of a subject in evaluation mode.

        Training images, uint8 [N, C, R, R], fill the statistics of an untrained or external one.
        """
        if self.frozen is not None:
            if self.frozen.feature_mean is None:
                self.frozen.fit(pixels)
            return self.frozen
        assert self.model is not None
        if subject == "trained":
            return self.model.encoder
        encoder = build(self.model.config, self.device).encoder
        fill_statistics(encoder, encoder.all_outputs, pixels, self.seed)
        return encoder

    def discriminator(self, subject: Subject, pixels: np.ndarray) -> nn.Module:
        """Return the discriminator of a subject in evaluation mode, as a feature extractor of images."""
        assert self.model is not None
        trained = subject == "trained"
        networks = self.model.networks if trained else build(self.model.config, self.device)
        D = DiscriminatorFeatures(networks.discriminator, self.model.config.generator.resolution)
        D = copy.deepcopy(D) if trained else D  # do not change the run's own
        fill_statistics(D, D.features, pixels, self.seed, self.model.config.log.standing_batches)
        return D

    def result_lines(
        self,
        measurements: Mapping[str, Measurement | float],
        *,
        source: Source,
        split: str,
        n: int,
        subject: Subject,
        start: float,
        study: str,
        command: str,
    ) -> list[ResultLine]:
        """Return measurements, by name of the metric, as result lines.

        Args:
            measurements: by name of the metric. If the model was trained on other data than `source`, the protocol of
                each gets "trained_on".
            source, split, n: the images that were measured, and their number.
            subject: pixels, the untrained or the trained encoder, or an external one.
            start: when the measurement began, from time.perf_counter.
            study, command: recorded in the lines.
        """
        trained_on = {"trained_on": self.trained_on} if self.trained_on not in (None, source.name) else {}
        given = {name: m if isinstance(m, Measurement) else Measurement(m) for name, m in measurements.items()}
        labels: dict[str, Any] = {}
        if source.labels is not None:
            labels = {"sha256": source.labels.sha256[:12], "without": source.notes["without a label"]}
        trained = subject == "trained"
        return result_lines(
            {name: m._replace(protocol=(m.protocol or {}) | trained_on) for name, m in given.items()},
            study=study,
            subject=subject,
            experiment=self.experiment,
            dataset=source.name,
            split=split,
            n=n,
            seconds=time.perf_counter() - start,
            command=command,
            scale=self.scale,
            settings=self.settings,
            labels=labels,
            seed=self.seed,
            steps=self.steps if trained else 0,
            images_seen=self.images_seen if trained else 0,
        )


def open_target(spec: str, resolution: int | None = None, channels: int | None = None, which: str = "newest") -> Target:
    """Open the model under evaluation that `spec` names.

    Args:
        spec: see the module.
        resolution, channels: of the images a frozen encoder takes; by default what the encoder states, or 224 and 3.
        which: the checkpoint of a run: "newest", "best" by the validation metric, or a step.

    Raises:
        UserError: it cannot be loaded.
    """
    device = default_device()
    kind, _, name = spec.partition(":")
    if kind not in KINDS or Path(spec).exists():
        if resolution or channels:
            raise UserError("--resolution and --channels are for external encoders; a run has its own")
        return _run_target(spec, which, device)
    mean_std: Any = IMAGENET
    try:
        if kind == "timm":
            import timm

            adapted = {} if channels is None else {"in_chans": channels}
            with nullcontext() if name.startswith("local-dir:") else offline_if_unreachable():
                network = timm.create_model(name, pretrained=True, num_classes=0, **adapted)
            expected = timm.data.resolve_model_data_config(network)
            if resolution and resolution != expected["input_size"][-1] and hasattr(network, "set_input_size"):
                network.set_input_size((resolution, resolution))  # its position embeddings are for one size
            resolution, channels = resolution or expected["input_size"][-1], channels or expected["input_size"][0]
            mean_std = (expected["mean"], expected["std"])
        elif kind == "hub":
            repo, _, entry = name.rpartition(":")
            host = "local" if Path(repo).is_dir() else "github"
            network = torch.hub.load(repo, entry, source=host, trust_repo=True)
        else:
            network = import_named(spec, "a callable of images [N, C, R, R] that returns features [N, d]")
            resolution = resolution or getattr(network, "resolution", None)
            channels = channels or getattr(network, "channels", None)
            mean_std = (None, None)
    except UserError:
        raise
    except Exception as error:  # a module that the user named may raise anything
        raise UserError(f"{spec} cannot be loaded: {type_and_message(error)}") from error
    channels = channels or 3
    if mean_std[0] is not None and channels != len(mean_std[0]):
        mean_std = (mean_std[0][:1] * channels, mean_std[1][:1] * channels)
    frozen = Frozen(network, device, *mean_std).to(device).eval().requires_grad_(False)
    return Target(spec, View(resolution or 224, channels), device, frozen=frozen)


def _run_target(spec: str, which: str, device: torch.device) -> Target:
    run = model_folder(spec)
    model = load(run, which, device)
    config, exported = model.config, (run / EXPORTED).exists()
    return Target(
        config.experiment,
        View.from_config(config),
        device,
        seed=config.training.seed,
        scale=config.scale,
        settings=changed_settings(config),
        trained_on=_training_data_name(run),
        steps=model.step,
        images_seen=model.images_seen,
        max_unreadable=config.data.max_unreadable,
        run=None if exported else run,  # nothing is written into an exported folder
        model=model,
    )


def _training_data_name(run: Path) -> str | None:
    """Return the name of the data that a run or an exported model was trained on; None if it is not recorded."""
    try:
        return data_card(run).get("name")
    except UserError:  # no such file, or not in our format
        return None
