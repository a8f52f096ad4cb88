"""Give the charts of the documentation one style: `with chart_style(): ...`."""

from __future__ import annotations

from typing import Any

import matplotlib

__all__ = ["FIRST", "GREY", "SECOND", "chart_style"]

FIRST, SECOND, GREY = "#1f5fa8", "#c2410c", "#4a5560"  # series; lines for reference

STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d5dae0",
    "grid.linewidth": 0.6,
    "axes.edgecolor": "#8a94a0",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.dpi": 120,
}


def chart_style() -> Any:
    """Return a context in which matplotlib draws in the style."""
    return matplotlib.rc_context(STYLE)
