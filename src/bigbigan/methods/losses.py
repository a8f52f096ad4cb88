"""Compute the losses from scores, and the further losses of BiGAN's baselines.

BigBiGAN (Section 2): hinge on each score, then the mean over the scores. `hinge_on_sum` is the variant that the authors
tried and rejected: one hinge on the sum of the scores. The paper sums over the scores, its authors' code takes the
mean, and so does this code (docs/deviations.md).

BiGAN (Donahue et al. 2017): the logistic loss of one score, averaged over the two kinds of pairs; E and G minimise it
with exchanged labels.

`enc` are scores of encoder pairs (x, E(x)), label y = +1; `gen` are scores of generator pairs (G(z), z), y = -1. Each
is a dictionary of [N] tensors, with those of s_x, s_z, s_xz that are in use.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbigan.models import Posterior

__all__ = [
    "discriminator_loss",
    "encoder_generator_loss",
    "latent_regression_loss",
    "logistic_discriminator_loss",
    "logistic_encoder_generator_loss",
    "orthogonal_penalty",
    "pixel_loss",
    "posterior_error",
]

Scores = dict[str, Tensor]


def discriminator_loss(enc: Scores, gen: Scores, hinge_on_sum: bool = False) -> Tensor:
    """Return L_D = E[h(s(x, E(x)))] + E[h(-s(G(z), z))], h(t) = max(0, 1 - t), the mean over the scores s."""
    if hinge_on_sum:
        enc, gen = ({"sum": torch.stack(list(pairs.values())).sum(0)} for pairs in (enc, gen))
    on_enc = [F.relu(1 - s).mean() for s in enc.values()]
    on_gen = [F.relu(1 + s).mean() for s in gen.values()]
    return torch.stack(on_enc).mean() + torch.stack(on_gen).mean()


def encoder_generator_loss(enc: Scores, gen: Scores) -> Tensor:
    """Return L_EG = E[s(x, E(x))] - E[s(G(z), z)]: E lowers the scores of encoder pairs, G raises those of its pairs.

    If one of `enc` and `gen` is empty, only the other's term is returned.
    """
    terms = [torch.stack([s.mean() for s in enc.values()]).mean()] if enc else []
    terms += [-torch.stack([s.mean() for s in gen.values()]).mean()] if gen else []
    return torch.stack(terms).sum()


def logistic_discriminator_loss(enc: Scores, gen: Scores) -> Tensor:
    """Return L_D = (E[log(1 + exp(-s(x, E(x))))] + E[log(1 + exp(s(G(z), z)))]) / 2: D's classification loss."""
    on_enc = [F.softplus(-s).mean() for s in enc.values()]
    on_gen = [F.softplus(s).mean() for s in gen.values()]
    return (torch.stack(on_enc).mean() + torch.stack(on_gen).mean()) / 2


def logistic_encoder_generator_loss(enc: Scores, gen: Scores) -> Tensor:
    """Return L_EG: cross-entropy with exchanged labels. Unlike with -L_D, gradients do not vanish if D is confident.

    If `enc` is empty (there is no E) it is only G's loss, not halved.
    """
    g_loss = torch.stack([F.softplus(-s).mean() for s in gen.values()]).mean()
    return (g_loss + torch.stack([F.softplus(s).mean() for s in enc.values()]).mean()) / 2 if enc else g_loss


def latent_regression_loss(logits: Tensor, z: Tensor) -> Tensor:
    """Return the mean cross-entropy of sigmoid(logits) [N, dim_z] and z in [-1, 1], scaled to [0, 1]."""
    return F.binary_cross_entropy_with_logits(logits, (z + 1) / 2)


def posterior_error(q: Posterior, z: Tensor, form: str) -> Tensor:
    """Return the error of q(z|x) on z [N, dim_z], a mean over images and entries.

    Args:
        q: the posterior of images x = G(z).
        z: the latents that G made x from.
        form: "squared" for (z - mu)²;
            "likelihood" for -log q(z|x) without its constant: log sigma + ((z - mu) / sigma)² / 2.
    """
    if form == "squared":
        return (z - q.mean).square().mean()
    return (q.stdev.log() + ((z - q.mean) / q.stdev).square() / 2).mean()


def pixel_loss(x: Tensor, x_hat: Tensor, norm: str) -> Tensor:
    """Return the mean over images of ‖x − x̂‖₁ ("l1") or ‖x − x̂‖₂² ("l2"); images in [-1, 1] are scaled to [0, 1]."""
    difference = ((x - x_hat) / 2).flatten(1)
    return (difference.abs() if norm == "l1" else difference.square()).sum(1).mean()


def orthogonal_penalty(G: nn.Module) -> Tensor:
    """Return BigGAN's orthogonal regularisation, the sum over weights W of ‖W Wᵀ ⊙ (1 - I)‖_F².

    It makes rows orthogonal, without constraining their norms. The shared class embedding is excluded (Brock et al.
    2019, Section 3.1).
    """
    terms = []
    for name, weight in G.named_parameters():
        if weight.ndim >= 2 and not name.startswith("shared."):
            rows = weight.flatten(1)
            # W Wᵀ and Wᵀ W have equal Frobenius norms; of G's seed at 128 px the first has 24,576 rows.
            gram = rows @ rows.t() if len(rows) <= rows.shape[1] else rows.t() @ rows
            terms.append(gram.square().sum() - rows.square().sum(1).square().sum())
    return torch.stack(terms).sum()
