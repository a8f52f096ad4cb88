"""A trained model as people use it: encode, generate, reconstruct, discriminate.

The names are those of the authors' published modules. Images are float tensors [N, C, H, W] in [-1, 1]; uint8
is accepted and converted. Networks are the averaged ones with standing statistics, in evaluation mode.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbigan import checkpoint as ck
from bigbigan.averaging import batch_norms, standing_statistics
from bigbigan.config import Config, config_from_dict
from bigbigan.data.batches import pool_to, to_float
from bigbigan.errors import UserError
from bigbigan.hub import download, is_hub_name
from bigbigan.io import open_regular, read_json
from bigbigan.latents import Refined, interpolate, refine
from bigbigan.models import FeatureEncoder, Networks, construct
from bigbigan.randomness import keyed_generator
from bigbigan.run import CARD, read_config
from bigbigan.systems import generate, sample_labels, sample_prior
from bigbigan.tensors import check_tensors, read_tensors

__all__ = ["EXPORTED", "Encoding", "Model", "Scores", "load"]

EXPORTED = "model.json"  # the file by which an exported folder is known
PREFIXES = {"G": "G_ema.", "E": "E_ema.", "D": "D."}  # what of a checkpoint a model is made of
ABOUT = {  # what is read from model.json, see `bigbigan.io.checked`
    "schema": int,
    "step": int,
    "images_seen": int,
    "weights_sha256": str,
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
        self._truncated.clear()
        for network in filter(None, self.networks):
            network.to(device)
        return self

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 or float images [N, C, H, W] as E takes them: float in [-1, 1], on the model's device.

        Raises:
            UserError: wrong shape, channels or value range, with what was expected.
        """
        channels, side = self.config.data.channels, self.config.encoder.resolution
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise UserError(f"images have shape {list(images.shape)}; expected [N, {channels}, {side}, {side}]")
        x = to_float(images) if images.dtype == torch.uint8 else images.float()
        if len(x) and (x.min() < -1.01 or x.max() > 1.01):
            raise UserError(
                f"float images lie in [{x.min():.3g}, {x.max():.3g}]; expected [-1, 1] (or uint8): scale x / 127.5 - 1"
            )
        if x.shape[1] != channels:
            weights = torch.tensor([0.299, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)
            x = x.expand(-1, 3, -1, -1) if channels == 3 else (x * weights).sum(1, keepdim=True)
        if x.shape[2:] != (side, side):
            if x.shape[2] != x.shape[3]:
                raise UserError(
                    f"images are {x.shape[3]}×{x.shape[2]}; expected square ones of {side} px: crop them first"
                )
            x = F.interpolate(x, size=(side, side), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        return x.to(self.device)

    @torch.no_grad()
    def encode(self, images: Tensor, seed: int = 0) -> Encoding:
        """E's outputs for images [N, C, H, W]; `seed` is of z_sample's noise."""
        q, avepool, bn_crelu = self.encoder.all_outputs(self.prepare(images))
        if q is None:
            return Encoding(None, None, None, avepool, bn_crelu)
        noise = keyed_generator(seed, "encode", 0, str(self.device))
        eps = torch.randn(q.mean.shape, generator=noise, device=self.device)
        return Encoding(q.mean, q.stdev, q.sample(eps), avepool, bn_crelu)

    @torch.no_grad()
    def generate(
        self, z_or_count: Tensor | int, truncation: float = 1.0, seed: int = 0, label: int | None = None
    ) -> Tensor:
        """Images [N, C, R, R] in [-1, 1] from latents [N, dim_z], or from a count of latents drawn from P_z.

        Args:
            z_or_count: latents, or how many to draw.
            truncation: scale of drawn latents, in (0, 1]; below 1 a normal prior is also cut at two standard
                deviations, as the released modules are used.
            seed: of the drawn latents, and of labels where G is told them.
            label: the class of all of them, 0 to data.classes - 1; drawn evenly without it.

        Below 1, batch norm statistics are made anew for the truncation, as BigGAN does.

        Raises:
            UserError: latents of another length, truncation or label out of range, or a label for a G without classes.
        """
        return torch.cat(list(self.generate_batches(z_or_count, truncation, seed, label)))

    @torch.no_grad()
    def generate_batches(
        self, z_or_count: Tensor | int, truncation: float = 1.0, seed: int = 0, label: int | None = None
    ) -> Iterator[Tensor]:
        """The images of `generate`, 64 at a time: for more of them than memory holds."""
        classes = self.config.data.classes
        if label is not None and (classes == 1 or not 0 <= label < classes):
            known = f"0 to {classes - 1}" if classes > 1 else "none: this model was trained without labels"
            raise UserError(f"label is {label}; expected {known}")
        if isinstance(z_or_count, Tensor):
            z = z_or_count.to(self.device, torch.float32)
            if z.ndim != 2 or z.shape[1] != self.config.latent.dim:
                raise UserError(f"z has shape {list(z.shape)}; expected [N, {self.config.latent.dim}]")
        else:
            z = self.sample_prior(z_or_count, truncation, seed)
        noise = keyed_generator(seed, "labels", 0, str(self.device))
        y = sample_labels(len(z), classes, noise) if label is None else torch.full((len(z),), label, device=self.device)
        G, labels = self._at(truncation), y if classes > 1 else None
        for start in range(0, max(1, len(z)), AT_ONCE):  # no images are one empty batch
            part = slice(start, start + AT_ONCE)
            yield generate(G, z[part], None if labels is None else labels[part])

    def _decode(self, z: Tensor) -> Tensor:
        """G of latents [N, dim_z], a batch at a time."""
        return torch.cat([self.generator(part) for part in z.split(AT_ONCE)])

    def _at(self, truncation: float) -> nn.Module:
        """G with the batch norm statistics of truncated latents."""
        if truncation == 1 or not batch_norms(self.generator):
            return self.generator
        if truncation not in self._truncated:
            G, batches, size = copy.deepcopy(self.generator), self.config.log.standing_batches, 128
            z = self.sample_prior(batches * size, truncation, seed=0)
            noise = keyed_generator(0, "standing labels", 0, str(self.device))
            y = sample_labels(len(z), self.config.data.classes, noise)
            labels = [None] * batches if y is None else y.split(size)
            passes = (partial(generate, G, z, y) for z, y in zip(z.split(size), labels, strict=True))
            standing_statistics(G, self.generator, passes)
            self._truncated[truncation] = G
        return self._truncated[truncation]

    def sample_prior(self, count: int, truncation: float = 1.0, seed: int = 0) -> Tensor:
        """`count` latents from P_z, [count, dim_z]; see `generate` for the truncation."""
        if not 0 < truncation <= 1:
            raise UserError(f"truncation is {truncation}; expected a number above 0 and up to 1")
        noise = keyed_generator(seed, "generate", 0, str(self.device))
        z = sample_prior(count, self.config.latent.dim, self.config.latent.prior, noise)
        if truncation < 1 and self.config.latent.prior == "normal":
            while (beyond := z.abs() > 2).any():
                z = torch.where(beyond, torch.randn(z.shape, generator=noise, device=z.device), z)
        return truncation * z

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """G(E(x)) with z at its mean: [N, C, R, R] in [-1, 1], R the generator's resolution."""
        x = self.prepare(images)
        return torch.cat([self.generator(self.encoder(part).mean) for part in x.split(AT_ONCE)])

    def refine(
        self,
        images: Tensor,
        steps: int,
        z: Tensor | None = None,
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
            UserError: latents of another shape, unknown features, or ones this model has not.
        """
        G, x, resolution = self.generator, self.prepare(images), self.config.generator.resolution
        if z is None:
            with torch.no_grad():
                z = self.encoder(x).mean
        elif z.shape != (len(x), self.config.latent.dim):
            raise UserError(f"z has shape {list(z.shape)}; expected [{len(x)}, {self.config.latent.dim}]")
        known = {"": None, "encoder": self._encoder_features, "discriminator": self._discriminator_features}
        if features not in known:
            raise UserError(f"features is {features}; expected encoder, discriminator, or nothing for pixels alone")
        bounded = self.config.latent.prior == "uniform"
        x = pool_to(x, resolution)
        of_features = known[features]
        return refine(G, x, z.to(self.device), steps, rate, bounded, of_features, after_step=after_step)

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
    def interpolate(self, images: Tensor, others: Tensor, steps: int = 8) -> Tensor:
        """Images along the way from E(images) to E(others), [N, C, H, W] each: [N, steps, C, R, R] in [-1, 1]."""
        _ = self.generator  # of what has none, say so at once
        a, b = (self.encoder(self.prepare(x)).mean for x in (images, others))
        walks = interpolate(a, b, steps, self.config.latent.prior)
        return self._decode(walks.flatten(0, 1)).unflatten(0, walks.shape[:2])

    @torch.no_grad()
    def discriminate(self, images: Tensor, z: Tensor | None) -> Scores:
        """D's scores of pairs: high where D takes them for encoder pairs (x, E(x))."""
        x = pool_to(self.prepare(images), self.config.generator.resolution)
        s = self.discriminator(x, None if z is None else z.to(self.device))
        return Scores(s.get("s_x"), s.get("s_z"), s.get("s_xz"))

    @torch.no_grad()
    def anomaly_score(self, images: Tensor, alpha: float = 0.9) -> Tensor:
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
        UserError: no such folder, no sound checkpoint, or weights that do not fit.
    """
    run = download(str(run)) if is_hub_name(run) else Path(run)
    if (run / EXPORTED).exists():
        return _load_exported(run).to(device)
    config = read_config(run)

    def read(chosen: ck.Checkpoint) -> Model:
        stored = {letter: chosen.tensors("weights.safetensors", prefix) for letter, prefix in PREFIXES.items()}
        named = {letter: {k.removeprefix(PREFIXES[letter]): t for k, t in ts.items()} for letter, ts in stored.items()}
        return Model(config, _filled(config, named, chosen.path), chosen.step, chosen.info()["images_seen"])

    model = ck.read_checkpoint(run, checkpoint, read)
    if model is None:
        raise UserError(f"{run} has no checkpoint yet; train it first: bigbigan train {config.experiment} --out {run}")
    return model.to(device)


def _load_exported(folder: Path) -> Model:
    if (schema := read_json(folder / EXPORTED, {"schema": int})["schema"]) != 1:
        raise UserError(f"{folder / EXPORTED} has schema {schema}, this version reads 1")
    about = read_json(folder / EXPORTED, ABOUT)
    config = config_from_dict(read_json(folder / "config.json"), str(folder / "config.json"))
    weights = folder / "model.safetensors"
    try:
        with open_regular(weights) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != about["weights_sha256"]:
                raise UserError(f"{weights} is not the file that was exported (its SHA-256 differs); fetch it again")
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
    return Model(config, _filled(config, named, folder), about["step"], about["images_seen"])


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
