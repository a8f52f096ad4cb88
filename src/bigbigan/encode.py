"""`encode`: features of every image of a source, in a file that opens elsewhere."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from bigbigan.data import load_view, open_source
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features
from bigbigan.model import load
from bigbigan.run import source_of

__all__ = ["FEATURES", "encode"]

FEATURES = ("avepool_feat", "bn_crelu_feat", "z_mean")
SUFFIXES = (".npz", ".csv", ".parquet")


def encode(run: Path, data: str | None, out: Path, features: list[str]) -> int:
    """Write features with file names, splits and labels (-1 where there is none); returns the number of images.

    .npz has an array a feature ([N, d]) and `filename`, `split`, `label`; .csv and .parquet have a column for each
    number, named feature_0, feature_1, ...

    Raises:
        UserError: unknown features or file type, or a source that cannot be used. Nothing is half-written.
    """
    if out.suffix not in SUFFIXES:
        raise UserError(f"--out {out}: expected a name ending in .npz, .csv or .parquet")
    if unknown := sorted(set(features) - set(FEATURES)):
        raise UserError(f"--features {','.join(unknown)}: unknown; known are {', '.join(FEATURES)}")
    if out.suffix == ".parquet":
        try:
            import pandas as pd
            import pyarrow  # noqa: F401
        except ImportError:
            raise UserError("writing .parquet needs pandas and pyarrow: pip install 'bigbigan[parquet]'") from None
    model = load(run)
    source = open_source(data or source_of(run), max_unreadable=model.config.data.max_unreadable)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("filename", "split", "label", *features)}
    for name, images in source.splits.items():
        c = model.config
        pixels, kept = load_view(images, c.encoder.resolution, c.data.channels, c.data.augment, source)
        found = encoder_features(model.encoder, pixels, [feature.removesuffix("_feat") for feature in features])
        columns["filename"].append(np.array([images.files[i] for i in kept]))
        columns["split"].append(np.full(len(kept), name))
        columns["label"].append(np.full(len(kept), -1) if images.labels is None else images.labels[kept])
        for feature in features:
            columns[feature].append(found[feature.removesuffix("_feat")])
    table = {name: np.concatenate(parts) for name, parts in columns.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}")
    if out.suffix == ".npz":
        with aside.open("wb") as file:
            np.savez(file, **table)  # type: ignore[arg-type]
    elif out.suffix == ".csv":
        names = [
            "filename",
            "split",
            "label",
            *(f"{f}_{i}" for f in features for i in range(table[f].shape[1])),
        ]
        with aside.open("w", newline="") as text:
            writer = csv.writer(text)
            writer.writerow(names)
            for i in range(len(table["filename"])):
                numbers = (f"{v:.6g}" for f in features for v in table[f][i])
                writer.writerow([table["filename"][i], table["split"][i], table["label"][i], *numbers])
    else:
        wide = {f"{f}_{i}": table[f][:, i] for f in features for i in range(table[f].shape[1])}
        pd.DataFrame({k: table[k] for k in ("filename", "split", "label")} | wide).to_parquet(aside)
    aside.replace(out)
    return len(table["filename"])
