"""Choose the images that are most worth labelling next: typical ones of the clusters without labels.

The training images are clustered by an encoder's features, into as many clusters as there will be labels. The largest
clusters with the fewest labels each give the image nearest to their centre (TypiClust: Hacohen et al. 2022, with the
distance to the centre in place of a density).

Two files are written: a CSV, which `--labels` reads once its empty labels are filled in, and a picture of the images.
The CSV has the chosen images first, then all rows that are known so far, so it replaces the labels file.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
from torch import nn

from bigbigan.apps.cluster import k_means
from bigbigan.apps.rows_on_disk import RowsOnDisk
from bigbigan.apps.sheet import Tile, in_rows
from bigbigan.apps.sheet import sheet as draw_sheet
from bigbigan.data import ImageSet, Source, load_view
from bigbigan.data.csv_cells import writing_csv
from bigbigan.data.labels import rows_of
from bigbigan.data.labels_table import Row, read_table, refuse_to_lose_labels
from bigbigan.data.loading import stream_view
from bigbigan.data.names import listed
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features
from bigbigan.evaluation.splits import StreamedView, View
from bigbigan.evaluation.targets import open_target
from bigbigan.image.grid import save_image
from bigbigan.progress import Bar

__all__ = ["choose", "label_next"]

FEATURE = "bn_crelu"
MAX_CLUSTERS = 500  # more are slow
COLUMNS = 10  # of the sheet
COLUMNS_WRITTEN = ("stands_for", "labelled")  # next to those of a labels file


def label_next(
    spec: str,
    data: str | None,
    count: int,
    out: Path,
    *,
    sheet: Path | None = None,
    labels: str | None = None,
    checkpoint: str = "newest",
    raw_cells: bool = False,
    progress: bool = False,
) -> tuple[list[dict[str, object]], int]:
    """Choose images to label and write FILE.csv: file, label, stands_for, labelled, and group and split if any has one.

    The chosen images come first, with an empty label. Then come the images labelled so far, and all others of the
    labels file.

    Args:
        spec: a run folder or a frozen encoder, see `bigbigan.evaluation.targets`.
        data: a source; by default the run's own.
        count: how many images to choose.
        out: the CSV to write.
        sheet: a picture of the images to write, in rows of ten, in the order of the file.
        labels: a labels file; images that have a label there, or else in the source, count as labelled.
        checkpoint: of a run.
        raw_cells: write names as they are, even if a spreadsheet would take them for formulas.
        progress: show images/s and time left.

    Returns:
        The rows of the chosen images: `stands_for` is the number of images in the cluster of the image, and `labelled`
        the number of labelled ones among them. And the number of labels given so far, which the file has too.

    Raises:
        UserError: no such encoder, fewer images without a label than asked for, or `out` has labels or columns that
            would be lost.
    """
    target = open_target(spec, which=checkpoint)
    source = target.source(data, labels, f"label-next {spec}")
    images, view, given = source.splits["train"], target.view, rows_of(source)
    if labels is not None and out.is_file() and out.samefile(labels):
        _refuse_to_lose_columns(out)
    else:
        refuse_to_lose_labels("--out", out, given)
    _check_count(images, count)
    with closing(StreamedView(source, images, view)) as seen:
        encoder = target.encoder(target.subjects[-1], seen)
    out.parent.mkdir(parents=True, exist_ok=True)
    with closing(RowsOnDisk(out.parent)) as features:
        kept = _encode(encoder, features, images, view, source, progress)
        images = images.subset(kept)
        known = np.zeros(len(images), bool) if images.labels is None else images.labels >= 0
        _check_count(images, count)
        picks, sizes, labelled = choose(features.array(), known, count, target.seed)
    rows: list[dict[str, object]] = [
        {"file": images.files[i], "label": "", "stands_for": int(n), "labelled": int(k)}
        for i, n, k in zip(picks, sizes, labelled, strict=True)
    ]
    _write(out, rows, given, raw_cells)
    if sheet is not None:
        pixels, _ = load_view(images.subset(picks), view.resolution, view.channels, view.augment)
        tiles = [Tile(x, f"{k + 1}: {row['stands_for']}") for k, (x, row) in enumerate(zip(pixels, rows, strict=True))]
        title = "images to label, in the order of the file: number, and how many similar images it stands for"
        save_image(draw_sheet(in_rows(tiles, COLUMNS), title=title), sheet)
    return rows, sum(bool(row.label) for row in given.values())


def _refuse_to_lose_columns(labels: Path) -> None:
    """Raise UserError if a labels file that will be replaced has columns that the new one has not."""
    if lost := [name for name in read_table(labels).unused if name not in COLUMNS_WRITTEN]:
        raise UserError(
            f"--out {labels} is the file given by --labels, and would lose its columns {listed(lost)}; choose another "
            "name"
        )


def _check_count(images: ImageSet, count: int) -> None:
    """Raise UserError if fewer than `count` images have no label."""
    free = len(images) if images.labels is None else int((images.labels < 0).sum())
    if not free:
        raise UserError(f"all {len(images):,} training images have a label: none is left to label")
    if free < count:
        raise UserError(
            f"--count {count}: only {free:,} of {len(images):,} training images have no label; choose fewer"
        )


def _encode(
    encoder: nn.Module, features: RowsOnDisk, images: ImageSet, view: View, source: Source, progress: bool
) -> np.ndarray:
    """Encode the images batch by batch into `features`, and return the indices of the readable ones."""
    numbers = []
    with Bar(total=len(images), desc="label-next", unit=" images", disable=not progress) as bar:
        for pixels, kept in stream_view(images, view.resolution, view.channels, view.augment, source, bar=bar):
            features.append(encoder_features(encoder, pixels, [FEATURE])[FEATURE])
            numbers.append(kept)
    return np.concatenate(numbers)


def choose(
    features: np.ndarray, labelled: np.ndarray, count: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose images without a label to label next.

    Args:
        features: float32 [N, d]; scaled in place.
        labelled: bool [N].
        count: how many to choose, at most as many as have no label.
        seed: of k-means.

    Returns:
        Their indices, int64 [count], most useful first; the sizes of their clusters; and how many images of the
        cluster have a label.
    """
    clusters = min(len(features), int(labelled.sum()) + count, MAX_CLUSTERS)
    found = k_means(features, clusters, seed)
    sizes = np.bincount(found, minlength=clusters)
    given = np.bincount(found[labelled], minlength=clusters)
    queues = [_nearest_to_centre(features, np.flatnonzero(found == c), labelled) for c in range(clusters)]
    taken = np.zeros(clusters, dtype=np.int64)
    picks, of = [], []
    for _ in range(count):
        left = np.array([len(queue) > n for queue, n in zip(queues, taken, strict=True)])
        c = int(np.argmax(np.where(left, sizes / (1 + given + taken), -1)))
        picks.append(queues[c][taken[c]])
        of.append(c)
        taken[c] += 1
    return np.array(picks, dtype=np.int64), sizes[of], given[of]


def _nearest_to_centre(features: np.ndarray, members: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Return the members of a cluster without a label, nearest to its centre first."""
    rows = np.asarray(features[members], dtype=np.float64)
    distances = np.square(rows - rows.mean(0)).sum(1) if len(rows) else np.zeros(0)
    order = members[np.argsort(distances, kind="stable")]
    return order[~labelled[order]]


def _write(out: Path, chosen: list[dict[str, object]], given: dict[str, Row], raw: bool) -> None:
    """Write the chosen images, then all others that have a row; groups and splits if there are any."""
    more = [name for name in ("group", "split") if any(getattr(row, name) for row in given.values())]
    names = {row["file"] for row in chosen}
    before: list[dict[str, object]] = [
        {"file": file, "label": row.label} for file, row in given.items() if file not in names
    ]
    columns = ("file", "label", *more, *COLUMNS_WRITTEN)
    with writing_csv(out, raw) as write:
        write(*columns)
        for row in [*chosen, *before]:
            known = given.get(str(row["file"]), Row())
            cells = row | {name: getattr(known, name) for name in more}
            write(*(cells.get(name, "") for name in columns))
