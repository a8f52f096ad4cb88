"""An encoder's backbone: images to pooled features."""

from torch import Tensor, nn

from bigbigan.config import EncoderConfig


class Patches(nn.Module):
    """Embed patches of 4×4 pixels, mix them by convolutions, and average them.

    Args:
        channels: of the images, 1 or 3.
        encoder: the settings of the encoder; here `widths` has the width of the patches and of the features.
    """

    def __init__(self, channels: int, encoder: EncoderConfig) -> None:
        super().__init__()
        patch, self.num_features = encoder.widths
        self.embed = nn.Conv2d(channels, patch, 4, stride=4)
        self.mix = nn.Sequential(nn.BatchNorm2d(patch), nn.GELU(), nn.Conv2d(patch, self.num_features, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Return features [N, num_features] of images [N, C, R, R] in [-1, 1]."""
        return self.mix(self.embed(x)).relu().mean((2, 3))
