"""Measure the quality of a run's samples over truncation, and chart fidelity against variety.

    python -m reproduction.measure.truncation RUN --network NAME [--samples 10000] [--picture FILE.png]

Each level has batch norm statistics of its own (bigbigan.inference.model). NAME is a feature extractor, such as
mnist-cnn. Metrics are those of `evaluate` with the level appended: fid10k_train_NAME_truncation0.5.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bigbigan.errors import UserError
from bigbigan.evaluation.image_quality.feature_extractors import open_extractor
from bigbigan.evaluation.image_quality.metrics import inception_score
from bigbigan.evaluation.image_quality.sampling import compare, run_reference
from bigbigan.evaluation.records import Measurement
from bigbigan.evaluation.targets import open_target
from bigbigan.image import to_nearest_uint8
from reproduction.common import Script
from reproduction.render.chart_style import FIRST, chart_style

LEVELS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
CHUNK = 500


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/truncation.jsonl")
    script.parser.add_argument("run", metavar="RUN")
    script.parser.add_argument("--network", required=True, metavar="NAME")
    script.parser.add_argument("--samples", type=int, default=10_000, metavar="N")
    script.parser.add_argument("--picture", type=Path, metavar="FILE.png")
    return script.run(measure, arguments)


def measure(script: Script, options: argparse.Namespace) -> None:
    if options.samples < 1000 or options.samples % 1000:
        raise UserError(f"--samples {options.samples}: expected a multiple of 1000")
    target = open_target(options.run)
    model = target.model
    assert model is not None
    config = model.config
    source = target.source(None, None, "truncation")
    network = open_extractor(options.network, source.name, None, config.encoder.resolution, target.device)
    real = run_reference(source, "train", config, network)
    found = {}
    for level in LEVELS:
        start = time.perf_counter()
        parts = []
        for seed in range(options.samples // CHUNK):
            x = model.generate(CHUNK, truncation=level, seed=seed)
            parts.append(to_nearest_uint8(x).cpu())
        features, logits = network(torch.cat(parts))
        count = f"{len(features) // 1000}k"
        measured = {
            f"{measure}{count}_train_{network.name}": m
            for measure, m in compare(real, features, {"fid", "precision", "recall"}).items()
        }
        if logits is not None:
            measured[f"is{count}_{network.name}"] = Measurement(*inception_score(logits))
        measured = {
            name: m._replace(protocol={"network": network.digest, **(m.protocol or {})}) for name, m in measured.items()
        }
        found[level] = {name.split("k_")[0].rstrip("0123456789"): m.value for name, m in measured.items()}
        named = {f"{name}_truncation{level}": m for name, m in measured.items()}
        script.append(script.target_lines(target, named, source=source, split="train", n=len(features), start=start))
    if options.picture:
        with chart_style():
            draw(found, options.picture, f"{target.experiment}, {target.steps:,} steps, {source.name}")


def draw(found: dict[float, dict[str, float]], path: Path, title: str) -> None:
    """Draw FID over IS, and precision over recall, a point for each level, named by its truncation."""
    picture = Figure(figsize=(9, 4), layout="constrained")
    picture.suptitle(title)
    axes = picture.subplots(1, 2)
    for ax, across, up in ((axes[0], "is", "fid"), (axes[1], "recall", "precision")):
        if across not in found[LEVELS[0]]:
            continue
        xs, ys = [f[across] for f in found.values()], [f[up] for f in found.values()]
        ax.plot(xs, ys, "o-", color=FIRST)
        _name_points(ax, [f"{level:g}" for level in found], xs, ys)
        ax.set(xlabel={"is": "IS (more is better)", "recall": "recall (variety)"}[across],
               ylabel={"fid": "FID (less is better)", "precision": "precision (fidelity)"}[up])  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path)


def _name_points(ax: Axes, names: list[str], xs: list[float], ys: list[float], least: float = 14) -> None:
    """Write names next to points, except next to points nearer than `least` points of the page to a named one."""
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]  # sets the scales
    named: list[np.ndarray] = []
    for name, place, x, y in zip(names, ax.transData.transform(list(zip(xs, ys, strict=True))), xs, ys, strict=True):
        if all(np.linalg.norm(place - other) >= least * ax.figure.dpi / 72 for other in named):
            named.append(place)
            ax.annotate(name, (x, y), textcoords="offset points", xytext=(5, 5), fontsize=9)


if __name__ == "__main__":
    sys.exit(main())
