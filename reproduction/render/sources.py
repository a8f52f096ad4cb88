"""Render the tables of docs/notes/sources.md: what the paper, the slides and the blog name besides their tables."""

from __future__ import annotations

from typing import Any

import torch

from bigbigan.config import flat, named_settings, override
from bigbigan.evaluation.records import chosen_settings
from bigbigan.experiments import find
from bigbigan.models import construct
from reproduction.benchmark.encoders import ROWS
from reproduction.render.cells import Line, cell, of_study
from reproduction.train.filters import EXPERIMENT, SCALE, SETTINGS


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """Return a Markdown table; without rows one that says "not run"."""
    rows = rows or [["not run", *[""] * (len(head) - 1)]]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)])


def _groups(lines: list[Line], *keys: str) -> dict[tuple[Any, ...], dict[tuple[str, str], Line]]:
    """Return the lines by metric and subject, for each combination of these fields or settings."""
    groups: dict[tuple[Any, ...], dict[tuple[str, str], Line]] = {}
    for x in lines:
        key = tuple(x[k] if k in x else x["settings"].get(k) for k in keys)
        groups.setdefault(key, {})[x["metric"], x["subject"]] = x
    return groups


def _in_words(settings: dict[str, Any]) -> str:
    return named_settings(settings).replace('"', "")


def reconstructions(lines: list[Line]) -> str:
    """Render the distance of x and G(E(x)) of each run, in the feature space that both share."""
    rows = []
    for found in _groups(of_study(lines, "reconstructions"), "experiment", "dataset", "metric").values():
        ((metric, _), x), *_ = found.items()
        changed = _in_words(chosen_settings(x))
        space = metric.removeprefix("reconstruction_ratio_")
        protocol = x["protocol"]
        distances = [f"{protocol[name]:.2f}" for name in ("distance", "mismatched")]
        rows.append(
            [f"`{x['experiment']}`", f"`{changed}`" if changed else "nothing", x["dataset"], f"{x['steps']:,}",
             f"{x['images_seen']:,}", space, *distances, cell(x, 3)]
        )  # fmt: skip
    head = ("experiment", "changed", "data", "steps", "images seen", "space", "matched", "mismatched", "ratio")
    return _table(head, rows)


def hinges(lines: list[Line]) -> str:
    """Render what E learned with a hinge for each score, and with one on their sum."""
    rows = []
    groups = _groups(of_study(lines, "hinges"), "experiment", "dataset", "steps", "seed", "loss.hinge")
    lengths = {(experiment, dataset, seed): steps for experiment, dataset, steps, seed, _ in groups if steps}
    for (experiment, dataset, seed), steps in lengths.items():
        for hinge, title in ((None, "each score"), ("sum", "the sum")):
            found = groups.get((experiment, dataset, steps, seed, hinge), {})
            untrained = groups.get((experiment, dataset, 0, seed, hinge), {})
            few = "top1_linear_bn_crelu_10perclass"
            cells = [
                cell(found.get((few, "trained"))),
                cell(untrained.get((few, "untrained"))),
                cell(found.get(("reconstruction_ratio", "trained")), 3),
            ]
            rows.append([f"`{experiment}`", dataset, f"{steps:,}", str(seed), title, *cells])
    head = (
        "experiment", "data", "steps", "seed", "hinge on", "10 labels per class", "E untrained", "reconstruction ratio",
    )  # fmt: skip
    return _table(head, rows)


def filters(lines: list[Line]) -> str:
    """Render how far the filters of the first layer moved, and how rough they are, by the rate of E."""
    rows = []
    keys = ("dataset", "encoder.lr_multiplier", "optimizer.lr_g")
    fixed = flat(override(find(EXPERIMENT).config(SCALE), SETTINGS).to_dict())
    for (dataset, eta, _), found in _groups(of_study(lines, "filters"), *keys).items():
        trained = found.get(("filter_change", "trained"))
        if trained is None:
            continue
        changed = {k: v for k, v in chosen_settings(trained).items() if k != "encoder.lr_multiplier"}
        other = _in_words({k: v for k, v in changed.items() if fixed.get(k) != v})
        cells = [cell(found.get(("filter_roughness", subject)), 3) for subject in ("untrained", "trained")]
        rows.append(
            [f"{eta or 1:g}", dataset, f"{trained['steps']:,}", f"`{other}`" if other else "nothing",
             f"{100 * trained['value']:.1f} %", *cells]
        )  # fmt: skip
    return _table(("η", "data", "steps", "changed", "filters changed by", "roughness untrained", "trained"), rows)


def inversion(lines: list[Line]) -> str:
    """Render the errors of latents from each start, and the optimisation steps that E's start saves."""
    rows = []
    for (name, dataset, _), found in _groups(of_study(lines, "inversion"), "experiment", "dataset", "command").items():
        by_metric = {metric: x for (metric, _), x in found.items()}
        p = by_metric["inversion_latent_error"]["protocol"]

        def both(start: str, by_metric: dict[str, Line] = by_metric) -> str:
            ends = [by_metric.get(f"inversion_error_{end}_{start}") for end in ("start", "end")]
            return " → ".join(cell(x, 2) for x in ends) if ends[0] else "–"

        def saved(start: str, by_metric: dict[str, Line] = by_metric) -> str:
            x = by_metric[f"inversion_steps_saved_{start}"]
            return f"{x['value']:.0f}" if x["protocol"]["reached"] else f"over {x['value']:.0f}"

        generator = name.rpartition(".")[2] if name.startswith("python:") else name
        starts = [both(start) for start in ("E", "own", "mean", "random")]
        rows.append(
            [f"`{generator}`", dataset, f"{p['E_steps']:,}", cell(by_metric["inversion_latent_error"], 2),
             str(p["refine_steps"]), *starts, saved("mean"), saved("random")]
        )  # fmt: skip
    head = (
        "generator", "images", "steps of E", "E's error on z", "steps on z", "from E", "from the run's own E",
        "from the mean", "from random", "steps saved: mean", "random",
    )  # fmt: skip
    return _table(head, rows)


def encoders(lines: list[Line]) -> str:
    """Render a training step by the encoder: seconds, arithmetic and memory."""
    rows = []
    chosen = of_study(lines, "encoders")
    newest: dict[str, dict[str, Line]] = {}
    for x in chosen:
        row = x["experiment"].removeprefix("table1/")
        if x["settings"].get("encoder.keep_activations"):
            row = "kept"
        newest.setdefault(row, {})[x["metric"]] = x
    for row, (title, _) in ROWS.items():
        if found := newest.get(row):
            x = found["seconds_per_step"]
            rows.append(
                [title, f"`{x['experiment']} --scale {x['scale']}`", x["device"], cell(x, 2),
                 cell(found["seconds_encoder_generator_update"], 2),
                 f"{found['flops_per_step']['value'] / 1e9:.1f}", f"{found['peak_memory_mib']['value']:,.0f}"]
            )  # fmt: skip
    head = ("E", "experiment", "device", "seconds per step", "of it G and E", "GFLOP per step", "peak memory, MiB")
    return _table(head, rows)


def ancestors(lines: list[Line]) -> str:
    """Render the parameters of BigGAN's first version, of the self-attention GAN and of BigGAN, for 1,000 classes."""
    rows = []
    for name in ("128_first", "sagan_128", "128"):
        c = find(f"biggan/{name}").config()
        with torch.device("meta"):
            networks = construct(c)
        G, D = (sum(p.numel() for p in n.parameters()) for n in (networks.generator, networks.discriminator))
        chunks = f"in {len(c.generator.channels)} chunks" if c.generator.skip_z else "dense"
        rows.append(
            [f"`biggan/{name}`", f"{c.latent.dim}, {chunks}", str(c.generator.channels[-1]),
             f"{c.generator.attention[0]} px", f"{G:,}", f"{D:,}"]
        )  # fmt: skip
    return _table(("experiment", "z", "ch", "attention at", "G", "D"), rows)
