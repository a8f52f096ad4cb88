"""Write the section of nearest neighbours: images, and the images nearest to them in E's features."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from bigbigan.apps.report.contents import Run
from bigbigan.apps.report.markup import Html, command, img, join, missing, paragraph, tag
from bigbigan.compute import images_per_pass
from bigbigan.data import Source, load_view
from bigbigan.evaluation.features import encoder_features, pixel_features

REFERENCES = 5_000  # maximum number of training images to search


def neighbours(run: Run, queries: int = 8, nearest: int = 8) -> Html:
    """Return the section, with `nearest` neighbours of each of `queries` images."""
    if run.model is None:
        return missing(f"Not available: {run.no_model}.")
    if run.source is None:
        other = command("report", run.path, "--data", "SOURCE")
        return missing(f"Not available, as the images were not found: {run.no_source}. With other images: ", other)
    # Read through a source of its own, so that the data card counts each image once.
    source = Source(run.source.spec, run.source.name, run.source.splits, max_unreadable=1.0)
    train, c = source.splits["train"], run.config
    view = (c.encoder.resolution, c.data.channels, c.data.augment, source)
    rng = np.random.default_rng(0)
    order, candidates = rng.permutation(len(train)), 2 * queries  # twice, as some may be unreadable
    split = next((name for name in ("test", "val") if name in source.splits), None)
    if split:
        title = f"Images of the {split} split"
        asked = source.splits[split].subset(rng.permutation(len(source.splits[split]))[:candidates])
    else:
        title = "Training images"
        asked, order = train.subset(order[:candidates]), order[candidates:]
    x, kept = load_view(asked, *view)
    x, asked = x[:queries], asked.subset(kept[:queries])
    known = train.subset(order[:REFERENCES])
    y, kept = load_view(known, *view)
    known = known.subset(kept)

    def closest(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
        cosine = normalize(torch.from_numpy(queries)) @ normalize(torch.from_numpy(references)).t()
        return cosine.topk(min(nearest, len(references))).indices.numpy()

    E = run.model.encoder
    found = closest(*(encoder_features(E, pixels, batch_size=images_per_pass(100))["bn_crelu"] for pixels in (x, y)))
    text = (
        f"{title} on the left, and the nearest to each among {len(y):,} {'' if split else 'other '}training images, by "
        "the angle between BN+CReLU features. Look for the same kind of object, not only the same brightness or place."
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
        tiles = [_tile(x[i], f"query {i + 1}")]
        for j, framed in zip(places, same[i], strict=True):
            tiles.append(_tile(y[j], "neighbour, same class" if framed else "neighbour", "same" if framed else ""))
        rows.append(tag("div", *tiles, classes="neighbours"))
    return join(paragraph(text), *rows)


def _tile(pixels: np.ndarray, alt: str, classes: str = "") -> Html:
    image = Image.fromarray(pixels.transpose(1, 2, 0).squeeze())
    return tag("div", img(image, alt, 64), classes=f"tile {classes}")
