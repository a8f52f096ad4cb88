"""Make HTML from values. Every text is escaped on its way into the page unless it is `Html` already."""

from __future__ import annotations

import base64
import html
import io
import shlex
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image


class Html(str):
    """Mark text that is HTML already."""


def escape(value: object) -> Html:
    """Escape a value, unless it is HTML already."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def tag(name: str, *content: object, **attributes: object) -> Html:
    """Return <name ...>content</name>.

    `classes=` becomes class="", `aria_label=` becomes aria-label=""; empty attributes are omitted.
    """
    named = {k.replace("classes", "class").replace("_", "-"): v for k, v in attributes.items() if v != ""}
    start = f"<{name}" + "".join(f' {k}="{escape(v)}"' for k, v in named.items()) + ">"
    return Html(start if name in ("img", "meta") else start + "".join(map(escape, content)) + f"</{name}>")


def join(*parts: object) -> Html:
    """Join parts with line breaks."""
    return Html("\n".join(map(escape, parts)))


def paragraph(*content: object, classes: str = "") -> Html:
    """Return a paragraph."""
    return tag("p", *content, classes=classes)


def command(*words: object) -> Html:
    """Return a bigbigan command as code, quoted for the shell."""
    return tag("code", shlex.join(["bigbigan", *map(str, words)]))


def missing(*content: object) -> Html:
    """Return a paragraph that says what is missing."""
    return paragraph(*content, classes="missing")


def table(head: Sequence[object], rows: Iterable[Sequence[object]], classes: str = "") -> Html:
    """Return a table whose first column heads the rows."""
    top = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head))) if head else ""
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", c) for c in row[1:])) for row in rows]
    return tag("div", tag("table", top, tag("tbody", *body), classes=classes), classes="scroll")


def img(image: Image.Image, alt: str, max_side: int = 900) -> Html:
    """Return a picture as a data URI, at most `max_side` pixels a side; large ones, likely photographs, as JPEG."""
    image = image.convert("RGB")
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    kind = "png" if max(image.size) <= 300 else "jpeg"
    data = io.BytesIO()
    image.save(data, kind, **({"optimize": True} if kind == "png" else {"quality": 88}))
    uri = f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"
    # Small pictures are shown enlarged, with sharp edges.
    return tag("img", src=uri, alt=alt, width=image.width, height=image.height, classes=kind)


def tile(pixels: np.ndarray, alt: str, classes: str = "", caption: str = "") -> Html:
    """Return a small picture from uint8 pixels [C, R, R]; the page frames those of class "same"."""
    image = Image.fromarray(pixels.transpose(1, 2, 0).squeeze())
    return tag("div", img(image, alt, 64), tag("span", caption) if caption else "", classes=f"tile {classes}".strip())


def key(colour: int, name: str, value: str = "") -> Html:
    """Return an entry of a legend: the colour, by its number, with a name and perhaps a value."""
    return tag("span", name, *([" ", tag("b", value)] if value else []), classes=f"key k{colour}")


def captioned(title: str, entries: Iterable[object], chart: Html, *more: object) -> Html:
    """Return a chart below its title and its legend, whose entries are of `key`; and what follows it."""
    caption = tag("figcaption", tag("b", title), tag("div", *entries, classes="legend"))
    return tag("figure", caption, chart, *more)


def picture(image: Image.Image, caption: str, alt: str, max_side: int = 900) -> Html:
    """Return a picture with a caption."""
    return tag("figure", img(image, alt, max_side), tag("figcaption", caption))
