"""The losses of Section 2 as functions of scores: hinge on each score, then the mean over the scores.

`of_sum` is the variant the authors tried and left: one hinge on the sum of the scores.

`enc` are scores of encoder pairs (x, E(x)), label y = +1; `gen` of generator pairs (G(z), z), y = -1. Each is
a dictionary of [N] tensors, whichever of s_x, s_z, s_xz are in use. The paper sums over the scores, its
authors' code takes the mean; so do we (docs/deviations.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["discriminator_loss", "encoder_generator_loss"]

Scores = dict[str, Tensor]


def discriminator_loss(enc: Scores, gen: Scores, of_sum: bool = False) -> Tensor:
    """L_D = E[h(s(x, E(x)))] + E[h(-s(G(z), z))], h(t) = max(0, 1 - t), for each score s by itself."""
    if of_sum:
        enc, gen = ({"sum": torch.stack(list(pairs.values())).sum(0)} for pairs in (enc, gen))
    on_enc = [F.relu(1 - s).mean() for s in enc.values()]
    on_gen = [F.relu(1 + s).mean() for s in gen.values()]
    return torch.stack(on_enc).mean() + torch.stack(on_gen).mean()


def encoder_generator_loss(enc: Scores, gen: Scores) -> Tensor:
    """L_EG = E[s(x, E(x))] - E[s(G(z), z)]: E lowers what D raises on its pairs, G the other way round.

    `enc` is empty where there is no E.
    """
    of_g = -torch.stack([s.mean() for s in gen.values()]).mean()
    return of_g + torch.stack([s.mean() for s in enc.values()]).mean() if enc else of_g
