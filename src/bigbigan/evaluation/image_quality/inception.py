"""Build the network of published FID, KID and Inception Scores: Inception-v3 of the graph inception-2015-12-05.

It differs from torchvision's: 1008 outputs, averages that exclude the padding, a maximum in the last block, a resize
without half-pixel shift, and inputs (x - 128) / 128. Names are those of the ported weights of mseitzer/pytorch-fid.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbigan.data.readers.download import cache_folder, fetch_file
from bigbigan.errors import UserError

__all__ = ["Inception", "inception_file", "load_inception", "resize_tf1"]

FILE = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SIDE = 299


def resize_tf1(x: Tensor, side: int = SIDE) -> Tensor:
    """Resize [N, C, H, W] to [N, C, side, side] like TensorFlow 1: bilinear, align_corners False, no half-pixel shift.

    Output position i interpolates the two neighbours of input position i·H/side.
    """
    rows, columns = (_resize_matrix(size, side).to(x) for size in x.shape[2:])
    return rows @ x @ columns.T


def _resize_matrix(size: int, side: int) -> Tensor:
    place = torch.arange(side, dtype=torch.float64) * size / side
    low = place.floor().long()
    high = (low + 1).clamp(max=size - 1)
    share = (place - low)[:, None]
    unit = torch.eye(size, dtype=torch.float64)
    return unit[low] * (1 - share) + unit[high] * share


class BasicConv2d(nn.Module):
    """Apply a convolution without bias, batch norm and ReLU; with `pad` and stride 1 the size stays the same."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int | tuple[int, int], stride: int = 1, pad: bool = True
    ) -> None:
        super().__init__()
        k = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (k[0] // 2, k[1] // 2) if pad and stride == 1 else 0
        self.conv = nn.Conv2d(in_channels, out_channels, k, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Branches(nn.Module):
    """Apply the parallel branches of an Inception block, and concatenate their channels.

    Args:
        convolutions: (name, channels in, channels out, kernel, stride) of each.
        branches: for each branch, the names it applies in turn; a tuple at the end is applied in parallel. A branch
            without names is the pooled input.
        pool: what the pooling branch does with the input.
    """

    def __init__(
        self,
        convolutions: list[tuple[str, int, int, int | tuple[int, int], int]],
        branches: list[list[str | tuple[str, str]]],
        pool: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        for name, a, b, kernel, stride in convolutions:
            self.add_module(name, BasicConv2d(a, b, kernel, stride))
        self.branches, self.pool = branches, pool

    def forward(self, x: Tensor) -> Tensor:
        parts: list[Tensor] = []
        for names in self.branches:
            h = self.pool(x) if not names or names == ["branch_pool"] else x
            for name in names:
                if isinstance(name, tuple):
                    h = torch.cat([self.get_submodule(n)(h) for n in name], dim=1)
                else:
                    h = self.get_submodule(name)(h)
            parts.append(h)
        return torch.cat(parts, dim=1)


def average(x: Tensor) -> Tensor:
    """Average over 3×3, without the padding."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def maximum(x: Tensor) -> Tensor:
    """Take the maximum over 3×3."""
    return F.max_pool2d(x, 3, 1, 1)


def halved(x: Tensor) -> Tensor:
    """Take the maximum over 3×3 with stride 2."""
    return F.max_pool2d(x, 3, 2)


def block_a(c: int, pool: int) -> Branches:
    return Branches(
        [
            ("branch1x1", c, 64, 1, 1),
            ("branch5x5_1", c, 48, 1, 1),
            ("branch5x5_2", 48, 64, 5, 1),
            ("branch3x3dbl_1", c, 64, 1, 1),
            ("branch3x3dbl_2", 64, 96, 3, 1),
            ("branch3x3dbl_3", 96, 96, 3, 1),
            ("branch_pool", c, pool, 1, 1),
        ],
        [
            ["branch1x1"],
            ["branch5x5_1", "branch5x5_2"],
            ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"],
            ["branch_pool"],
        ],
        average,
    )


def block_b(c: int) -> Branches:
    return Branches(
        [
            ("branch3x3", c, 384, 3, 2),
            ("branch3x3dbl_1", c, 64, 1, 1),
            ("branch3x3dbl_2", 64, 96, 3, 1),
            ("branch3x3dbl_3", 96, 96, 3, 2),
        ],
        [["branch3x3"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], []],
        halved,
    )


def block_c(c7: int) -> Branches:
    return Branches(
        [
            ("branch1x1", 768, 192, 1, 1),
            ("branch7x7_1", 768, c7, 1, 1),
            ("branch7x7_2", c7, c7, (1, 7), 1),
            ("branch7x7_3", c7, 192, (7, 1), 1),
            ("branch7x7dbl_1", 768, c7, 1, 1),
            ("branch7x7dbl_2", c7, c7, (7, 1), 1),
            ("branch7x7dbl_3", c7, c7, (1, 7), 1),
            ("branch7x7dbl_4", c7, c7, (7, 1), 1),
            ("branch7x7dbl_5", c7, 192, (1, 7), 1),
            ("branch_pool", 768, 192, 1, 1),
        ],
        [
            ["branch1x1"],
            ["branch7x7_1", "branch7x7_2", "branch7x7_3"],
            [f"branch7x7dbl_{i}" for i in range(1, 6)],
            ["branch_pool"],
        ],
        average,
    )


def block_d() -> Branches:
    return Branches(
        [
            ("branch3x3_1", 768, 192, 1, 1),
            ("branch3x3_2", 192, 320, 3, 2),
            ("branch7x7x3_1", 768, 192, 1, 1),
            ("branch7x7x3_2", 192, 192, (1, 7), 1),
            ("branch7x7x3_3", 192, 192, (7, 1), 1),
            ("branch7x7x3_4", 192, 192, 3, 2),
        ],
        [["branch3x3_1", "branch3x3_2"], [f"branch7x7x3_{i}" for i in range(1, 5)], []],
        halved,
    )


def block_e(c: int, pool: Callable[[Tensor], Tensor]) -> Branches:
    return Branches(
        [
            ("branch1x1", c, 320, 1, 1),
            ("branch3x3_1", c, 384, 1, 1),
            ("branch3x3_2a", 384, 384, (1, 3), 1),
            ("branch3x3_2b", 384, 384, (3, 1), 1),
            ("branch3x3dbl_1", c, 448, 1, 1),
            ("branch3x3dbl_2", 448, 384, 3, 1),
            ("branch3x3dbl_3a", 384, 384, (1, 3), 1),
            ("branch3x3dbl_3b", 384, 384, (3, 1), 1),
            ("branch_pool", c, 192, 1, 1),
        ],
        [
            ["branch1x1"],
            ["branch3x3_1", ("branch3x3_2a", "branch3x3_2b")],
            ["branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")],
            ["branch_pool"],
        ],
        pool,
    )


class Inception(nn.Module):
    """Map uint8 images [N, 1|3, H, W] to pool features [N, 2048] and logits [N, 1008].

    The logits are without the last bias, which the original Inception Score leaves out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3, pad=False)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3, pad=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = block_a(192, 32), block_a(256, 64), block_a(288, 64)
        self.Mixed_6a = block_b(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (block_c(c7) for c7 in (128, 160, 160, 192))
        self.Mixed_7a = block_d()
        self.Mixed_7b, self.Mixed_7c = block_e(1280, average), block_e(2048, maximum)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = pixels.to(self.fc.weight.dtype)
        x = (resize_tf1(x.expand(-1, 3, -1, -1)) - 128) / 128
        x = x.contiguous(memory_format=torch.channels_last)
        x = halved(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = halved(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        features = x.mean((2, 3))
        return features, features @ self.fc.weight.T


def inception_file() -> Path:
    """Return the path of the weights in the cache, to which they are downloaded."""
    return cache_folder() / "networks" / FILE


def load_inception(device: torch.device, path: Path | None = None) -> Inception:
    """Return the network with its reference weights, in evaluation mode.

    Args:
        device: the device to compute on.
        path: the weight file; by default the one in the cache, downloaded if it is missing. Its SHA-256 is checked each
            time: other weights would give plausible numbers that compare with nothing.

    Raises:
        UserError: the file cannot be downloaded or read, or is another one.
    """
    if path is not None and not path.exists():
        raise UserError(f"{path} does not exist; expected the weights of FID's Inception, as from {URL}")
    if path is None:
        path = fetch_file(URL, inception_file(), SHA256)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); expected the weights from {URL}") from None
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != SHA256:
        raise UserError(
            f"{path} is not the Inception of FID: its SHA-256 is {sha256[:12]}…, expected {SHA256[:12]}…; delete it, "
            f"or replace it by {URL}"
        )
    network = Inception()
    network.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    return network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
