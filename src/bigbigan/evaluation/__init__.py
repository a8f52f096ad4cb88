"""Measure a run: what its encoder learned, beside raw pixels and beside the same encoder untrained."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from bigbigan.config import Config
from bigbigan.data import Source, load_view, open_source
from bigbigan.data.batches import pool_to
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features, fill_statistics, pixel_features, unchanged
from bigbigan.evaluation.probe import Figure, probe_figures
from bigbigan.evaluation.results import PROBE_COLUMNS, PROBE_ROWS, ResultLine, append_results
from bigbigan.experiments import EXPERIMENTS
from bigbigan.model import Model, load
from bigbigan.models import Encoder, build
from bigbigan.run import changed_settings, commit, device_name, read_json

__all__ = ["METRICS", "evaluate", "load_labelled", "results_table"]

FEATURES = ("pixels", "avepool", "bn_crelu")
METRICS = (
    *(
        f"{kind}_{name}{suffix}"
        for name in FEATURES
        for kind in ("top1_linear", "knn5_l2")
        for suffix in ("", "_10perclass")
    ),
    "reconstruction_ratio",
)


@dataclass(eq=False)  # compared and hashed by identity
class Split:
    """Pixels uint8 [N, C, R, R] and labels [N] of one split, as an encoder takes them."""

    name: str
    pixels: np.ndarray
    labels: np.ndarray | None

    def pick(self, name: str, indices: np.ndarray) -> Split:
        return Split(name, self.pixels[indices], None if self.labels is None else self.labels[indices])


def read_split(source: Source, name: str, config: Config) -> Split:
    images = source.splits[name]
    pixels, kept = load_view(images, config.encoder.resolution, config.data.channels, config.data.augment, source)
    return Split(name, pixels, None if images.labels is None else images.labels[kept])


def load_labelled(source: Source, config: Config) -> tuple[Split, Split]:
    """Train and test split of a source, as the config's encoder takes them; a fifth of train, drawn by its seed, where
    there is no test split."""
    train = read_split(source, "train", config)
    name = next((n for n in ("test", "val") if n in source.splits), None)
    if name is not None:
        return train, read_split(source, name, config)
    order = np.random.default_rng(config.training.seed).permutation(len(train.pixels))
    cut = len(order) // 5
    return train.pick("train", order[cut:]), train.pick("train_val", order[:cut])


def evaluate(
    run: Path, data: str | None, metrics: list[str] | None, command: str, progress: bool = True
) -> list[ResultLine]:
    """Measure a run and append its result lines to results.jsonl in the run folder.

    Args:
        run: the run folder.
        data: a labelled source; by default the one it was trained on.
        metrics: names out of METRICS; by default all that the data allow (without labels, the reconstruction
            ratio alone).
        command: recorded in the lines.

    Raises:
        UserError: unknown metrics, no labels for a metric that needs them, no such run.
    """
    if unknown := sorted(set(metrics or ()) - set(METRICS)):
        raise UserError(f"--metrics {','.join(unknown)}: unknown; known are {', '.join(METRICS)}")
    model = load(run, device="cuda" if torch.cuda.is_available() else "cpu")
    _ = model.encoder  # a GAN ends here
    config, seed = model.config, model.config.training.seed
    source = open_source(data or read_json(run / "data.json")["spec"], max_unreadable=config.data.max_unreadable)
    train, test = load_labelled(source, config)
    wanted = list(metrics or METRICS)
    if train.labels is None or test.labels is None or len(np.unique(train.labels)) < 2:
        if metrics and metrics != ["reconstruction_ratio"]:
            raise UserError(
                f"{source.spec} has no labels of two or more classes; "
                "without them only reconstruction_ratio can be measured"
            )
        wanted = ["reconstruction_ratio"]
    lines: list[ResultLine] = []
    bar = tqdm(total=1 + len(PROBE_ROWS), disable=not progress, desc="evaluate", unit="part")

    def note(start: float, trained: bool, figures: dict[str, Figure]) -> None:
        for metric in sorted(figures.keys() & set(wanted)):
            value, std, draws = figures[metric]
            lines.append(
                ResultLine(
                    experiment=config.experiment,
                    scale=config.scale,
                    settings=changed_settings(config),
                    table_row=EXPERIMENTS[config.experiment].table_row if config.experiment in EXPERIMENTS else None,
                    dataset=source.name,
                    split=test.name,
                    metric=metric,
                    value=round(value, 4),
                    std=None if std is None else round(std, 4),
                    draws=None if draws is None else [round(draw, 4) for draw in draws],
                    n=len(test.pixels),
                    seed=seed,
                    steps=model.step if trained else 0,
                    images_seen=model.images_seen if trained else 0,
                    device=device_name(),
                    seconds=round(time.perf_counter() - start, 1),
                    commit=commit(),
                    command=command,
                )
            )
        bar.update()

    @cache  # one pass through an encoder serves both of its features
    def features(split: Split, kind: str) -> dict[str, np.ndarray]:
        if kind == "pixels":
            return {"pixels": pixel_features(split.pixels)}
        encoder = model.encoder if kind == "trained" else untrained_encoder(model, train.pixels)
        with unchanged(encoder):
            return encoder_features(encoder, split.pixels)

    start = time.perf_counter()
    if "reconstruction_ratio" in wanted:
        note(start, True, {"reconstruction_ratio": Figure(reconstruction_ratio(model, test.pixels))})
    for name, trained in PROBE_ROWS.values():
        asked = [m for m in wanted if m.endswith((f"_{name}", f"_{name}_10perclass"))]
        if not asked:
            continue
        assert train.labels is not None
        assert test.labels is not None
        start = time.perf_counter()
        kind = "pixels" if name == "pixels" else "trained" if trained else "untrained"
        known, new = (features(split, kind)[name] for split in (train, test))
        note(start, trained, probe_figures(name, known, train.labels, new, test.labels, seed, asked))
    bar.close()
    append_results(run / "results.jsonl", lines)
    return lines


def untrained_encoder(model: Model, pixels: np.ndarray) -> Encoder:
    """The run's encoder as it was before the first step, with standing statistics from `pixels`."""
    encoder = build(model.config).E
    assert encoder is not None  # its trained twin was evaluated before
    encoder.to(model.device)
    fill_statistics(encoder, pixels, model.config.training.seed)
    return encoder


def reconstruction_ratio(model: Model, pixels: np.ndarray, most: int = 2000) -> float:
    """Mean ‖x − G(E(x))‖ over that of x with another image's reconstruction; 1 means nothing learned."""
    error = shuffled = 0.0
    for chunk in torch.from_numpy(pixels[:most]).split(500):
        if len(chunk) < 2:
            continue
        x_hat = model.reconstruct(chunk).cpu()
        x = pool_to(model.prepare(chunk).cpu(), x_hat.shape[-1])
        error += float((x - x_hat).flatten(1).norm(dim=1).sum())
        shuffled += float((x - x_hat.roll(1, 0)).flatten(1).norm(dim=1).sum())
    return error / shuffled


def results_table(lines: list[ResultLine]) -> str:
    """Probe figures as a text table: a row a feature, baselines first."""
    by_metric: dict[tuple[str, bool], ResultLine] = {(line.metric, line.steps > 0): line for line in lines}
    out = ["top-1 accuracy, %".ljust(24) + "".join(title.rjust(26) for title in PROBE_COLUMNS)]
    for title, (name, trained) in PROBE_ROWS.items():
        found = [by_metric.get((pattern.format(name), trained)) for pattern in PROBE_COLUMNS.values()]
        if any(found):
            out.append(title.ljust(24) + "".join(_figure(line).rjust(26) for line in found))
    for line in lines:
        if line.metric == "reconstruction_ratio":
            out.append(f"reconstruction error over that of shuffled pairs: {line.value:.3f} (1 = nothing learned)")
    return "\n".join(out)


def _figure(line: ResultLine | None) -> str:
    if line is None:
        return "-"
    return f"{line.value:.1f}" + ("" if line.std is None else f" ± {line.std:.1f}")
