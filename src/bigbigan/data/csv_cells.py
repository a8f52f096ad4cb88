"""Escape text in cells of a CSV file, so that a spreadsheet does not run it as a formula.

Spreadsheets run cells that begin with = + - or @, and names of files and classes are untrusted. `cell` puts an
apostrophe before such text, and one more before text that already looks escaped; `text_of` removes one. So
`text_of(cell(text)) == text` for every text. Numbers are not changed.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bigbigan.io import writing

__all__ = ["cell", "text_of", "writing_csv"]

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


@contextmanager
def writing_csv(out: Path, raw: bool = False) -> Iterator[Callable[..., None]]:
    """Write a CSV file atomically; yield a function that writes its arguments as a row.

    Args:
        out: the file.
        raw: write texts as they are, and not as `cell` does.

    Raises:
        UserError, RunError: the file cannot be written (`bigbigan.io.writing`). No incomplete file is left.
    """
    with (
        writing(out) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        yield lambda *row: writer.writerow(row if raw else map(cell, row))
