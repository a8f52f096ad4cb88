"""The section of nearest neighbours: images, and those nearest to them in E's features."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from bigbigan.apps.report.contents import Run
from bigbigan.apps.report.markup import Html, command, img, join, missing, paragraph, tag
from bigbigan.data import Source, load_view
from bigbigan.evaluation.features import encoder_features, pixel_features

REFERENCES = 5_000  # images among which neighbours are sought


def neighbours(run: Run, queries: int = 8, nearest: int = 8) -> Html:
    if run.model is None:
        return missing(f"Left out: {run.no_model}.")
    if run.source is None:
        other = command("report", run.path, "--data", "SOURCE")
        return missing(f"Left out, as the images were not found: {run.no_source}. With images elsewhere: ", other)
    # Read through a source of its own, so that the data card counts each image once.
    source = Source(run.source.spec, run.source.name, run.source.splits, max_unreadable=1.0)
    train, c = source.splits["train"], run.config
    view = (c.encoder.resolution, c.data.channels, c.data.augment, source)
    draw = np.random.default_rng(0)
    order, most = draw.permutation(len(train)), 2 * queries  # twice, as some may be unreadable
    held = next((name for name in ("test", "val") if name in source.splits), None)
    if held:
        whose = f"Images of the {held} split"
        asked = source.splits[held].subset(draw.permutation(len(source.splits[held]))[:most])
    else:
        whose = "Images set apart for this (training has seen them)"
        asked, order = train.subset(order[:most]), order[most:]
    x, kept = load_view(asked, *view)
    x, asked = x[:queries], asked.subset(kept[:queries])
    known = train.subset(order[:REFERENCES])
    y, kept = load_view(known, *view)
    known = known.subset(kept)

    def closest(of_x: np.ndarray, of_y: np.ndarray) -> np.ndarray:
        cosine = normalize(torch.from_numpy(of_x)) @ normalize(torch.from_numpy(of_y)).t()
        return cosine.topk(min(nearest, len(of_y))).indices.numpy()

    E = run.model.encoder
    found = closest(*(encoder_features(E, pixels, batch_size=100)["bn_crelu"] for pixels in (x, y)))
    text = (
        f"{whose}, left, and the nearest to each among {len(y):,} training images, by the angle between BN+CReLU "
        "features. Look for the same kind of thing, not only the same brightness or place."
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
            f" {same.sum()} of {count} are of their query's class (framed); of those nearest by raw pixels "
            f"{raw.sum()}, by chance {chance:.0f}. Labels are used for this count only."
        )
    rows = []
    for i, places in enumerate(found):
        tiles = [_tile(x[i], f"query {i + 1}")]
        for j, shares in zip(places, same[i], strict=True):
            tiles.append(_tile(y[j], "neighbour, same class" if shares else "neighbour", "same" if shares else ""))
        rows.append(tag("div", *tiles, classes="neighbours"))
    return join(paragraph(text), *rows)


def _tile(pixels: np.ndarray, alt: str, classes: str = "") -> Html:
    image = Image.fromarray(pixels.transpose(1, 2, 0).squeeze())
    return tag("div", img(image, alt, 64), classes=f"tile {classes}")
