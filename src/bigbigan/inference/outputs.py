"""Hold the outputs of a model for several images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bigbigan.errors import UserError
from bigbigan.models.encoder import Posterior

__all__ = ["Encoding", "Scores", "finite", "joined"]


@dataclass
class Encoding:
    """The outputs of E for N images."""

    z_mean: Tensor | None  # [N, dim_z]; None, like the next two, if E has no latents
    z_stdev: Tensor | None  # [N, dim_z], zero for a deterministic E
    z_sample: Tensor | None  # [N, dim_z]
    avepool_feat: Tensor  # [N, num_features], the pooled trunk
    bn_crelu_feat: Tensor  # [N, 2·num_features], the paper's feature for linear classification


@dataclass
class Scores:
    """The scores of D for N pairs, each [N], or None if the model was trained without that score."""

    score_x: Tensor | None
    score_z: Tensor | None
    score_xz: Tensor | None


def joined(parts: list[tuple[Posterior | None, Tensor, Tensor]]) -> tuple[Posterior | None, Tensor, Tensor]:
    """Return E's outputs for several batches as those of one."""
    if len(parts) == 1:
        return parts[0]
    posteriors, avepool, bn_crelu = zip(*parts, strict=True)
    known = [q for q in posteriors if q is not None]
    fields = ("mean", "stdev", "logits")
    q = Posterior(*(torch.cat([getattr(q, name) for q in known]) for name in fields)) if known else None
    return q, torch.cat(avepool), torch.cat(bn_crelu)


def finite(network: str, *outputs: Tensor) -> Tensor:
    """Return the first of a network's outputs if all are finite, and raise UserError otherwise."""
    if not all(bool(output.isfinite().all()) for output in outputs):
        raise UserError(f"{network} outputs numbers that are not finite: it has diverged; use an earlier checkpoint")
    return outputs[0]
