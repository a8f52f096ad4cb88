"""RevNet trunks (Gomez et al. 2017, as in google/revisiting-self-supervised), which recompute their activations.

A block splits the channels into halves (x1, x2) and returns (x2, x1 + f(x2)): one coupling and a swap. Its input is
recovered from its output (a, b) as (b - f(a), a). The same evaluation of f(a) gives the gradients, so the backward pass
costs one extra forward pass.

Inverting in float32 loses precision with each block. The stream that the f's are added to is therefore in float64, two
tensors for each stage; f itself runs in its usual precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.dropout import _DropoutNd

from bigbigan.compute import has_float64
from bigbigan.models.batch_norm import batch_statistics
from bigbigan.models.layers import norm2d
from bigbigan.models.resnet import root

__all__ = ["BottleneckBranch", "RevNet", "ReversibleStage"]


class ReversibleStage(nn.Module):
    """Reversible blocks of equal width: [N, C, H, W] -> [N, C, H, W], C even.

    Gradients equal those of plain autograd; batch norm statistics are updated once a step. Parameters are arguments of
    the autograd function, so that data-parallel wrappers see their gradients. `torch.compile` does not compile a stage,
    but compiles around it.

    Args:
        branches: f of each block, a module from [N, C/2, H, W] to the same shape.
        recompute: False saves activations as ordinary autograd does, with the same arithmetic.

    Raises:
        ValueError: a branch has dropout, which would draw other numbers in the recomputation.
    """

    def __init__(self, branches: Sequence[nn.Module], recompute: bool = True) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.recompute = recompute
        if any(isinstance(m, _DropoutNd) for m in self.modules()):
            raise ValueError("a branch has dropout, which would draw other numbers in the recomputation")

    def forward(self, x: Tensor) -> Tensor:
        parameters = tuple(self.parameters())
        if self.recompute and torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in parameters)):
            return _recomputed(x, self, parameters)
        a, b = stream(x)
        for f in self.branches:
            a, b = b, a + f(b.to(x.dtype))
        return torch.cat([a, b], dim=1).to(x.dtype)


def stream(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return copies of the two halves of x in the precision of the stream."""
    dtype = torch.float64 if has_float64(x.device.type) else x.dtype
    a, b = (half.to(dtype, copy=True) for half in x.chunk(2, dim=1))
    return a, b


@torch._disable_dynamo  # as torch.compiler.disable, which loads the compiler at once and takes a second
def _recomputed(x: Tensor, stage: ReversibleStage, parameters: tuple[nn.Parameter, ...]) -> Tensor:
    out: Tensor = _Recompute.apply(x, stage, *parameters)
    return out


class _Recompute(torch.autograd.Function):
    """One node for a whole stage. Kept for the backward pass: the two halves of its output, in float64."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stage: ReversibleStage, *parameters: nn.Parameter) -> Tensor:
        ctx.stage, ctx.dtype = stage, x.dtype
        ctx.autocast = _autocast_settings(x.device.type)
        a, b = stream(x)
        for f in stage.branches:
            a, b = b, a.add_(f(b.to(x.dtype)))
        ctx.save_for_backward(a, b)
        return torch.cat([a, b], dim=1).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        stage, dtype = ctx.stage, ctx.dtype
        # Tensors that outlive a block are allocated here and updated in place: allocated among the large, short-lived
        # tensors of a block they would fragment the heap, and memory would grow with depth.
        a, b = (t.clone() for t in ctx.saved_tensors)
        grad_a, grad_b = (g.to(torch.promote_types(dtype, torch.float32), copy=True) for g in grad.chunk(2, dim=1))
        gradients = {p: torch.zeros_like(p) for p in stage.parameters() if p.requires_grad}
        for f in reversed(stage.branches):
            parameters = [p for p in f.parameters() if p.requires_grad]
            x2 = a.to(dtype).detach().requires_grad_()
            with torch.enable_grad(), batch_statistics(f), _autocast(ctx.autocast):
                fx2 = f(x2)
            # (a, b) = (x2, x1 + f(x2)): the gradient of f is that of b; the gradient of x2 is that of a plus f's part.
            a, b = b.sub_(fx2.detach()), a
            g2, *grads = torch.autograd.grad(fx2, [x2, *parameters], grad_b.to(fx2.dtype), allow_unused=True)
            grad_a, grad_b = grad_b, grad_a.add_(g2)
            for p, g in zip(parameters, grads, strict=True):
                if g is not None:
                    gradients[p].add_(g)
            del fx2, x2, g2, grads
        grad_x = torch.cat([grad_a, grad_b], dim=1).to(dtype) if ctx.needs_input_grad[0] else None
        return grad_x, None, *(gradients.get(p) for p in stage.parameters())


def _autocast_settings(device: str) -> dict[str, Any]:
    if not torch.amp.is_autocast_available(device):
        return {"enabled": False}
    return {
        "device_type": device,
        "enabled": torch.is_autocast_enabled(device),
        "dtype": torch.get_autocast_dtype(device),
        "cache_enabled": torch.is_autocast_cache_enabled(),
    }


def _autocast(settings: dict[str, Any]) -> AbstractContextManager[Any]:
    return torch.autocast(**settings) if settings["enabled"] else nullcontext()


class BottleneckBranch(nn.Module):
    """f of RevNet-50: BN, ReLU, 1×1 conv to a quarter; BN, ReLU, 3×3 conv; BN, ReLU, 1×1 conv back."""

    def __init__(self, width: int, norm: str = "batch") -> None:
        super().__init__()
        hidden = width // 4
        self.norm1 = norm2d(norm, width)
        self.conv1 = nn.Conv2d(width, hidden, 1, bias=False)
        self.norm2 = norm2d(norm, hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.norm3 = norm2d(norm, hidden)
        self.conv3 = nn.Conv2d(hidden, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C/2, H, W] to the same shape."""
        h = self.conv1(F.relu(self.norm1(x)))
        h = self.conv2(F.relu(self.norm2(h)))
        return self.conv3(F.relu(self.norm3(h)))


class RevNet(nn.Module):
    """RevNet. RevNet-50 ×m has widths (256, 512, 1024, 2048)·m, blocks (3, 4, 6, 3), stem "imagenet".

    Between stages: 2×2 average pooling, and zero channels on both sides up to the next width, without weights.

    Args:
        image_channels: 1 or 3.
        widths: total channels of each stage, even and not decreasing; the first one's is also the root's.
        blocks: blocks of each stage.
        stem: see `resnet.root`.
        recompute: see `ReversibleStage`.
        norm: see `layers.norm2d`.
    """

    def __init__(
        self,
        image_channels: int,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        stem: str = "small",
        recompute: bool = True,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        self.num_features, self.widths = widths[-1], widths
        self.root = root(image_channels, widths[0], stem)
        self.stages = nn.ModuleList(
            ReversibleStage([BottleneckBranch(width // 2, norm) for _ in range(count)], recompute)
            for width, count in zip(widths, blocks, strict=True)
        )
        self.norm = norm2d(norm, widths[-1])

    def final_map(self, x: Tensor) -> Tensor:
        """Return the map that is pooled: images [N, C, R, R] in [-1, 1] to [N, num_features, H, W], not negative."""
        h = self.root(x)
        for i, (stage, width) in enumerate(zip(self.stages, self.widths, strict=True)):
            if i:
                missing = width - h.shape[1]
                h = F.pad(F.avg_pool2d(h, 2), (0, 0, 0, 0, missing // 2, missing - missing // 2))
            h = stage(h)
        return F.relu(self.norm(h))

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, C, R, R] in [-1, 1] to pooled features [N, num_features], not negative."""
        return self.final_map(x).mean(dim=(2, 3))
