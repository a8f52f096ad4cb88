"""Define a system: its networks, its players, and the updates that make up a training step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from bigbigan.compute import has_float64
from bigbigan.config import Config, DataConfig
from bigbigan.image import pool_to
from bigbigan.methods.diffaugment import augmentation, augmented
from bigbigan.methods.losses import Scores
from bigbigan.models import Networks, Posterior

__all__ = ["Noise", "Outcome", "System", "Update", "generate", "sample_labels", "sample_prior"]


def sample_prior(count: int, dim: int, prior: str, generator: torch.Generator) -> Tensor:
    """Draw z ~ P_z: [count, dim], N(0, I) for "normal", U(-1, 1) for "uniform"."""
    if prior == "normal":
        return torch.randn(count, dim, generator=generator, device=generator.device)
    return torch.rand(count, dim, generator=generator, device=generator.device) * 2 - 1


def sample_labels(count: int, data: DataConfig, generator: torch.Generator) -> Tensor | None:
    """Draw classes int64 [count] for G, or return None if there is only one class.

    Classes have the frequencies of the training images, so that D cannot recognise generated images by their class.
    """
    if data.classes == 1:
        return None
    if not data.class_sizes:
        return torch.randint(data.classes, (count,), generator=generator, device=generator.device)
    dtype = torch.float64 if has_float64(generator.device.type) else torch.float32
    sizes = torch.tensor(data.class_sizes, dtype=dtype, device=generator.device)
    return torch.multinomial(sizes, count, replacement=True, generator=generator)


def generate(G: nn.Module, z: Tensor, y: Tensor | None) -> Tensor:
    """Return G(z), or G(z, y) if G is conditioned on labels."""
    return G(z) if y is None else G(z, y)


@dataclass
class Outcome:
    """The result of an update, or of one term of it: a loss for each player that it trains, and values to log."""

    losses: dict[str, Tensor]
    enc: Scores = field(default_factory=dict)  # of encoder pairs, or of images alone in a GAN
    gen: Scores = field(default_factory=dict)  # of generator pairs
    posterior: Posterior | None = None  # q(z|x) of the batch
    metrics: dict[str, Tensor] = field(default_factory=dict)  # further metrics, by the name they are logged under


Noise = dict[str, Tensor]  # the random tensors of an update by name, one row for each image of the batch
Update = Callable[..., Iterable[Outcome]]  # of x, its noise and, if D and G are conditioned on labels, the labels of x


class System(ABC):
    """A training method: networks, their losses, and the updates of a training step.

    A *player* is one or more networks that minimise one loss with one optimizer. A training step is a list of
    *updates*. Each update takes a fresh batch x [N, C, R_E, R_E] in [-1, 1], the noise that `sample_noise` drew for it
    and, in a conditional system, the labels of x; it returns the losses of the players that it trains. If a loss is a
    sum of terms that share no graph, the update yields one term after the other: the gradient of one is computed, and
    its graph freed, before the next. Then every player that any term named takes one step.

    Losses are means over images: the rows of a batch and of its noise can be split over several calls, or over several
    devices, and the gradients averaged. With data.augment=task_crop, x has the size that images are stored at.
    """

    players: ClassVar[dict[str, str]]  # name: the letters of its networks
    generator_is_decoder: ClassVar[bool] = False  # G is only ever fed E(x), never samples of P_z

    def __init__(self, config: Config, networks: Networks) -> None:
        self.config, self.networks = config, networks
        self.resolution = config.generator.resolution
        self.progress = 0.0  # the share of the training steps that is done; `training_step` sets it

    @property
    @abstractmethod
    def updates(self) -> Sequence[Update]:
        """The updates of a training step, in order."""

    def sample_noise(self, count: int, generator: torch.Generator) -> Noise:
        """Draw the random numbers of an update over `count` images: z, and the augmentation of D's and E's inputs."""
        noise = {"z": self.sample_prior(count, generator)}
        if self.config.discriminator.augment:
            noise |= {f"augmentation of {name}": augmentation(count, generator) for name in ("x", "x_hat")}
        if self.config.encoder.augment:
            noise["augmentation of x for E"] = augmentation(count, generator)
        return noise

    def d_input(self, x: Tensor, noise: Noise, name: str) -> Tensor:
        """Return images [N, C, R', R'] as D sees them: at G's resolution and, with discriminator.augment, augmented.

        Args:
            x: real or generated images.
            noise: of the update.
            name: "x" for real images, "x_hat" for generated ones; each kind has its own augmentation noise.
        """
        policy = self.config.discriminator.augment
        x = pool_to(x, self.resolution)
        return augmented(x, policy, noise[f"augmentation of {name}"]) if policy else x

    def e_input(self, x: Tensor, noise: Noise) -> Tensor:
        """Return images x [N, C, R_E, R_E] as E sees them in training: augmented with encoder.augment."""
        policy = self.config.encoder.augment
        return augmented(x, policy, noise["augmentation of x for E"]) if policy else x

    def sample_prior(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw z ~ P_z of this run's settings: [count, latent.dim]."""
        return sample_prior(count, self.config.latent.dim, self.config.latent.prior, generator)

    def check_images(self, x: Tensor) -> None:  # noqa: B027
        """Raise UserError if this system cannot be trained on images like x."""

    def input_pictures(self, x: Tensor, noise: Noise) -> dict[str, Tensor]:
        """Return the networks' inputs for images x if they differ from x: by name, [N, P, C, S, S] in [-1, 1]."""
        return {}

    def networks_of(self, player: str) -> dict[str, nn.Module]:
        """Return the networks of a player by letter."""
        by_letter = self.networks._asdict()
        return {letter: by_letter[letter] for letter in self.players[player] if by_letter[letter] is not None}

    def backward(self, losses: dict[str, Tensor]) -> None:
        """Add the gradient of each loss to the parameters of its player, and to no others."""
        last = list(losses)[-1]
        for player, loss in losses.items():
            networks = self.networks_of(player).values()
            parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
            loss.backward(inputs=parameters, retain_graph=player != last)

    def trained_networks(self) -> Iterator[tuple[str, str, nn.Module]]:
        """Iterate over player, letter and network of all trained networks."""
        for player in self.players:
            for letter, network in self.networks_of(player).items():
                yield player, letter, network
