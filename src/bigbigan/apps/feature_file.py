"""Write the file of `encode` batch by batch: a table with a row for each image, as .npz, .csv or .parquet.

Memory does not grow with the number of rows, except for a reference to each name. Nothing here needs torch.
"""

from __future__ import annotations

import csv
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from bigbigan.apps.rows_on_disk import RowsOnDisk
from bigbigan.data.csv_cells import cell
from bigbigan.errors import UserError
from bigbigan.io import writing

__all__ = ["FEATURES", "SCORES", "Rows", "check_request", "writing_features"]

FEATURES = ("avepool_feat", "bn_crelu_feat", "z_mean")
SCORES = ("anomaly_score", "reconstruction_error", "score_x", "score_z", "score_xz")  # one number for each image
ROW_GROUP = 2**25  # bytes of numbers in a row group of a .parquet file
NAMES_AT_ONCE = 10_000  # how many names are padded to the fixed width of an .npz file at a time


@dataclass
class Rows:
    """Hold some images and their features.

    Attributes:
        files, splits, classes: a name for each image; the class is "" if there is no label.
        labels: class numbers, int64 [n], -1 if there is no label.
        features: features by name, float32 [n, d]; a score is [n].
    """

    files: list[str]
    splits: list[str]
    labels: np.ndarray
    classes: list[str]
    features: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.files)


Write = Callable[[Rows], None]


def check_request(out: Path, features: Sequence[str] | None) -> None:
    """Raise UserError if the file has no known ending, a feature is unknown, or a package is missing."""
    if (kind := out.suffix.lower()) not in FORMATS:
        raise UserError(f"--out {out}: expected a name ending in .npz, .csv or .parquet")
    if unknown := sorted(set(features or ()) - {*FEATURES, *SCORES}):
        raise UserError(f"--features {','.join(unknown)}: unknown; known are {', '.join((*FEATURES, *SCORES))}")
    if kind == ".parquet":
        try:
            import pandas  # noqa: F401
            import pyarrow  # noqa: F401
        except ImportError:
            raise UserError("writing .parquet needs pandas and pyarrow: pip install 'bigbigan[parquet]'") from None


@contextmanager
def writing_features(out: Path, raw_cells: bool = False) -> Iterator[Write]:
    """Open a file of features for writing; the block calls the yielded function with each batch of rows.

    .npz has an array for each feature ([N, d], for a score [N]) and `file`, `split`, `class` (its name, "" if there is
    none) and `class_number` (-1 if there is none). .csv and .parquet have a column for each number, named feature_0,
    feature_1, ... or as the score, and an empty class_number if there is none. In .csv, names that a spreadsheet takes
    for formulas are written as `bigbigan.data.csv_cells.cell` does, unless `raw_cells`.

    Raises:
        UserError, RunError: the file cannot be written (`bigbigan.io.writing`). No incomplete file is left.
    """
    with writing(out) as temporary, FORMATS[out.suffix.lower()](temporary, raw_cells) as write:
        yield write


@contextmanager
def _npz(path: Path, raw_cells: bool) -> Iterator[Write]:
    """Write each array to a file of its own, since the number of rows is known only at the end; then copy them."""
    texts: dict[str, list[str]] = {"file": [], "split": [], "class": []}
    arrays: dict[str, RowsOnDisk] = {}
    with ExitStack() as stack:

        def write(rows: Rows) -> None:
            for name, names in zip(texts, (rows.files, rows.splits, rows.classes), strict=True):
                texts[name] += names
            for name, values in (rows.features | {"class_number": rows.labels}).items():
                if name not in arrays:
                    arrays[name] = stack.enter_context(closing(RowsOnDisk(path.parent)))
                arrays[name].append(values)

        yield write
        count = len(texts["file"])
        with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
            for name in ("file", "split", "class", "class_number", *(n for n in arrays if n != "class_number")):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    if name in texts:
                        width = max(1, *map(len, texts[name]), 1)
                        _header(member, np.dtype(f"U{width}"), (count,))
                        for start in range(0, count, NAMES_AT_ONCE):
                            part = texts[name][start : start + NAMES_AT_ONCE]
                            member.write(np.array(part, dtype=f"U{width}").data)
                    else:
                        rows = arrays[name]
                        _header(member, rows.dtype, rows.shape)
                        rows.file.seek(0)
                        shutil.copyfileobj(rows.file, member, 2**20)


def _header(member: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Write the header of an array in a .npy file."""
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, about)


@contextmanager
def _csv(path: Path, raw_cells: bool) -> Iterator[Write]:
    as_cell = str if raw_cells else cell
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as text:
        writer = csv.writer(text)
        header: list[str] = []

        def write(rows: Rows) -> None:
            columns = _columns(rows)
            if not header:
                header.extend(["file", "split", "class", "class_number", *columns])
                writer.writerow(header)
            numbers = np.stack(list(columns.values()), axis=1)
            template = ",".join(["%.6g"] * len(columns))
            for i, row in enumerate(numbers.tolist()):
                number = "" if rows.labels[i] < 0 else rows.labels[i]
                texts = (as_cell(rows.files[i]), as_cell(rows.splits[i]), as_cell(rows.classes[i]), number)
                writer.writerow([*texts, *(template % tuple(row)).split(",")])

        yield write


@contextmanager
def _parquet(path: Path, raw_cells: bool) -> Iterator[Write]:
    import pandas as pd
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    waiting: list[Rows] = []
    with ExitStack() as stack:
        files: list[Any] = []

        def group() -> None:
            """Write the waiting rows as a row group."""
            labels = np.concatenate([rows.labels for rows in waiting])
            known = pd.array(labels, dtype="Int64")
            known[labels < 0] = pd.NA
            frame: dict[str, Any] = {
                "file": [name for rows in waiting for name in rows.files],
                "split": [name for rows in waiting for name in rows.splits],
                "class": [name for rows in waiting for name in rows.classes],
                "class_number": known,
            }
            each = [_columns(rows) for rows in waiting]
            frame |= {name: np.concatenate([columns[name] for columns in each]) for name in each[0]}
            table = pa.Table.from_pandas(pd.DataFrame(frame), preserve_index=False)
            if not files:
                files.append(stack.enter_context(ParquetWriter(path, table.schema)))
            files[0].write_table(table)
            waiting.clear()

        def write(rows: Rows) -> None:
            waiting.append(rows)
            if sum(values.nbytes for rows in waiting for values in rows.features.values()) >= ROW_GROUP:
                group()

        yield write
        if waiting:
            group()


def _columns(rows: Rows) -> dict[str, np.ndarray]:
    """Return a column for each number of the features, by its name."""
    columns: dict[str, np.ndarray] = {}
    for name, values in rows.features.items():
        if values.ndim == 1:
            columns[name] = values
        else:
            columns |= {f"{name}_{i}": values[:, i] for i in range(values.shape[1])}
    return columns


FORMATS: dict[str, Callable[[Path, bool], AbstractContextManager[Write]]] = {
    ".npz": _npz,
    ".csv": _csv,
    ".parquet": _parquet,
}
