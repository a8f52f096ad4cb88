"""Write the page: its sections in order."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from bigbigan.apps.report.classes import classes
from bigbigan.apps.report.contents import Run, gather
from bigbigan.apps.report.curves import curves
from bigbigan.apps.report.data_card import data_card
from bigbigan.apps.report.feature_map import feature_map
from bigbigan.apps.report.header import header
from bigbigan.apps.report.interpolations import interpolations
from bigbigan.apps.report.markup import Html, escape, join, missing, tag
from bigbigan.apps.report.memorisation import memorisation
from bigbigan.apps.report.neighbours import neighbours
from bigbigan.apps.report.probe import probe
from bigbigan.apps.report.samples import reconstructions, samples, tasks
from bigbigan.apps.report.settings import settings
from bigbigan.config import Config
from bigbigan.errors import UserError
from bigbigan.inference.loading import model_folder
from bigbigan.io import write_text
from bigbigan.progress import Bar

# Of each section: what writes it, and whether a run with these settings has it.
SECTIONS: dict[str, tuple[Callable[[Run], Html], Callable[[Config], bool]]] = {
    "Samples over time": (samples, lambda c: c.has_generator),
    "Reconstructions": (reconstructions, lambda c: c.has_encoder and c.has_generator),
    "Interpolations": (interpolations, lambda c: c.has_encoder and c.has_generator),
    "Memorisation": (memorisation, lambda c: c.has_generator),
    "Pretext tasks": (tasks, lambda c: not c.has_generator),
    "What the encoder learned": (probe, lambda c: c.has_encoder),
    "Classes and mistakes": (classes, lambda c: c.has_encoder),
    "Map of features": (feature_map, lambda c: c.has_encoder),
    "Nearest neighbours": (neighbours, lambda c: c.has_encoder),
    "Curves": (curves, lambda c: True),
    "Settings": (settings, lambda c: True),
    "Data": (data_card, lambda c: True),
}


def write_report(
    run: Path,
    data: str | None = None,
    labels: str | None = None,
    out: Path | None = None,
    checkpoint: str = "newest",
    progress: bool = False,
    umap: bool = False,
) -> Path:
    """Write report.html into a run folder, or the page as the file `out`, from whatever is there.

    Args:
        run: the run folder, whose training may be at any step, or running; or the name of a model (`bigbigan.load`).
        data: source of the images to show; by default the run's own.
        labels: a labels file for it (bigbigan.data.labels); by default the run's own.
        out: the file to write; by default report.html in the run folder.
        checkpoint: of the networks to show: "newest", "best" or a step.
        progress: show which section is being written.
        umap: draw the map of features by UMAP too, which takes tens of seconds and needs umap-learn.

    Returns:
        The path of the page: one file that needs no other, no network and no script.

    Raises:
        UserError: not a run folder, or not writable.
    """
    run = model_folder(run)
    contents = gather(run, data, labels, checkpoint, umap)
    links, sections = [], []
    bar = Bar(SECTIONS.items(), desc="report", unit="section", disable=not progress)
    for number, (title, (section, is_part)) in enumerate(bar):
        if not is_part(contents.config):
            continue
        try:
            content = section(contents)
        except (UserError, OSError) as error:  # such as images that were removed meanwhile
            content = missing(f"Not available: {error}.")
        links.append(tag("a", title, href=f"#s{number}"))
        sections.append(tag("section", tag("h2", title), content, id=f"s{number}"))
    written = f"Written {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC by bigbigan report."
    body = join(header(contents), tag("nav", *links), *sections, tag("footer", written))
    out = out or run / "report.html"
    write_text(out, whole_page(f"{contents.config.experiment}: report", body))
    return out


def whole_page(title: str, body: Html) -> str:
    """Return a page that needs no other file."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    return PAGE.format(title=escape(title), style=style, body=body)


# The policy protects even if a hostile file name got into the page: nothing is run, nothing is fetched.
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,"><title>{title}</title><style>
{style}</style></head>
<body>{body}</body></html>
"""
