"""Read the table of a labels file: a row for each image, with its label, group and split (`bigbigan.data.labels`).

The column `file` is required, and at least one of `label`, `group` and `split` (train, val or test, in the spellings of
`split_of`). `FILE_COLUMNS` and `LABEL_COLUMNS` are other spellings. In place of `label`, a file may have a column of
zeros and ones for each class (one-hot). Other columns are ignored, so the files of `predict`, `classify`, `cluster` and
`encode` can be read as labels.

Text is UTF-8, or else Windows-1252, as Excel saves it; separated by commas, semicolons or tabs. Cells are unescaped by
`bigbigan.data.csv_cells.text_of`: '=x, which spreadsheets save, is =x.
"""

import csv
import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bigbigan.data.csv_cells import text_of
from bigbigan.data.names import composed, label_of, listed, shown
from bigbigan.data.readers.folders import split_of
from bigbigan.errors import UserError
from bigbigan.io import regular_bytes

__all__ = ["SPLITS", "Row", "Table", "read_table", "refuse_to_lose_labels"]

MAX_BYTES = 2**30  # of a labels file

COLUMNS = ("file", "label", "group", "split")
# Spellings of two columns, in any case; the first that the file has is used.
FILE_COLUMNS: tuple[str, ...] = ("file", "filename", "file_name", "path", "filepath", "file_path")
FILE_COLUMNS += ("image", "image_path", "img", "image_id", "image_name", "id", "id_code")
LABEL_COLUMNS = ("label", "class", "target", "category", "diagnosis", "dx", "species")
SPLITS = ("train", "val", "test")
# Cells of a one-hot column, in lower case.
NO = {"0", "0.0", "false"}
YES = {"1", "1.0", "true"}
_OTHER_FORMATS = {b"PK\3\4": "an Excel workbook or a zip archive", b"\x1f\x8b": "compressed"}
_OTHER_FORMATS |= {b"{": "JSON", b"[{": "JSON"}  # by their first bytes
_OTHER_FORMATS |= {b"\xd0\xcf\x11\xe0": "an Excel workbook", b"PAR1": "a parquet file"}


@dataclass(frozen=True)
class Row:
    """Hold what a labels file says of an image; "" is none."""

    label: str = ""
    group: str = ""
    split: str = ""


@dataclass(frozen=True)
class Table:
    """Hold the content of a labels file.

    Attributes:
        path: of the file.
        rows: (file, row) of each line, as written.
        labelled: whether it has a column `label`, or one-hot columns.
        one_hot: names of the columns that were read as one-hot labels.
        unused: names of columns that are not used.
        sha256: of the file.
    """

    path: Path
    rows: list[tuple[str, Row]]
    labelled: bool
    one_hot: list[str]
    unused: list[str]
    sha256: str


def read_table(path: Path) -> Table:
    """Read a labels file.

    Raises:
        UserError: it cannot be read, or is no such table.
    """
    content = _content(path)
    what = f"--labels {shown(path)}"
    for start, kind in _OTHER_FORMATS.items():
        if content.startswith(start):
            raise UserError(f"{what} is {kind}; expected a CSV file with the columns file and label")
    lines = _lines(content, path)
    header = _header(lines[0], path)
    columns = [name.strip() for name in lines[0]]
    one_hot: list[int] = []
    if "label" not in header:
        one_hot = _one_hot(header, lines[1:])
    if not one_hot and not set(COLUMNS[1:]) & set(header):
        several = _several_classes(header, lines[1:])
        raise UserError(
            f"{what}: row {several:,} has 1 in several columns; several classes for one image are not read"
            if several
            else f"{what} has no column 'label' but {_names(columns)}; expected a header line with file,label"
        )
    unused = [
        name
        for i, (name, known) in enumerate(zip(columns, header, strict=True))
        if name and known not in COLUMNS and i not in one_hot
    ]
    rows = []
    for number, cells in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise UserError(f"{what}: row {number:,} has {len(cells)} cells, the header {len(header)}")
        cell = {name: value for name, value in zip(header, cells, strict=True) if name in COLUMNS}
        file = text_of(cell.pop("file"))
        cell = {name: text_of(value.strip()) for name, value in cell.items()}
        if not file.strip():
            raise UserError(f"{what}: row {number:,} names no file")
        if cell.get("split") == "held_out":  # `classify` writes it for a part of train
            cell["split"] = ""
        if spelling := cell.get("split"):
            if (split := split_of(spelling)) is None:
                raise UserError(f"{what}: row {number:,}: split is {shown(spelling)}; expected {', '.join(SPLITS)}")
            cell["split"] = split
        if one_hot:
            cell["label"] = next((columns[i] for i in one_hot if cells[i].strip().lower() in YES), "")
        rows.append((file, Row(**{name: composed(text) for name, text in cell.items()})))
    if not rows:
        raise UserError(f"{what} has a header and no rows; expected one for each labelled image")
    labelled = "label" in header or bool(one_hot)
    return Table(path, rows, labelled, [columns[i] for i in one_hot], unused, hashlib.sha256(content).hexdigest())


def refuse_to_lose_labels(option: str, out: Path, rows: Mapping[str, Row]) -> None:
    """Raise UserError if `out`, the file of this option, is a labels file with labels that are not in `rows`."""
    try:
        before = read_table(out).rows if out.is_file() else []
    except UserError:  # no labels file
        return
    if lost := sum(bool(label_of(row.label)) and rows.get(file, Row()).label != row.label for file, row in before):
        raise UserError(
            f"{option} {out} has {lost:,} label{'s' * (lost > 1)} that would be lost; give it to --labels, or choose "
            "another name"
        )


def _one_hot(header: list[str], lines: list[list[str]]) -> list[int]:
    """Return the places of columns that together give each row one class: one 1 and else zeros, or all cells empty."""
    rows = [[cell.strip().lower() for cell in line] for line in lines if len(line) == len(header)]
    places = [i for i, name in enumerate(header) if name and name not in COLUMNS]
    places = [i for i in places if {row[i] for row in rows} - {""} and {row[i] for row in rows} <= {"", *NO, *YES}]
    for row in rows:
        cells = [row[i] for i in places]
        if any(cells) and ("" in cells or sum(cell in YES for cell in cells) != 1):
            return []
    used = {i for row in rows for i in places if row[i] in YES}
    return places if len(used) > 1 else []


def _several_classes(header: list[str], lines: list[list[str]]) -> int:
    """Return the number of the first row of a table of zeros and ones that has several ones, or 0."""
    rows = [[cell.strip().lower() for cell in line] for line in lines if len(line) == len(header)]
    places = [i for i, name in enumerate(header) if name and name not in COLUMNS]
    places = [i for i in places if {row[i] for row in rows} <= {"", *NO, *YES}]
    return next((n for n, row in enumerate(rows, 2) if sum(row[i] in YES for i in places) > 1), 0)


def _content(path: Path) -> bytes:
    try:
        return regular_bytes(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(f"--labels {shown(path)} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _lines(content: bytes, path: Path) -> list[list[str]]:
    """Return the cells of each line of a CSV file with commas, semicolons or tabs; at least one line.

    A first line "sep=;", as Excel writes it, and lines before the header that begin with # are skipped.
    """
    what = f"--labels {shown(path)}"
    text = re.sub(r"\A(?:(?:sep=.|#.*)\r?\n)+", "", _text(content, what))
    head = text.partition("\n")[0]
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True))
    except csv.Error as error:
        raise UserError(f"{what} is not a readable CSV file: {error}") from None
    if not lines:
        raise UserError(f"{what} is empty; expected a header line with file,label and a line for each image")
    return lines


def _header(cells: list[str], path: Path) -> list[str]:
    """Return the names of the columns from the cells of the first line; used ones are spelled as in `COLUMNS`."""
    what = f"--labels {shown(path)}"
    header = [re.sub(r"[\s-]+", "_", name.strip().lower()) for name in cells]
    for column, spellings in (("file", FILE_COLUMNS), ("label", LABEL_COLUMNS)):
        if used := next((name for name in spellings if name in header), None):
            header = [column if name == used else name for name in header]
    if "file" not in header:
        hint = "" if len(cells) > 1 else ", separated by commas, semicolons or tabs"
        raise UserError(
            f"{what} has no column 'file' but {_names(cells)}; expected a header line with file,label{hint}"
        )
    if twice := [name for name in COLUMNS if header.count(name) > 1]:
        raise UserError(f"{what} has two columns '{twice[0]}'")
    return header


def _names(cells: list[str]) -> str:
    return listed([name.strip()[:40] for name in cells], 8)


def _text(content: bytes, what: str) -> str:
    """Return the text of a file in UTF-8, in UTF-16 with a byte order mark, or else in Windows-1252.

    Excel's plain "CSV" is Windows-1252 in Western Europe. A file that is neither is refused: bytes that Windows-1252
    does not define, or control characters.
    """
    try:
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return content.decode("utf-16")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        try:
            text = content.decode("cp1252")
            if any(c < " " and c not in "\t\r\n" for c in text):
                raise ValueError
        except ValueError:
            raise UserError(f"{what} is not text (byte {error.start:,}); save it as CSV UTF-8") from None
        return text
