"""Draw charts: matplotlib's SVG with its colours replaced by the page's, so that they follow light and dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from bigbigan.apps.report.markup import Html, escape

COLOURS = {
    "#000001": "currentColor", "#000002": "var(--line)", "#000003": "var(--muted)", "#000004": "var(--on)",
    **{f"#0000{5 + i:02d}": f"var(--c{i})" for i in range(10)},  # the series
}  # fmt: skip
INK, LINE, MUTED, ON, *SERIES = COLOURS
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 10, "text.color": INK, "axes.edgecolor": LINE, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": LINE, "grid.linewidth": 0.5,
    "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED, "ytick.labelcolor": INK,
    "path.simplify_threshold": 0.4,
}  # fmt: skip


def svg(draw: Callable[[Any], None], label: str, height: float) -> Html:
    """Return what `draw` draws on axes 5 inches wide, as inline SVG; screen readers read `label`."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": label}):  # gives marks names that no other chart uses
        figure = Figure(figsize=(5, height), layout="constrained")
        draw(figure.add_subplot())
        out = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser draws text in its own fonts
            figure.savefig(out, format="svg", transparent=True, metadata=no_metadata)
    opening, text = out.getvalue().partition("<svg")[2].split(">", 1)
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(?<=<g) id="[^"]*"', "", text)  # these ids are the same in every chart, and not used
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    for colour, replacement in COLOURS.items():
        text = text.replace(colour, replacement)
    box = " ".join(re.findall(r'viewBox="[^"]*"', opening))
    return Html(f'<svg role="img" aria-label="{escape(label)}" {box}>{text}')
