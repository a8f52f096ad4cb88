"""Pictures of what a trained model does with images of a source: reconstructions, walks, nearest neighbours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bigbigan.data import ImageSet, Source, load_view
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features
from bigbigan.evaluation.probes.knn import nearest
from bigbigan.image import image_distances, pool_to
from bigbigan.inference.latents import interpolate
from bigbigan.inference.loading import load
from bigbigan.inference.model import Model
from bigbigan.training.image_grid import grid, pairs_grid
from bigbigan.training.run_folder import default_device, open_data

__all__ = [
    "REFERENCES",
    "interpolations",
    "latent_walks",
    "neighbours",
    "pixel_error",
    "reconstructions",
    "shown_split",
    "spread",
]

REFERENCES = 20_000  # training images among which neighbours are sought, spread evenly over more


def reconstructions(
    run: Path, data: str | None, count: int, refine: int = 0, labels: str | None = None
) -> tuple[Image.Image, dict[str, float]]:
    """x above G(E(x)); with `refine`, G of z optimised for so many steps below. And the mean error ‖x − x̂‖₂ of each."""
    model, source = _open(run, data, labels)
    pixels = torch.from_numpy(spread(model, source, shown_split(source), count)[0])
    x = pool_to(model.prepare(pixels), model.config.generator.resolution)
    x_hat = model.reconstruct(pixels)
    errors = {"G(E(x))": pixel_error(x, x_hat)}
    if not refine:
        return pairs_grid(x, x_hat), errors
    refined = model.generate(model.refine(pixels, refine).z)
    errors[f"after {refine} steps"] = pixel_error(x, refined)
    columns = min(16, len(x))
    rows = [
        part for group in zip(*(t.cpu().split(columns) for t in (x, x_hat, refined)), strict=True) for part in group
    ]
    white = torch.ones(-len(x) % columns, *x.shape[1:])
    return grid(torch.cat([torch.cat([r, white]) if len(r) < columns else r for r in rows]), columns), errors


def interpolations(run: Path, data: str | None, count: int, steps: int, labels: str | None = None) -> Image.Image:
    """Rows from one image to another: x, G along the way from E(x) to E(x'), x'."""
    model, source = _open(run, data, labels)
    pixels = torch.from_numpy(spread(model, source, shown_split(source), 2 * count)[0])
    if len(pixels) < 2:
        raise UserError(f"{source.spec} has {len(pixels)} images to show; a walk needs two")
    starts, ends = pixels[: len(pixels) // 2], pixels[len(pixels) // 2 :][: len(pixels) // 2]
    walks = model.interpolate(starts, ends, steps)
    x, y = (pool_to(model.prepare(p), model.config.generator.resolution)[:, None] for p in (starts, ends))
    return grid(torch.cat([x, walks, y], dim=1).flatten(0, 1), steps + 2)


def latent_walks(run: Path, count: int, steps: int, seed: int = 0) -> Image.Image:
    """Rows of G along the way from one latent drawn from P_z to another; of a G that is told classes, a class a row."""
    model = load(run, device=default_device())
    a, b = model.sample_prior(2 * count, seed=seed).chunk(2)
    walks, classes = interpolate(a, b, steps, model.config.latent.prior), model.config.data.classes
    rows = [model.generate(z, label=i % classes if classes > 1 else None) for i, z in enumerate(walks)]
    return grid(torch.cat(rows), steps)


def neighbours(
    run: Path, data: str | None, count: int, k: int, labels: str | None = None
) -> tuple[Image.Image, list[dict[str, object]]]:
    """Rows of an image and the `k` training images nearest to it, by the angle between BN+CReLU features. And what they
    are: for each image its file and the files and similarities of its neighbours, nearest first."""
    model, source = _open(run, data, labels)
    split = shown_split(source)
    x, asked = spread(model, source, split, count)
    train = source.splits["train"]
    y, known = spread(model, source, train, REFERENCES + len(x))
    alone = False
    if split is train:  # not an image's own neighbour
        own = set(asked.files)
        others = np.array([i for i, file in enumerate(known.files) if file not in own], dtype=np.int64)
        if alone := len(others) < k:  # too few: those shown are neighbours of each other
            k = min(k, len(known) - 1)
        else:
            y, known = y[others], known.subset(others)
    if k < 1:
        raise UserError(f"{source.spec} has one image that can be read; a neighbour needs another")
    of_x, of_y = (torch.from_numpy(encoder_features(model.encoder, p, ["bn_crelu"])["bn_crelu"]) for p in (x, y))
    close, found = nearest(of_x, of_y, k + alone, "cosine")
    if alone:  # each image is found too, in some place
        place = {file: i for i, file in enumerate(known.files)}
        itself = found == torch.tensor([place[file] for file in asked.files])[:, None]
        itself[~itself.any(1), -1] = True  # or one that is the same took its place
        close, found = close[~itself].view(-1, k), found[~itself].view(-1, k)
    tiles = np.concatenate([np.concatenate([x[i : i + 1], y[places]]) for i, places in enumerate(found.numpy())])
    listed: list[dict[str, object]] = [
        {
            "file": asked.files[i],
            "neighbours": [
                {"file": known.files[j], "similarity": round(float(s), 4)} for j, s in zip(places, of, strict=True)
            ],
        }
        for i, (places, of) in enumerate(zip(found.tolist(), close.tolist(), strict=True))
    ]
    return grid(torch.from_numpy(tiles).float() / 127.5 - 1, found.shape[1] + 1), listed


def _open(run: Path, data: str | None, labels: str | None) -> tuple[Model, Source]:
    model = load(run, device=default_device())
    _ = model.encoder  # a GAN's user is told before the images are read
    return model, open_data(run, data, labels, model.config)


def shown_split(source: Source) -> ImageSet:
    """The split that pictures are of: images the model has not been trained on, where there are any."""
    return source.splits.get("test", source.splits["train"])


def spread(
    model: Model, source: Source, images: ImageSet, count: int, progress: bool = False
) -> tuple[np.ndarray, ImageSet]:
    """`count` images spread evenly over a split, as the encoder sees them, uint8 [N, C, R, R]; and what they are.

    Others stand in for those that cannot be read: how many may be unreadable is a share of the set, not of so few.

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
        except UserError as e:  # not one of these can be read
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
