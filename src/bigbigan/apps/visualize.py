"""Draw what a trained model does with images of a source: reconstructions, interpolations, nearest neighbours."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bigbigan.apps.sheet import Tile, in_rows, sheet, tiles_of
from bigbigan.compute import images_per_pass
from bigbigan.data import ImageSet, Source, load_view
from bigbigan.data.image_set import fraction_of
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features
from bigbigan.evaluation.probes.knn import nearest
from bigbigan.image import image_distances, pool_to
from bigbigan.inference.latents import interpolate
from bigbigan.inference.loading import load
from bigbigan.inference.model import Model
from bigbigan.progress import Bar
from bigbigan.training.devices import default_device
from bigbigan.training.run_folder import is_own_data, open_data

__all__ = [
    "REFERENCES",
    "Interpolations",
    "interpolations",
    "latent_interpolations",
    "neighbours",
    "pixel_error",
    "reconstructions",
    "shown_split",
    "spread",
]

LETTERS = 18  # pixels: names of rows are to be read on a telephone too
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
    _ = model.generator  # raises if there is none, before the images are read
    split = shown_split(source)
    pixels = torch.from_numpy(spread(model, source, split, count, progress)[0])
    x = pool_to(model.prepare(pixels), model.config.generator.resolution)
    x_hat = model.reconstruct(pixels)
    errors = {"G(E(x))": pixel_error(x, x_hat)}
    title = f"{split.name} images x, and their reconstructions G(E(x))"
    if not refine:
        return _rows_of_columns({"x": x, "G(E(x))": x_hat}, title), errors
    parts = pixels.split(images_per_pass(len(pixels)))  # images are independent
    with Bar(total=len(parts) * refine, desc="reconstruct", unit="step", disable=not progress) as bar:
        z = torch.cat([model.refine(part, refine, after_step=lambda _: bar.update()).z for part in parts])
    refined = model.generate(z)
    errors[f"after {refine} steps"] = pixel_error(x, refined)
    name = f"G(z), z refined\nfor {refine} step{'s' if refine > 1 else ''}"
    return _rows_of_columns({"x": x, "G(E(x))": x_hat, name: refined}, title), errors


def _rows_of_columns(images: dict[str, Tensor], title: str, columns: int = 8) -> Image.Image:
    """Draw images [N, C, R, R] by name of the row, each above the same image of the next row."""
    rows, names = [], []
    tiles = {name: tiles_of(x) for name, x in images.items()}
    for start in range(0, len(next(iter(tiles.values()))), columns):
        rows += [of_row[start : start + columns] for of_row in tiles.values()]
        names += list(tiles)
    return sheet(rows, names, title=title, text=LETTERS)


@dataclass
class Interpolations:
    """Hold rows of images between two others: float [N, steps, C, R, R]; the ends, if they are images, [N, C, R, R]."""

    between: Tensor
    start: Tensor | None = None
    end: Tensor | None = None

    def picture(self) -> Image.Image:
        """Return all steps as a sheet, with the ends set apart and named."""
        rows = [tiles_of(images) for images in self.between]
        steps = self.between.shape[1]
        names = [f"{t:.2f}" for t in torch.linspace(0, 1, steps).tolist()]
        if self.start is None or self.end is None:
            return sheet(rows, column_names=names, title="G(z), z from one random latent (0) to another (1)")
        ends = zip(tiles_of(self.start), rows, tiles_of(self.end), strict=True)
        rows = [[x, *row, y] for x, row, y in ends]
        title = "from x to x′: G(z), z from E(x) (0) to E(x′) (1)"
        return sheet(rows, column_names=["x", *names, "x′"], title=title, apart=1)

    def frames(self) -> list[Image.Image]:
        """Return a picture for each step, of all rows at once: there and back again, for an animation."""
        columns = math.ceil(math.sqrt(len(self.between)))
        there = [sheet(in_rows(tiles_of(images), columns)) for images in self.between.transpose(0, 1)]
        return there + there[-2:0:-1]


def interpolations(
    run: Path,
    data: str | None,
    count: int,
    steps: int,
    labels: str | None = None,
    checkpoint: str = "newest",
    progress: bool = False,
) -> Interpolations:
    """Interpolate from one image x to another x′: G(z) with z between E(x) and E(x′)."""
    model, source = _open(run, data, labels, checkpoint)
    _ = model.generator  # raises if there is none, before the images are read
    pixels = torch.from_numpy(spread(model, source, shown_split(source), 2 * count, progress)[0])
    if len(pixels) < 2:
        raise UserError(f"{source.spec} has {len(pixels)} readable images; an interpolation needs two")
    starts, ends = pixels[: len(pixels) // 2], pixels[len(pixels) // 2 :][: len(pixels) // 2]
    between = model.interpolate(starts, ends, steps)
    x, y = (pool_to(model.prepare(p), model.config.generator.resolution) for p in (starts, ends))
    return Interpolations(between, x, y)


def latent_interpolations(
    run: Path, count: int, steps: int, seed: int = 0, checkpoint: str = "newest", progress: bool = False
) -> Interpolations:
    """Interpolate between latents drawn from P_z. If G is class-conditional, each row has a class of its own."""
    model = load(run, checkpoint, default_device())
    a, b = model.sample_prior(2 * count, seed=seed).chunk(2)
    latents, classes = interpolate(a, b, steps, model.config.latent.prior), model.config.data.classes
    bar = Bar(latents, desc="interpolate", unit="row", disable=not progress)
    rows = [model.generate(z, label=i % classes if classes > 1 else None) for i, z in enumerate(bar)]
    return Interpolations(torch.stack(rows))


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

    With `data`, they are the run's own training images if these can be opened, and else images of that source.

    Returns:
        The picture; and for each image its file, and the files and similarities of its neighbours, nearest first.
    """
    model, source = _open(run, data, labels, checkpoint)
    own, trained_on = source, data is None or is_own_data(run, source)
    if not trained_on:
        with contextlib.suppress(UserError):  # of an exported model, for example, they are not known
            own, trained_on = open_data(run, None, None, model.config), True
    if trained_on:  # of its own images, those that the run was trained on
        own.splits["train"] = fraction_of(own.splits["train"], model.config.data.fraction)
    split = shown_split(source)
    x, queries = spread(model, source, split, count)
    train = own.splits["train"]
    y, known = spread(model, own, train, REFERENCES + len(x), progress)
    among_queries = False
    if split is train:  # an image is not its own neighbour
        asked = set(queries.files)
        others = np.array([i for i, file in enumerate(known.files) if file not in asked], dtype=np.int64)
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
    rows, listed = [], list[dict[str, object]]()
    for i, (places, near) in enumerate(zip(found.tolist(), close.tolist(), strict=True)):
        name, beside = queries.class_name(i), []
        row = [Tile(x[i], name)]
        for j, similarity in zip(places, near, strict=True):
            other = known.class_name(j)
            row.append(Tile(y[j], f"{similarity:.2f} {other}".strip(), bool(name) and name == other))
            beside.append({"file": known.files[j], "similarity": round(similarity, 4)})
        rows.append(row)
        listed.append({"file": queries.files[i], "neighbours": beside})
    framed = ", framed if of the same class" if any(queries.class_name(i) for i in range(len(x))) else ""
    searched = "training images" if trained_on else f"images of {source.name}"
    title = f"nearest {searched}, with the cosine of BN+CReLU features{framed}"
    names = ["image" if own is not source else f"{split.name} image", *(str(k + 1) for k in range(found.shape[1]))]
    return sheet(rows, column_names=names, title=title, apart=1), listed


def _open(run: Path, data: str | None, labels: str | None, checkpoint: str) -> tuple[Model, Source]:
    model = load(run, checkpoint, default_device())
    _ = model.encoder  # raises for a GAN, before the images are read
    return model, open_data(run, data, labels, model.config)


def shown_split(source: Source) -> ImageSet:
    """Return the split to draw pictures of: images the model was not trained on, if there are any."""
    return next(source.splits[name] for name in ("test", "val", "train") if name in source.splits)


def spread(
    model: Model, source: Source, images: ImageSet, count: int, progress: bool = False
) -> tuple[np.ndarray, ImageSet]:
    """Return `count` images spread evenly over a split, uint8 [N, C, R, R] as the encoder sees them, and their set.

    Unreadable images are replaced by others: the limit on unreadable images is a share of the whole set.

    Raises:
        UserError: none can be read.
    """
    c, wanted = model.config, min(count, len(images))
    picks = images.spread(wanted)
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
