"""Escape text for Markdown: names of experiments, data sets, classes and files in a run are untrusted."""

from __future__ import annotations

import html
import re

from bigbigan.data.names import shown

__all__ = ["code", "plain"]

SPECIAL = re.compile(r"[\\`*{}\[\]()#!|~$]|(?<![^\W_])_|_(?![^\W_])")  # _ within a word is not markup


def plain(text: object) -> str:
    """Return `text` as one line of Markdown that shows it literally: no markup, no HTML, no control characters."""
    return SPECIAL.sub(r"\\\g<0>", html.escape(shown(text), quote=False))


def code(text: object) -> str:
    """Return `text` as one line of code in Markdown, also in a table."""
    line = shown(text).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") or not line.strip() else ""
    return f"{fence}{pad}{line}{pad}{fence}"
