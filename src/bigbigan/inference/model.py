"""Use a trained model: encode, generate, reconstruct, discriminate.

Names are those of the authors' published modules. Images are float tensors [N, C, H, W] in [-1, 1], or NumPy arrays of
that form; uint8 is accepted and converted, and paths, PIL images and lists of them are decoded (`Model.prepare`). G and
E are the averaged networks with standing statistics, in evaluation mode.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbigan.compute import encoder_batch_size, images_per_pass
from bigbigan.config import Config
from bigbigan.errors import UserError
from bigbigan.image import pool_to, resize
from bigbigan.inference.arguments import as_tensor, check_at_least, check_label, check_number
from bigbigan.inference.head import Head, Prediction
from bigbigan.inference.image_input import ImageInput
from bigbigan.inference.latents import Refined, interpolate, refine
from bigbigan.inference.outputs import Encoding, Scores, finite, joined
from bigbigan.methods import SYSTEMS, System, generate, sample_labels, sample_prior
from bigbigan.models import FeatureEncoder, Networks
from bigbigan.models.batch_norm import batch_norms, standing_statistics
from bigbigan.randomness import keyed_generator
from bigbigan.training.devices import usable_device

__all__ = ["Encoding", "Model", "Scores"]

BATCH = 64  # images in a pass through G
TRUNCATED_GENERATORS = 4  # that a model keeps


class Model:
    """Averaged G and E, and D, of one training run.

    Attributes:
        encoder: E as a plain nn.Module with `num_features`, `features(x)` and `bn_crelu(features)`. Raises UserError if
            the run has none, as a GAN.
        generator: G, z [N, dim_z] to images in [-1, 1]. Raises UserError if the run has none, as with pretext tasks.
        discriminator: D. Raises UserError if the run has none, as an autoencoder or with pretext tasks.
        config: the settings it was trained with.
        step: training steps behind these weights; 0 is untrained.
        head: the saved classifier in an exported model, or None; see `predict`.
    """

    def __init__(self, config: Config, networks: Networks, step: int, images_seen: int) -> None:
        self.config, self.step, self.images_seen = config, step, images_seen
        self.networks = networks
        self._truncated: dict[float, nn.Module] = {}  # G by truncation
        self.head: Head | None = None
        self._checked: Head | None = None  # belongs to this encoder
        self._input = ImageInput(config)
        for network in filter(None, networks):
            network.eval().requires_grad_(False)

    def __repr__(self) -> str:
        c, parts = self.config, []
        if self.networks.E is not None:
            latents = f", z [{c.latent.dim}]" if c.has_generator else ""
            shape = f"{c.data.channels}×{c.encoder.resolution}×{c.encoder.resolution}"
            parts.append(f"E: {shape} images to {self.encoder.num_features} features{latents}")
        if self.networks.G is not None:
            parts.append(f"G: z [{c.latent.dim}] to {c.generator.resolution} px")
        parts += ["D"] if self.networks.D is not None else []
        parts += [f"window {c.data.window[0]:g} to {c.data.window[1]:g}"] if c.data.window else []
        count = sum(p.numel() for network in filter(None, self.networks) for p in network.parameters())
        described = "; ".join([*parts, f"{count:,} parameters", str(self.device)])
        return f"Model({c.experiment}, step {self.step:,}; {described})"

    @property
    def encoder(self) -> FeatureEncoder:
        return self.networks.encoder

    @property
    def generator(self) -> nn.Module:
        return self.networks.generator

    @property
    def discriminator(self) -> nn.Module:
        return self.networks.discriminator

    @property
    def device(self) -> torch.device:
        return next(p for network in filter(None, self.networks) for p in network.parameters()).device

    def to(self, device: str | torch.device) -> Model:
        """Move the networks to a device and return the model. Raises UserError if there is no such device."""
        device = usable_device(device)
        self._truncated.clear()
        for network in filter(None, self.networks):
            network.to(device)
        return self

    def prepare(self, images: Any, value_range: tuple[float, float] | None = None) -> Tensor:
        """Convert images to E's input: float [N, C, R, R] in [-1, 1], on the model's device.

        The result may be passed to this method again, and to the others.

        Args:
            images: uint8 or float [N, C, H, W], a tensor or an array (an array may have its channels last). Or a path,
                a PIL image, a list of them, or a list of uint8 arrays [H, W] or [H, W, C]. All are cropped to their
                central square and resized, or padded as MNIST is, as in training (`data.pad`). Tensors and arrays of
                E's size, [N, C, R, R], are taken as they are; images in a list are cropped at any size.
            value_range: black and white of the images, such as (0, 1). By default float images lie in [-1, 1], uint8
                in 0 to 255, and integers of more bits are converted by `data.window`.

        Warns once if float images are all 0 or more and no range was given: they may lie in [0, 1].

        Raises:
            UserError: wrong type, shape, channels or values, with what was expected.
        """
        return self._input.prepare(images, value_range, self.device)

    def _latents(self, z: Any, count: int | None = None) -> Tensor:
        """Convert latents to float32 [N, dim_z] on the model's device; raise UserError unless they are finite."""
        rows, dim = "N" if count is None else str(count), self.config.latent.dim
        z = as_tensor(z, "z", f"float [{rows}, {dim}]")
        if z.ndim != 2 or z.shape[1] != dim or (count is not None and len(z) != count):
            raise UserError(f"z has shape {list(z.shape)}; expected [{rows}, {dim}]")
        z = z.to(self.device, torch.float32)
        if not bool(z.isfinite().all()):
            raise UserError("z has numbers that are NaN or infinite")
        return z

    @torch.no_grad()
    def encode(self, images: Any, seed: int = 0, value_range: tuple[float, float] | None = None) -> Encoding:
        """Return E's outputs for N images.

        Args:
            images: uint8 or float [N, C, H, W]; or paths, PIL images, a list; see `prepare`.
            seed: of the noise of z_sample.
            value_range: see `prepare`.

        Raises:
            UserError: images that cannot be used, or features that are not finite.
        """
        x = self.prepare(images, value_range)
        parts = x.split(encoder_batch_size(x.shape[-1], x.device.type))
        q, avepool, bn_crelu = joined([self.encoder.all_outputs(part) for part in parts])
        finite("E", avepool, bn_crelu, *(() if q is None else (q.mean, q.stdev)))
        if q is None:
            return Encoding(None, None, None, avepool, bn_crelu)
        generator = keyed_generator(seed, "encode", 0, str(self.device))
        eps = torch.randn(q.mean.shape, generator=generator, device=self.device)
        return Encoding(q.mean, q.stdev, q.sample(eps), avepool, bn_crelu)

    @torch.no_grad()
    def predict(
        self,
        images: Any,
        head: Head | str | Path | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> Prediction:
        """Classify N images by a saved head: probabilities, and whether an image is unlike training images.

        Args:
            images: uint8 or float [N, C, H, W]; or paths, PIL images, a list; see `prepare`.
            head: a head or its file (`bigbigan classify --save`); by default the head in the exported model.
            value_range: see `prepare`.

        Raises:
            UserError: no head, a head of another encoder, or images that cannot be used.
        """
        head = self.head if head is None else head if isinstance(head, Head) else Head.load(head)
        if head is None:
            raise UserError("this model has no saved head; give one: predict(images, head='HEAD.safetensors')")
        if head is not self._checked:
            head.check(self.encoder, f"this model ({self.config.experiment}, step {self.step:,})")
            self._checked = head
        # as the images that the head was trained on
        x = self._input.prepare(images, value_range, self.device, head.preprocessing.pads)
        found = self.encode(x)
        return head.predict(found.bn_crelu_feat, found.avepool_feat)

    @torch.no_grad()
    def generate(
        self, z_or_count: Tensor | np.ndarray | int, truncation: float = 1.0, seed: int = 0, label: int | None = None
    ) -> Tensor:
        """Generate images [N, C, R, R] in [-1, 1] from latents [N, dim_z], or from a number of latents drawn from P_z.

        Args:
            z_or_count: latents, or how many to draw.
            truncation: scale of drawn latents, in (0, 1]; below 1 a normal prior is also cut at two standard
                deviations, as the released modules are used.
            seed: of the drawn latents, and of the labels if G is conditioned on them.
            label: the class of all images, 0 to data.classes - 1; by default classes are drawn by their frequency among
                the training images.

        With a truncation below 1, batch norm statistics are computed for that truncation, as in BigGAN.

        Raises:
            UserError: latents of another length, truncation, count or label out of range, a label for a G without
                classes, or images that are not finite.
        """
        return torch.cat(list(self.generate_batches(z_or_count, truncation, seed, label)))

    @torch.no_grad()
    def generate_batches(
        self,
        z_or_count: Tensor | np.ndarray | int,
        truncation: float = 1.0,
        seed: int = 0,
        label: int | None = None,
    ) -> Iterator[Tensor]:
        """Generate the images of `generate` 64 at a time, for more images than memory holds."""
        check_label(label, self.config.data.classes)
        if isinstance(z_or_count, Tensor | np.ndarray):
            z = self._latents(z_or_count)
        else:
            z = self.sample_prior(z_or_count, truncation, seed)
        generator = keyed_generator(seed, "labels", 0, str(self.device))
        if label is None:
            y = sample_labels(len(z), self.config.data, generator)
        else:
            y = torch.full((len(z),), label, device=self.device)
        G, size = self._truncated_generator(truncation), images_per_pass(BATCH)
        for start in range(0, max(1, len(z)), size):  # no images are one empty batch
            part = slice(start, start + size)
            yield finite("G", generate(G, z[part], None if y is None else y[part]))

    def _labels(self, label: int | None, count: int) -> Tensor | None:
        """Return the class of `count` images, int64 [count], or None if the model has no classes."""
        label = check_label(label, classes := self.config.data.classes, needed=classes > 1)
        return None if label is None else torch.full((count,), label, device=self.device)

    def _decode(self, z: Tensor) -> Tensor:
        """Return G(z) of latents [N, dim_z], computed in batches."""
        return torch.cat([finite("G", self.generator(part)) for part in z.split(images_per_pass(BATCH))])

    @torch.no_grad()
    def _means(self, x: Tensor) -> Tensor:
        """Return the means of E(x) of prepared images, [N, dim_z], computed in batches."""
        return torch.cat([self.encoder(part).mean for part in x.split(images_per_pass(BATCH))])

    def _scores(self, x: Tensor, z: Tensor | None, y: Tensor | None = None) -> dict[str, Tensor]:
        """Return D's scores, [N] by name, of images of G's size, latents and classes, computed in batches."""
        D, size = self.discriminator, images_per_pass(BATCH)
        ranges = [slice(start, start + size) for start in range(0, max(1, len(x)), size)]
        parts = [D(x[r], None if z is None else z[r], *([] if y is None else [y[r]])) for r in ranges]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _truncated_generator(self, truncation: float) -> nn.Module:
        """Return G with the batch norm statistics of truncated latents."""
        is_decoder = SYSTEMS.get(self.config.system, System).generator_is_decoder
        if truncation == 1 or not batch_norms(self.generator) or is_decoder:
            return self.generator
        if truncation not in self._truncated:
            if len(self._truncated) == TRUNCATED_GENERATORS:  # the page of `serve` may ask for any number
                del self._truncated[next(iter(self._truncated))]
            G, batches, size = copy.deepcopy(self.generator), self.config.log.standing_batches, 128
            z = self.sample_prior(batches * size, truncation, seed=0)
            generator = keyed_generator(0, "standing labels", 0, str(self.device))
            y = sample_labels(len(z), self.config.data, generator)
            labels = [None] * batches if y is None else y.split(size)
            passes = (partial(generate, G, z, y) for z, y in zip(z.split(size), labels, strict=True))
            standing_statistics(G, self.generator, passes)
            self._truncated[truncation] = G
        return self._truncated[truncation]

    def sample_prior(self, count: int, truncation: float = 1.0, seed: int = 0) -> Tensor:
        """Draw `count` latents from P_z, [count, dim_z]; see `generate` for the truncation."""
        check_at_least(1, count=count)
        check_number(lambda t: 0 < t <= 1, "a number above 0 and up to 1", truncation=truncation)
        generator = keyed_generator(seed, "generate", 0, str(self.device))
        z = sample_prior(count, self.config.latent.dim, self.config.latent.prior, generator)
        if truncation < 1 and self.config.latent.prior == "normal":
            while (beyond := z.abs() > 2).any():
                z = torch.where(beyond, torch.randn(z.shape, generator=generator, device=z.device), z)
        return truncation * z

    @torch.no_grad()
    def reconstruct(self, images: Any) -> Tensor:
        """Return G(E(x)) with z at its mean: [N, C, R, R] in [-1, 1], R the generator's resolution."""
        _ = self.generator  # raises at once if there is none
        return self._decode(self._means(self.prepare(images)))

    def refine(
        self,
        images: Tensor | np.ndarray,
        steps: int,
        z: Tensor | np.ndarray | None = None,
        features: str = "",
        rate: float = 0.05,
        after_step: Callable[[int], object] | None = None,
        label: int | None = None,
    ) -> Refined:
        """Optimise z, starting from E(x) and with G fixed, so that G(z) comes closer to x (GAN inversion).

        Args:
            images: [N, C, H, W].
            steps: of Adam on z.
            z: latents to start from instead, [N, dim_z]; then no encoder is needed.
            features: "" for only pixels; "encoder" or "discriminator" adds the distance in AvePool or F(x) features.
            rate: Adam's learning rate.
            after_step: called after each step with the number of steps done.
            label: the class of all images, if G is conditioned on classes.

        Raises:
            UserError: latents of another shape, a number out of range, features that this model does not have, or a
                label that is missing or not one of its classes.
        """
        check_at_least(0, steps=steps)
        check_number(lambda r: 0 < r < math.inf, "a number above 0", rate=rate)
        _ = self.generator  # raises at once if there is none
        x, resolution = self.prepare(images), self.config.generator.resolution
        y = self._labels(label, len(x))
        G: Callable[[Tensor], Tensor] = self.generator if y is None else partial(self.generator, y=y)
        start = self._means(x) if z is None else self._latents(z, len(x))
        known = {"": None, "encoder": self._encoder_features, "discriminator": self._discriminator_features}
        if features not in known:
            raise UserError(f"features is {features}; expected encoder, discriminator, or nothing for only pixels")
        bounded = self.config.latent.prior == "uniform"
        x = pool_to(x, resolution)
        return refine(G, x, start, steps, rate, bounded, known[features], after_step=after_step)

    def _encoder_features(self, x: Tensor) -> Tensor:
        side = self.config.encoder.resolution
        if x.shape[-1] != side:
            x = resize(x, side).clamp(-1, 1)
        return self.encoder.features(x)

    def _discriminator_features(self, x: Tensor) -> Tensor:
        if not self.discriminator.sees_images_alone:
            raise UserError("this discriminator has no features of images alone; refine by the encoder's or by pixels")
        return self.discriminator.features(x)  # type: ignore[operator]

    @torch.no_grad()
    def interpolate(self, images: Any, others: Any, steps: int = 8) -> Tensor:
        """Interpolate from E(images) to E(others), [N, C, H, W] each: return [N, steps, C, R, R] in [-1, 1]."""
        _ = self.generator  # raises at once if there is none
        check_at_least(2, steps=steps)
        x, y = self.prepare(images), self.prepare(others)
        if len(x) != len(y):
            raise UserError(f"{len(x)} images and {len(y)} others; expected as many")
        a, b = self._means(x), self._means(y)
        latents = interpolate(a, b, steps, self.config.latent.prior)
        return self._decode(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])

    @torch.no_grad()
    def discriminate(
        self, images: Tensor | np.ndarray, z: Tensor | np.ndarray | None, label: int | None = None
    ) -> Scores:
        """Return D's scores of pairs: high if D takes them for encoder pairs (x, E(x)).

        Args:
            images: [N, C, H, W].
            z: latents [N, dim_z]; None for a discriminator of images alone.
            label: the class of all images, if D is conditioned on classes.

        Raises:
            UserError: no discriminator, no latents for one that scores pairs, or a label that is missing or not one of
                its classes.
        """
        _ = self.discriminator  # raises at once if there is none
        if z is None and (self.config.loss.s_z or self.config.loss.s_xz):
            raise UserError("z is missing: this discriminator scores latents; give encode(images).z_mean, say")
        x = pool_to(self.prepare(images), self.config.generator.resolution)
        s = self._scores(x, None if z is None else self._latents(z, len(x)), self._labels(label, len(x)))
        return Scores(s.get("s_x"), s.get("s_z"), s.get("s_xz"))

    @torch.no_grad()
    def anomaly_score(self, images: Tensor | np.ndarray, alpha: float = 0.9) -> Tensor:
        """Return how unlike the training images each image is, [N]: the higher, the more anomalous.

            alpha · ‖x − G(E(x))‖₁  +  (1 − alpha) · log(1 + exp(−s(x, E(x))))

        EGBAD (Zenati et al. 2018, arXiv:1802.06222), with its alpha and its cross-entropy of D taking the pair for an
        encoder pair. The first term is a sum over pixels in [-1, 1] at D's resolution, the second a mean over D's
        scores. docs/notes/anomaly.md compares it with simpler scores.

        Args:
            images: [N, C, H, W].
            alpha: weight of the reconstruction, 0 to 1; at 1 no discriminator is needed.

        Raises:
            UserError: alpha out of range, no encoder, no generator, or alpha below 1 and no discriminator.
        """
        check_number(lambda a: 0 <= a <= 1, "a number from 0 to 1", alpha=alpha)
        _ = self.generator  # raises at once if there is none
        if alpha < 1 and self.networks.D is None:
            raise UserError(f"alpha is {alpha}; this model has no discriminator: expected 1, reconstruction alone")
        x = self.prepare(images)
        z = self._means(x)
        x = pool_to(x, self.config.generator.resolution)
        score = alpha * (x - self._decode(z)).abs().flatten(1).sum(1)
        if alpha < 1:
            found = self._scores(x, z)
            score = score + (1 - alpha) * torch.stack([F.softplus(-s) for s in found.values()]).mean(0)
        return score
