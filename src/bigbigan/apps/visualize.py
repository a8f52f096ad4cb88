"""Draw what a trained model does with images of a source: reconstructions, interpolations, nearest neighbours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bigbigan.compute import images_per_pass
from bigbigan.data import ImageSet, Source, load_view
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features
from bigbigan.evaluation.probes.knn import nearest
from bigbigan.image import image_distances, pool_to
from bigbigan.inference.latents import interpolate
from bigbigan.inference.loading import load
from bigbigan.inference.model import Model
from bigbigan.progress import Bar
from bigbigan.training.devices import default_device
from bigbigan.training.image_grid import grid, pairs_grid
from bigbigan.training.run_folder import open_data

__all__ = [
    "REFERENCES",
    "interpolations",
    "latent_interpolations",
    "neighbours",
    "pixel_error",
    "reconstructions",
    "shown_split",
    "spread",
]

REFERENCES = 20_000  # maximum number of training images to search; of more, evenly spread ones are taken


def reconstructions(
    run: Path,
    data: str | None,
    count: int,
    refine: int = 0,
    labels: str | None = None,
    checkpoint: str = "newest",
    progress: bool = False,
) -> tuple[Image.Image, dict[str, float]]:
    """Draw x above G(E(x)) and, with `refine`, below them G(z) with z optimised for that many steps.

    Returns:
        The picture, and the mean error ‖x − x̂‖₂ of each row, pixels in [0, 1].
    """
    model, source = _open(run, data, labels, checkpoint)
    pixels = torch.from_numpy(spread(model, source, shown_split(source), count, progress)[0])
    x = pool_to(model.prepare(pixels), model.config.generator.resolution)
    x_hat = model.reconstruct(pixels)
    errors = {"G(E(x))": pixel_error(x, x_hat)}
    if not refine:
        return pairs_grid(x, x_hat), errors
    parts = pixels.split(images_per_pass(len(pixels)))  # images are independent
    with Bar(
        total=len(parts) * refine, desc="reconstruct", unit="step", disable=not progress, dynamic_ncols=True
    ) as bar:
        z = torch.cat([model.refine(part, refine, after_step=lambda _: bar.update()).z for part in parts])
    refined = model.generate(z)
    errors[f"after {refine} steps"] = pixel_error(x, refined)
    columns = min(16, len(x))
    rows = [
        part for group in zip(*(t.cpu().split(columns) for t in (x, x_hat, refined)), strict=True) for part in group
    ]
    white = torch.ones(-len(x) % columns, *x.shape[1:])
    return grid(torch.cat([torch.cat([r, white]) if len(r) < columns else r for r in rows]), columns), errors


def interpolations(
    run: Path,
    data: str | None,
    count: int,
    steps: int,
    labels: str | None = None,
    checkpoint: str = "newest",
    progress: bool = False,
) -> Image.Image:
    """Draw rows from one image x to another x': x, images interpolated between E(x) and E(x'), x'."""
    model, source = _open(run, data, labels, checkpoint)
    pixels = torch.from_numpy(spread(model, source, shown_split(source), 2 * count, progress)[0])
    if len(pixels) < 2:
        raise UserError(f"{source.spec} has {len(pixels)} readable images; an interpolation needs two")
    starts, ends = pixels[: len(pixels) // 2], pixels[len(pixels) // 2 :][: len(pixels) // 2]
    between = model.interpolate(starts, ends, steps)
    x, y = (pool_to(model.prepare(p), model.config.generator.resolution)[:, None] for p in (starts, ends))
    return grid(torch.cat([x, between, y], dim=1).flatten(0, 1), steps + 2)


def latent_interpolations(
    run: Path, count: int, steps: int, seed: int = 0, checkpoint: str = "newest", progress: bool = False
) -> Image.Image:
    """Draw rows of G(z) with z interpolated between two latents drawn from P_z.

    If G is class-conditional, each row has a class of its own.
    """
    model = load(run, checkpoint, default_device())
    a, b = model.sample_prior(2 * count, seed=seed).chunk(2)
    latents, classes = interpolate(a, b, steps, model.config.latent.prior), model.config.data.classes
    bar = Bar(latents, desc="interpolate", unit="row", disable=not progress, dynamic_ncols=True)
    rows = [model.generate(z, label=i % classes if classes > 1 else None) for i, z in enumerate(bar)]
    return grid(torch.cat(rows), steps)


def neighbours(
    run: Path,
    data: str | None,
    count: int,
    k: int,
    labels: str | None = None,
    checkpoint: str = "newest",
    progress: bool = False,
) -> tuple[Image.Image, list[dict[str, object]]]:
    """Draw rows of an image and the `k` training images nearest to it, by the angle between BN+CReLU features.

    Returns:
        The picture; and for each image its file, and the files and similarities of its neighbours, nearest first.
    """
    model, source = _open(run, data, labels, checkpoint)
    split = shown_split(source)
    x, queries = spread(model, source, split, count)
    train = source.splits["train"]
    y, known = spread(model, source, train, REFERENCES + len(x), progress)
    among_queries = False
    if split is train:  # an image is not its own neighbour
        own = set(queries.files)
        others = np.array([i for i, file in enumerate(known.files) if file not in own], dtype=np.int64)
        if among_queries := len(others) < k:  # too few other images: search the queries as well
            k = min(k, len(known) - 1)
        else:
            y, known = y[others], known.subset(others)
    if k < 1:
        raise UserError(f"{source.spec} has only one readable image; a neighbour needs another")
    x_features, y_features = (
        torch.from_numpy(encoder_features(model.encoder, p, ["bn_crelu"])["bn_crelu"]) for p in (x, y)
    )
    close, found = nearest(x_features, y_features, k + among_queries, "cosine")
    if among_queries:  # remove each query from its own neighbours
        place = {file: i for i, file in enumerate(known.files)}
        itself = found == torch.tensor([place[file] for file in queries.files])[:, None]
        itself[~itself.any(1), -1] = True  # an identical image was found instead
        close, found = close[~itself].view(-1, k), found[~itself].view(-1, k)
    tiles = np.concatenate([np.concatenate([x[i : i + 1], y[places]]) for i, places in enumerate(found.numpy())])
    listed: list[dict[str, object]] = [
        {
            "file": queries.files[i],
            "neighbours": [
                {"file": known.files[j], "similarity": round(float(s), 4)} for j, s in zip(places, near, strict=True)
            ],
        }
        for i, (places, near) in enumerate(zip(found.tolist(), close.tolist(), strict=True))
    ]
    return grid(torch.from_numpy(tiles).float() / 127.5 - 1, found.shape[1] + 1), listed


def _open(run: Path, data: str | None, labels: str | None, checkpoint: str) -> tuple[Model, Source]:
    model = load(run, checkpoint, default_device())
    _ = model.encoder  # raises for a GAN, before the images are read
    return model, open_data(run, data, labels, model.config)


def shown_split(source: Source) -> ImageSet:
    """Return the split to draw pictures of: images the model was not trained on, if there are any."""
    return source.splits.get("test", source.splits["train"])


def spread(
    model: Model, source: Source, images: ImageSet, count: int, progress: bool = False
) -> tuple[np.ndarray, ImageSet]:
    """Return `count` images spread evenly over a split, uint8 [N, C, R, R] as the encoder sees them, and their set.

    Unreadable images are replaced by others: the limit on unreadable images is a share of the whole set.

    Raises:
        UserError: none can be read.
    """
    c, wanted = model.config, min(count, len(images))
    picks = np.linspace(0, len(images) - 1, wanted).round().astype(np.int64)
    order = np.concatenate([picks, np.setdiff1d(np.arange(len(images)), picks)])
    tolerant = replace(source, max_unreadable=1.0)  # notes and skipped files are those of `source`
    parts: list[np.ndarray] = []
    found = np.zeros(0, dtype=np.int64)
    error: UserError | None = None
    while len(found) < wanted and len(order):
        batch, order = np.split(order, [wanted - len(found)])
        try:
            pixels, kept = load_view(
                images.subset(batch), c.encoder.resolution, c.data.channels, c.data.augment, tolerant, progress
            )
        except UserError as e:  # none of these can be read
            error = e
            continue
        parts.append(pixels)
        found = np.concatenate([found, batch[kept]])
    if error is not None and not parts:
        raise error
    in_order = np.argsort(found, kind="stable")
    return np.concatenate(parts)[in_order], images.subset(found[in_order])


def pixel_error(x: Tensor, x_hat: Tensor) -> float:
    """Return the mean ‖x − x̂‖₂, pixels in [0, 1]."""
    return float(image_distances(x, x_hat).mean())
