"""Escape text in cells of a CSV file, so that a spreadsheet does not run it as a formula.

Spreadsheets run cells that begin with = + - or @, and names of files and classes are untrusted. `cell` puts an
apostrophe before such text, and one more before text that already looks escaped; `text_of` removes one. So
`text_of(cell(text)) == text` for every text. Numbers are not changed.
"""

from __future__ import annotations

import re

__all__ = ["cell", "text_of"]

# Some spreadsheets skip white space, some read the full-width signs as the ordinary ones.
FORMULA = re.compile(r"'*\s*[=+\-@＝＋－＠]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def cell(text: object) -> str:
    """Return `text` as a cell that is not a formula."""
    text = str(text)
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def text_of(cell: str) -> str:
    """Return the text of a cell that `cell` made; other cells are returned unchanged."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
