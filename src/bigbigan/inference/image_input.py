"""Convert the images that users pass to a model into E's input: of any size, type, range and number of channels."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bigbigan.config import Config
from bigbigan.data.loading import center_crop
from bigbigan.data.window import Window
from bigbigan.errors import UserError
from bigbigan.image import resize, to_float, to_grey, way_to_resize
from bigbigan.image.crop_sizes import viewed_side
from bigbigan.inference.arguments import as_tensor, check_range
from bigbigan.inference.inputs import as_numbers, load_rows

__all__ = ["ImageInput"]

_PREPARED = "_bigbigan_prepared"  # an attribute of tensors that `prepare` made


class ImageInput:
    """Convert images for the encoder of a config; remember whether a warning was given."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._warned = False  # that images may lie in [0, 1]

    def prepare(
        self, images: Any, value_range: tuple[float, float] | None, device: torch.device, pads: bool | None = None
    ) -> Tensor:
        """Return float [N, C, R, R] in [-1, 1] on a device; see `Model.prepare`, and `as_numbers` for `pads`."""
        channels, side = self.config.data.channels, self.config.encoder.resolution
        prepared = getattr(images, _PREPARED, False)
        images = as_tensor(as_numbers(images, self.config, pads), "images", "uint8 or float [N, C, H, W]")
        if images.dtype == torch.uint8 and value_range is not None and check_range(value_range) != (0, 255):
            images = images.double()
        elif images.dtype != torch.uint8 and not images.is_floating_point():
            images = self._from_integers(images, value_range)
        if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
            one = "; for one image, x[None]" if images.ndim < 4 else ""
            raise UserError(
                f"images have shape {list(images.shape)}; expected [N, C, H, W] or [N, H, W, C] of 1 or 3 channels and "
                f"any size, such as [N, {channels}, {side}, {side}]{one}"
            )
        if images.dtype == torch.uint8 and images.shape[1:] != (channels, side, side):
            # as training reads the rows of an array
            rows = images.permute(0, 2, 3, 1).cpu().numpy()
            images = torch.from_numpy(load_rows(rows, self.config, "images", pads))
        x = to_float(images) if images.dtype == torch.uint8 else images.float()
        if images.dtype != torch.uint8 and len(x):
            x = self._scaled(x, value_range, prepared)
        if x.shape[1] != channels:
            x = x.expand(-1, 3, -1, -1) if channels == 3 else to_grey(x)
        if x.shape[2:] != (side, side):
            x = self._resized(x, side, pads)
        x = x.to(device)
        if x is images:
            x = x.view(x.shape)  # the mark is for this call's result, not for the caller's own tensor
        setattr(x, _PREPARED, True)
        return x

    def _resized(self, x: Tensor, side: int, pads: bool | None) -> Tensor:
        """Crop float images [N, C, H, W] to their central square and resize it, or pad it as in training."""
        small = min(x.shape[2:])
        top, left = (x.shape[2] - small) // 2, (x.shape[3] - small) // 2
        x = x[..., top : top + small, left : left + small]
        padded = self.config.data.pad != "never" if pads is None else pads
        if padded and way_to_resize((small, small), side, pad=True) == "padded":
            before, after = (side - small) // 2, side - small - (side - small) // 2
            return F.pad(x, (before, after, before, after), value=-1.0)
        seen = viewed_side(side, self.config.data.augment, padded)
        return center_crop(resize(x, seen).clamp(-1, 1), side)

    def _from_integers(self, images: Tensor, value_range: tuple[float, float] | None) -> Tensor:
        """Return integers of more than 8 bits as uint8 by the window of the run, or as float if a range is given."""
        if images.dtype not in (torch.uint16, torch.int16, torch.uint32, torch.int32, torch.int64):
            raise UserError(f"images are {images.dtype}; expected uint8 from 0 to 255, or float in [-1, 1]")
        if value_range is not None:
            return images.double()
        if not self.config.data.window:
            raise UserError(
                f"images are {images.dtype}; expected uint8 from 0 to 255, or float in [-1, 1]; or say which values "
                "are black and white: value_range=(0, 65535)"
            )
        return torch.from_numpy(Window(*self.config.data.window)(images.cpu().numpy()))

    def _scaled(self, x: Tensor, value_range: tuple[float, float] | None, prepared: bool) -> Tensor:
        """Scale float images from their range to [-1, 1]."""
        low, high = check_range((-1, 1) if value_range is None else value_range)
        lowest, highest = x.min().item(), x.max().item()  # NaN if any pixel is
        margin = 0.005 * (high - low)
        if not (low - margin <= lowest and highest <= high + margin):
            if not (math.isfinite(lowest) and math.isfinite(highest)):
                raise UserError("float images have pixels that are NaN or infinite; expected numbers in [-1, 1]")
            raise UserError(
                f"float images lie in [{lowest:.3g}, {highest:.3g}]; expected [{low:g}, {high:g}] (or uint8): "
                "scale x / 127.5 - 1, or say which range they have: value_range=(0, 255)"
            )
        if (low, high) != (-1, 1):
            return (x - low) * (2 / (high - low)) - 1
        if lowest >= 0 and not prepared and not self._warned:
            self._warned = True
            warnings.warn(
                f"float images lie in [{lowest:.3g}, {highest:.3g}] and are read as in [-1, 1]; if they are in [0, 1], "
                "scale x * 2 - 1 or say so: value_range=(0, 1)",
                stacklevel=_level_of_user(),
            )
        return x


def _level_of_user() -> int:
    """Return the stack level of the user's line: the first outside this package, PyTorch and scikit-learn."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in ("bigbigan", "torch", "sklearn"):
        level, frame = level + 1, frame.f_back
    return level
