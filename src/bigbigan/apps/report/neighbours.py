"""Write the section of nearest neighbours: images, and the images nearest to them in E's features."""

from __future__ import annotations

import numpy as np
import torch

from bigbigan.apps.report.contents import Run
from bigbigan.apps.report.markup import Html, join, paragraph, tag, tile
from bigbigan.evaluation.features import pixel_features
from bigbigan.evaluation.probes.knn import nearest

QUERIES, NEIGHBOURS = 8, 8


def neighbours(run: Run) -> Html:
    """Return the section."""
    if run.no_images is not None:
        return run.no_images
    images = run.images
    split, known, y = images.split, images.known, images.y
    x, asked = images.x[:QUERIES], images.unseen.subset(np.arange(min(QUERIES, len(images.unseen))))
    features = images.features

    def closest(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
        _, indices = nearest(torch.from_numpy(queries), torch.from_numpy(references), NEIGHBOURS, "cosine")
        return indices.numpy()

    found = closest(features[0][:QUERIES], features[1])
    text = (
        f"{images.title} on the left, and the nearest to each among {len(y):,} {'' if split else 'other '}training "
        "images, by the angle between BN+CReLU features. Look for the same kind of object, not only the same "
        "brightness or place."
    )
    same = np.zeros(found.shape, dtype=bool)
    if asked.labels is not None and known.labels is not None and len(np.unique(known.labels)) > 1:
        both = (known.labels[None, :] >= 0) & (asked.labels[:, None] >= 0)  # labelled; [queries, references]
        shared = both & (known.labels[None, :] == asked.labels[:, None])
        same = np.take_along_axis(shared, found, 1)
        count = np.take_along_axis(both, found, 1).sum()
        chance = shared.sum() / max(1, both.sum()) * count
        raw = np.take_along_axis(shared, closest(pixel_features(x), pixel_features(y)), 1)
        text += (
            f" {same.sum()} of {count} neighbours have their query's class (framed); by raw pixels {raw.sum()} would, "
            f"by chance {chance:.0f}. Labels are used for this count only."
        )
    rows = []
    for i, places in enumerate(found):
        tiles = [tile(x[i], f"query {i + 1}")]
        for j, framed in zip(places, same[i], strict=True):
            tiles.append(tile(y[j], "neighbour, same class" if framed else "neighbour", "same" if framed else ""))
        rows.append(tag("div", *tiles, classes="neighbours"))
    return join(paragraph(text), *rows)
