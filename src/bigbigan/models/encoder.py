"""E: images to a distribution over latents, and to the features that are evaluated (Sections 2 and 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbigan.models.layers import ResidualMLP, normal

__all__ = ["Encoder", "FeatureEncoder", "Posterior"]


@dataclass
class Posterior:
    """q(z|x) = N(mean, stdev²), of shape [N, dim_z] each; stdev is zero for a deterministic E."""

    mean: Tensor
    stdev: Tensor
    logits: Tensor  # E's last linear output: [N, dim_z], or [N, 2·dim_z], one half each for mean and stdev

    def sample(self, eps: Tensor) -> Tensor:
        """Return z = mean + stdev·eps with eps ~ N(0, I): the reparametrisation of Section 2."""
        return self.mean + self.stdev * eps


class FeatureEncoder(nn.Module):
    """The features that are evaluated of any encoder: AvePool, the output of its trunk, and BN+CReLU.

    Args:
        trunk: images to pooled features [N, trunk.num_features].
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.num_features: int = trunk.num_features  # type: ignore[assignment]
        self.feature_norm = nn.BatchNorm1d(self.num_features, affine=False)  # evaluation only; epsilon 1e-5

    def features(self, x: Tensor) -> Tensor:
        """Return AvePool: images [N, C, R, R] in [-1, 1] to [N, num_features]."""
        return self.trunk(x)

    def bn_crelu(self, features: Tensor) -> Tensor:
        """Return BN+CReLU (Section 3.2): h = BatchNorm(a) without gain or bias, then [relu(h), relu(-h)].

        AvePool features [N, num_features] to [N, 2·num_features]. It has no learned parameters; its statistics are
        computed together with the standing statistics.
        """
        h = self.feature_norm(features)
        return torch.cat([F.relu(h), F.relu(-h)], dim=1)

    def posterior(self, features: Tensor) -> Posterior | None:
        """Return q(z|x) from the output of `features`; None if the encoder has no latents."""
        return None

    def all_outputs(self, x: Tensor) -> tuple[Posterior | None, Tensor, Tensor]:
        """Return q(z|x), AvePool and BN+CReLU from one pass through the trunk."""
        features = self.features(x)
        return self.posterior(features), features, self.bn_crelu(features)


class Encoder(FeatureEncoder):
    """E(x): a convolutional trunk, a residual MLP, and a linear layer that outputs mu and sigma-hat.

    Args:
        trunk: images to pooled features [N, trunk.num_features].
        dim_z: latent dimension.
        head_width, head_layers: of the MLP; with 0 layers the linear layer reads the features.
        output: "normal" (sampled, sigma = softplus(sigma-hat)), "deterministic", "tanh" (to match a U(-1, 1) prior),
            or "sigmoid" (for the same prior, 2·sigmoid - 1 and no bias: BiGAN's).
        stdev_bias: added to sigma-hat: its initial value.
        latent_std: standard deviation of the last layer's initial weights; if None they are orthogonal.
    """

    def __init__(
        self,
        trunk: nn.Module,
        dim_z: int,
        head_width: int,
        head_layers: int,
        output: str,
        stdev_bias: float = 0.0,
        latent_std: float | None = None,
    ) -> None:
        super().__init__(trunk)
        self.output, self.stdev_bias = output, stdev_bias
        head = ResidualMLP(self.num_features, head_width, head_layers, spectral_norm=False) if head_layers else None
        self.head = head or nn.Identity()
        width, outputs = head_width if head else self.num_features, 2 * dim_z if output == "normal" else dim_z
        self.latent = nn.Linear(width, outputs, bias=output != "sigmoid")
        if latent_std is not None:
            normal(self.latent, latent_std)

    def posterior(self, features: Tensor) -> Posterior:
        """Return q(z|x) from the output of `features`."""
        logits = out = self.latent(self.head(features))
        if self.output == "normal":
            mean, stdev_hat = out.chunk(2, dim=1)
            return Posterior(mean, F.softplus(stdev_hat + self.stdev_bias), logits)
        if self.output == "tanh":
            out = torch.tanh(out)
        elif self.output == "sigmoid":
            out = 2 * torch.sigmoid(out) - 1
        return Posterior(out, torch.zeros_like(out), logits)

    def forward(self, x: Tensor) -> Posterior:
        return self.posterior(self.features(x))
