"""Time a training step of ours and of another code, on networks as equal as possible, in turns on one machine.

    python -m reproduction.external.peers biggan CHECKOUT [--rounds 3] [--steps 2] [--precision bf16]
    python -m reproduction.external.peers bigbigan CHECKOUT ...
    python -m reproduction.external.peers inception CHECKOUT ...

CHECKOUT is a copy of ajbrock/BigGAN-PyTorch, RKorzeniowski/BigBiGAN-PyTorch or toshas/torch-fidelity, which is
imported and not changed. Modules that it imports but a step does not use (torchvision and others) are replaced by empty
ones.

    biggan    the network of its CIFAR-10 script: 32 px, ch 64, batch 64, 10 classes, one step of D and one of G, the
              average of G; ours is biggan/32_pytorch, of the same number of parameters
    bigbigan  its CIFAR-10 settings with widths 4·64, batch 64, one step of D and one of G and E; ours has the same
              widths, depths of D, attention and MLPs, and a ResNet of about the size of its RevNet
    inception FID's network on 64 images of 32 px, which it enlarges to 299, with the same random weights; a "step"
              computes their features

Each round measures each side in a process of its own: the fastest step after one step of warm-up, and the peak of
resident memory. With --precision bf16 ours computes in bfloat16, and the other code, which has no such mode, in
whichever is faster: as it is, or under torch.autocast. FLOPs of convolutions and matrix products are counted, 2 for a
multiply-add. Both sides get random images; loading data and logging are not measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bigbigan.apps.benchmark import peak_memory_mib, random_batches
from bigbigan.compute import reuse_freed_memory
from bigbigan.config import Config, override
from bigbigan.errors import UserError
from bigbigan.evaluation.image_quality.inception import Inception
from bigbigan.experiments import find
from bigbigan.training.devices import default_device, synchronize
from bigbigan.training.flops import count_flops
from bigbigan.training.state import TrainingState
from bigbigan.training.step import training_step
from reproduction.common import Script, measured

BATCH = 64
NOT_NEEDED = ("torchvision", "h5py", "wandb", "kornia", "seaborn")

OURS: dict[str, tuple[str, list[str]]] = {
    "biggan": ("biggan/32_pytorch", [f"training.batch_size={BATCH}", "training.d_steps=1", "log.every=1000000"]),
    "bigbigan": (
        "table1/base",
        [
            f"training.batch_size={BATCH}", "training.d_steps=1", "log.every=1000000", "data.augment=none",
            "latent.dim=100", "generator.channels=[256,256,256,256]", "generator.attention=[16]",
            "generator.shared_dim=64", "discriminator.channels=[256,256,256,256]", "discriminator.attention=[16]",
            "discriminator.mlp_width=128", "discriminator.mlp_layers=10", "encoder.resolution=64",
            "encoder.block=basic", "encoder.stem=imagenet", "encoder.widths=[64,128,256,336]",
            "encoder.blocks=[2,2,1,1]", "encoder.head_width=256",
        ],
    ),
}  # fmt: skip

INCEPTION = "bench/inception"
Step = Callable[[], object]


def settings(peer: str, precision: str = "float32") -> Config:
    name, changed = OURS[peer]
    changed = [*changed, f"training.precision={precision}"]
    return override(find(name).config(32 if name.startswith("table1/") else 0), changed)


def ours(peer: str, device: torch.device, precision: str) -> tuple[Step, Step, dict[str, int]]:
    if peer == "inception":
        network = Inception()
        network.load_state_dict(torch.load(random_inception(), map_location="cpu", weights_only=True))
        network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return features_of(network.to(device), device)
    config = settings(peer, precision)
    state, batches = TrainingState(config, device), random_batches(config, device)

    def step() -> object:
        return training_step(state, batches)

    return step, step, {letter: count(network) for letter, network in state.networks._asdict().items() if network}


def of_biggan(checkout: Path, device: torch.device) -> tuple[Step, Step, dict[str, int]]:
    """Return its training step, with its networks and average and the settings of its CIFAR-10 script."""
    sys.path.insert(0, str(checkout))
    import train_fns
    import utils

    model = __import__("BigGAN")
    script = (
        "--shuffle --num_G_accumulations 1 --num_D_accumulations 1 --num_D_steps 1 --G_lr 2e-4 --D_lr 2e-4 "
        "--dataset C10 --G_ortho 0.0 --G_attn 0 --D_attn 0 --G_init N02 --D_init N02 --ema --use_ema "
        "--ema_start 1000 --seed 0"
    )
    config = vars(utils.prepare_parser().parse_args([*script.split(), "--batch_size", str(BATCH)]))
    config |= {"resolution": 32, "n_classes": 10}
    config |= {f"{x}_activation": utils.activation_dict[config[f"{x}_nl"]] for x in "GD"}
    G, D = model.Generator(**config).to(device), model.Discriminator(**config).to(device)
    G_ema = model.Generator(**{**config, "skip_init": True, "no_optim": True}).to(device)
    ema = utils.ema(G, G_ema, config["ema_decay"], config["ema_start"])
    both, itr = model.G_D(G, D), {"itr": 1}
    x, y = torch.rand(BATCH, 3, 32, 32, device=device) * 2 - 1, torch.randint(10, (BATCH,), device=device)

    def step_with(z: Any, labels: Any) -> Step:
        train = train_fns.GAN_training_function(G, D, both, z, labels, ema, itr, config)
        return lambda: train(x, y)

    # Its noise is a subclass of Tensor, through which operations cannot be counted.
    z, labels = torch.randn(BATCH, G.dim_z, device=device), torch.randint(10, (BATCH,), device=device)
    z.sample_, labels.sample_ = lambda: z.normal_(), lambda: labels.random_(0, 10)  # type: ignore[attr-defined]
    its_own = utils.prepare_z_y(BATCH, G.dim_z, 10, device=device)
    return step_with(*its_own), step_with(z, labels), {"G": count(G), "D": count(D)}


def of_bigbigan(checkout: Path, device: torch.device) -> tuple[Step, Step, dict[str, int]]:
    """Return its training step, with its networks, losses, optimisers and training loop, over one batch."""
    sys.path.insert(0, str(checkout))
    from src.configs.CIFAR10 import config
    from src.model import architecture, losses
    from src.pipeline import pipeline

    never = 10**9
    for name, value in {
        "bs": BATCH, "device": str(device), "disc_steps": 1, "save_metric_interval": never,
        "save_model_interval": never, "gen_mult_chs": {"pre": (256, 256), "post": (256,), "colors": 3},
        "disc_mult_chs": {"colors": 3, "pre": (256,), "post": (256, 256)},
    }.items():  # fmt: skip
        setattr(config, name, value)
    config.device = device
    model = architecture.BigBiGAN.from_config(config).to(device)
    x, y = torch.rand(BATCH, 3, 32, 32, device=device), torch.randint(10, (BATCH,), device=device)
    adam = {"lr": 2e-4, "betas": config.betas}
    loop = pipeline.BigBiGANPipeline(
        dataloader=[(x, y)],
        model=model,
        gen_criterion=losses.GeneratorEncoderLoss(),
        disc_criterion=losses.BiDiscriminatorLoss(),
        gen_optimizer=torch.optim.Adam(model.get_gen_enc_params(), **adam),
        disc_optimizer=torch.optim.Adam(model.get_disc_params(), **adam),
        logger=lambda *values: None,
        config=config,
    )
    loop.counter = 1
    networks = {"G": model.generator, "E": model.encoder, "D.F": model.img_discriminator}
    networks |= {"D.H": model.latent_discriminator, "D.J": model.comb_discriminator}

    def step() -> object:
        return loop.run_epoch(1)

    return step, step, {name: count(network) for name, network in networks.items()}


def of_torch_fidelity(checkout: Path, device: torch.device) -> tuple[Step, Step, dict[str, int]]:
    sys.path.insert(0, str(checkout))
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    names, weights = ["2048", "logits_unbiased"], str(random_inception())
    return features_of(FeatureExtractorInceptionV3("x", names, weights).to(device), device)


def random_inception() -> Path:
    """Return a file of random weights for FID's network, the same each time; they compute as fast as the true ones."""
    path = Path(tempfile.gettempdir()) / "bigbigan-random-inception.pt"
    if not path.exists():
        torch.manual_seed(0)
        torch.save(Inception().state_dict(), path)
    return path


def features_of(network: torch.nn.Module, device: torch.device) -> tuple[Step, Step, dict[str, int]]:
    pixels = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8, device=device)

    @torch.no_grad()
    def step() -> object:
        return network(pixels)

    return step, step, {"network": count(network)}


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


class EmptyModules:
    """Replace modules that are not needed by empty ones (an import hook); any name imported from them is a class."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] in NOT_NEEDED:
            return importlib.util.spec_from_loader(name, self)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        module = EmptyModule(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class EmptyModule(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


SIDES = ("ours", "theirs")
THEIRS = {"biggan": of_biggan, "bigbigan": of_bigbigan, "inception": of_torch_fidelity}


def worker(side: str, peer: str, checkout: Path, steps: int, flops: bool, precision: str) -> None:
    """Measure one side in this process and print the result as JSON."""
    sys.meta_path.append(EmptyModules())
    device, theirs = default_device(), THEIRS[peer]
    torch.manual_seed(0)
    if side == "ours":
        reuse_freed_memory()  # as `bigbigan train` does
    step, countable, parameters = ours(peer, device, precision) if side == "ours" else theirs(checkout, device)
    found: dict[str, Any] = {"parameters": parameters}
    if flops:
        found["flops"] = count_flops(countable)
    else:
        found["memory_before_mib"] = peak_memory_mib(device)
        casts = torch.autocast(device.type, torch.bfloat16, enabled=side == "theirs" and precision == "bf16")
        times = []
        for _ in range(1 + steps):
            start = time.perf_counter()
            with casts:
                step()
            synchronize(device)
            times.append(time.perf_counter() - start)
        found["seconds"] = min(times[1:])
        found["memory_mib"] = peak_memory_mib(device)
    print("\n" + json.dumps(found))


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/peers.jsonl")
    script.parser.add_argument("peer", choices=THEIRS)
    script.parser.add_argument("checkout", type=Path)
    script.parser.add_argument("--rounds", type=int, default=3)
    script.parser.add_argument("--steps", type=int, default=2, help="timed in each round (default 2)")
    script.parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    script.parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    script.parser.add_argument("--flops", action="store_true", help=argparse.SUPPRESS)
    return script.run(work, arguments)


def work(script: Script, options: argparse.Namespace) -> None:
    if options.side:
        return worker(options.side, options.peer, options.checkout, options.steps, options.flops, options.precision)

    if options.peer == "inception" and options.precision != "float32":
        raise UserError(f"--precision {options.precision}: features for FID are computed in float32; leave it out")

    def in_process(side: str, precision: str, *more: str) -> dict[str, Any]:
        given = [options.peer, str(options.checkout), "--steps", str(options.steps), "--side", side, *more]
        return json.loads(script.in_subprocess(*given, "--precision", precision).strip().splitlines()[-1])

    def measure(side: str) -> dict[str, Any]:
        precisions = {"float32", options.precision} if side == "theirs" else {options.precision}
        return min((in_process(side, precision) for precision in sorted(precisions)), key=lambda x: x["seconds"])

    counted = {side: in_process(side, "float32", "--flops") for side in SIDES}
    rounds = []
    for number in range(options.rounds):
        rounds.append({side: measure(side) for side in SIDES})
        print(
            f"round {number + 1}: " + ", ".join(f"{s} {r['seconds']:.2f} s" for s, r in rounds[-1].items()), flush=True
        )
    values: dict[str, list[float]] = {}
    for side in SIDES:
        values[f"seconds_per_step_{side}"] = [r[side]["seconds"] for r in rounds]
        values[f"peak_memory_mib_{side}"] = [r[side]["memory_mib"] for r in rounds]
        values[f"gflop_per_image_{side}"] = [counted[side]["flops"] / BATCH / 1e9]
        for name, number in counted[side]["parameters"].items():
            values[f"parameters_{name}_{side}"] = [number]
    values["speed_over_theirs"] = [r["theirs"]["seconds"] / r["ours"]["seconds"] for r in rounds]
    values["memory_over_theirs"] = [r["ours"]["memory_mib"] / r["theirs"]["memory_mib"] for r in rounds]
    script.append(
        script.result_lines(
            {name: measured(trials) for name, trials in values.items()},
            subject="program",
            experiment=OURS[options.peer][0] if options.peer in OURS else INCEPTION,
            dataset="noise",
            split="train",
            n=BATCH,
            settings={"peer": options.peer}
            | ({"training.precision": options.precision} if options.precision != "float32" else {}),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
