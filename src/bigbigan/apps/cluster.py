"""Cluster an encoder's features as labels for a conditional BigGAN ("Clustering": Lucic et al. 2019; Table 3).

Two files are written: a CSV of every training image and its cluster, which `train --labels` reads, and a picture with a
row of images for each cluster. If there are true labels, they are used only to measure how well the clusters agree with
them, with clusters of raw pixels and of the untrained encoder as baselines.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from torch import nn

from bigbigan.apps.rows_on_disk import RowsOnDisk
from bigbigan.apps.sheet import Tile
from bigbigan.apps.sheet import sheet as draw_sheet
from bigbigan.compute import images_per_pass
from bigbigan.data import ImageSet, load_view
from bigbigan.data.csv_cells import writing_csv
from bigbigan.data.loading import stream_view
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features, pixel_features
from bigbigan.evaluation.records import ResultLine, append_results
from bigbigan.evaluation.splits import StreamedView, View
from bigbigan.evaluation.targets import open_target
from bigbigan.image.grid import save_image
from bigbigan.progress import Bar

__all__ = ["CLUSTERS", "agreement", "cluster", "k_means"]

CLUSTERS = 50  # Lucic et al. 2019
COLUMNS, MAX_ROWS = 12, 100  # of the picture


def cluster(
    spec: str,
    data: str | None,
    out: Path,
    command: str,
    *,
    clusters: int = CLUSTERS,
    feature: str = "avepool",
    sheet: Path | None = None,
    labels: str | None = None,
    raw_cells: bool = False,
    progress: bool = False,
    checkpoint: str = "newest",
) -> tuple[list[ResultLine], dict[str, Any]]:
    """Cluster the training images of a source by an encoder's features and write FILE.csv: file, label.

    Args:
        spec: a run folder or a frozen encoder, see `bigbigan.evaluation.targets`.
        data: a source; by default the run's own.
        out: the CSV to write.
        command: recorded in result lines.
        clusters: k.
        feature: avepool, bn_crelu or z_mean.
        sheet: a picture to write, with a row of random images for each cluster, the largest cluster first.
        labels: a CSV file of the true labels, in place of the source's own.
        raw_cells: write names as they are, even if a spreadsheet would take them for formulas
            (`bigbigan.data.csv_cells`).
        progress: show images/s and time left.
        checkpoint: of a run, "newest", "best" or a step.

    Images are decoded and encoded batch by batch; their features are in a temporary file in the folder of `out`.

    Returns:
        Result lines nmi_kmeansK_F and purity_kmeansK_F (none without true labels; those of a run are also appended to
        its results.jsonl); and the `clusters`, their `sizes` (largest first), and the `file`.

    Raises:
        UserError: no such encoder, fewer images than clusters, or a file that cannot be written.
    """
    if out.suffix.lower() != ".csv":
        raise UserError(f"--out {out}: expected a name ending in .csv")
    target = open_target(spec, which=checkpoint)
    if feature == "z_mean" and (target.model is None or not target.model.config.has_generator):
        raise UserError("--features z_mean: this encoder has no latents, which come with a generator")
    source = target.source(data, labels, f"cluster {spec}", needs_labels=False)
    images, view = source.splits["train"], target.view
    _check_count(len(images), clusters)
    # Baselines are only for the agreement with true labels.
    subjects = target.subjects if _true_labels(images) is not None else target.subjects[-1:]
    with closing(StreamedView(source, images, view)) as seen:
        encoders = {subject: None if subject == "pixels" else target.encoder(subject, seen) for subject in subjects}
    out.parent.mkdir(parents=True, exist_ok=True)
    lines: list[ResultLine] = []
    found = np.zeros(0, dtype=np.int64)
    with ExitStack() as stack:
        features = {subject: stack.enter_context(closing(RowsOnDisk(out.parent))) for subject in subjects}
        spent = dict.fromkeys(subjects, 0.0)
        numbers: list[np.ndarray] = []
        with Bar(total=len(images), desc="cluster", unit=" images", disable=not progress) as bar:
            size = images_per_pass(500)
            for pixels, kept in stream_view(images, view.resolution, view.channels, view.augment, source, size, bar):
                for subject, encoder in encoders.items():
                    start = time.perf_counter()
                    features[subject].append(_features(encoder, pixels, feature))
                    spent[subject] += time.perf_counter() - start
                numbers.append(kept)
        images = images.subset(np.concatenate(numbers))
        _check_count(len(images), clusters)
        truth = _true_labels(images)
        for subject in Bar(subjects, desc="cluster: k-means", unit="part", disable=not progress):
            start = time.perf_counter() - spent[subject]
            found = k_means(features[subject].array(), clusters, target.seed)
            if truth is not None:
                name = "pixels" if subject == "pixels" else feature
                labelled = truth >= 0
                nmi, purity = agreement(found[labelled], truth[labelled])
                lines += target.result_lines(
                    {f"nmi_kmeans{clusters}_{name}": nmi, f"purity_kmeans{clusters}_{name}": purity},
                    source=source,
                    split="train",
                    n=int(labelled.sum()),
                    subject=subject,
                    start=start,
                    study="clustering",
                    command=command,
                )
    _write(out, images.files, found, raw_cells)
    if sheet is not None:
        save_image(_sheet(images, found, view), sheet)
    if lines and (file := target.results_file(out)) is not None:
        append_results(file, lines)
    return lines, {"clusters": clusters, "sizes": np.bincount(found, minlength=clusters).tolist(), "file": str(out)}


def _sheet(images: ImageSet, found: np.ndarray, view: View) -> Image.Image:
    """Draw a row of random images for each cluster, the largest first.

    With true labels, its most frequent class is named, and how many of the labelled images in it are of this class.
    """
    rng, truth = np.random.default_rng(0), _true_labels(images)
    rows, names = [], []
    for c in np.unique(found)[:MAX_ROWS]:
        members = np.flatnonzero(found == c)
        picked = images.subset(rng.permutation(members)[:COLUMNS])
        pixels, _ = load_view(picked, view.resolution, view.channels, view.augment)
        rows.append([Tile(x) for x in pixels])
        names.append(f"{c}: {len(members):,} images")
        if truth is not None and (known := truth[members][truth[members] >= 0]).size:
            most = int(np.bincount(known).argmax())
            assert images.classes is not None
            names[-1] += f", {(known == most).sum()}/{len(known)} {images.classes[most]}"
    title = "random images of each cluster, its size" + (", and its class" if truth is not None else "")
    return draw_sheet(rows, names, title=title)


def _check_count(images: int, clusters: int) -> None:
    if images < clusters:
        raise UserError(f"--clusters {clusters}: there are only {images} images; choose fewer clusters")


def _true_labels(images: ImageSet) -> np.ndarray | None:
    """Return labels, int64 [N], -1 if an image has none; None unless there are two classes or more."""
    labels = images.labels
    return labels if labels is not None and len(np.unique(labels[labels >= 0])) > 1 else None


def _features(encoder: nn.Module | None, pixels: np.ndarray, name: str) -> np.ndarray:
    """Return features of a batch, float32 [n, d]: of an encoder, or the pixels themselves."""
    if encoder is None:
        return pixel_features(pixels)
    return encoder_features(encoder, pixels, [name])[name]


def k_means(features: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Return the cluster of each row of features float32 [N, d], int64 [N], numbered from the largest to the smallest.

    Features are divided, in place, by the mean of their standard deviations. k-means runs in mini-batches of 4,096, so
    that an array on disk is never in memory as a whole.
    """
    parts = np.array_split(features, -(-len(features) // 4_096))  # views
    moments = [(len(part), part.mean(0, dtype=np.float64), part.var(0, dtype=np.float64)) for part in parts]
    n = len(features)
    mean = sum(k * m for k, m, _ in moments) / n
    variance = sum(k * (v + (m - mean) ** 2) for k, m, v in moments) / n
    scale = np.float32(max(float(np.sqrt(variance).mean()), 1e-12))
    for part in parts:
        part /= scale
    fitted = MiniBatchKMeans(clusters, batch_size=4_096, n_init=3, random_state=seed).fit_predict(features)
    order = np.argsort(-np.bincount(fitted, minlength=clusters), kind="stable")
    return np.argsort(order)[fitted]


def agreement(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Compare clusters [N] with classes [N].

    Returns normalised mutual information (arithmetic mean; 0 to 1), and purity: the percentage of images whose class is
    the most frequent one of their cluster.
    """
    table = contingency_matrix(truth, found)
    return float(normalized_mutual_info_score(truth, found)), float(100 * table.max(0).sum() / table.sum())


def _write(out: Path, files: list[str], clusters: np.ndarray, raw: bool) -> None:
    with writing_csv(out, raw) as write:
        write("file", "label")
        for row in zip(files, clusters.tolist(), strict=True):
            write(*row)
