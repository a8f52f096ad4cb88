"""Reading of regular files alone: devices and pipes may have no end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["regular_bytes"]


def regular_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file, or larger than `most` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer would wait
    try:
        state = os.fstat(descriptor)
        if stat.S_ISDIR(state.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("not a regular file")
        if state.st_size > most:
            raise ValueError(f"file too large (over {most / 2**20:g} MiB)")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(most + 1)
    finally:
        os.close(descriptor)
    if len(content) > most:  # it has grown meanwhile
        raise ValueError(f"file too large (over {most / 2**20:g} MiB)")
    return content
