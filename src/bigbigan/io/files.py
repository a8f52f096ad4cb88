"""Write files and folders atomically, lock them, and read regular files only.

Writing: a temporary file next to the target is forced to disk and renamed; it is removed on any error. A full disk, a
missing permission and the like become an error of one line that names the folder.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import shutil
import stat
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from safetensors import SafetensorError

from bigbigan.errors import RunError, UserError
from bigbigan.io.locking import lock_exclusive

__all__ = [
    "DISK_FULL",
    "lock",
    "open_regular",
    "regular_bytes",
    "sha256_of",
    "sync",
    "write_error",
    "write_text",
    "writing",
    "writing_folder",
]

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
WINDOWS = os.name == "nt"
# Without waiting, as a pipe without a writer would block; in binary on Windows.
OPEN_FLAGS = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
TEMPORARY = ".writing-"  # how the names of temporary files begin
STALE = 3600  # seconds since its last change, after which a temporary file must be from a killed process


@contextmanager
def writing(path: Path, durable: bool = True) -> Iterator[Path]:
    """Write the file `path`: the block writes to the path it is given, which is then renamed.

    The file gets the permissions that the umask allows, whatever the block's writer sets.

    Args:
        path: the file; its folder is made if it is missing.
        durable: force it to disk before it is renamed. False for pictures, which are many and can be made again.

    Raises:
        RunError: the disk is full or broken.
        UserError: the file cannot be written for another reason, such as a missing permission.
    """
    temporary = _temporary(path)
    try:
        if path.exists() and not path.is_file():
            what = "a directory" if path.is_dir() else "not a regular file"
            raise UserError(f"{path} cannot be written: it is {what}; choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        if durable:
            _remove_stale(path)
        with temporary.open("wb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        yield temporary
        if stat.S_IMODE(temporary.stat().st_mode) != mode:  # safetensors writes files that only their owner can read
            temporary.chmod(mode)
        if durable:
            sync(temporary)
        os.replace(temporary, path)
        if durable:
            sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if (clear := write_error(error, path)) is not None:
            raise clear from error
        raise


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Write the folder `path`, which must be missing or empty; errors as in `writing`.

    The block fills the folder it is given, which is then renamed.
    """
    temporary = _temporary(path)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        if WINDOWS and path.is_dir():
            path.rmdir()  # empty; elsewhere renaming replaces it
        os.rename(temporary, path)
        sync(path.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if (clear := write_error(error.__cause__ or error, path)) is not None:  # of the folder, not of a file in it
            raise clear from error
        raise


def write_text(path: Path, text: str) -> None:
    r"""Write UTF-8 text; see `writing`. Characters that UTF-8 lacks (parts of file names) are written as \udc80."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_error(error: BaseException, path: Path) -> RunError | UserError | None:
    """Return what to raise instead of an error from writing `path`; None if it is not a file system error."""
    number = getattr(error, "errno", None)
    if isinstance(error, SafetensorError) and (found := re.search(r"os error (\d+)", str(error))):
        number = int(found[1])
    elif not isinstance(error, OSError) or number is None:
        return None
    assert number is not None
    folder = path.parent
    if number in DISK_FULL:
        free = ""
        with suppress(OSError):
            free = f" ({shutil.disk_usage(folder).free / 2**20:,.0f} MiB free)"
        return RunError(f"{path.name} cannot be written to {folder}{free}: {os.strerror(number)}; make room there")
    return UserError(f"{path} cannot be written: {os.strerror(number)}; choose another place")


def sync(path: Path) -> None:
    """Force a file or folder to disk, if its file system supports that; Windows does not for folders."""
    if WINDOWS and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
    finally:
        os.close(descriptor)


def lock(descriptor: int, name: Path) -> bool:
    """Lock an open file or folder without waiting; return False if another process has locked it.

    If the file system has no locks, warn and return True.
    """
    try:
        return lock_exclusive(descriptor)
    except OSError as error:
        warnings.warn(
            f"{name} cannot be locked ({error.strerror}): start no second process that writes there", stacklevel=2
        )
    return True


def _temporary(path: Path) -> Path:
    name = os.fsencode(f"{TEMPORARY}{os.getpid()}-{path.name}")
    return path.with_name(os.fsdecode(name[:200]))


def _remove_stale(path: Path) -> None:
    """Remove the temporary files of killed processes that were writing `path`."""
    for old in path.parent.glob(f"{TEMPORARY}*-{glob.escape(path.name)}"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > STALE:
                shutil.rmtree(old) if old.is_dir() else old.unlink()


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read its bytes. Raises ValueError for devices and pipes, which may have no end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | OPEN_FLAGS)
    except PermissionError:
        if WINDOWS and path.is_dir():  # which cannot be opened there
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path)) from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise ValueError("it is not a regular file")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a regular file, in hex.

    Raises:
        OSError, ValueError: as `open_regular`.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def regular_bytes(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file, or larger than `max_bytes`.
    """
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"file too large (over {max_bytes / 2**20:,g} MiB)")
    return content
