"""Write E with a saved head as an ONNX file that takes images of any size: classifier.onnx.

    images uint8 [N, C, H, W] to probabilities float32 [N, K] and distance float32 [N]

With `data.window` the input is `values` float32 [N, C, H, W], in the units of the files, and the graph first reduces
them to 8 bits as `bigbigan.data.window.Window` does.

The graph itself crops the images to their central square, resizes it as image files are resized in training (Pillow's
bicubic, in integers), takes the part that evaluation sees, and scales it to [-1, 1]. Class names and the distance from
which an image is unlike the training images are in the metadata of the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bigbigan.data.window import Window
from bigbigan.errors import RunError
from bigbigan.image import resize_square, to_float
from bigbigan.image.crop_sizes import viewed_side
from bigbigan.inference.head import Head, HeadNetwork
from bigbigan.models import FeatureEncoder

__all__ = ["OUTPUTS", "Classifier", "check_sizes", "classify_as_files", "with_preprocessing"]

OUTPUTS = ("probabilities", "distance")

# Reduces values to 8 bits; NaN is black.
WINDOW = """
  unknown = IsNaN(values)
  known = Where(unknown, black, values)
  shifted = Sub(known, black)
  scaled = Mul(shifted, factor)
  clipped = Clip(scaled, lowest, highest)
  rounded = Round(clipped)
  images = Cast<to=2>(rounded)"""
WINDOW_NUMBERS = (
    ", float black = {{{black!r}}}, float factor = {{{factor!r}}}, float lowest = {{0.0}}, float highest = {{255.0}}"
)
# Sizes are tensors of one number. Pads squares of more than 0.8 and less than 1 of R, if the images of training were.
PAD = """
  larger = Greater(side, small)
  smaller = Less(side, whole)
  little = And(larger, smaller)
  lacking = Sub(whole, side)
  total = Where(little, lacking, zero)
  before = Div(total, two)
  after = Sub(total, before)
  pads = Concat<axis=0>(zero, zero, before, before, zero, zero, after, after)
  padded = Pad<mode="constant">(square, pads)"""
GRAPH = """
<ir_version: {ir}, opset_import: ["": {opset}]>
preprocessing ({kind}[N, {channels}, H, W] {given}) => (uint8[N, {channels}, {R}, {R}] pixels)
<int64[1] zero = {{0}}, int64[1] two = {{2}}, int64[1] four = {{4}}, int64[2] axes = {{2, 3}},
 int64[1] whole = {{{S}}},
 int64[2] seen_from = {{{edge}, {edge}}}, int64[2] seen_to = {{{end}, {end}}}{numbers}>
{{{windowed}
  shape = Shape(images)
  count = Slice(shape, zero, two)
  sides = Slice(shape, two, four)
  side = ReduceMin<keepdims=1>(sides)
  outside = Sub(sides, side)
  start = Div(outside, two)
  end = Add(start, side)
  square = Slice(images, start, end, axes){pad}
  sizes = Concat<axis=0>(count, whole, whole)
  resized = Resize<mode="cubic", antialias=1, cubic_coeff_a=-0.5, exclude_outside=1>({squared}, , , sizes)
  pixels = Slice(resized, seen_from, seen_to, axes)
}}
"""


class Classifier(nn.Module):
    """E with a head: uint8 [N, C, R, R], as E sees images, to probabilities [N, K] and distances [N]."""

    def __init__(self, E: FeatureEncoder, head: HeadNetwork) -> None:
        super().__init__()
        self.E, self.head = E, head

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        avepool = self.E.features(to_float(pixels))
        probabilities, distance = self.head(self.E.bn_crelu(avepool), avepool)
        return probabilities, distance


def viewed(head: Head) -> tuple[int, int]:
    """Return the side S that images are resized to, and how many pixels of each edge are then cut off."""
    view = head.preprocessing
    side = viewed_side(view.resolution, view.augment, view.pads)
    return side, (side - view.resolution) // 2


def with_preprocessing(proto: Any, head: Head, window: Window | None = None) -> Any:
    """Return the ONNX model of a `Classifier` with the preprocessing before it; its input is `images` or `values`."""
    from onnx import compose, helper, parser

    view = head.preprocessing
    side, edge = viewed(head)
    opset = next(x.version for x in proto.opset_import if x.domain == "")
    numbers = f", int64[1] small = {{{int(0.8 * side)}}}" if view.pads else ""  # unused initializers are warned of
    if window is not None:
        factor = 255 / (window.white - window.black)
        numbers += WINDOW_NUMBERS.format(black=float(window.black), factor=factor)
    text = GRAPH.format(
        kind="uint8" if window is None else "float",
        given="images" if window is None else "values",
        numbers=numbers,
        windowed="" if window is None else WINDOW,
        ir=proto.ir_version,
        opset=opset,
        channels=view.channels,
        R=view.resolution,
        S=side,
        edge=edge,
        end=edge + view.resolution,
        pad=PAD if view.pads else "",
        squared="padded" if view.pads else "square",
    )
    before = parser.parse_model(text)
    for domain in proto.opset_import:
        if domain.domain:
            before.opset_import.append(domain)
    before = compose.add_prefix(before, "preprocessing_", rename_inputs=False, rename_outputs=False)
    merged = compose.merge_models(before, proto, io_map=[("pixels", "pixels")])
    about = {"classes": json.dumps(head.classes), "max_distance": json.dumps(head.max_distance)}
    helper.set_model_props(merged, about)
    return merged


def classify_as_files(network: Classifier, images: np.ndarray, head: Head) -> tuple[Tensor, ...]:
    """Return what torch computes for uint8 images [N, C, H, W] that are resized as image files are."""
    view, (side, edge) = head.preprocessing, viewed(head)
    squares = np.stack([resize_square(x.transpose(1, 2, 0), side, pad=view.pads) for x in images]).transpose(0, 3, 1, 2)
    seen = squares[..., edge : edge + view.resolution, edge : edge + view.resolution]
    device = next(network.parameters()).device
    probabilities, distance = network(torch.from_numpy(np.ascontiguousarray(seen)).to(device))
    return probabilities, distance


@torch.no_grad()
def check_sizes(network: Classifier, head: Head, path: Path, tolerance: float, window: Window | None = None) -> None:
    """Compare the file with torch on images of several shapes. Raises RunError if they differ."""
    try:
        import onnxruntime
    except ImportError:
        return
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    view, rng = head.preprocessing, np.random.default_rng(0)
    for height, width in ((view.resolution,) * 2, (2 * view.resolution + 3, 3 * view.resolution)):
        shape = (2, view.channels, height, width)
        if window is None:
            images = rng.integers(0, 256, shape, dtype=np.uint8)
            given: dict[str, np.ndarray] = {"images": images}
        else:
            span = window.white - window.black  # values from below black to above white
            values = (window.black + span * rng.uniform(-0.2, 1.2, shape)).astype(np.float32)
            images, given = window(values), {"values": values}
        found = session.run(list(OUTPUTS), given)
        for name, ours, theirs in zip(OUTPUTS, classify_as_files(network, images, head), found, strict=True):
            difference = np.abs(ours.cpu().numpy() - theirs).max()
            if not difference <= tolerance * max(1, ours.abs().max().item()):
                raise RunError(
                    f"{path.name} computes another {name} than the model: a difference of {difference:.2g} for images "
                    f"of {width}×{height}; nothing was written"
                )
