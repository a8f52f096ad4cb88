"""Train an encoder that inverts a frozen generator, and compare it with other starts of latent optimisation.

    python -m reproduction.measure.inversion RUN [--data SOURCE] [--steps N] [--refine N] [--out PICTURE.png]
    python -m reproduction.measure.inversion python:MODULE:NAME [--dim N] ...

The generator is a run's G, or any module or function that turns latents [N, dim] into images. It is not changed.
NAME may have an attribute `z_dim` or `dim_z`, or a method `sample_latents(count, generator)`. The images to invert are
new samples of the generator, or test images of --data. Latents start at E(x), at the mean latent and at random, for a
run also at its own E(x); `inversion_steps_saved_S` is the number of optimisation steps from start S that reach the
error that E(x) has before the first step.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from bigbigan.apps.visualize import shown_split
from bigbigan.data import DecodeLimits, load_pixels, open_source
from bigbigan.errors import UserError
from bigbigan.evaluation.records import Measurement
from bigbigan.image import to_float
from bigbigan.image.grid import grid
from bigbigan.inference.inversion import LatentSampler, latent_sampler, mean_latent, train_inverter
from bigbigan.inference.latents import refine
from bigbigan.inference.loading import load
from bigbigan.inference.model import Model
from bigbigan.methods import sample_prior
from bigbigan.training.run_folder import changed_settings, limits_of
from bigbigan.user_code import import_named
from reproduction.common import Script, as_seen
from reproduction.render.chart_style import FIRST, GREY, SECOND, chart_style

TRIALS = 3  # random starts of each image
COLOURS = {"E": FIRST, "own": "#157f3b", "mean": "#8a6d00", "random": SECOND}
TITLES = {"E": "E trained to invert G", "own": "the run's own E", "mean": "the mean latent", "random": "random latents"}


@dataclass
class Given:
    """The generator under study, and what its result lines say of it."""

    name: str
    G: Callable[[Tensor], Tensor]
    latents: LatentSampler
    bounded: bool = False  # latents lie in [-1, 1]
    model: Model | None = None  # of a run
    fields: dict[str, Any] = field(default_factory=dict)


def open_generator(spec: str, dim: int | None) -> Given:
    """Open the generator that `spec` names: python:MODULE:NAME, or a run.

    Raises:
        UserError: there is none, or the length of its latents is unknown.
    """
    if spec.startswith("python:"):
        G = import_named(spec, "a generator")
        latents = dim or getattr(G, "sample_latents", None) or getattr(G, "z_dim", None) or getattr(G, "dim_z", None)
        if latents is None:
            raise UserError(f"{spec} does not say how long its latents are: give --dim N")
        return Given(spec, G, latent_sampler(latents))
    if dim is not None:
        raise UserError(f"--dim {dim}: {spec} is a run, which has its own")
    model = load(spec)
    c = model.config
    if c.data.classes > 1:
        raise UserError(f"{spec}: its generator needs classes; expected one without")

    def sample(count: int, generator: torch.Generator) -> Tensor:
        return sample_prior(count, c.latent.dim, c.latent.prior, generator)

    fields = {
        "settings": changed_settings(c), "scale": c.scale, "seed": c.training.seed, "steps": model.step,
        "images_seen": model.images_seen,
    }  # fmt: skip
    return Given(c.experiment, model.generator, sample, c.latent.prior == "uniform", model, fields)


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/inversion.jsonl")
    add = script.parser.add_argument
    add("generator", metavar="GENERATOR")
    add("--dim", type=int, metavar="N", help="length of the latents of python:MODULE:NAME, drawn from N(0, I)")
    add("--data", metavar="SOURCE", help="images to invert; default: samples of the generator")
    add("--count", type=int, default=64, metavar="N", help="images (default 64)")
    add("--steps", type=int, default=1000, metavar="N", help="steps that E is trained for (default 1000)")
    add("--batch", type=int, default=64, metavar="N")
    add("--pixels", type=float, default=0.0, metavar="W", help="weight of the error of G(E(x)) in E's loss (default 0)")
    add("--refine", type=int, default=200, metavar="N", help="steps of latent optimisation (default 200)")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path("docs/pictures/inversion.png"), metavar="PICTURE")
    return script.run(measure, arguments)


def measure(script: Script, options: argparse.Namespace) -> None:
    given = open_generator(options.generator, options.dim)
    losses: list[float] = []
    start = time.perf_counter()
    E = train_inverter(
        given.G,
        given.latents,
        options.steps,
        batch_size=options.batch,
        pixel_weight=options.pixels,
        seed=options.seed,
        after_step=lambda step, loss: losses.append(loss),
    )
    seconds = time.perf_counter() - start
    tail = losses[-max(1, len(losses) // 10) :]
    print(f"E trained for {options.steps:,} steps in {seconds:.0f} s: error on z {np.mean(tail):.3f} of its variance")
    x, dataset, split = images_to_invert(given, options)
    errors, latents = from_all_starts(given, E.eval()(x).mean, x, options)
    protocol: dict[str, Any] = {
        "E_steps": options.steps, "E_batch": options.batch, "E_seconds": round(seconds, 1), "E_seed": options.seed,
        "pixel_weight": options.pixels, "refine_steps": options.refine, "trials": TRIALS,
    }  # fmt: skip
    measured = {"inversion_latent_error": Measurement(float(np.mean(tail)), protocol=protocol)}
    for name, curve in errors.items():
        measured[f"inversion_error_start_{name}"] = Measurement(float(curve[0]), protocol=protocol)
        measured[f"inversion_error_end_{name}"] = Measurement(float(curve[-1]), protocol=protocol)
        if name not in ("E", "own"):
            saved, reached = steps_to(curve, float(errors["E"][0]))
            measured[f"inversion_steps_saved_{name}"] = Measurement(saved, protocol=protocol | {"reached": reached})
    lines = script.result_lines(
        measured, subject="external" if given.model is None else "trained", experiment=given.name, dataset=dataset,
        split=split, n=len(x), **given.fields,
    )  # fmt: skip
    script.append(lines)
    with chart_style():
        draw(given, x, errors, latents, options)


def steps_to(curve: Tensor, error: float) -> tuple[float, bool]:
    """Return after how many steps an error curve [steps + 1] reaches an error; all steps, and False, if never."""
    reached = (curve <= error).nonzero()
    return (float(reached[0]), True) if len(reached) else (float(len(curve) - 1), False)


def images_to_invert(given: Given, options: argparse.Namespace) -> tuple[Tensor, str, str]:
    """Return images [N, C, R, R] in [-1, 1] at G's size, and the names of their data set and split."""
    generator = torch.Generator().manual_seed(options.seed + 12345)  # not the latents that E was trained on
    with torch.no_grad():
        x = given.G(given.latents(options.count, generator))
    if not options.data:
        return x, "samples of the generator", "none"
    limits = DecodeLimits() if given.model is None else limits_of(given.model.config)
    source = open_source(options.data, limits=limits)
    if given.model is not None:
        source.set_padding(given.model.config.data.pad)
    split = shown_split(source)
    if given.model is None:
        pixels, _ = load_pixels(split.subset(split.spread(options.count)), x.shape[-1], x.shape[1], source)
        return to_float(torch.from_numpy(pixels)), source.name, split.name
    return as_seen(given.model, source, split, options.count)[1], source.name, split.name


def from_all_starts(
    given: Given, z: Tensor, x: Tensor, options: argparse.Namespace
) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
    """Optimise the latents of images x from each start, z being E's.

    Returns:
        By start, the mean error ‖x − G(z)‖₂ before the first step and after each, [steps + 1], pixels in [0, 1]; and
        the latents before and after. Random starts are the mean over trials, and the latents of the first.
    """

    def run(start: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        found = refine(given.G, x, start, options.refine, bounded=given.bounded)
        return found.errors.mean(1), (start, found.z)

    starts = {"E": z, "mean": mean_latent(given.latents).expand(len(x), -1).contiguous()}
    if given.model is not None and given.model.networks.E is not None and options.data:
        side = given.model.config.encoder.resolution
        if side == x.shape[-1]:
            starts["own"] = given.model.encode(x).z_mean  # type: ignore[assignment]
    done = {name: run(start) for name, start in starts.items()}
    trials = [run(given.latents(len(x), torch.Generator().manual_seed(seed))) for seed in range(TRIALS)]
    done["random"] = torch.stack([curve for curve, _ in trials]).mean(0), trials[0][1]
    return {k: curve for k, (curve, _) in done.items()}, {k: both for k, (_, both) in done.items()}


def draw(
    given: Given, x: Tensor, errors: dict[str, Tensor], latents: dict[str, tuple[Tensor, Tensor]], options: Any
) -> None:
    """Draw the error over steps; and rows of images x, G at each start, and G after the optimisation from it."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    chart, pictures = figure.subplots(1, 2, width_ratios=[1, 1.25])
    for name, curve in errors.items():
        chart.plot(np.arange(len(curve)), curve, color=COLOURS[name], label=f"from {TITLES[name]}")
    chart.axhline(float(errors["E"][0]), color=GREY, linestyle=":", linewidth=1)
    chart.set(xlabel="steps of Adam on the latent", ylabel="mean ‖x − G(z)‖, pixels in [0, 1]", ylim=(0, None))
    chart.legend()
    columns, rows, labels = min(12, len(x)), [x], ["x"]
    with torch.no_grad():
        for name, (before, after) in latents.items():
            rows += [given.G(before[:columns]), given.G(after[:columns])]
            labels += [f"{TITLES[name]}: start", f"after {options.refine} steps"]
    tiles = torch.cat([row[:columns].clamp(-1, 1) for row in rows])
    picture = np.asarray(grid(tiles, columns))
    pictures.imshow(picture)
    height = picture.shape[0] / len(rows)
    pictures.set_yticks([height * (i + 0.5) for i in range(len(rows))], labels)
    pictures.set_xticks([])
    pictures.spines[:].set_visible(False)
    pictures.tick_params(length=0)
    pictures.grid(visible=False)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out)


if __name__ == "__main__":
    sys.exit(main())
