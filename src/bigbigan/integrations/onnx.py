"""Write E and G as ONNX files, for runtimes without torch (`export --onnx`).

    encoder.onnx      images float32 [N, C, R, R] in [-1, 1] to z_mean, z_stdev, avepool_feat, bn_crelu_feat;
                      only the last two if E has no latents; with `data.window` the input is `values` float32
                      [N, C, R, R], grey or colour values in the units of the files, and the graph applies the window
    generator.onnx    z float32 [N, dim_z] to images [N, C, R, R] in [-1, 1];
                      y int64 [N] is a second input if G is conditioned on classes
    classifier.onnx   if the model has a saved head, see `bigbigan.integrations.onnx_classifier`; with `data.window` its
                      input is `values` of the files too

Names are those of the authors' published modules; N is dynamic; spectral norms are folded into the weights.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bigbigan.data.window import Window
from bigbigan.errors import RunError, UserError, type_and_message
from bigbigan.inference.head import Head
from bigbigan.inference.model import Model
from bigbigan.integrations.onnx_classifier import OUTPUTS, Classifier, check_sizes, with_preprocessing
from bigbigan.io import writing
from bigbigan.models import FeatureEncoder
from bigbigan.randomness import keyed_generator

__all__ = ["encoder_input", "encoder_outputs", "require_onnx", "write_onnx"]

LATENTS, FEATURES = ("z_mean", "z_stdev"), ("avepool_feat", "bn_crelu_feat")
TOLERANCE = 1e-4  # between torch and ONNX Runtime, as a share of the largest magnitude
BATCHES = (1, 4)  # batch sizes of the check; the traced size is another
NO_LIMIT = 2**62


def encoder_outputs(model: Model) -> tuple[str, ...]:
    """Return the names of encoder.onnx's outputs, in order."""
    return (LATENTS if model.config.has_generator else ()) + FEATURES


def encoder_input(model: Model) -> str:
    """Return the name of encoder.onnx's input."""
    return "values" if model.config.data.window else "images"


def require_onnx() -> None:
    """Raise UserError if the packages that write ONNX are missing."""
    try:
        for name in ("onnx", "onnxscript"):
            importlib.import_module(name)
    except ImportError:
        raise UserError("--onnx needs onnx and onnxscript: pip install 'bigbigan[onnx]'") from None


def write_onnx(model: Model, folder: Path) -> None:
    """Write encoder.onnx, generator.onnx and classifier.onnx, if the model has E, G and a saved head.

    They are checked if onnxruntime is installed.

    Raises:
        UserError: a package is missing.
        RunError: a network cannot be exported, or its file computes something else; the caller removes the files.
    """
    require_onnx()
    c, count = model.config, sum(BATCHES)
    if model.networks.E is not None:
        shape = (count, c.data.channels, c.encoder.resolution, c.encoder.resolution)
        images = torch.rand(shape, generator=keyed_generator(0, "onnx")) * 2 - 1
        network, name = _AllOutputs(model.networks.E, c.data.window), encoder_input(model)
        if c.data.window:
            black, white = c.data.window
            images = (images * 0.6 + 0.5) * (white - black) + black  # from below black to above white
        _write(network, {name: images.to(model.device)}, encoder_outputs(model), folder / "encoder.onnx")
        if model.head is not None:
            window = Window(*c.data.window) if c.data.window else None
            _write_classifier(model, model.head, folder / "classifier.onnx", window)
    if model.networks.G is None:
        return
    inputs = {"z": model.sample_prior(count)}
    if c.data.classes > 1:
        inputs["y"] = torch.arange(count, device=model.device) % c.data.classes
    _write(model.generator, inputs, ("images",), folder / "generator.onnx")


def _write_classifier(model: Model, head: Head, path: Path, window: Window | None) -> None:
    """Write E with a head for images as E sees them, check it, put the preprocessing before it, and check it again."""
    import onnx

    view, network = head.preprocessing, Classifier(model.encoder, head.network().to(model.device))
    shape = (sum(BATCHES), view.channels, view.resolution, view.resolution)
    pixels = torch.randint(0, 256, shape, generator=keyed_generator(0, "onnx"), dtype=torch.uint8)
    _write(network, {"pixels": pixels.to(model.device)}, OUTPUTS, path)
    with writing(path) as temporary:
        onnx.save(with_preprocessing(onnx.load(path), head, window), temporary)
    check_sizes(network, head, path, TOLERANCE, window)


class _AllOutputs(nn.Module):
    """E with its outputs as a tuple; with a window, of values that it converts to 8 bits as `Window` does."""

    def __init__(self, E: FeatureEncoder, window: tuple[float, ...] = ()) -> None:
        super().__init__()
        self.E, self.window = E, window

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.window:
            black, white = self.window
            images = torch.where(images.isnan(), black, images)
            images = ((images - black) * (255 / (white - black))).clamp(0, 255).round() / 127.5 - 1
        q, avepool, bn_crelu = self.E.all_outputs(images)
        return (avepool, bn_crelu) if q is None else (q.mean, q.stdev, avepool, bn_crelu)


def _attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """Compute attention without heads, [N, positions, channels], by operations that the exporter supports."""
    return torch.softmax(q @ k.transpose(1, 2) * scale, dim=2) @ v


@torch.no_grad()
def _write(network: nn.Module, inputs: dict[str, Tensor], outputs: tuple[str, ...], path: Path) -> None:
    """Export, save, and compare with torch on `inputs`, [sum(BATCHES), ...] each."""
    import onnx
    import onnxscript.optimizer

    network.eval()
    try:
        with _quiet():
            # Traced here rather than by torch.onnx, which silently fixes the batch size if it cannot be dynamic.
            N = torch.export.Dim("N")
            example = tuple(x[:2] for x in inputs.values())
            program = torch.export.export(network, example, dynamic_shapes=tuple({0: N} for _ in inputs))
            program = program.run_decompositions({torch.ops.aten.scaled_dot_product_attention.default: _attention})
            exported: Any = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=tuple({0: "N"} for _ in inputs),
                verbose=False,
            )
            onnxscript.optimizer.optimize(exported.model, input_size_limit=NO_LIMIT, output_size_limit=NO_LIMIT)
            with writing(path) as temporary:
                onnx.save(_without_metadata(exported.model_proto), temporary)
    except RunError:
        raise
    except Exception as error:  # the exporter raises many kinds of errors
        raise RunError(f"{path.name} cannot be written: {type_and_message(error)}") from error
    _check(network, inputs, outputs, path)


def _without_metadata(proto: Any) -> Any:
    """Remove the exporter's metadata from the model: stack traces, which contain paths of this machine."""
    graph = proto.graph
    parts = (graph.node, graph.value_info, graph.input, graph.output, graph.initializer)
    for part in (proto, graph, *(x for xs in parts for x in xs)):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return proto


def _check(network: nn.Module, inputs: dict[str, Tensor], outputs: tuple[str, ...], path: Path) -> None:
    """Compare a file with the network it was made from, at several batch sizes."""
    try:
        import onnxruntime
    except ImportError:
        warnings.warn(f"{path.name} was not checked: onnxruntime is not installed", stacklevel=2)
        return
    batches = [{k: x.split(BATCHES)[i] for k, x in inputs.items()} for i in range(len(BATCHES))]
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        results = [session.run(list(outputs), {k: x.cpu().numpy() for k, x in batch.items()}) for batch in batches]
    except Exception as error:  # the exceptions of onnxruntime have no common class
        raise RunError(f"{path.name} does not run in onnxruntime: {type_and_message(error)}") from error
    for batch, onnx_results in zip(batches, results, strict=True):
        torch_results = network(*batch.values())
        torch_results = torch_results if isinstance(torch_results, tuple) else (torch_results,)
        for name, a, b in zip(outputs, torch_results, onnx_results, strict=True):
            a, b = a.cpu(), torch.from_numpy(b)
            difference = (a - b).abs().max() if a.shape == b.shape else torch.inf
            if not difference <= TOLERANCE * a.abs().max():
                raise RunError(
                    f"{path.name} computes another {name} than the model: a difference of {difference:.2g} for "
                    f"{len(b)} inputs, values up to {a.abs().max():.2g}; nothing was written"
                )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's messages about its internals and about packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
