"""Train and use tiny models on a simulated device: CPU tensors that refuse to mix with others, as a GPU's do.

PyTorch can register such a device only once, so this is a program of its own. It prints one line of JSON for each part:
how many operators ran on the device, and what went wrong, if anything.

    python tests/helpers/on_other_device.py FOLDER [PART ...]
"""

from __future__ import annotations

import functools
import json
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import bigbigan
from bigbigan import randomness
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.config import Config, override
from bigbigan.evaluation.probes import pretext_accuracy
from bigbigan.experiments import find
from tiny import tiny_config, write_npz

_setup_privateuseone_for_python_backend("other")
OTHER = torch.device("other", 0)

# Copies between devices, and those of indices, which may lie on the CPU.
ACROSS = {"aten::_to_copy", "aten::copy_", "aten::_local_scalar_dense"}
INDEXED = {"aten::index", "aten::index_put_", "aten::_index_put_impl_", "aten::index_put"}


class OtherTensor(torch.Tensor):
    inner: torch.Tensor
    made = 0

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OtherTensor:
        x = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=OTHER,
        )
        x.inner = inner
        OtherTensor.made += 1
        return x

    def tolist(self) -> list:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return on_its_device(func, args, kwargs or {})


def is_other(device: object) -> bool:
    return device is not None and torch.device(device).type == "other"


def on_its_device(func, args, kwargs):
    """The operator on what is within its tensors; an error where they are on two devices."""
    flat, _ = tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    theirs = [isinstance(x, OtherTensor) for x in tensors]
    name = func._schema.name
    if any(theirs) and name not in ACROSS:
        may_be_anywhere = 1 if name in INDEXED and theirs[0] else len(tensors)
        for x, there in list(zip(tensors, theirs, strict=True))[:may_be_anywhere]:
            if not there and x.dim():  # numbers go anywhere
                raise RuntimeError(f"{name}: tensors on two devices, shapes {[list(t.shape) for t in tensors]}")
    device = kwargs.get("device")
    goes_there = is_other(device) if device is not None else any(theirs)
    if name == "aten::_local_scalar_dense":
        goes_there = False
    if name == "aten::copy_":
        goes_there = theirs[0]
    for x in flat:
        if isinstance(x, torch.Generator) and (x.initial_seed() in OtherGenerator.seeds) != goes_there:
            raise RuntimeError(f"{name}: a generator of another device than its numbers")

    def bare(x):
        return x.inner if isinstance(x, OtherTensor) else torch.device("cpu") if isinstance(x, torch.device) else x

    args_within, kwargs_within = tree_map(bare, args), tree_map(bare, kwargs)
    out = func(*args_within, **kwargs_within)
    if not goes_there:
        return out
    if any(isinstance(x, torch.Tensor) and x.dtype == torch.float64 for x in tree_flatten(out)[0]):
        raise TypeError(f"{name}: float64, which Apple's GPU does not have")  # as torch says of "mps"
    out = tree_map(lambda x: OtherTensor(x) if isinstance(x, torch.Tensor) else x, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if any(theirs) else out


class Operators(TorchDispatchMode):
    """For those that make tensors of none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return on_its_device(func, args, kwargs or {})


class Literals(TorchFunctionMode):
    """torch.tensor reaches no operator."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.tensor and is_other(kwargs.get("device")):
            return func(*args, **kwargs | {"device": "cpu"}).to(OTHER)
        return func(*args, **kwargs)


class OtherGenerator(torch.Generator):
    seeds: ClassVar[set[int]] = set()  # within an operator a generator is known by its seed alone
    device = OTHER

    def manual_seed(self, seed: int) -> OtherGenerator:
        self.seeds.add(seed)
        super().manual_seed(seed)
        return self


def be_default() -> None:
    """Make it what `default_device` says, wherever that was imported."""
    randomness.torch = types.SimpleNamespace(  # type: ignore[assignment]
        Generator=lambda device: OtherGenerator() if is_other(device) else torch.Generator(device)
    )
    for name, module in list(sys.modules.items()):
        if name.startswith("bigbigan") and hasattr(module, "default_device"):
            module.default_device = lambda: OTHER
        if name.startswith("bigbigan") and hasattr(module, "has_float64"):
            module.has_float64 = lambda device_type: device_type != "other"  # as of Apple's GPUs
    # 16 batches, as in evaluation, would take as long as most other parts together.
    pretext_accuracy.fill_statistics = functools.partial(pretext_accuracy.fill_statistics, batches=1)


def verb(*words: object) -> Callable[[], None]:
    def run() -> None:
        code = main([str(word) for word in words])
        assert code == 0, f"bigbigan {words[0]} ended with {code}"

    return run


def trained(config: Config, data: str, run: Path) -> Callable[[], None]:
    """As many steps as the experiment has: one, or one and then another from its checkpoint."""

    def each() -> None:
        for steps in range(1, config.training.steps + 1):
            train(override(config, [f"training.steps={steps}"]), data, run, progress=False)

    return each


def used(run: Path) -> Callable[[], None]:
    """What `load` gives, with images that are on the CPU, as users' are."""

    def use() -> None:
        model = bigbigan.load(run, device=OTHER)
        x = torch.rand(4, 1, 8, 8) * 2 - 1
        z = model.encode(x).z_mean
        model.generate(z), model.generate(3), model.sample_prior(2), model.reconstruct(x)
        model.interpolate(x[:2], x[2:], 3), model.discriminate(x, z), model.anomaly_score(x), model.refine(x, steps=2)

    return use


def parts(folder: Path) -> dict[str, Callable[[], None]]:
    grey = str(write_npz(folder / "grey.npz"))
    colour = str(write_npz(folder / "colour.npz", side=32, channels=3))
    runs = folder / "runs"
    every = ["log.every=1", "log.pictures_every=1", "log.checkpoint_every=1", "log.validate_every=0"]
    quick = [*every, "log.standing_batches=1", "training.batch_size=8", "training.steps=2", "optimizer.lr_final=1"]
    names = ["bigan/mnist", "bigan/latent_regressor", "bigan/autoencoder_l1"]

    def of(name: str, scale: int = 0, *settings: str) -> Config:
        return override(find(name).config(scale), [*quick, *settings])

    training = {
        "base": tiny_config(*every, "log.validate_every=1", "training.steps=2"),
        "accumulated": tiny_config(*every, "training.accumulate=2", "training.steps=2"),
        "augmented": tiny_config(*every, "discriminator.augment=[color,translation,cutout]", "training.steps=1"),
        "decoded each time": tiny_config(*every, "data.memory_gib=0", "training.steps=1"),
        "reversible": tiny_config(*every, "encoder.block=reversible", "encoder.widths=[8,16]", "training.steps=1"),
    }
    small = [
        "generator.side=8",
        "generator.channels=[16,16]",
        "discriminator.channels=[16,16]",
        "encoder.widths=[16,16]",
    ]
    training |= {name: of(name, 0, *small, "encoder.resolution=8") for name in names}
    in_colour = {
        name: of(name, 32, "encoder.block=basic", "encoder.blocks=1", "encoder.widths=[8,16]", "encoder.head_width=16")
        for name in ("pretext/combination", "pretext/cpc", "pretext/efficient_cpc", "pretext/supervised")
    }
    in_colour["table3/biggan_sl"] = of(
        "table3/biggan_sl", 32, "generator.channels=[8,8,8,8]", "discriminator.channels=[8,8,8,8]"
    )
    found = {f"train {name}": trained(c, grey, runs / name) for name, c in training.items()}
    found |= {f"train {name}": trained(c, colour, runs / name) for name, c in in_colour.items()}

    base = runs / "base"
    wanted = "*_10perclass,knn1_*,reconstruction_*"  # heads are trained along the way of "train base"
    return found | {
        "load": used(base),
        "feature-extractor": verb("feature-extractor", "mnist-cnn", "--data", grey, "--epochs", 1, "--quiet"),
        "evaluate": verb("evaluate", base, "--quiet", "--metrics", wanted),
        "evaluate samples": verb("evaluate", base, "--quiet", "--metrics", "*10k_*mnist-cnn"),
        "evaluate tasks": verb("evaluate", runs / "pretext/combination", "--quiet", "--metrics", "task_*"),
        "encode": verb("encode", base, "--out", folder / "features.npz"),
        "encode scores": verb("encode", base, "--out", folder / "scores.csv", "--features", "z_mean,anomaly_score"),
        "generate": verb("generate", base, "--out", folder / "samples.png", "--count", 4),
        "generate labels": verb("generate", runs / "table3/biggan_sl", "--out", folder / "labels.png", "--count", 4),
        "reconstruct": verb("reconstruct", base, "--out", folder / "pairs.png", "--refine", 2, "--count", 4),
        "interpolate": verb("interpolate", base, "--out", folder / "walks.png", "--count", 2),
        "interpolate latents": verb("interpolate", base, "--latents", "--out", folder / "latents.png"),
        "neighbours": verb("neighbours", base, "--out", folder / "neighbours.png"),
        "classify": verb("classify", base, "--labels-per-class", 5, "--quiet", "--out", folder / "classes.csv"),
        "finetune": verb(
            "classify", base, "--labels-per-class", 5, "--finetune", "--trials", 1, "--quiet",
            "--out", folder / "tuned.csv",
        ),
        "cluster": verb("cluster", base, "--clusters", 3, "--out", folder / "clusters.csv"),
        "report": verb("report", base),
    }  # fmt: skip


if __name__ == "__main__":
    be_default()
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    only = sys.argv[2:]
    for name, part in parts(folder).items():
        if only and name not in only:
            continue
        trouble, OtherTensor.made = None, 0
        try:
            with Operators(), Literals():
                part()
        except Exception:
            trouble = traceback.format_exc()
        print(json.dumps({"part": name, "operators": OtherTensor.made, "trouble": trouble}), flush=True)
