"""Arrays of more rows than memory should hold, in temporary files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np

__all__ = ["RowsOnDisk"]


class RowsOnDisk:
    """An array [N, ...] that grows by rows, in a file without a name that vanishes when it is closed.

    Args:
        folder: where the file lies; on the disk of what is to be written, as temporary folders are often in memory.

    Attributes:
        shape, dtype: of the array so far; `(0,)` and float32 before the first rows.
        file: the numbers, row by row, as the machine orders their bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by `close`)
        self.shape: tuple[int, ...] = (0,)
        self.dtype: np.dtype[Any] = np.dtype(np.float32)

    def append(self, rows: np.ndarray) -> None:
        """Add rows [n, ...]; those of all calls are of one type and length."""
        if self.shape[0]:
            assert (self.shape[1:], self.dtype) == (rows.shape[1:], rows.dtype)
        self.shape, self.dtype = (self.shape[0] + len(rows), *rows.shape[1:]), rows.dtype
        self.file.write(np.ascontiguousarray(rows).data)

    def array(self) -> np.ndarray:
        """Return the rows so far, as a memory map of the file: changes to the array change the file."""
        self.file.flush()
        return np.memmap(self.file, self.dtype, "r+", shape=self.shape)

    def close(self) -> None:
        """Give the disk space back."""
        self.file.close()
