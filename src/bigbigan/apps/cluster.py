"""Clusters of an encoder's features as labels for a conditional BigGAN ("Clustering": Lucic et al. 2019; Table 3).

A preparation, with files one can look at: a CSV of every training image and its cluster, which `train --labels` reads,
and a sheet with a row of images for each cluster. Where true labels are at hand, how well clusters agree with them is
measured, with clusters of raw pixels and of the untrained encoder as baselines; they are used for nothing else.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from bigbigan.data import class_sheet
from bigbigan.data.csv_cells import cell
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features, pixel_features, unchanged
from bigbigan.evaluation.records import ResultLine, append_results
from bigbigan.evaluation.splits import read_split
from bigbigan.evaluation.targets import open_target
from bigbigan.io import writing
from bigbigan.training.image_grid import save_image

__all__ = ["CLUSTERS", "agreement", "cluster", "k_means"]

CLUSTERS = 50  # Lucic et al. 2019


def cluster(
    spec: str,
    data: str | None,
    out: Path,
    command: str,
    clusters: int = CLUSTERS,
    feature: str = "avepool",
    sheet: Path | None = None,
    labels: str | None = None,
    raw_cells: bool = False,
) -> tuple[list[ResultLine], dict[str, Any]]:
    """Cluster the training images of a source by an encoder's features and write FILE.csv: file, label.

    Args:
        spec: a run folder or a frozen encoder, see `bigbigan.evaluation.targets`.
        data: a source; by default the one a run was trained on.
        out: the CSV to write.
        command: recorded in result lines.
        clusters: k.
        feature: avepool, bn_crelu or z_mean.
        sheet: a picture to write, a row of random images for each cluster, the largest cluster first.
        labels: a CSV file of the true labels, in place of the source's own.
        raw_cells: write names as they are, also those that a spreadsheet takes for formulas
            (`bigbigan.data.csv_cells`).

    Returns:
        Result lines nmi_kmeansK_F and purity_kmeansK_F (none without true labels; of a run also in its results.jsonl),
        and what was found: `clusters`, `sizes` (largest first), `files`.

    Raises:
        UserError: no such encoder, fewer images than clusters, or a file that cannot be written.
    """
    if out.suffix.lower() != ".csv":
        raise UserError(f"--out {out}: expected a name ending in .csv")
    target = open_target(spec)
    if feature == "z_mean" and (target.model is None or not target.model.config.has_generator):
        raise UserError("--features z_mean: this encoder has no latents, which come with a generator")
    source = target.source(data, labels, f"cluster {spec}")
    train = read_split(source, source.splits["train"], target.view)
    if len(train) < clusters:
        raise UserError(f"--clusters {clusters}: there are only {len(train)} images; choose fewer clusters")
    labelled = np.zeros(len(train), bool) if train.labels is None else train.labels >= 0
    truth = train.labels[labelled] if train.labels is not None and len(np.unique(train.labels[labelled])) > 1 else None
    lines: list[ResultLine] = []
    found = np.zeros(0, dtype=np.int64)
    # Baselines are for the agreement alone.
    for subject in target.subjects if truth is not None else target.subjects[-1:]:
        start = time.perf_counter()
        if subject == "pixels":
            name, features = "pixels", pixel_features(train.pixels)
        else:
            encoder = target.encoder(subject, train.pixels)
            with unchanged(encoder):
                name, features = feature, encoder_features(encoder, train.pixels, [feature])[feature]
        found = k_means(features, clusters, target.seed)
        if truth is not None:
            nmi, purity = agreement(found[labelled], truth)
            lines += target.result_lines(
                {f"nmi_kmeans{clusters}_{name}": nmi, f"purity_kmeans{clusters}_{name}": purity},
                source=source,
                split="train",
                n=len(truth),
                subject=subject,
                start=start,
                study="clustering",
                command=command,
            )
    _write(out, train.files, found, raw_cells)
    if sheet is not None:
        images = source.splits["train"]
        where = {file: i for i, file in enumerate(images.files)}
        picks = images.subset([where[file] for file in train.files])
        picks.labels, picks.classes = found, [str(k) for k in range(clusters)]
        save_image(class_sheet(picks), sheet)
    if lines and (kept := target.results_file(out)) is not None:
        append_results(kept, lines)
    return lines, {"clusters": clusters, "sizes": np.bincount(found, minlength=clusters).tolist(), "file": str(out)}


def k_means(features: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Cluster of each row of features [N, d], int64 [N], numbered from the largest to the smallest.

    Features are brought to unit variance in the mean, all by one factor; k-means runs in mini-batches of 4,096.
    """
    scaled = features / max(float(features.std(0).mean()), 1e-12)
    fitted = MiniBatchKMeans(clusters, batch_size=4_096, n_init=3, random_state=seed).fit_predict(scaled)
    order = np.argsort(-np.bincount(fitted, minlength=clusters), kind="stable")
    return np.argsort(order)[fitted]


def agreement(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """How well clusters [N] agree with classes [N]: normalised mutual information (arithmetic mean; 0 to 1), and
    purity, the share, in percent, of images whose class is the commonest of their cluster."""
    table = contingency_matrix(truth, found)
    return float(normalized_mutual_info_score(truth, found)), float(100 * table.max(0).sum() / table.sum())


def _write(out: Path, files: list[str], clusters: np.ndarray, raw: bool) -> None:
    with writing(out) as aside, aside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "label"))
        writer.writerows(zip(files if raw else map(cell, files), clusters.tolist(), strict=True))
