"""Keep arrays with more rows than fit in memory in temporary files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np

__all__ = ["RowsOnDisk"]


class RowsOnDisk:
    """Hold an array [N, ...] that grows by rows, in an unnamed file that is removed when it is closed.

    Args:
        folder: the folder of the file. It should be on the disk of the output, as temporary folders are often in
            memory.

    Attributes:
        shape, dtype: of the array so far; `(0,)` and float32 before the first rows.
        file: the numbers, row by row, in the machine's byte order.
    """

    def __init__(self, folder: Path) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by `close`)
        self.shape: tuple[int, ...] = (0,)
        self.dtype: np.dtype[Any] = np.dtype(np.float32)

    def append(self, rows: np.ndarray) -> None:
        """Append rows [n, ...]; the rows of all calls have the same type and length."""
        if self.shape[0]:
            assert (self.shape[1:], self.dtype) == (rows.shape[1:], rows.dtype)
        self.shape, self.dtype = (self.shape[0] + len(rows), *rows.shape[1:]), rows.dtype
        self.file.write(np.ascontiguousarray(rows).data)

    def array(self) -> np.ndarray:
        """Return the array so far as a memory map of the file; changes to it change the file."""
        self.file.flush()
        return np.memmap(self.file, self.dtype, "r+", shape=self.shape)

    def close(self) -> None:
        """Free the disk space."""
        self.file.close()
