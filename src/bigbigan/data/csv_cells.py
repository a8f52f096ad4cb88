"""Text in cells of a CSV file that a spreadsheet must not take for a formula.

Spreadsheets run cells that begin with = + - or @, and names of files and classes may come from anybody. `cell` puts an
apostrophe before such text, and one more before text that looks as if that had been done; `text_of` takes one away. So
`text_of(cell(text)) == text` for every text. Numbers stay as they are.
"""

from __future__ import annotations

import re

__all__ = ["cell", "text_of"]

# White space is left out by some spreadsheets, the wide signs are read as the narrow ones by some.
FORMULA = re.compile(r"'*\s*[=+\-@＝＋－＠]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def cell(text: object) -> str:
    """`text` as a cell that is no formula."""
    text = str(text)
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def text_of(cell: str) -> str:
    """The text of a cell that `cell` made; other cells are their own text."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
