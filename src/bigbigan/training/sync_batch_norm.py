"""Compute batch norm over the rows of all ranks, under torchrun."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from bigbigan.models.batch_norm import batch_norms
from bigbigan.training import distributed

__all__ = ["synchronise_batch_norms"]


def synchronise_batch_norms(network: nn.Module) -> None:
    """Make batch norms in training mode take the mean and variance of the batches of all ranks together."""
    if distributed.world_size() > 1:
        for norm in batch_norms(network):
            norm.forward = partial(_batch_norm, norm)  # type: ignore[method-assign]


@torch._disable_dynamo  # as torch.compiler.disable, without loading the compiler at once
def _batch_norm(norm: _BatchNorm, x: Tensor) -> Tensor:
    if not norm.training:
        return type(norm).forward(norm, x)
    y, mean, variance, count = _Normalise.apply(x, norm.eps)
    if norm.track_running_stats and norm.num_batches_tracked is not None:
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            factor = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean, factor)  # type: ignore[union-attr]
            norm.running_var.lerp_(variance * (count / (count - 1)), factor)  # type: ignore[union-attr]
    if not norm.affine:
        return y
    gain, bias = (p.view(-1, *[1] * (x.ndim - 2)) for p in (norm.weight, norm.bias))
    return torch.addcmul(bias, y, gain).to(x.dtype)


class _Normalise(torch.autograd.Function):
    """Compute (x - mean) / sqrt(variance + eps) by channel, with the moments of all ranks in float32 or better.

    torch's own SyncBatchNorm does not run on CPUs.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        exact = torch.promote_types(x.dtype, torch.float32)
        ctx.dims = [0, *range(2, x.ndim)]
        ctx.shape = [1, -1, *[1] * (x.ndim - 2)]
        # On CPUs much faster than torch.var_mean over a batch of maps
        mean, variance = torch.batch_norm_update_stats(x.to(exact), None, None, 0.0)
        own = torch.stack([mean, variance, torch.full_like(mean, x.numel() // x.shape[1])])
        gathered = [torch.empty_like(own) for _ in range(distributed.world_size())]
        distributed.count_exchange()
        dist.all_gather(gathered, own)
        means, variances, counts = torch.stack(gathered, dim=1)  # [ranks, C] each
        count = counts.sum(0)
        weights = counts / count
        mean = (weights * means).sum(0)
        variance = (weights * (variances + (means - mean).square())).sum(0)
        scale = (variance + eps).rsqrt()
        y = torch.addcmul((-mean * scale).view(ctx.shape), x, scale.view(ctx.shape)).to(x.dtype)
        ctx.save_for_backward(y, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return y, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        y, scale, count = ctx.saved_tensors
        g, y = grad.to(scale.dtype), y.to(scale.dtype)
        sums = torch.stack([g.sum(ctx.dims), (g * y).sum(ctx.dims)])
        distributed.count_exchange()
        dist.all_reduce(sums)
        of_mean, of_scale = (s.view(ctx.shape) for s in sums / count)
        return ((g - of_mean - y * of_scale) * scale.view(ctx.shape)).to(grad.dtype), None
