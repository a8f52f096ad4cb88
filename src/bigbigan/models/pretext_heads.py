"""E for pretext tasks: the trunk of any other E, with a head for each task instead of latents."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbigan.models.encoder import FeatureEncoder
from bigbigan.models.layers import E_BN_EPS
from bigbigan.models.pretext_views import gamut_bins

__all__ = ["ColourHead", "ContextHead", "PretextEncoder", "pair_head"]


class PretextEncoder(FeatureEncoder):
    """A trunk and the heads of the tasks that train it; evaluation uses only the trunk's features.

    Args:
        trunk: images or patches to pooled features [N, trunk.num_features].
        heads: by the name of the task, see `bigbigan.methods.pretext`.
        enter: preprocessing of all views [..., C, S, S] before the trunk.
        patches: maps images [N, C, R, R] to the patches [N, P, C, S, S] whose features are averaged in evaluation; None
            if the trunk is trained on whole images.
    """

    def __init__(
        self,
        trunk: nn.Module,
        heads: dict[str, nn.Module],
        enter: Callable[[Tensor], Tensor],
        patches: Callable[[Tensor], Tensor] | None,
    ) -> None:
        super().__init__(trunk)
        self.heads = nn.ModuleDict(heads)
        self.enter, self.patches = enter, patches

    def embed(self, views: Tensor) -> Tensor:
        """Return the features of views: [N, P, C, S, S] to [N, P, num_features]."""
        return self.trunk(_flat(views)).unflatten(0, views.shape[:2])

    def maps(self, views: Tensor) -> Tensor:
        """Return the maps that the trunk pools: views [N, 1, C, S, S] to [N, num_features, H, W]."""
        return self.trunk.final_map(_flat(views))  # type: ignore[operator]

    def features(self, x: Tensor) -> Tensor:
        """Return AvePool: images [N, C, R, R] in [-1, 1] to [N, num_features], or its mean over patches."""
        if self.patches is None:
            return self.trunk(self.enter(x))
        return self.embed(self.enter(self.patches(x))).mean(1)


def _flat(views: Tensor) -> Tensor:
    return views.flatten(0, 1).contiguous(memory_format=torch.channels_last)


def pair_head(num_features: int, width: int, embedding: int = 0) -> nn.Module:
    """Make the head of relative_position: features of two patches [M, 2·num_features] to logits of 8 positions [M, 8].

    Args:
        num_features: of a patch.
        width: of the hidden layer.
        embedding: length of a linear embedding of each patch before the hidden layer (`embed_dim` in
            google/revisiting-self-supervised); 0 for none.
    """
    before = [_EmbedEach(num_features, embedding)] if embedding else []
    hidden = nn.Linear(2 * (embedding or num_features), width)
    return nn.Sequential(*before, hidden, nn.BatchNorm1d(width, eps=E_BN_EPS), nn.ReLU(), nn.Linear(width, 8))


class _EmbedEach(nn.Linear):
    """The same linear layer for both patches of a pair: [M, 2·in_features] to [M, 2·out_features]."""

    def forward(self, pairs: Tensor) -> Tensor:
        return super().forward(pairs.unflatten(1, (2, self.in_features))).flatten(1)


class ColourHead(nn.Module):
    """Maps to a distribution over colours (cells of the ab plane) at an eighth of the image's side (Zhang et al. 2016).

    Args:
        num_features: of the maps.
        stride: of the trunk: the side of an image divided by the side of its maps.
    """

    bins: Tensor
    frequency: Tensor

    def __init__(self, num_features: int, stride: int) -> None:
        super().__init__()
        bins = torch.tensor(gamut_bins(), dtype=torch.float)
        self.up = max(1, stride // 8)
        self.conv = nn.Conv2d(num_features, len(bins) * self.up**2, 1)
        self.register_buffer("bins", bins)  # [Q, 2]
        self.register_buffer("frequency", torch.full((len(bins),), 1 / len(bins)))  # of each colour in training images

    def forward(self, maps: Tensor, side: int) -> Tensor:
        """Map [N, num_features, H, W] to logits [N, Q, side, side]."""
        if maps.shape[-1] > side:
            maps = F.adaptive_avg_pool2d(maps, side)
        return F.pixel_shuffle(self.conv(maps), self.up)

    def weights(self, share: float = 0.5) -> Tensor:
        """Return the weight of each colour in the loss, [Q]: higher for rare ones (lambda = `share`), mean 1."""
        mixed = 1 / ((1 - share) * self.frequency + share / len(self.frequency))
        return mixed / (self.frequency * mixed).sum()

    @torch.no_grad()
    def count(self, colours: Tensor, momentum: float = 0.01) -> None:
        """Update the moving average of the frequencies with a training batch's colours, int64 [M]."""
        frequency = F.one_hot(colours, len(self.frequency)).float().mean(0)
        self.frequency.lerp_(frequency, momentum)


class ContextHead(nn.Module):
    """Head of CPC, which predicts rows of patches from the rows above (van den Oord et al. 2018).

    The networks are those of Hénaff et al. 2019. The row at `row + offset` is predicted from the rows up to `row`: with
    offsets below 2 they would share pixels.

    Args:
        num_features: of a patch.
        directions: 1 predicts from above; 2 also from below; 4 also from the left and the right. Each has its own
            network.
        width: hidden channels, at most a quarter of `num_features`.
        target: length of the predicted vectors.
        blocks: residual blocks of each network.
    """

    offsets = (2, 3, 4, 5)

    def __init__(self, num_features: int, directions: int, width: int = 256, target: int = 64, blocks: int = 5) -> None:
        super().__init__()
        width = min(width, max(1, num_features // 4))
        self.turns = (0, 2, 1, 3)[:directions]  # quarter turns of the grid
        self.contexts = nn.ModuleList(
            nn.Sequential(*(_RowCausalBlock(num_features, width) for _ in range(blocks)), nn.ReLU()) for _ in self.turns
        )
        self.guesses = nn.ModuleList(nn.Conv2d(num_features, target * len(self.offsets), 1) for _ in self.turns)
        self.target = nn.Conv2d(num_features, target, 1)

    def forward(self, grid: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Predict patches in each direction, from features [N, d, 7, 7].

        Returns:
            For each direction: predictions [N, M, target]; the candidates of an image, [N, 49, target]; and the index
            of each prediction's correct candidate, int64 [M].
        """
        results = []
        for turns, context, predict in zip(self.turns, self.contexts, self.guesses, strict=True):
            turned = grid.rot90(turns, (2, 3))
            rows, columns = turned.shape[2:]
            by_offset = predict(context(turned)).chunk(len(self.offsets), dim=1)
            indices = torch.arange(rows * columns, device=grid.device).view(rows, columns)
            pairs = list(zip(self.offsets, by_offset, strict=True))
            predictions = torch.cat([p[:, :, : rows - o].flatten(2) for o, p in pairs], dim=2)
            correct = torch.cat([indices[o:].flatten() for o, _ in pairs])
            candidates = self.target(turned).flatten(2).transpose(1, 2)
            results.append((0.1 * predictions.transpose(1, 2), candidates, correct))
        return results


class _RowCausalBlock(nn.Module):
    """A residual block whose output at a row depends on that row and the rows above."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, width, 1)
        self.across = nn.Conv2d(width, width, (1, 3), padding=(0, 1))
        self.down = nn.Conv2d(width, width, (2, 1))
        self.leave = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.across(F.relu(self.enter(x)))
        h = self.down(F.pad(h, (0, 0, 1, 0)))
        return x + self.leave(F.relu(h))
