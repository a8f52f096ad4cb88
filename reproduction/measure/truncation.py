"""Quality of a run's samples over truncation: result lines, and a chart of fidelity against variety.

    python tools/truncation.py RUN --network NAME [--samples 10000] [--results FILE] [--picture FILE.png]

Each level has batch norm statistics of its own (bigbigan.inference.model). NAME is a feature network, such as
mnist-cnn. Metrics are those of `evaluate` with the level at their end: fid10k_train_NAME_truncation0.5.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure as Picture

from bigbigan.evaluation.image_quality.feature_networks import open_network
from bigbigan.evaluation.image_quality.metrics import inception_score
from bigbigan.evaluation.image_quality.sampling import compare, reference_of_run
from bigbigan.evaluation.records import Figure, append_results
from bigbigan.evaluation.targets import open_subject, result_lines

LEVELS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
CHUNK = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--network", required=True, metavar="NAME")
    parser.add_argument("--samples", type=int, default=10_000, metavar="N")
    parser.add_argument("--results", type=Path, metavar="FILE")
    parser.add_argument("--picture", type=Path, metavar="FILE.png")
    options = parser.parse_args()
    command = shlex.join(["python", "tools/truncation.py", *sys.argv[1:]])
    subject = open_subject(options.run)
    model, config = subject.model, subject.model.config
    source = subject.source(None, None, "truncation")
    network = open_network(options.network, source.name, None, config.encoder.resolution, subject.device)
    real = reference_of_run(source, "train", config, network)
    lines, found = [], {}
    for level in LEVELS:
        start = time.perf_counter()
        parts = []
        for seed in range(options.samples // CHUNK):
            x = model.generate(CHUNK, truncation=level, seed=seed)
            parts.append(((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu())
        features, logits = network(torch.cat(parts))
        figures = compare(real, features, {"fid", "precision", "recall"})
        figures = {f"{measure}{len(features) // 1000}k_train_{network.name}": f for measure, f in figures.items()}
        if logits is not None:
            figures[f"is{len(features) // 1000}k_{network.name}"] = Figure(*inception_score(logits))
        found[level] = {name.split("k_")[0].rstrip("0123456789"): f.value for name, f in figures.items()}
        named = {f"{name}_truncation{level}": f for name, f in figures.items()}
        lines += result_lines(subject, source, "train", len(features), named, True, start, command)
        print(level, {name: round(value, 3) for name, value in found[level].items()}, flush=True)
    if options.results:
        append_results(options.results, lines)
    if options.picture:
        draw(found, options.picture, f"{subject.experiment}, {subject.steps:,} steps, {source.name}")


def draw(found: dict[float, dict[str, float]], path: Path, title: str) -> None:
    """FID over IS, and precision over recall, a point a level."""
    picture = Picture(figsize=(9, 4), layout="constrained")
    picture.suptitle(title)
    axes = picture.subplots(1, 2)
    for ax, across, up in ((axes[0], "is", "fid"), (axes[1], "recall", "precision")):
        if across not in found[LEVELS[0]]:
            continue
        xs, ys = [f[across] for f in found.values()], [f[up] for f in found.values()]
        ax.plot(xs, ys, "o-", color="#2a6fb0")
        for level, x, y in zip(found, xs, ys, strict=True):
            ax.annotate(f"{level:g}", (x, y), textcoords="offset points", xytext=(5, 5), fontsize=8)
        ax.set(xlabel={"is": "IS (more is better)", "recall": "recall (variety)"}[across],
               ylabel={"fid": "FID (less is better)", "precision": "precision (fidelity)"}[up])  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
