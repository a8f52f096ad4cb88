"""HTML from values. Every text is escaped on its way into the page unless it is `Html` already."""

from __future__ import annotations

import base64
import html
import io
import shlex
from collections.abc import Iterable, Sequence

from PIL import Image


class Html(str):
    """Text that is HTML already."""


def escape(value: object) -> Html:
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def tag(name: str, *content: object, **attributes: object) -> Html:
    """<name ...>content</name>; `classes=` is class="", `aria_label=` is aria-label=""; empty ones are left out."""
    named = {k.replace("classes", "class").replace("_", "-"): v for k, v in attributes.items() if v != ""}
    start = f"<{name}" + "".join(f' {k}="{escape(v)}"' for k, v in named.items()) + ">"
    return Html(start if name in ("img", "meta") else start + "".join(map(escape, content)) + f"</{name}>")


def join(*parts: object) -> Html:
    return Html("\n".join(map(escape, parts)))


def paragraph(*content: object, classes: str = "") -> Html:
    return tag("p", *content, classes=classes)


def command(*words: object) -> Html:
    return tag("code", shlex.join(["bigbigan", *map(str, words)]))


def missing(*content: object) -> Html:
    """A line for what is not there."""
    return paragraph(*content, classes="missing")


def table(head: Sequence[object], rows: Iterable[Sequence[object]], classes: str = "") -> Html:
    top = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head))) if head else ""
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", c) for c in row[1:])) for row in rows]
    return tag("div", tag("table", top, tag("tbody", *body), classes=classes), classes="scroll")


def img(image: Image.Image, alt: str, most: int = 900) -> Html:
    """A picture as a data URI, at most `most` pixels a side; large ones, which are photographs, as JPEG."""
    image = image.convert("RGB")
    image.thumbnail((most, most), Image.Resampling.LANCZOS)
    kind = "png" if max(image.size) <= 300 else "jpeg"
    data = io.BytesIO()
    image.save(data, kind, **({"optimize": True} if kind == "png" else {"quality": 88}))
    uri = f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"
    # Small pictures are shown enlarged, with sharp edges.
    return tag("img", src=uri, alt=alt, width=image.width, height=image.height, classes=kind)


def picture(image: Image.Image, caption: str, alt: str, most: int = 900) -> Html:
    return tag("figure", img(image, alt, most), tag("figcaption", caption))
