"""Update the exponential moving average of weights, which evaluation uses."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["update_average"]


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Update the exponential moving average of the weights after step `step` (1, 2, ...).

    Early in training the decay is (1 + step) / (10 + step), so that the initial weights do not dominate the average.
    """
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
