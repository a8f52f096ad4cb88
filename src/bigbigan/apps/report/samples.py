"""The sections of pictures drawn while training: samples and reconstructions; or what pretext tasks show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from bigbigan.apps.report.contents import Run
from bigbigan.apps.report.markup import Html, join, missing, paragraph, picture, tag


def samples(run: Run) -> Html:
    how = (
        "What G draws from random z, the same z each time. Look for images that could be of the training set, and "
        "for variety: many alike mean that G has collapsed."
    )
    data = _open(run.path / "samples" / "data.png")
    return join(paragraph(how), _over_time(run, "samples", 6, "images drawn by G", data))


def reconstructions(run: Run) -> Html:
    how = (
        "Training images x, each above its G(E(x)): what survives the way through z. No loss asks for equal pixels, so "
        "look for the same kind of thing, pose and style. One picture under all: E has learned nothing."
    )
    return join(paragraph(how), _over_time(run, "reconstructions", 4, "images, each above its reconstruction,"))


def tasks(run: Run) -> Html:
    shown = {task: _open(run.path / "samples" / f"inputs-{task}.png") for task in run.config.pretext.tasks}
    pictures = (picture(image, task, f"views of the task {task}") for task, image in shown.items() if image is not None)
    how = "What each task shows of an image, a row an image; the encoder is asked about nothing else."
    return join(paragraph(how), tag("div", *pictures, classes="pair"))


def _over_time(run: Run, kind: str, most: int, alt: str, beside: Image.Image | None = None) -> Html:
    """The last grid samples/KIND-STEP.png large, and earlier ones small: at most `most`, the first among them."""
    paths = sorted((run.path / "samples").glob(f"{kind}-" + "[0-9]" * 8 + ".png"))
    grids = [(int(p.stem[-8:]), image) for p in paths if (image := _open(p)) is not None]
    if not grids:
        every = run.config.log.pictures_every
        return missing(f"None drawn yet; training draws them every {every:,} steps: ", run.resume)
    picks = sorted({round(i) for i in np.linspace(0, len(grids) - 1, most)})
    *early, (step, last) = (grids[i] for i in picks)
    large = [picture(half, f"step {step:,}", f"{alt} at step {step:,}") for half in _halves(last)]
    if beside is not None:
        large.append(picture(beside, "training images, to compare", "images of the training set"))
    small = [picture(_halves(grid)[0], f"step {s:,}", f"{alt} at step {s:,}", 400) for s, grid in early]
    return join(tag("div", *large, classes="pair"), tag("div", *small, classes="strip") if small else "")


def _halves(grid: Image.Image) -> list[Image.Image]:
    """A wide grid of 16 columns with gaps of 2 as two of 8, which fit a phone; others as they are."""
    half = (grid.width + 2) // 2
    if (grid.width + 2) % 16 or grid.width < 2 * grid.height:
        return [grid]
    return [grid.crop((0, 0, half - 2, grid.height)), grid.crop((half, 0, grid.width, grid.height))]


def _open(path: Path) -> Image.Image | None:
    """A picture; None where it is missing or damaged."""
    try:
        return Image.open(path).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
