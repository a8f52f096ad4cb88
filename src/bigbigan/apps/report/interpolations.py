"""Write the section of interpolations: from one image to another through the latents of E."""

from __future__ import annotations

import torch

from bigbigan.apps.report.contents import Run
from bigbigan.apps.report.markup import Html, join, missing, paragraph, picture, tag
from bigbigan.image import pool_to
from bigbigan.image.grid import grid

ROWS = 4
STEPS = 6


def interpolations(run: Run) -> Html:
    """Return the section."""
    if run.no_images is not None:
        return run.no_images
    model, pixels = run.model, torch.from_numpy(run.images.x[: 2 * ROWS])
    assert model is not None
    if len(pixels) < 2:
        return missing("Not available: it needs two images.")
    starts, ends = pixels[: len(pixels) // 2], pixels[len(pixels) // 2 :][: len(pixels) // 2]
    between = model.interpolate(starts, ends, STEPS).cpu()
    x, y = (pool_to(model.prepare(part), between.shape[-1]).cpu()[:, None] for part in (starts, ends))
    image = grid(torch.cat([x, between, y], dim=1).flatten(0, 1), STEPS + 2)
    how = (
        f"Left and right: {run.images.title.lower()}. Between them: G at latents from E(left) to E(right). Good: every "
        "image is a plausible one, and changes little from step to step. Jumps: G has memorised, or E ignores detail."
    )
    shown = picture(image, "left and right: images; between: G(z)", "interpolations")
    return join(paragraph(how), tag("div", shown, classes="pair"))
