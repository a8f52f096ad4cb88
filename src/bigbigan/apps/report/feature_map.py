"""Write the section of the map of features: each image a point, near where similar images are."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from bigbigan.apps.report.charts import INK, MUTED, SERIES, svg
from bigbigan.apps.report.classes import class_names
from bigbigan.apps.report.contents import Run
from bigbigan.apps.report.markup import Html, captioned, join, key, paragraph, tag
from bigbigan.errors import UserError

POINTS = 800  # maximum number of images
NAMED = len(SERIES)  # maximum number of classes with a colour of their own


def feature_map(run: Run) -> Html:
    """Return the section."""
    if run.no_images is not None:
        return run.no_images
    images = run.images
    unseen, known = images.features
    use_unseen = len(unseen) >= min(len(known), 200)
    features, labels = (unseen, images.unseen.labels) if use_unseen else (known, images.known.labels)
    features = features[:POINTS]
    labels = np.full(len(features), -1) if labels is None else labels[:POINTS]
    places, share = principal_plane(features)
    what = f"{images.title if use_unseen else 'Training images'} ({len(features):,}), BN+CReLU features"
    names = class_names(run) if (labels >= 0).any() else []
    maps = [_scatter(f"PCA, {100 * share:.0f} % of the variance", places, labels, names)]
    if run.umap:
        maps.append(_scatter("UMAP", umap_plane(features), labels, names))
    how = (
        f"{what}. Images with similar features are near each other. Labels give the colours only: classes that form "
        "clusters need few labels. PCA keeps large distances, but many points overlap; UMAP (report --umap) keeps "
        "neighbours, but distances between its clusters mean little."
    )
    return join(paragraph(how), tag("div", *maps, classes="charts"))


def principal_plane(features: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the first two principal components [N, 2] of features [N, d], and their share of the variance."""
    centred = features - features.mean(0)
    u, s, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    places = np.zeros((len(features), 2))
    places[:, : min(2, len(s))] = u[:, :2] * s[:2]
    return places, float((s[:2] ** 2).sum() / max((s**2).sum(), 1e-300))


def umap_plane(features: np.ndarray) -> np.ndarray:
    """Return places [N, 2] of features [N, d] by UMAP (McInnes et al. 2018), with cosine distances.

    Raises:
        UserError: umap-learn is not installed.
    """
    try:
        umap = importlib.import_module("umap")
    except ImportError as error:
        raise UserError(f"--umap needs umap-learn ({error}); install it: pip install 'bigbigan[umap]'") from None
    neighbours = max(2, min(15, len(features) - 1))
    return np.asarray(umap.UMAP(n_neighbors=neighbours, metric="cosine", random_state=0).fit_transform(features))


def _scatter(title: str, places: np.ndarray, labels: np.ndarray, names: list[str]) -> Html:
    """Draw points with the names of the largest classes at their medians."""
    present, counts = np.unique(labels[labels >= 0], return_counts=True)
    largest = sorted(present[np.argsort(-counts, kind="stable")][:NAMED].tolist())
    colours = dict(zip(largest, SERIES, strict=False))

    def draw(axes: Any) -> None:
        other = ~np.isin(labels, largest)
        axes.plot(*places[other].T, ".", color=MUTED, ms=3, alpha=0.5)
        for c, colour in colours.items():
            axes.plot(*places[labels == c].T, ".", color=colour, ms=4)
        for c in colours:
            x, y = np.median(places[labels == c], axis=0)
            axes.text(x, y, names[c], color=INK, ha="center", va="center", weight="bold", fontsize=9, parse_math=False)
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)

    entries: list[object] = [key(i, names[c]) for i, c in enumerate(colours)]
    if len(present) > len(largest):
        entries.append(f"grey: {len(present) - len(largest)} smaller classes")
    return captioned(title, entries, svg(draw, f"Map of features by {title}", 4))
