"""Interpolate between latents, and optimise latents with G fixed (GAN inversion)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Refined", "interpolate", "refine"]


def interpolate(a: Tensor, b: Tensor, steps: int, prior: str = "normal") -> Tensor:
    """Interpolate `steps` latents from a to b, ends included: [N, dim_z] each -> [N, steps, dim_z].

    Under a normal prior the path is the arc between a and b (White 2016), and its length changes evenly from a's to
    b's: latents on a straight line would be shorter than any that G has seen. Under a uniform prior the path is
    straight.
    """
    t = torch.linspace(0, 1, steps, device=a.device)[None, :, None]
    a, b = a[:, None], b[:, None]
    straight = a + (b - a) * t
    if prior == "uniform":
        return straight
    angle = torch.acos(F.cosine_similarity(a, b, dim=2).clamp(-1, 1))[..., None]
    length = torch.lerp(a.norm(dim=2, keepdim=True), b.norm(dim=2, keepdim=True), t)
    arc = torch.sin((1 - t) * angle) * F.normalize(a, dim=2) + torch.sin(t * angle) * F.normalize(b, dim=2)
    return torch.where(angle.sin() < 1e-4, straight, F.normalize(arc, dim=2) * length)


@dataclass
class Refined:
    """Hold optimised latents [N, dim_z], each the best one of its optimisation.

    `errors` are ‖x − G(z)‖₂ of each image, pixels in [0, 1], before the first step and after each: [steps + 1, N].
    """

    z: Tensor
    errors: Tensor


@torch.inference_mode(False)
@torch.enable_grad()
def refine(
    generate: Callable[[Tensor], Tensor],
    x: Tensor,
    z: Tensor,
    steps: int,
    rate: float = 0.05,
    bounded: bool = False,
    features: Callable[[Tensor], Tensor] | None = None,
    after_step: Callable[[int], object] | None = None,
) -> Refined:
    """Optimise z, each for its own image, so that G(z) comes close to x: Adam on the squared error of pixels.

    Args:
        generate: G.
        x: images [N, C, R, R] in [-1, 1], R the resolution of G.
        z: latents to start from, [N, dim_z]: E(x), or drawn from the prior.
        steps: of Adam.
        rate: its learning rate.
        bounded: keep z in [-1, 1], for a uniform prior.
        features: maps images to [N, d]; their squared distance over d is added, so that the error is less about pixels.
        after_step: called with the number of steps made, after each.
    """
    x, z = x.clone(), z.detach().clone().requires_grad_()  # copies: tensors made in inference mode have no gradient
    optimizer = torch.optim.Adam([z], lr=rate)
    target = None if features is None else features(x).detach()
    best, lowest, errors = z.detach().clone(), torch.full((len(x),), torch.inf, device=x.device), []
    for step in range(steps + 1):
        x_hat = generate(z)
        squared = (x - x_hat).square().flatten(1)
        cost = squared.mean(1)
        if features is not None and target is not None:
            cost = cost + (features(x_hat) - target).square().mean(1)
        errors.append(squared.detach().sum(1).sqrt() / 2)
        better = cost.detach() < lowest
        lowest = torch.where(better, cost.detach(), lowest)
        best = torch.where(better[:, None], z.detach(), best)
        if step < steps:
            optimizer.zero_grad()
            cost.sum().backward()  # images are independent: each z has the gradient it would have alone
            optimizer.step()
            if bounded:
                z.data.clamp_(-1, 1)
            if after_step is not None:
                after_step(step + 1)
    return Refined(best, torch.stack(errors))
