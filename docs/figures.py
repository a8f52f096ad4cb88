"""Draw the figure of docs/theory.md: hinge on each score against hinge on their sum.

python -m docs.figures       a second; writes docs/pictures/hinge_of_sum.png

The scripts of reproduction/README.md draw the other pictures; reproduction/render/chart_style.py is the style of all
charts, and `bigbigan reconstruct`, `interpolate`, `neighbours`, `generate` and `cluster` draw the sheets of images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from torch import Tensor

from bigbigan.methods.losses import discriminator_loss
from reproduction.render.chart_style import GREY, SECOND, chart_style

PICTURE = Path(__file__).parent / "pictures" / "hinge_of_sum.png"
LIMIT = 3.0
LEVELS = np.arange(0, 9)
BLUES = ListedColormap(colormaps["Blues"](np.linspace(0.14, 0.72, len(LEVELS) - 1)))
INK, FREE = "#15202b", "#fdf5e6"
EXAMPLE = (2.5, -0.5)  # s_x is past its margin, s_z is on the wrong side


def cost(s_x: Tensor, s_z: Tensor, hinge_on_sum: bool) -> Tensor:
    """What one encoder pair with these scores (scalars) costs D, by the package's own loss: a scalar."""
    past = torch.full((1,), -10.0)  # scores of a generator pair that costs nothing
    loss = discriminator_loss({"s_x": s_x[None], "s_z": s_z[None]}, {"s_x": past, "s_z": past}, hinge_on_sum)
    return loss if hinge_on_sum else 2 * loss  # the package takes the mean over the scores, the title the sum


def surface(s_x: np.ndarray, s_z: np.ndarray, hinge_on_sum: bool) -> tuple[np.ndarray, np.ndarray]:
    """The cost, of the shape of s_x and s_z, and its negative gradient [2, ...]."""
    x, z = (torch.tensor(s.ravel(), dtype=torch.float64, requires_grad=True) for s in (s_x, s_z))
    value = torch.vmap(lambda a, b: cost(a, b, hinge_on_sum))(x, z)
    push = torch.autograd.grad(-value.sum(), (x, z))
    return value.detach().numpy().reshape(s_x.shape), torch.stack(push).numpy().reshape(2, *s_x.shape)


def panel(axes: Axes, hinge_on_sum: bool, title: str) -> QuadContourSet:
    side = np.linspace(-LIMIT, LIMIT, 241)
    x, z = np.meshgrid(side, side)
    value, _ = surface(x, z, hinge_on_sum)
    axes.set_facecolor(FREE)
    axes.grid(visible=False)
    filled = axes.contourf(x, z, np.ma.masked_less_equal(value, 0), LEVELS, cmap=BLUES)
    axes.contour(x, z, value, LEVELS[1:], colors="white", linewidths=0.8)

    small: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 10}
    if hinge_on_sum:
        axes.plot([1 - LIMIT, LIMIT], [LIMIT, 1 - LIMIT], "--", color=GREY, linewidth=1.4)
        axes.text(0, 1.5, "$s_x + s_z = 1$", color=GREY, rotation=-45, **small)
    else:
        axes.plot([1, 1], [-LIMIT, LIMIT], "--", color=GREY, linewidth=1.4)
        axes.plot([-LIMIT, LIMIT], [1, 1], "--", color=GREY, linewidth=1.4)
        axes.text(1.2, -2, "$s_x = 1$", color=GREY, rotation=90, **small)
        axes.text(-2, 1.2, "$s_z = 1$", color=GREY, **small)
    axes.text(2, 2, "cost 0, no push", color=GREY, **small)

    grid = np.arange(-2.5, 3)
    x, z = (points.ravel() for points in np.meshgrid(grid, grid))
    marked = (x == EXAMPLE[0]) & (z == EXAMPLE[1])
    _, push = surface(x, z, hinge_on_sum)
    moved = np.abs(push).sum(0) > 0
    arrows: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 2, "zorder": 4}
    for chosen, color, width, dot in ((~marked, INK, 0.006, 3.5), (marked, SECOND, 0.009, 8)):
        still, pushed = chosen & ~moved, chosen & moved
        axes.plot(x[still], z[still], "o", color=color, markersize=dot)
        axes.quiver(x[pushed], z[pushed], *push[:, pushed], color=color, width=width, **arrows)
    axes.plot(*EXAMPLE, "o", color=SECOND, markersize=8)
    note: dict[str, Any] = {"color": SECOND, "ha": "right", "va": "center", "weight": "bold"}
    if moved[marked].all():
        axes.text(2.9, -0.78, "$s_z$ is pushed up", **note)
    else:
        axes.text(2.9, -0.2, "$s_z$ is left alone", **note)

    axes.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), aspect="equal")
    axes.set_xlabel("$s_x$", fontsize=13)
    axes.set_title(title, color=INK, fontsize=13, pad=10)
    return filled


def hinge_of_sum(out: Path) -> None:
    """Write the figure to `out` (PNG): both costs of an encoder pair, and which way D's step pushes its scores."""
    with chart_style():
        figure = Figure(figsize=(10.4, 5.2), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2, sharey=True)
        panel(left, False, "Hinge on each score: $h(s_x) + h(s_z)$")
        filled = panel(right, True, "Hinge on the sum: $h(s_x + s_z)$")
        left.set_ylabel("$s_z$", fontsize=13)
        bar = figure.colorbar(filled, ax=[left, right], label="cost of an encoder pair", shrink=0.85, pad=0.02)
        bar.outline.set_visible(False)
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out)


if __name__ == "__main__":
    hinge_of_sum(PICTURE)
