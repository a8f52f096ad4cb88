"""Compute the losses from scores, and the further losses of BiGAN's baselines.

BigBiGAN (Section 2): hinge on each score, then the mean over the scores. `of_sum` is the variant the authors tried and
left: one hinge on the sum of the scores. The paper sums over the scores, its authors' code takes the mean; so do we
(docs/deviations.md).

BiGAN (Donahue et al. 2017): the logistic loss of one score, halves for either kind of pairs; E and G minimise it with
the labels exchanged.

`enc` are scores of encoder pairs (x, E(x)), label y = +1; `gen` of generator pairs (G(z), z), y = -1. Each is
a dictionary of [N] tensors, whichever of s_x, s_z, s_xz are in use.
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


def discriminator_loss(enc: Scores, gen: Scores, of_sum: bool = False) -> Tensor:
    """L_D = E[h(s(x, E(x)))] + E[h(-s(G(z), z))], h(t) = max(0, 1 - t), for each score s by itself."""
    if of_sum:
        enc, gen = ({"sum": torch.stack(list(pairs.values())).sum(0)} for pairs in (enc, gen))
    on_enc = [F.relu(1 - s).mean() for s in enc.values()]
    on_gen = [F.relu(1 + s).mean() for s in gen.values()]
    return torch.stack(on_enc).mean() + torch.stack(on_gen).mean()


def encoder_generator_loss(enc: Scores, gen: Scores) -> Tensor:
    """L_EG = E[s(x, E(x))] - E[s(G(z), z)]: E lowers what D raises on its pairs, G the other way round.

    Either may be empty, for the term of the other alone.
    """
    terms = [torch.stack([s.mean() for s in enc.values()]).mean()] if enc else []
    terms += [-torch.stack([s.mean() for s in gen.values()]).mean()] if gen else []
    return torch.stack(terms).sum()


def logistic_discriminator_loss(enc: Scores, gen: Scores) -> Tensor:
    """L_D = (E[log(1 + exp(-s(x, E(x))))] + E[log(1 + exp(s(G(z), z)))]) / 2: cross-entropy of telling pairs apart."""
    on_enc = [F.softplus(-s).mean() for s in enc.values()]
    on_gen = [F.softplus(s).mean() for s in gen.values()]
    return (torch.stack(on_enc).mean() + torch.stack(on_gen).mean()) / 2


def logistic_encoder_generator_loss(enc: Scores, gen: Scores) -> Tensor:
    """L_EG: the cross-entropy of the exchanged labels, which unlike -L_D does not fade where D is sure.

    `enc` is empty where there is no E; then it is G's loss alone, and not halved.
    """
    of_g = torch.stack([F.softplus(-s).mean() for s in gen.values()]).mean()
    return (of_g + torch.stack([F.softplus(s).mean() for s in enc.values()]).mean()) / 2 if enc else of_g


def latent_regression_loss(logits: Tensor, z: Tensor) -> Tensor:
    """Cross-entropy of sigmoid(logits) [N, dim_z] and z in [-1, 1] brought to [0, 1], a mean over both."""
    return F.binary_cross_entropy_with_logits(logits, (z + 1) / 2)


def posterior_error(q: Posterior, z: Tensor, form: str) -> Tensor:
    """Return how badly q(z|x) predicts z [N, dim_z], a mean over images and entries.

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
    """Mean over images of ‖x − x̂‖₁ ("l1") or ‖x − x̂‖₂² ("l2"), pixels in [0, 1] for images in [-1, 1]."""
    difference = ((x - x_hat) / 2).flatten(1)
    return (difference.abs() if norm == "l1" else difference.square()).sum(1).mean()


def orthogonal_penalty(G: nn.Module) -> Tensor:
    """BigGAN's orthogonal regularisation, the sum over weights W of ‖W Wᵀ ⊙ (1 - I)‖_F²: rows are to be at right
    angles, whatever their length. The class embedding that blocks share is spared (Brock et al. 2019, Section 3.1)."""
    terms = []
    for name, weight in G.named_parameters():
        if weight.ndim >= 2 and not name.startswith("shared."):
            rows = weight.flatten(1)
            gram = rows @ rows.t()
            terms.append(gram.square().sum() - gram.diagonal().square().sum())
    return torch.stack(terms).sum()
