"""`encode`: features and scores of every image of a source, in a file that opens elsewhere."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bigbigan.data import load_view
from bigbigan.data.csv_cells import cell
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features
from bigbigan.image import image_distances, pool_to
from bigbigan.inference.loading import load
from bigbigan.inference.model import Model
from bigbigan.io import writing
from bigbigan.training.run_folder import default_device, open_data

__all__ = ["FEATURES", "encode"]

FEATURES = ("avepool_feat", "bn_crelu_feat", "z_mean")
SCORES = ("anomaly_score", "reconstruction_error", "score_x", "score_z", "score_xz")  # one number an image
SUFFIXES = (".npz", ".csv", ".parquet")


def encode(
    run: Path,
    data: str | None,
    out: Path,
    features: list[str] | None = None,
    labels: str | None = None,
    raw_cells: bool = False,
) -> int:
    """Write features with file names, splits and labels; returns the number of images.

    .npz has an array a feature ([N, d], of a score [N]) and `filename`, `split`, `label` (class number, -1 where there
    is none) and `class` (its name); .csv and .parquet have a column for each number, named feature_0, feature_1, ... or
    as the score, and no label where there is none. By default all features that the encoder has. In .csv, names that a
    spreadsheet takes for formulas are written as `bigbigan.data.csv_cells.cell` does, unless `raw_cells`.

    Raises:
        UserError: unknown features or file type, a score that the model has not, or a source that cannot be used.
            Nothing is half-written.
    """
    kind = out.suffix.lower()
    if kind not in SUFFIXES:
        raise UserError(f"--out {out}: expected a name ending in .npz, .csv or .parquet")
    if unknown := sorted(set(features or ()) - {*FEATURES, *SCORES}):
        raise UserError(f"--features {','.join(unknown)}: unknown; known are {', '.join((*FEATURES, *SCORES))}")
    if kind == ".parquet":
        try:
            import pandas as pd
            import pyarrow  # noqa: F401
        except ImportError:
            raise UserError("writing .parquet needs pandas and pyarrow: pip install 'bigbigan[parquet]'") from None
    model = load(run, device=default_device())
    known = [f for f in FEATURES if f != "z_mean" or model.config.has_generator]
    if lacking := sorted((set(features or ()) - set(known)) & set(FEATURES)):
        raise UserError(f"--features {','.join(lacking)}: this encoder learned by pretext tasks and has no latents")
    features = features or known
    scores = [feature for feature in features if feature in SCORES]
    of_encoder = [feature.removesuffix("_feat") for feature in features if feature in FEATURES]
    _check_scores(model, scores)
    source = open_data(run, data, labels, model.config)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("filename", "split", "label", "class", *features)}
    for name, images in source.splits.items():
        c = model.config
        pixels, kept = load_view(images, c.encoder.resolution, c.data.channels, c.data.augment, source)
        found = encoder_features(model.encoder, pixels, of_encoder) | _scores_of(model, pixels, scores)
        columns["filename"].append(np.array([images.files[i] for i in kept]))
        columns["split"].append(np.full(len(kept), name))
        numbers = np.full(len(kept), -1) if images.labels is None else images.labels[kept]
        columns["label"].append(numbers)
        names = images.classes or [str(k) for k in range(numbers.max(initial=-1) + 1)]
        columns["class"].append(np.array([names[k] if k >= 0 else "" for k in numbers], dtype=str))
        for feature in features:
            columns[feature].append(found[feature.removesuffix("_feat")])
    table = {name: np.concatenate(parts) for name, parts in columns.items()}
    with writing(out) as aside:
        if kind == ".npz":
            with aside.open("wb") as file:
                np.savez(file, **table)  # type: ignore[arg-type]
        elif kind == ".csv":
            numbers = _numbers(table, features)
            written = str if raw_cells else cell
            with aside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as text:
                writer = csv.writer(text)
                writer.writerow(["filename", "split", "label", "class", *numbers])
                for i, row in enumerate(zip(*numbers.values(), strict=True)):
                    label = "" if table["label"][i] < 0 else table["label"][i]
                    texts = [written(table[name][i]) for name in ("filename", "split")]
                    writer.writerow([*texts, label, written(table["class"][i]), *(f"{v:.6g}" for v in row)])
        else:
            known = pd.array(table["label"], dtype="Int64")
            known[table["label"] < 0] = pd.NA
            whose = {k: table[k] for k in ("filename", "split")} | {"label": known, "class": table["class"]}
            pd.DataFrame(whose | _numbers(table, features)).to_parquet(aside)
    return len(table["filename"])


def _numbers(table: dict[str, np.ndarray], features: list[str]) -> dict[str, np.ndarray]:
    """A column for each number of the features, by its name."""
    columns: dict[str, np.ndarray] = {}
    for f in features:
        values = table[f]
        columns |= {f: values} if values.ndim == 1 else {f"{f}_{i}": values[:, i] for i in range(values.shape[1])}
    return columns


def _check_scores(model: Model, names: list[str]) -> None:
    """Tell of scores the model has not before any image is read."""
    has = ["reconstruction_error"] if model.networks.G is not None else []
    if model.networks.D is not None:
        has += ["anomaly_score", *sorted(f"score_{s}" for s in model.config.loss.scores)]
    if missing := [n for n in names if n not in has]:
        known = ", ".join(n for n in has if n != "anomaly_score") or "none"
        raise UserError(f"--features {','.join(missing)}: this model has no such score; it has {known}")


def _scores_of(model: Model, pixels: np.ndarray, names: list[str], batch_size: int = 500) -> dict[str, np.ndarray]:
    """Scores by name of uint8 images [N, C, R, R], each float32 [N]; D's are of the pairs (x, E(x))."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for x in torch.from_numpy(pixels).split(batch_size) if names else ():
        found: dict[str, Tensor] = {}
        if any(name.startswith("score_") for name in names):
            found |= vars(model.discriminate(x, model.encode(x).z_mean))
        if "anomaly_score" in names:
            found["anomaly_score"] = model.anomaly_score(x)
        if "reconstruction_error" in names:
            target = pool_to(model.prepare(x), model.config.generator.resolution)
            found["reconstruction_error"] = image_distances(target, model.reconstruct(x))
        for name in names:
            parts[name].append(found[name].cpu().numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}
