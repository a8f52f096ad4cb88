"""Lock files and folders against other processes: with flock, or with msvcrt on Windows.

A lock ends with its process, however that ends. `filelock` has neither shared locks nor locks of folders.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["LOCK_FILE", "lock_exclusive", "lock_shared", "open_to_lock"]

fcntl: Any = None
msvcrt: Any = None
with suppress(ImportError):
    import fcntl  # not on Windows
with suppress(ImportError):
    import msvcrt  # only there

LOCK_FILE = ".lock"  # locked in place of its folder, where folders cannot be opened


def open_to_lock(folder: Path) -> int:
    """Return a descriptor to lock a folder by; close it with os.close, which also ends the lock.

    Where folders cannot be opened (Windows), it is that of a file ".lock" in the folder.
    """
    if fcntl is not None:
        return os.open(folder, os.O_RDONLY)
    return os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT)


def lock_exclusive(descriptor: int) -> bool:
    """Lock without waiting; return False if another process has locked it.

    Raises:
        OSError: the file system or the operating system has no locks.
    """
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt is not None:
            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # the first byte, which need not exist
        else:
            raise OSError(None, "this system has no file locks")
    except (BlockingIOError, PermissionError):
        return False
    return True


def lock_shared(descriptor: int) -> None:
    """Lock against `lock_exclusive`, but not against other shared locks.

    Raises:
        OSError: it is locked exclusively, or there are no such locks (as on Windows).
    """
    if fcntl is None:
        raise OSError(None, "this system has no shared locks")
    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
