"""A trained model as people use it: encode, generate, reconstruct, discriminate.

The names are those of the authors' published modules. Images are float tensors [N, C, H, W] in [-1, 1], or NumPy arrays
of that form; uint8 is accepted and converted. Networks are the averaged ones with standing statistics, in evaluation
mode.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbigan.config import Config, config_from_dict
from bigbigan.errors import UserError
from bigbigan.image import pool_to, to_float
from bigbigan.inference.hub import download, is_hub_name
from bigbigan.inference.latents import Refined, interpolate, refine
from bigbigan.io import open_regular, read_json
from bigbigan.methods import generate, sample_labels, sample_prior
from bigbigan.models import FeatureEncoder, Networks, construct
from bigbigan.models.batch_norm import batch_norms, standing_statistics
from bigbigan.randomness import keyed_generator
from bigbigan.training import checkpoint as ck
from bigbigan.training.run_folder import CARD, read_config, warn_of_other_settings
from bigbigan.training.tensors import check_tensors, read_tensors

__all__ = ["EXPORTED", "Encoding", "Model", "Scores", "load"]

EXPORTED = "model.json"  # the file by which an exported folder is known
PREFIXES = {"G": "G_ema.", "E": "E_ema.", "D": "D."}  # what of a checkpoint a model is made of
ABOUT = {  # what is read from model.json, see `bigbigan.io.checked`
    "schema": int,
    "step": int,
    "images_seen": int,
    "weights_sha256": str,
    "config_sha256?": str,
    "networks?": [str],
    "data?": CARD,
    "origin?": str,
}
AT_ONCE = 64  # images that pass through G together


@dataclass
class Encoding:
    """What E says of N images."""

    z_mean: Tensor | None  # [N, dim_z]; None, as the next two, of an E without latents
    z_stdev: Tensor | None  # [N, dim_z], zero for a deterministic E
    z_sample: Tensor | None  # [N, dim_z]
    avepool_feat: Tensor  # [N, num_features], the pooled trunk
    bn_crelu_feat: Tensor  # [N, 2·num_features], the paper's feature for linear classification


@dataclass
class Scores:
    """What D says of N pairs, each [N] or None where the model was trained without it."""

    score_x: Tensor | None
    score_z: Tensor | None
    score_xz: Tensor | None


class Model:
    """Averaged G and E, and D, of one training run.

    Attributes:
        encoder: E as a plain nn.Module with `num_features`, `features(x)` and `bn_crelu(features)`; asking for it
            raises a UserError where the run is of a GAN.
        generator: G, z [N, dim_z] to images in [-1, 1]; likewise where E learned by pretext tasks.
        discriminator: D; likewise there and where the run is of an autoencoder.
        config: the settings it was trained with.
        step: training steps behind these weights; 0 is untrained.
    """

    def __init__(self, config: Config, networks: Networks, step: int, images_seen: int) -> None:
        self.config, self.step, self.images_seen = config, step, images_seen
        self.networks = networks
        self._truncated: dict[float, nn.Module] = {}  # G by truncation
        self._warned = False  # that images may lie in [0, 1]
        for network in filter(None, networks):
            network.eval().requires_grad_(False)

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
        """The model itself, moved to a device. Raises UserError where there is no such device."""
        device = _usable(device)
        self._truncated.clear()
        for network in filter(None, self.networks):
            network.to(device)
        return self

    def prepare(self, images: Tensor | np.ndarray, value_range: tuple[float, float] = (-1, 1)) -> Tensor:
        """Images as E takes them: float [N, C, R, R] in [-1, 1], on the model's device. The result may be given to this
        and to the other methods again.

        Args:
            images: uint8 or float [N, C, H, W].
            value_range: black and white of float images, such as (0, 1).

        Warns, once, where float images are all 0 or more and no range was given: they may lie in [0, 1].

        Raises:
            UserError: wrong type, shape, channels or values, with what was expected.
        """
        channels, side = self.config.data.channels, self.config.encoder.resolution
        prepared = getattr(images, _PREPARED, False)
        images = _tensor(images, "images", "uint8 or float [N, C, H, W]")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise UserError(f"images are {images.dtype}; expected uint8 from 0 to 255, or float in [-1, 1]")
        if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
            raise UserError(f"images have shape {list(images.shape)}; expected [N, {channels}, {side}, {side}]")
        x = to_float(images) if images.dtype == torch.uint8 else images.float()
        if images.dtype != torch.uint8 and len(x):
            x = self._scaled(x, value_range, prepared)
        if x.shape[1] != channels:
            weights = torch.tensor([0.299, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)
            x = x.expand(-1, 3, -1, -1) if channels == 3 else (x * weights).sum(1, keepdim=True)
        if x.shape[2:] != (side, side):
            if x.shape[2] != x.shape[3]:
                raise UserError(
                    f"images are {x.shape[3]}×{x.shape[2]}; expected square ones of {side} px: crop them first"
                )
            x = F.interpolate(x, size=(side, side), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        x = x.to(self.device)
        setattr(x, _PREPARED, True)
        return x

    def _scaled(self, x: Tensor, value_range: tuple[float, float], prepared: bool) -> Tensor:
        """Float images brought from their range to [-1, 1]."""
        low, high = _range(value_range)
        least, most = x.min().item(), x.max().item()  # NaN if any pixel is
        margin = 0.005 * (high - low)
        if not (low - margin <= least and most <= high + margin):
            if not (math.isfinite(least) and math.isfinite(most)):
                raise UserError("float images have pixels that are NaN or infinite; expected numbers in [-1, 1]")
            raise UserError(
                f"float images lie in [{least:.3g}, {most:.3g}]; expected [{low:g}, {high:g}] (or uint8): "
                "scale x / 127.5 - 1, or say which range they have: value_range=(0, 255)"
            )
        if (low, high) != (-1, 1):
            return (x - low) * (2 / (high - low)) - 1
        if least >= 0 and not prepared and not self._warned:
            self._warned = True
            warnings.warn(
                f"float images lie in [{least:.3g}, {most:.3g}] and are taken as of [-1, 1]; if they are of [0, 1], "
                "scale x * 2 - 1 or say so: encode(images, value_range=(0, 1)), prepare(images, value_range=(0, 1))",
                stacklevel=4,
            )
        return x

    def _latents(self, z: Any, count: int | None = None) -> Tensor:
        """Latents as the networks take them: float32 [N, dim_z], finite, on the model's device."""
        rows, dim = "N" if count is None else str(count), self.config.latent.dim
        z = _tensor(z, "z", f"float [{rows}, {dim}]")
        if z.ndim != 2 or z.shape[1] != dim or (count is not None and len(z) != count):
            raise UserError(f"z has shape {list(z.shape)}; expected [{rows}, {dim}]")
        z = z.to(self.device, torch.float32)
        if not bool(z.isfinite().all()):
            raise UserError("z has numbers that are NaN or infinite")
        return z

    @torch.no_grad()
    def encode(
        self, images: Tensor | np.ndarray, seed: int = 0, value_range: tuple[float, float] = (-1, 1)
    ) -> Encoding:
        """E's outputs for images [N, C, H, W]; `seed` is of z_sample's noise, `value_range` see `prepare`.

        Raises:
            UserError: images that cannot be used, or features that are not finite.
        """
        q, avepool, bn_crelu = self.encoder.all_outputs(self.prepare(images, value_range))
        _finite("E", avepool, bn_crelu, *(() if q is None else (q.mean, q.stdev)))
        if q is None:
            return Encoding(None, None, None, avepool, bn_crelu)
        noise = keyed_generator(seed, "encode", 0, str(self.device))
        eps = torch.randn(q.mean.shape, generator=noise, device=self.device)
        return Encoding(q.mean, q.stdev, q.sample(eps), avepool, bn_crelu)

    @torch.no_grad()
    def generate(
        self, z_or_count: Tensor | np.ndarray | int, truncation: float = 1.0, seed: int = 0, label: int | None = None
    ) -> Tensor:
        """Images [N, C, R, R] in [-1, 1] from latents [N, dim_z], or from a count of latents drawn from P_z.

        Args:
            z_or_count: latents, or how many to draw.
            truncation: scale of drawn latents, in (0, 1]; below 1 a normal prior is also cut at two standard
                deviations, as the released modules are used.
            seed: of the drawn latents, and of labels where G is told them.
            label: the class of all of them, 0 to data.classes - 1; without it each is drawn as often as it is among the
                training images.

        Below 1, batch norm statistics are made anew for the truncation, as BigGAN does.

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
        """The images of `generate`, 64 at a time: for more of them than memory holds."""
        classes = self.config.data.classes
        if label is not None and (classes == 1 or not _is_whole(label) or not 0 <= label < classes):
            known = f"0 to {classes - 1}" if classes > 1 else "none: this model was trained without labels"
            raise UserError(f"label is {label}; expected {known}")
        if isinstance(z_or_count, Tensor | np.ndarray):
            z = self._latents(z_or_count)
        else:
            z = self.sample_prior(z_or_count, truncation, seed)
        noise = keyed_generator(seed, "labels", 0, str(self.device))
        if label is None:
            y = sample_labels(len(z), self.config.data, noise)
        else:
            y = torch.full((len(z),), label, device=self.device)
        G = self._at(truncation)
        for start in range(0, max(1, len(z)), AT_ONCE):  # no images are one empty batch
            part = slice(start, start + AT_ONCE)
            yield _finite("G", generate(G, z[part], None if y is None else y[part]))

    def _decode(self, z: Tensor) -> Tensor:
        """G of latents [N, dim_z], a batch at a time."""
        return torch.cat([_finite("G", self.generator(part)) for part in z.split(AT_ONCE)])

    def _at(self, truncation: float) -> nn.Module:
        """G with the batch norm statistics of truncated latents."""
        if truncation == 1 or not batch_norms(self.generator):
            return self.generator
        if truncation not in self._truncated:
            G, batches, size = copy.deepcopy(self.generator), self.config.log.standing_batches, 128
            z = self.sample_prior(batches * size, truncation, seed=0)
            noise = keyed_generator(0, "standing labels", 0, str(self.device))
            y = sample_labels(len(z), self.config.data, noise)
            labels = [None] * batches if y is None else y.split(size)
            passes = (partial(generate, G, z, y) for z, y in zip(z.split(size), labels, strict=True))
            standing_statistics(G, self.generator, passes)
            self._truncated[truncation] = G
        return self._truncated[truncation]

    def sample_prior(self, count: int, truncation: float = 1.0, seed: int = 0) -> Tensor:
        """`count` latents from P_z, [count, dim_z]; see `generate` for the truncation."""
        _at_least(1, count=count)
        if not 0 < truncation <= 1:
            raise UserError(f"truncation is {truncation}; expected a number above 0 and up to 1")
        noise = keyed_generator(seed, "generate", 0, str(self.device))
        z = sample_prior(count, self.config.latent.dim, self.config.latent.prior, noise)
        if truncation < 1 and self.config.latent.prior == "normal":
            while (beyond := z.abs() > 2).any():
                z = torch.where(beyond, torch.randn(z.shape, generator=noise, device=z.device), z)
        return truncation * z

    @torch.no_grad()
    def reconstruct(self, images: Tensor | np.ndarray) -> Tensor:
        """G(E(x)) with z at its mean: [N, C, R, R] in [-1, 1], R the generator's resolution."""
        x = self.prepare(images)
        return torch.cat([_finite("G", self.generator(self.encoder(part).mean)) for part in x.split(AT_ONCE)])

    def refine(
        self,
        images: Tensor | np.ndarray,
        steps: int,
        z: Tensor | np.ndarray | None = None,
        features: str = "",
        rate: float = 0.05,
        after_step: Callable[[int], object] | None = None,
    ) -> Refined:
        """Reconstructions brought nearer to their images: z, from E(x), optimised with G fixed.

        Args:
            images: [N, C, H, W].
            steps: of Adam on z.
            z: where to begin instead, [N, dim_z]; an encoder is not needed then.
            features: "" for pixels alone; "encoder" or "discriminator" adds the distance in AvePool or F(x) features.
            rate: Adam's learning rate.
            after_step: called with the number of steps made, after each.

        Raises:
            UserError: latents of another shape, a number out of range, unknown features, or ones this model has not.
        """
        _at_least(0, steps=steps)
        if not 0 < rate < math.inf:
            raise UserError(f"rate is {rate}; expected a number above 0")
        G, x, resolution = self.generator, self.prepare(images), self.config.generator.resolution
        with torch.no_grad():
            start = self.encoder(x).mean if z is None else self._latents(z, len(x))
        known = {"": None, "encoder": self._encoder_features, "discriminator": self._discriminator_features}
        if features not in known:
            raise UserError(f"features is {features}; expected encoder, discriminator, or nothing for pixels alone")
        bounded = self.config.latent.prior == "uniform"
        x = pool_to(x, resolution)
        of_features = known[features]
        return refine(G, x, start, steps, rate, bounded, of_features, after_step=after_step)

    def _encoder_features(self, x: Tensor) -> Tensor:
        side = self.config.encoder.resolution
        if x.shape[-1] != side:
            x = F.interpolate(x, size=(side, side), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        return self.encoder.features(x)

    def _discriminator_features(self, x: Tensor) -> Tensor:
        if not self.discriminator.sees_images_alone:
            raise UserError("this discriminator has no features of images alone; refine by the encoder's or by pixels")
        return self.discriminator.features(x)  # type: ignore[operator]

    @torch.no_grad()
    def interpolate(self, images: Tensor | np.ndarray, others: Tensor | np.ndarray, steps: int = 8) -> Tensor:
        """Images along the way from E(images) to E(others), [N, C, H, W] each: [N, steps, C, R, R] in [-1, 1]."""
        _ = self.generator  # of what has none, say so at once
        _at_least(2, steps=steps)
        if len(images) != len(others):
            raise UserError(f"{len(images)} images and {len(others)} others; expected as many")
        a, b = (self.encoder(self.prepare(x)).mean for x in (images, others))
        walks = interpolate(a, b, steps, self.config.latent.prior)
        return self._decode(walks.flatten(0, 1)).unflatten(0, walks.shape[:2])

    @torch.no_grad()
    def discriminate(self, images: Tensor | np.ndarray, z: Tensor | np.ndarray | None) -> Scores:
        """D's scores of pairs: high where D takes them for encoder pairs (x, E(x)).

        Raises:
            UserError: no discriminator, or no latents for one that scores pairs.
        """
        D = self.discriminator
        if z is None and (self.config.loss.s_z or self.config.loss.s_xz):
            raise UserError("z is missing: this discriminator scores latents; give encode(images).z_mean, say")
        x = pool_to(self.prepare(images), self.config.generator.resolution)
        s = D(x, None if z is None else self._latents(z, len(x)))
        return Scores(s.get("s_x"), s.get("s_z"), s.get("s_xz"))

    @torch.no_grad()
    def anomaly_score(self, images: Tensor | np.ndarray, alpha: float = 0.9) -> Tensor:
        """How unlike the training images each one is, [N]: the higher, the more anomalous.

            alpha · ‖x − G(E(x))‖₁  +  (1 − alpha) · log(1 + exp(−s(x, E(x))))

        EGBAD (Zenati et al. 2018, arXiv:1802.06222), with its alpha and its cross-entropy of D taking the pair for an
        encoder pair. The first term is a sum over pixels in [-1, 1] at D's resolution, the second a mean over the
        scores that D has. docs/anomaly.md says what it is worth beside simpler scores.

        Args:
            images: [N, C, H, W].
            alpha: weight of the reconstruction, 0 to 1; at 1 no discriminator is needed.

        Raises:
            UserError: alpha out of range, no encoder, or alpha below 1 and no discriminator.
        """
        if not 0 <= alpha <= 1:
            raise UserError(f"alpha is {alpha}; expected a number from 0 to 1")
        if alpha < 1 and self.networks.D is None:
            raise UserError(f"alpha is {alpha}; this model has no discriminator: expected 1, reconstruction alone")
        x = self.prepare(images)
        z = self.encoder(x).mean
        x = pool_to(x, self.config.generator.resolution)
        score = alpha * (x - self.generator(z)).abs().flatten(1).sum(1)
        if alpha < 1:
            found = self.discriminator(x, z)
            score = score + (1 - alpha) * torch.stack([F.softplus(-s) for s in found.values()]).mean(0)
        return score


@torch.inference_mode(False)  # weights made in inference mode could never be differentiated through
def load(run: str | Path, checkpoint: str | int = "newest", device: str | torch.device = "cpu") -> Model:
    """The model of a run folder, or of an exported one, here or on the Hugging Face Hub.

    Args:
        run: folder made by `bigbigan train --out` or by `bigbigan export`; or "owner/name" or "owner/name@revision" of
            an exported one on the Hub, where no such folder is here.
        checkpoint: of a run, "newest", "best" by the figure in checkpoints/best.json, or the number of a step it keeps.
        device: where the networks go.

    Raises:
        UserError: no such folder or device, no sound checkpoint, or weights that do not fit.
    """
    if not isinstance(run, str | os.PathLike):
        raise UserError(f"run is a {type(run).__name__}; expected the path of a run folder, or a name on the Hub")
    device = _usable(device)
    run = download(str(run)) if is_hub_name(run) else Path(run)
    if (run / EXPORTED).exists():
        return _load_exported(run).to(device)
    config = read_config(run)

    def read(chosen: ck.Checkpoint) -> Model:
        info = chosen.info()
        stored = {letter: chosen.tensors("weights.safetensors", prefix) for letter, prefix in PREFIXES.items()}
        named = {letter: {k.removeprefix(PREFIXES[letter]): t for k, t in ts.items()} for letter, ts in stored.items()}
        model = Model(config, _filled(config, named, chosen.path), chosen.step, info["images_seen"])
        warn_of_other_settings(run, info.get("settings", {}), config)
        return model

    model = ck.read_checkpoint(run, checkpoint, read)
    if model is None:
        raise UserError(f"{run} has no checkpoint yet; train it first: bigbigan train {config.experiment} --out {run}")
    return model.to(device)


_PREPARED = "_bigbigan_prepared"  # an attribute of tensors that `prepare` made


def _tensor(given: Any, name: str, expected: str) -> Tensor:
    if isinstance(given, np.ndarray) and given.dtype.kind in "biuf":
        return torch.from_numpy(np.array(given, dtype=given.dtype.newbyteorder("="), order="C"))
    if not isinstance(given, Tensor):
        kind = f"an array of {given.dtype}" if isinstance(given, np.ndarray) else f"a {type(given).__name__}"
        raise UserError(f"{name}: {kind}; expected a tensor or array, {expected}")
    return given


def _finite(network: str, *outputs: Tensor) -> Tensor:
    """The first of a network's outputs, if all are finite."""
    if not all(bool(output.isfinite().all()) for output in outputs):
        raise UserError(f"{network} gives numbers that are not finite: it has diverged; take an earlier checkpoint")
    return outputs[0]


def _range(value_range: Any) -> tuple[float, float]:
    try:
        low, high = map(float, value_range)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not -math.inf < low < high < math.inf:
        raise UserError(f"value_range is {value_range}; expected black and white, such as (0, 1)")
    return low, high


def _is_whole(number: Any) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def _at_least(least: int, **given: Any) -> None:
    for name, value in given.items():
        if not _is_whole(value) or value < least:
            raise UserError(f"{name} is {value}; expected a whole number, at least {least}")


def _usable(device: str | torch.device) -> torch.device:
    """A device that is there."""
    try:
        found = torch.device(device)
        if found.type != "meta":  # whose tensors hold nothing
            torch.empty(0, device=found)
            return found
        reason = "it holds no numbers"
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
    raise UserError(f"device is {device}: {reason}; expected cpu, or cuda where there is a GPU")


def _load_exported(folder: Path) -> Model:
    if (schema := read_json(folder / EXPORTED, {"schema": int})["schema"]) != 1:
        raise UserError(f"{folder / EXPORTED} has schema {schema}, this version reads 1")
    about = read_json(folder / EXPORTED, ABOUT)
    config = config_from_dict(read_json(folder / "config.json", warn=False), str(folder / "config.json"))
    weights = folder / "model.safetensors"
    try:
        if _sha256(weights) != about["weights_sha256"]:
            raise UserError(f"{weights} is not the file that was exported (its SHA-256 differs); fetch it again")
        changed = about.get("config_sha256") not in (None, _sha256(folder / "config.json"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not a whole exported model ({type(error).__name__}: {error})") from None
    stored, _ = read_tensors(weights)
    letters = about.get("networks", list(PREFIXES))  # a model may come without E and D; older ones are whole
    if not {"G", "E"} & set(letters):
        raise UserError(f"{folder} is not a whole exported model: it has neither generator nor encoder")
    named = {
        letter: {k.removeprefix(f"{letter}."): t for k, t in stored.items() if k.startswith(f"{letter}.")}
        for letter in letters
    }
    model = Model(config, _filled(config, named, folder), about["step"], about["images_seen"])
    if changed:
        warnings.warn(f"{folder / 'config.json'} is not the file that was exported: fetch it again", stacklevel=3)
    return model


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _filled(config: Config, weights: dict[str, dict[str, Tensor]], where: Path) -> Networks:
    """The networks of a config with these weights by letter; those that there are none of are left out."""
    try:
        with torch.device("meta"):  # drawing weights that are replaced would take minutes for full-size networks
            networks = construct(config)
    except (TypeError, ValueError, RuntimeError) as error:  # settings that no network has
        raise UserError(f"{where}: no networks can be made by its config.json ({str(error).splitlines()[0]})") from None
    for letter, network in networks.present().items():
        if letter in weights:
            _fill(network, weights[letter], where)
    return Networks(networks.G, networks.E if "E" in weights else None, networks.D if "D" in weights else None)


def _fill(network: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    check_tensors(tensors, network.state_dict(), f"{where} does not fit the networks of its config.json")
    # Copies: how the parts of a file lie in memory decides which kernels are taken, and with them the last bits.
    network.load_state_dict({name: t.clone() for name, t in tensors.items()}, assign=True)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
