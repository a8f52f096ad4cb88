"""Names in Markdown. Those of experiments, data sets, classes and files may come with a run of somebody else."""

from __future__ import annotations

import html
import re

from bigbigan.data.names import shown

__all__ = ["code", "plain"]

SPECIAL = re.compile(r"[\\`*{}\[\]()#!|~$]|(?<![^\W_])_|_(?![^\W_])")  # _ within a word is no markup


def plain(text: object) -> str:
    """`text` as one line of Markdown that shows it letter by letter: no markup, no HTML, no control characters."""
    return SPECIAL.sub(r"\\\g<0>", html.escape(shown(text), quote=False))


def code(text: object) -> str:
    """`text` as one line of code in Markdown, also in a table."""
    line = shown(text).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") or not line.strip() else ""
    return f"{fence}{pad}{line}{pad}{fence}"
