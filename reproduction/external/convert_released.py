"""Convert the generator of the authors' released BigBiGAN to a folder that `bigbigan.load` opens.

    python -m reproduction.external.convert_released VARIABLES.npz --out DIR [--module bigbigan-revnet50x4]

VARIABLES holds the module's variables by name, .npz or .safetensors; how to get them, and what is known of their
names: docs/notes/released_weights.md. Every parameter and statistic of G is filled, or nothing is written. Variables of
E, F, H and J have names that nobody has published: they are listed by name and shape, and left.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from bigbigan.config import Config
from bigbigan.errors import UserError
from bigbigan.experiments import find
from bigbigan.inference.model import Model
from bigbigan.integrations.export import check_free, write_folder
from bigbigan.models import Generator, Networks, construct
from reproduction.common import Script

EXPERIMENTS = {  # the row of Table 1 of each released module
    "bigbigan-resnet50": "table1/resnet_up_encoder_lr",
    "bigbigan-revnet50x4": "table1/revnet_x4_up_encoder_lr",
}
SCOPE = "Generator/"  # G's variables are named ANYTHING/Generator/...; "GenEncWrapper" in the published modules
EMA = "/ema_0.9999"  # the suffix of the average of a variable; only averages are used,
NOT_AVERAGED = ("/u0", "/accumulated_mean", "/accumulated_var")  # except for these, which have none
UNUSED = ("/u1", "/accumulation_counter")  # the other singular vector, which follows from u0; see `_settle_statistics`

Variables = Mapping[str, np.ndarray]


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__)
    script.parser.add_argument("variables", type=Path)
    script.parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    script.parser.add_argument("--module", choices=EXPERIMENTS, default="bigbigan-resnet50")
    return script.run(convert_file, arguments)


def convert_file(script: Script, options: argparse.Namespace) -> None:
    check_free(options.out)
    variables, others = of_generator(read_variables(options.variables))
    config = find(EXPERIMENTS[options.module]).config()
    G, statistics = convert(variables, config)
    write(G, config, options.module, options.out)
    print(statistics)
    print(f"{options.out}: G, {len(G.state_dict())} tensors; no E and no D")
    print(f"skipped {len(others)} variables of other networks" + "".join(f"\n  {n}  {s}" for n, s in others.items()))


def read_variables(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name.

    Raises:
        UserError: it cannot be read as .npz or .safetensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, AttributeError, BadZipFile, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as .npz or .safetensors of variables by name: {error}") from None


def of_generator(variables: Variables) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
    """Return G's variables by their names within its scope, and the shapes of all others by full name."""
    ours, others = {}, {}
    for name, value in sorted(variables.items()):
        before, scope, within = name.removesuffix(":0").partition(SCOPE)
        if scope and (not before or before.endswith("/")):
            ours[within] = value
        else:
            others[name] = list(value.shape)
    if not ours:
        raise UserError(
            f"none of the {len(others)} variables is named .../{SCOPE}...; expected those of a BigBiGAN module"
        )
    return ours, others


def names(G: Generator) -> Iterator[tuple[str, str]]:
    """Yield each tensor of G's state dict with the name of its variable, the unaveraged one, within the scope."""
    parts = {"shared": "linear", "seed": "GenZ/G_linear", "norm": "BatchNorm", "to_image": "conv_2d"}
    for i in range(len(G.blocks)):
        block = f"GBlock_{i}" if i else "GBlock"
        for ours, theirs in {"conv1": "conv0", "conv2": "conv1", "skip": "conv_sc"}.items():
            parts[f"blocks.{i}.{ours}"] = f"{block}/{theirs}"
        for ours, theirs in {"norm1": "BatchNorm", "norm2": "BatchNorm_1"}.items():
            parts[f"blocks.{i}.{ours}.norm"] = f"{block}/{theirs}"
            parts[f"blocks.{i}.{ours}.gain"] = f"{block}/{theirs}/scale"
            parts[f"blocks.{i}.{ours}.bias"] = f"{block}/{theirs}/offset"
    for key in G.attention:
        parts[f"attention.{key}"] = "attention"
        for ours, theirs in {"query": "theta", "key": "phi", "value": "g", "out": "o_conv"}.items():
            parts[f"attention.{key}.{ours}"] = f"attention/{theirs}"
    leaves = {"weight": "w", "bias": "b", "u": "u0", "gamma": "gamma"}
    leaves |= {"running_mean": "accumulated_mean", "running_var": "accumulated_var"}
    for ours in G.state_dict():
        part, _, leaf = ours.rpartition(".")
        if leaf != "num_batches_tracked":
            own = {"norm.weight": "scale", "norm.bias": "offset"}  # the last batch norm is not conditional
            yield ours, f"{parts[part]}/{own.get(ours) or leaves[leaf]}"


def convert(variables: Variables, config: Config) -> tuple[Generator, str]:
    """Return G of a config, filled from the variables of `of_generator`, and a description of its statistics.

    Raises:
        UserError: a variable is missing, has another shape, is not finite, or has no place in G.
    """
    G = construct(config).G
    assert isinstance(G, Generator)
    wanted = {ours: name if name.endswith(NOT_AVERAGED) else name + EMA for ours, name in names(G)}
    known = {*wanted.values(), *(name.removesuffix(EMA) for name in wanted.values())}
    if missing := [name for name in wanted.values() if name not in variables]:
        raise UserError(f"{len(missing)} variables of G are missing, the first is .../{SCOPE}{missing[0]}")
    if extra := [name for name in variables if name not in known and not name.endswith(UNUSED)]:
        raise UserError(f"{len(extra)} variables have no place in G, the first is .../{SCOPE}{extra[0]}")
    shapes = {ours: tensor.shape for ours, tensor in G.state_dict().items()}
    state = {ours: _as_ours(ours, variables[name], shapes[ours], name) for ours, name in wanted.items()}
    counts = {ours: torch.tensor(1) for ours in shapes if ours.endswith("num_batches_tracked")}
    G.load_state_dict(state | counts)
    G.eval().requires_grad_(False)
    return G, _settle_statistics(G, variables)


def _as_ours(ours: str, value: np.ndarray, shape: torch.Size, name: str) -> Tensor:
    """Return a variable in our layout.

    TensorFlow's convolutions are [H, W, in, out], dense layers [in, out], and the seed's outputs are in the order H, W,
    C; vectors may have more axes, of length 1.
    """
    # The embedding is a dense layer of one-hot classes: [classes, dim] on both sides.
    axes = {4: (3, 2, 0, 1), 2: (0, 1) if ours == "shared.weight" else (1, 0)}.get(len(shape))
    expected = list(shape) if axes is None else [shape[axes.index(i)] for i in range(len(axes))]
    if list(value.shape) != expected and (axes is not None or list(value.squeeze().shape) != expected):
        raise UserError(f".../{SCOPE}{name} has shape {list(value.shape)}; expected {expected}")
    if not np.isfinite(value).all():
        raise UserError(f".../{SCOPE}{name} has values that are not finite")
    tensor = torch.from_numpy(np.array(value, np.float32))
    tensor = tensor.reshape(shape) if axes is None else tensor.permute(axes)
    if ours.startswith("seed."):
        tensor = tensor.unflatten(0, (4, 4, -1)).movedim(2, 0).flatten(0, 2)
    return tensor.contiguous()


def _settle_statistics(G: Generator, variables: Variables) -> str:
    """Convert accumulated batch norm statistics to means, if they are sums; return a line that says how it was decided.

    Nobody has published which they are. But the input of the first batch norm is a linear map of a normal z, and its
    variance over z follows from the seed's weights.

    Raises:
        UserError: the accumulated variance is neither a mean nor a sum, within a factor of 2.
    """
    weight, bias = (t.unflatten(0, (-1, 16)) for t in (G.seed.normalised_weight(), G.seed.bias))
    expected = (weight.square().sum(2) + bias.square()).mean(1) - bias.mean(1).square()
    buffers = dict(G.named_buffers())
    counts = {  # by buffer
        ours: float(variables.get(f"{name.rpartition('/')[0]}/accumulation_counter", np.ones(())).mean())
        for ours, name in names(G)
        if name.endswith(("/accumulated_mean", "/accumulated_var"))
    }
    first = "blocks.0.norm1.norm.running_var"
    ratio, count = float((buffers[first] / expected).median()), counts[first]
    by = min((1.0, count), key=lambda n: abs(math.log(max(ratio, 1e-30) / n)) if n > 0 else math.inf)
    if not 0.5 < ratio / by < 2:
        raise UserError(
            f"the accumulated variance of the first batch norm is {ratio:.3g} of what the seed's weights give, and its "
            f"counter is {count:g}: expected 1 (a mean) or the counter (a sum); the variables are not of one module"
        )
    if by != 1:
        for ours, n in counts.items():
            buffers[ours] /= n
    kind = "means, used unchanged" if by == 1 else "sums, divided by their counters"
    return f"batch norm statistics are {kind}: the first is {ratio / by:.2f} of what the seed's weights give"


def write(G: Generator, config: Config, module: str, out: Path) -> None:
    """Write G as an exported folder."""
    t = config.training
    model = Model(config, Networks(G, None, None), t.steps, t.steps * t.batch_size * (t.d_steps + 1))
    origin = (
        f"Converted from the variables of deepmind/{module}/1, only the generator. The settings are the paper's for "
        "that row of Table 1, steps included: the module does not record them."
    )
    write_folder(model, out, {"name": "ImageNet", "images": 1_281_167}, origin=origin)


if __name__ == "__main__":
    sys.exit(main())
