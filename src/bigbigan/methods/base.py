"""What the training loop asks of a system: its learners, and the moves that make up a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from bigbigan.config import Config, DataConfig
from bigbigan.image import pool_to
from bigbigan.methods.diffaugment import augmentation, augmented
from bigbigan.methods.losses import Scores
from bigbigan.models import Networks, Posterior

__all__ = ["Draws", "Move", "Outcome", "System", "generate", "sample_labels", "sample_prior"]


def sample_prior(count: int, dim: int, prior: str, generator: torch.Generator) -> Tensor:
    """z ~ P_z: [count, dim], N(0, I) for "normal", U(-1, 1) for "uniform"."""
    if prior == "normal":
        return torch.randn(count, dim, generator=generator, device=generator.device)
    return torch.rand(count, dim, generator=generator, device=generator.device) * 2 - 1


def sample_labels(count: int, data: DataConfig, generator: torch.Generator) -> Tensor | None:
    """Classes int64 [count] for G, each as likely as it is among the training images, so that a class by itself does
    not tell D which images were drawn; None where there is only one."""
    if data.classes == 1:
        return None
    if not data.class_sizes:
        return torch.randint(data.classes, (count,), generator=generator, device=generator.device)
    sizes = torch.tensor(data.class_sizes, dtype=torch.float64, device=generator.device)
    return torch.multinomial(sizes, count, replacement=True, generator=generator)


def generate(G: nn.Module, z: Tensor, y: Tensor | None) -> Tensor:
    """G(z), or G(z, y) of a G that is told the class."""
    return G(z) if y is None else G(z, y)


@dataclass
class Outcome:
    """What a move gives, or a part of it: a loss for each learner that moves, and what is worth logging."""

    losses: dict[str, Tensor]
    enc: Scores = field(default_factory=dict)  # of encoder pairs, or of images alone in a GAN
    gen: Scores = field(default_factory=dict)  # of generator pairs
    posterior: Posterior | None = None  # q(z|x) of the batch
    figures: dict[str, Tensor] = field(default_factory=dict)  # others, by the name they are logged under


Draws = dict[str, Tensor]  # what a move needs that is random, by name: a row for each image of the batch
Move = Callable[..., Iterable[Outcome]]  # of x, its draws and, where D and G are told them, the labels y of x


class System(ABC):
    """Networks and what they play.

    A *learner* is one or more networks that minimise one loss with one optimiser. A training step is a list of *moves*;
    each takes a fresh batch x [N, C, R_E, R_E] in [-1, 1], what `draw` drew for it (and the labels of x, in a
    conditional system), and gives the losses of the learners that it lets move. Where a loss is a sum of terms that
    share no graph, a move yields one after the other, so that the gradient of one is taken, and its graph gone, before
    the next is computed. Every learner that any of them names then takes one step. Losses are means over images: rows
    of a batch and of its draws can be given to several calls, or to several devices, and the gradients averaged.
    With data.augment=task_crop, x is as large as images are kept.
    """

    learners: ClassVar[dict[str, str]]  # name: the letters of its networks
    decodes_alone: ClassVar[bool] = False  # G knows E(x), and nothing of P_z

    def __init__(self, config: Config, networks: Networks) -> None:
        self.config, self.networks = config, networks
        self.resolution = config.generator.resolution

    @property
    @abstractmethod
    def moves(self) -> Sequence[Move]:
        """The moves of a step, in order."""

    def draw(self, count: int, noise: torch.Generator) -> Draws:
        """All that is random in a move over `count` images: z, and what augments both kinds of images for D."""
        draws = {"z": self.sample_prior(count, noise)}
        if self.config.discriminator.augment:
            draws |= {f"view of {name}": augmentation(count, noise) for name in ("x", "x_hat")}
        return draws

    def view(self, x: Tensor, draws: Draws, name: str) -> Tensor:
        """What D sees of images [N, C, R', R'], which are "x" or "x_hat": at G's resolution, and augmented where that
        is asked for."""
        policy = self.config.discriminator.augment
        x = pool_to(x, self.resolution)
        return augmented(x, policy, draws[f"view of {name}"]) if policy else x

    def sample_prior(self, count: int, noise: torch.Generator) -> Tensor:
        return sample_prior(count, self.config.latent.dim, self.config.latent.prior, noise)

    def check(self, x: Tensor) -> None:  # noqa: B027
        """Raises UserError where images like x are not for this system."""

    def pictures(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        """What the networks are shown of images x, where that is other than x: by name, [N, P, C, S, S] in [-1, 1]."""
        return {}

    def members(self, learner: str) -> dict[str, nn.Module]:
        """The networks of a learner by letter."""
        named = self.networks._asdict()
        return {letter: named[letter] for letter in self.learners[learner] if named[letter] is not None}

    def backward(self, losses: dict[str, Tensor]) -> None:
        """Add the gradient of each loss to the parameters of its learner, and to no others."""
        last = list(losses)[-1]
        for learner, loss in losses.items():
            inputs = [p for network in self.members(learner).values() for p in network.parameters()]
            loss.backward(inputs=inputs, retain_graph=learner != last)

    def named_members(self) -> Iterator[tuple[str, str, nn.Module]]:
        """Learner, letter and network of all that is trained."""
        for learner in self.learners:
            for letter, network in self.members(learner).items():
                yield learner, letter, network
