"""Handle batch norm statistics: standing statistics for evaluation, and passes that keep running statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["batch_norms", "batch_statistics", "standing_statistics"]


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Return the batch norm layers of a network."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm)]


@torch.no_grad()
def standing_statistics(average: nn.Module, network: nn.Module, passes: Iterator[Callable[[], object]]) -> None:
    """Compute the batch norm statistics of averaged weights (BigGAN's "standing statistics"); end in eval mode.

    Batch means and variances are averaged over all `passes`, each of which runs a batch through `average` in
    training mode. Other buffers (spectral norm vectors) are copied from `network`.
    """
    for ours, theirs in zip(average.buffers(), network.buffers(), strict=True):
        ours.copy_(theirs)
    norms = batch_norms(average)
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # torch: cumulative average
    average.train()
    for run in passes:
        run()
    average.eval()
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Within the block, batch norms in training mode do not update their running statistics."""
    norms = batch_norms(network)
    before = [m.track_running_stats for m in norms]
    for m in norms:
        m.track_running_stats = False
    try:
        yield
    finally:
        for m, tracked in zip(norms, before, strict=True):
            m.track_running_stats = tracked
