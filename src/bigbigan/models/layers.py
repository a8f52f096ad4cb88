"""Layers that G, D and E share: spectral normalisation, conditional batch norm, residual MLP.

Letters in shapes: N batch, C channels, H W space, D latent dimension.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = [
    "BN_EPS",
    "E_BN_EPS",
    "ConditionalBatchNorm2d",
    "ResidualMLP",
    "SNConv2d",
    "SNEmbedding",
    "SNLinear",
    "SelfAttention",
    "init_weights",
    "norm2d",
    "normal",
    "reused_vectors",
    "upsample",
]

Layer = TypeVar("Layer", bound=nn.Module)

BN_EPS = 1e-4  # of G: DeepMind's released generators
SN_EPS = 1e-4  # likewise
E_BN_EPS = 1e-3  # of E: google/revisiting-self-supervised, which the paper cites for E, has TensorFlow's default


class SpectralNorm(nn.Module):
    """Mix-in that divides `weight` by an estimate of its largest singular value.

    The estimate takes one power iteration for each forward pass (Miyato et al. 2018), but only in training *with
    gradients*: passes under `no_grad` (G and E in the D step) reuse the last vectors, so that each value of a weight
    gets one iteration.
    """

    weight: Tensor
    u: Tensor
    v: Tensor  # of the last iteration; not part of a checkpoint
    reuse_vectors = False  # see `reused_vectors`

    def _init_u(self) -> None:
        # A fixed start, so that construction uses no hidden random numbers; any vector not orthogonal to the leading
        # singular vector works, and the iteration runs from the first training step on.
        rows = self.weight.shape[0]
        u = torch.cos(torch.arange(rows) * 12.9898 + 0.5)
        self.register_buffer("u", F.normalize(u, dim=0))
        # Always on the CPU, even if networks are built on the meta device: checkpoints do not contain it.
        self.register_buffer("v", torch.zeros(self.weight[0].numel(), device="cpu"), persistent=False)

    def normalised_weight(self) -> Tensor:
        """Return the weight divided by its spectral norm; in training, run a power iteration first."""
        matrix = self.weight.flatten(1)
        iterate = self.training and torch.is_grad_enabled()
        kind = self.weight.device.type
        cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        with torch.autocast(kind, enabled=False) if cast else nullcontext():
            with torch.no_grad():
                if iterate and self.reuse_vectors:
                    v = self.v
                else:
                    v = F.normalize(matrix.t() @ self.u, dim=0, eps=SN_EPS)
                    if iterate:
                        self.u.copy_(F.normalize(matrix @ v, dim=0, eps=SN_EPS))
                        self.v.copy_(v)
                u = self.u.clone()
            sigma = torch.dot(u, matrix @ v)
            return self.weight / sigma


@contextmanager
def reused_vectors(networks: Iterable[nn.Module], reuse: bool = True) -> Iterator[None]:
    """Reuse the u and v of the last training pass, so that gradient accumulation runs one power iteration an update.

    All chunks of a batch are then computed with the same weight. If `reuse` is False nothing is changed.
    """
    layers = [m for network in networks for m in network.modules() if isinstance(m, SpectralNorm)] if reuse else []
    for layer in layers:
        layer.reuse_vectors = True
    try:
        yield
    finally:
        for layer in layers:
            layer.reuse_vectors = False


class SNLinear(SpectralNorm, nn.Linear):
    """Linear layer with spectral norm: [N, in] -> [N, out]."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias)
        self._init_u()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalised_weight(), self.bias)


class SNEmbedding(SpectralNorm, nn.Embedding):
    """Embedding with spectral norm: classes [N] -> [N, dim]."""

    def __init__(self, classes: int, dim: int) -> None:
        nn.Embedding.__init__(self, classes, dim)
        self._init_u()

    def forward(self, y: Tensor) -> Tensor:
        return F.embedding(y, self.normalised_weight())


class SNConv2d(SpectralNorm, nn.Conv2d):
    """Stride-1 'same' convolution with spectral norm: [N, C, H, W] -> [N, C', H, W]."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool = True) -> None:
        nn.Conv2d.__init__(self, in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
        self._init_u()

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.normalised_weight(), self.bias, padding=self.padding)

    def then_pool(self, x: Tensor) -> Tensor:
        """Apply this 3×3 convolution and then 2×2 average pooling: [N, C, H, W] -> [N, C', H/2, W/2].

        It is computed as the equal 4×4 convolution of stride 2, with less than half the arithmetic. The 3×3 weight is
        divided by its own spectral norm, as in `forward`.
        """
        w = _spread(self.normalised_weight()) / 4
        return F.conv2d(x, w, self.bias, stride=2, padding=1)

    def after_upsample(self, x: Tensor) -> Tensor:
        """Apply nearest-neighbour ×2 and then this 3×3 convolution: [N, C, H, W] -> [N, C', 2H, 2W].

        It is computed as the equal 4×4 transposed convolution, with 4/9 of the arithmetic.
        """
        w = _spread(self.normalised_weight()).flip(2, 3).transpose(0, 1)
        return F.conv_transpose2d(x, w, self.bias, stride=2, padding=1)


def _spread(w: Tensor) -> Tensor:
    """Sum a 3×3 kernel over its four positions in a 4×4 window: [O, I, 3, 3] -> [O, I, 4, 4]."""
    rows = F.pad(w, (0, 0, 0, 1)) + F.pad(w, (0, 0, 1, 0))
    return F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))


def upsample(x: Tensor) -> Tensor:
    """Upsample by 2, nearest-neighbour: [N, C, H, W] -> [N, C, 2H, 2W]."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class _NormaliseAndScale(torch.autograd.Function):
    """gain · norm(x) + bias of a batch norm in training mode, with only x saved for backward.

    Autograd by default would save norm(x) too.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        running_mean = running_var = None
        momentum = norm.momentum or 0.0
        if norm.track_running_stats and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            running_mean, running_var = norm.running_mean, norm.running_var
            if norm.momentum is None:  # torch: cumulative average
                momentum = 1 / float(norm.num_batches_tracked)
        y, mean, scale = torch.native_batch_norm(x, None, None, running_mean, running_var, True, momentum, norm.eps)
        ctx.save_for_backward(x, gain, mean, scale)
        ctx.eps = norm.eps
        return torch.addcmul(bias, y, gain)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, gain, mean, scale = ctx.saved_tensors
        exact = torch.promote_types(x.dtype, torch.float32)
        grad_bias = grad.sum((2, 3), keepdim=True, dtype=exact)
        with_x = (grad * x).sum((2, 3), keepdim=True, dtype=exact)
        grad_gain = (with_x - mean.view(1, -1, 1, 1) * grad_bias) * scale.view(1, -1, 1, 1)
        # The gains of classes, looked up in a table, stay float32 where x is bfloat16.
        grad_x, _, _ = torch.ops.aten.native_batch_norm_backward(
            (grad * gain).to(x.dtype), x, None, None, None, mean, scale, True, ctx.eps, [True, False, False]
        )
        return grad_x, grad_gain.to(gain.dtype), grad_bias.to(gain.dtype), None


class ConditionalBatchNorm2d(nn.Module):
    """Batch norm whose gain and bias depend on a condition (BigGAN).

    gain = 1 + W_g c, bias = W_b c. If c is a vector, W_g and W_b are linear, spectrally normalised and without bias; if
    c is a class, they are embeddings without spectral norm.

    Args:
        channels: C.
        condition_dim: length of the vector, or number of classes.
        per_class: whether c is a class.
    """

    def __init__(self, channels: int, condition_dim: int, per_class: bool = False) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=BN_EPS, affine=False)
        self.gain, self.bias = (
            nn.Embedding(condition_dim, channels) if per_class else SNLinear(condition_dim, channels, bias=False)
            for _ in range(2)
        )

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Normalise x [N, C, H, W] and scale it by c [N, condition_dim] or classes [N]: [N, C, H, W]."""
        gain, bias = (1 + self.gain(c))[:, :, None, None], self.bias(c)[:, :, None, None]
        local = "forward" not in self.norm.__dict__  # statistics of this rank, not synchronised over ranks
        if self.norm.training and local and not torch.compiler.is_compiling():
            return _NormaliseAndScale.apply(x, gain, bias, self.norm)
        return torch.addcmul(bias, self.norm(x), gain)


class SelfAttention(nn.Module):
    """Self-attention over all positions (SAGAN, as BigGAN uses it): [N, C, H, W] -> the same shape.

    Queries and keys have C/8 channels, values C/2; keys and values are 2×2 max-pooled; the result is added with a
    learned weight that starts at zero. Dot products are not scaled.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = SNConv2d(channels, channels // 8, 1, bias=False)
        self.key = SNConv2d(channels, channels // 8, 1, bias=False)
        self.value = SNConv2d(channels, channels // 2, 1, bias=False)
        self.out = SNConv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        parts = (self.query(x), F.max_pool2d(self.key(x), 2), F.max_pool2d(self.value(x), 2))
        q, k, v = (t.flatten(2).transpose(1, 2) for t in parts)  # [N, HW or HW/4, channels]
        attended = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        attended = attended.transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.gamma * self.out(attended)


class ResidualMLP(nn.Module):
    """Residual blocks of two linear layers each, the MLP of H, J and E's head (Section 3.1).

    The paper gives only depth and width. Here, blocks are pre-activation, the first one without activation on its
    input; the skip has a linear projection if widths differ; a ReLU is last. Like the rest of their networks, D's MLPs
    have spectral norm and no batch norm, and E's has batch norm and no spectral norm (docs/deviations.md).
    """

    def __init__(self, in_features: int, width: int, layers: int, spectral_norm: bool) -> None:
        super().__init__()
        widths = [in_features] + [width] * (layers // 2)
        self.blocks = nn.ModuleList(
            ResidualMLPBlock(a, b, first=i == 0, spectral_norm=spectral_norm)
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.norm = nn.Identity() if spectral_norm else nn.BatchNorm1d(width, eps=E_BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_features] to [N, width], not negative."""
        for block in self.blocks:
            x = block(x)
        return F.relu(self.norm(x))


class ResidualMLPBlock(nn.Module):
    """One block of `ResidualMLP`: [N, in_features] -> [N, width]."""

    def __init__(self, in_features: int, width: int, first: bool, spectral_norm: bool) -> None:
        super().__init__()
        linear: type[nn.Linear] = SNLinear if spectral_norm else nn.Linear
        self.first = first
        self.norm1 = nn.Identity() if spectral_norm or first else nn.BatchNorm1d(in_features, eps=E_BN_EPS)
        self.linear1 = linear(in_features, width)
        self.norm2 = nn.Identity() if spectral_norm else nn.BatchNorm1d(width, eps=E_BN_EPS)
        self.linear2 = linear(width, width)
        self.skip = nn.Identity() if in_features == width else linear(in_features, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.first else F.relu(self.norm1(x))
        h = self.linear2(F.relu(self.norm2(self.linear1(h))))
        return self.skip(x) + h


def norm2d(kind: str, channels: int) -> nn.Module:
    """Return a norm of E's maps [N, C, H, W]: "batch", or "layer" over all values of each image or patch."""
    return nn.BatchNorm2d(channels, eps=E_BN_EPS) if kind == "batch" else nn.GroupNorm(1, channels, eps=BN_EPS)


def normal(layer: Layer, std: float) -> Layer:
    """Mark a layer, so that `init_weights` draws its weights from N(0, std²), and return it."""
    layer.init_std = std  # type: ignore[assignment]
    return layer


def init_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Initialise weights: orthogonal (BigGAN), or normal in the layers marked by `normal`; biases are zero.

    Layers of the user's own, marked by `keeps_weights`, are left as they were constructed.
    """
    for m in module.modules():
        if getattr(m, "keeps_weights", False):
            continue
        if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
            if (std := getattr(m, "init_std", None)) is None:
                nn.init.orthogonal_(m.weight, generator=generator)
            else:
                nn.init.normal_(m.weight, std=std, generator=generator)
            if isinstance(getattr(m, "bias", None), nn.Parameter):
                nn.init.zeros_(m.bias)  # type: ignore[arg-type]
