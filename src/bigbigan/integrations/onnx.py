"""E and G as ONNX files, for runtimes that have no torch: what `export --onnx` adds.

    encoder.onnx      images float32 [N, C, R, R] in [-1, 1] to z_mean, z_stdev, avepool_feat, bn_crelu_feat;
                      to the last two of an E without latents
    generator.onnx    z float32 [N, dim_z] to images [N, C, R, R] in [-1, 1];
                      of a G that is told classes, from y int64 [N] too

Names are those of the authors' published modules; N is free; spectral norms are folded into the weights.
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

from bigbigan.errors import RunError, UserError
from bigbigan.inference.model import Model
from bigbigan.io import writing
from bigbigan.models import FeatureEncoder
from bigbigan.randomness import keyed_generator

__all__ = ["encoder_outputs", "require_onnx", "write_onnx"]

LATENTS, FEATURES = ("z_mean", "z_stdev"), ("avepool_feat", "bn_crelu_feat")
TOLERANCE = 1e-4  # between torch and ONNX Runtime, as a share of the largest magnitude
BATCHES = (1, 4)  # of the check: neither is the size that is traced
NO_LIMIT = 2**62


def encoder_outputs(model: Model) -> tuple[str, ...]:
    return (LATENTS if model.config.has_generator else ()) + FEATURES


def require_onnx() -> None:
    """Raises UserError where the packages that write ONNX are missing."""
    try:
        for name in ("onnx", "onnxscript"):
            importlib.import_module(name)
    except ImportError:
        raise UserError("--onnx needs onnx and onnxscript: pip install 'bigbigan[onnx]'") from None


def write_onnx(model: Model, folder: Path) -> None:
    """Write encoder.onnx and generator.onnx, of what there is of E and G, checked where onnxruntime is installed.

    Raises:
        UserError: a package is missing.
        RunError: a network cannot be exported, or the file computes something else; what was written is the
            caller's to remove.
    """
    require_onnx()
    c, count = model.config, sum(BATCHES)
    if model.networks.E is not None:
        shape = (count, c.data.channels, c.encoder.resolution, c.encoder.resolution)
        images = torch.rand(shape, generator=keyed_generator(0, "onnx")) * 2 - 1
        network = _AllOutputs(model.networks.E)
        _write(network, {"images": images.to(model.device)}, encoder_outputs(model), folder / "encoder.onnx")
    if model.networks.G is None:
        return
    given = {"z": model.sample_prior(count)}
    if c.data.classes > 1:
        given["y"] = torch.arange(count, device=model.device) % c.data.classes
    _write(model.generator, given, ("images",), folder / "generator.onnx")


class _AllOutputs(nn.Module):
    """E with its outputs as a tuple."""

    def __init__(self, E: FeatureEncoder) -> None:
        super().__init__()
        self.E = E

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        q, avepool, bn_crelu = self.E.all_outputs(images)
        return (avepool, bn_crelu) if q is None else (q.mean, q.stdev, avepool, bn_crelu)


def _attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """Attention without heads, [N, places, channels], in parts that the exporter knows: its own has heads."""
    return torch.softmax(q @ k.transpose(1, 2) * scale, dim=2) @ v


@torch.no_grad()
def _write(network: nn.Module, given: dict[str, Tensor], outputs: tuple[str, ...], path: Path) -> None:
    """Export, save, and compare with torch on the inputs `given`, [sum(BATCHES), ...] each."""
    import onnx
    import onnxscript.optimizer

    network.eval()
    try:
        with _quiet():
            # Traced here rather than by torch.onnx, which where a batch cannot stay free fixes it without a word.
            N = torch.export.Dim("N")
            example = tuple(x[:2] for x in given.values())
            program = torch.export.export(network, example, dynamic_shapes=tuple({0: N} for _ in given))
            program = program.run_decompositions({torch.ops.aten.scaled_dot_product_attention.default: _attention})
            exported: Any = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(given),
                output_names=list(outputs),
                dynamic_shapes=tuple({0: "N"} for _ in given),
                verbose=False,
            )
            onnxscript.optimizer.optimize(exported.model, input_size_limit=NO_LIMIT, output_size_limit=NO_LIMIT)
            with writing(path) as aside:
                onnx.save(_bare(exported.model_proto), aside)
    except RunError:
        raise
    except Exception as error:  # whatever the exporter meets in a network
        raise RunError(f"{path.name} cannot be written: {_in_one_line(error)}") from error
    _check(network, given, outputs, path)


def _bare(proto: Any) -> Any:
    """The model without what the exporter notes beside it: stack traces, and in them folders of this machine."""
    graph = proto.graph
    parts = (graph.node, graph.value_info, graph.input, graph.output, graph.initializer)
    for part in (proto, graph, *(x for xs in parts for x in xs)):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return proto


def _check(network: nn.Module, given: dict[str, Tensor], outputs: tuple[str, ...], path: Path) -> None:
    """Compare a file with the network it was made of, at several batch sizes."""
    try:
        import onnxruntime
    except ImportError:
        warnings.warn(f"{path.name} was not checked: onnxruntime is not installed", stacklevel=2)
        return
    batches = [{k: x.split(BATCHES)[i] for k, x in given.items()} for i in range(len(BATCHES))]
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = [session.run(list(outputs), {k: x.cpu().numpy() for k, x in batch.items()}) for batch in batches]
    except Exception as error:  # onnxruntime has a class for each of its states, and no common one
        raise RunError(f"{path.name} does not run in onnxruntime: {_in_one_line(error)}") from error
    for batch, theirs in zip(batches, found, strict=True):
        ours = network(*batch.values())
        for name, a, b in zip(outputs, ours if isinstance(ours, tuple) else (ours,), theirs, strict=True):
            a, b = a.cpu(), torch.from_numpy(b)
            apart = (a - b).abs().max() if a.shape == b.shape else torch.inf
            if not apart <= TOLERANCE * a.abs().max():
                raise RunError(
                    f"{path.name} computes another {name} than the model: {apart:.2g} apart for {len(b)} inputs, "
                    f"values up to {a.abs().max():.2g}; nothing was written"
                )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps to itself what the exporter says of its own innards and of packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
