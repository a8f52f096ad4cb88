"""Write the section on memorisation: whether samples are nearer to training images than unseen images are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bigbigan.apps.report.contents import Run
from bigbigan.apps.report.markup import Html, join, paragraph, tag, tile
from bigbigan.image import pool_to, to_float, to_uint8

SAMPLES = 100
SHOWN = 8
SUSPICIOUS = 0.1  # share of samples; of unseen images, NEAREST are as near
NEAREST = 0.01


def memorisation(run: Run) -> Html:
    """Return the section."""
    if run.no_images is not None:
        return run.no_images
    model, images = run.model, run.images
    assert model is not None
    samples = model.generate(SAMPLES, seed=0).cpu()
    side = samples.shape[-1]
    known, unseen = (pool_to(to_float(torch.from_numpy(pixels)), side) for pixels in (images.y, images.x))
    near, which = nearest_images(samples, known)
    usual, _ = nearest_images(unseen, known)
    share, ratio = suspicion(near, usual)
    compared = f"ratio {ratio:.2f}" if usual.median() > 0 else "half of them or more are copies of training images"
    text = (
        f"Distance ‖x − y‖₂ of {len(samples)} samples of G to the nearest of {len(known):,} of {images.total:,} "
        f"training images, pixels in [0, 1]: median {near.median():.2f}; of {len(unseen):,} images that were not "
        f"trained on: {usual.median():.2f} ({compared}). {100 * share:.0f} % of the samples are nearer than the "
        f"nearest {100 * NEAREST:.0f} % of those images."
    )
    if images.split is None:
        text = text.replace("images that were not trained on", "held-out training images, which G may have seen")
    warning = ""
    if share > SUSPICIOUS:
        warning = (
            "Many samples are very near a training image: look whether they are copies, or only simple or blurred."
        )
    how = "The samples nearest to a training image, each above it. A copy shows the same object in the same place."
    order = near.argsort()[:SHOWN]
    shown = ((samples[i], known[which[i]], f"{near[i]:.2f}") for i in order.tolist())
    pairs = [
        tag("div", tile(_pixels(s), "sample"), tile(_pixels(x), "nearest training image", caption=distance))
        for s, x, distance in shown
    ]
    alarm = paragraph(warning, classes="warn") if warning else ""
    return join(paragraph(text), alarm, paragraph(how), tag("div", *pairs, classes="tiles"))


def nearest_images(x: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each image x [N, C, R, R] the distance to the nearest reference [M, C, R, R], and its index [N].

    Images are in [-1, 1], distances for pixels in [0, 1].
    """
    distances = torch.cdist(x.flatten(1), references.flatten(1)) / 2
    values, places = distances.min(dim=1)
    return values, places


def suspicion(near: Tensor, usual: Tensor) -> tuple[float, float]:
    """Compare the distances of samples [N] with those of unseen images [M].

    Returns:
        The share of samples that are nearer than the nearest 1 % of unseen images; and the ratio of the medians.
    """
    bound = float(np.quantile(usual.numpy(), NEAREST))
    return float((near < bound).float().mean()), float(near.median() / usual.median().clamp(min=1e-12))


def _pixels(x: Tensor) -> np.ndarray:
    return to_uint8(x[None])[0].numpy()
