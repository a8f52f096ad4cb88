"""Write files atomically, and read JSON files with checks of size and types.

Writing: a temporary file next to the target is forced to disk and renamed; it is removed on any error. A full disk, a
missing permission and the like become an error of one line that names the folder. Reading: JSON becomes typed values of
a bounded size, or an error of one line that names the file. Nothing that is read here can execute code.

JSON objects that others rely on carry a checksum of their content, "crc32". Reading removes it, and warns if the
content is not what was written: a bit on the disk has flipped, or somebody edited the file.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import reprlib
import shutil
import stat
import time
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from bigbigan.errors import RunError, UserError
from bigbigan.locking import lock_exclusive

__all__ = [
    "DISK_FULL",
    "append_lines",
    "checked",
    "lock",
    "open_regular",
    "parse_json",
    "read_json",
    "read_lines",
    "regular_bytes",
    "stamped",
    "sync",
    "unstamped",
    "warn_of_change",
    "warn_of_damage",
    "write_error",
    "write_json",
    "write_text",
    "writing",
    "writing_folder",
]

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
_NOT_JSON = (json.JSONDecodeError, UnicodeDecodeError)
NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
WINDOWS = os.name == "nt"
# Without waiting, as a pipe without a writer would block; in binary on Windows.
OPEN_FLAGS = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
TEMPORARY = ".writing-"  # how the names of temporary files begin
STALE = 3600  # seconds since its last change, after which a temporary file must be from a killed process
MAX_JSON_BYTES = 2**28  # bytes of a JSON file
MAX_LINES_BYTES = 2**30  # bytes of a file of JSON lines
STAMP = "crc32"  # the key of the checksum of an object


# -- writing ------------------------------------------------------------------------------------------------------


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


def write_json(path: Path, content: Any, stamp: bool = False) -> None:
    """Write JSON; see `writing`. `stamp` adds a checksum to an object, see `stamped`."""
    write_text(path, json.dumps(stamped(content) if stamp else content, indent=2) + "\n")


def append_lines(path: Path, lines: Iterable[Mapping[str, Any]], durable: bool = True, stamp: bool = False) -> None:
    """Append JSON objects to a file, one on each line, in one write; errors as in `writing`.

    If the last line was cut off, it is ended first. If the disk is full, a partial write is undone. `stamp` adds a
    checksum to each object, see `stamped`.
    """
    data = "".join(json.dumps(stamped(line) if stamp else line) + "\n" for line in lines).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            state = os.fstat(file.fileno())
            regular = stat.S_ISREG(state.st_mode)
            if regular and state.st_size and not _ends_a_line(path, state.st_size):
                data = b"\n" + data
            try:
                remaining = memoryview(data)
                while remaining:
                    remaining = remaining[file.write(remaining) :]
                if regular and durable:
                    sync(path)
            except OSError:
                if regular:
                    os.ftruncate(file.fileno(), state.st_size)
                raise
    except OSError as error:
        raise write_error(error, path) or error from error


def stamped(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the checksum of its content, by which `unstamped` detects a change."""
    as_read = json.loads(json.dumps(content))  # keys that are numbers become text, tuples become lists
    return {**content, STAMP: _checksum(as_read)}


def unstamped(content: Any) -> tuple[Any, bool]:
    """Take the checksum out of what was parsed from JSON.

    Returns the content, and whether it has changed since it was `stamped`; False without a checksum.
    """
    if not isinstance(content, dict) or STAMP not in content:
        return content, False
    remainder = {key: value for key, value in content.items() if key != STAMP}
    return remainder, content[STAMP] != _checksum(remainder)


def _checksum(content: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"


def _ends_a_line(path: Path, size: int) -> bool:
    with path.open("rb") as file:
        file.seek(size - 1)
        return file.read(1) == b"\n"


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


# -- reading ------------------------------------------------------------------------------------------------------


def read_json(path: Path, form: Any = Any, warn: bool = True) -> Any:
    """Return the content of a JSON file, which must have this form; see `checked`.

    Warns, unless `warn` is False, if an object has changed since it was written with a checksum.

    Raises:
        UserError: it is missing, too large, not JSON, or of another form.
    """
    try:
        content, changed = unstamped(parse_json(regular_bytes(path, MAX_JSON_BYTES)))
        content = checked(content, form)
        if changed and warn:
            warn_of_change(path)
        return content
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is {path.parent} the folder of a run (train --out)?") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); restore it from a copy") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}); restore it from a copy") from None


def read_lines(path: Path, form: Any) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Return (the objects of a file of JSON lines, the reasons of the lines that are damaged or have another form).

    The reasons are by line number. Both are empty if there is no file. Warns of lines that have changed since they were
    written with a checksum; they are among the objects.

    Raises:
        UserError: it cannot be read, or is larger than 1 GiB.
    """
    try:
        data = regular_bytes(path, MAX_LINES_BYTES)
    except FileNotFoundError:
        return [], {}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error})") from None
    lines, damaged, changed = [], dict[int, str](), list[int]()
    for number, text in enumerate(data.split(b"\n"), 1):
        if text.strip():
            try:
                line, differs = unstamped(parse_json(text))
                lines.append(checked(line, form))
                changed += [number] * differs
            except ValueError as error:
                damaged[number] = "it is not JSON" if isinstance(error, _NOT_JSON) else str(error)
    if changed:
        warn_of_change(f"{path}: {_numbered(changed)}")
    return lines, damaged


def warn_of_damage(path: Path, damaged: Mapping[int, str]) -> None:
    """Warn of the lines that `read_lines` skipped, with the reason for the first."""
    if damaged:
        numbers = list(damaged)
        warnings.warn(f"{path}: {_numbered(numbers)} cannot be read ({damaged[numbers[0]]}): skipped", stacklevel=3)


def warn_of_change(what: object) -> None:
    """Warn that the content of a file, or lines of it, is not what was written with a checksum."""
    warnings.warn(
        f"{what}: changed since it was written, and may be wrong; restore it from a copy (or, if the change was "
        f'intended, remove "{STAMP}" from it)',
        stacklevel=3,
    )


def _numbered(lines: list[int]) -> str:
    shown = ", ".join(map(str, lines[:5])) + (f" and {len(lines) - 5:,} more" if len(lines) > 5 else "")
    return f"{'lines' if len(lines) > 1 else 'line'} {shown}"


def parse_json(text: bytes | str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def checked(value: Any, form: Any, name: str = "") -> Any:
    """Return `value` if it has this form.

    Args:
        value: as parsed from JSON.
        form: a type; a tuple of alternative forms; [form] for a list; or a dictionary of forms by key for an object, in
            which "key?" may be missing and `str` stands for all other keys, which are otherwise ignored. None is null,
            Any is anything; a bool is not an int, an int is a float; numbers have 64 bits.
        name: of the value, for the message.

    Raises:
        ValueError: the value has another form; the message names the part and what was expected.
    """
    if form is Any:
        return value
    if isinstance(form, tuple):
        for alternative in form:
            with suppress(ValueError):
                return checked(value, alternative, name)
        raise ValueError(_unexpected(value, form, name))
    if isinstance(form, list):
        if not isinstance(value, list):
            raise ValueError(_unexpected(value, form, name))
        return [checked(item, form[0], f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(form, dict):
        if not isinstance(value, dict):
            raise ValueError(_unexpected(value, form, name))
        for key, key_form in form.items():
            plain = key if key is str else key.removesuffix("?")
            if plain is str:
                others = value.keys() - {k.removesuffix("?") for k in form if k is not str}
                for other in sorted(others):
                    checked(value[other], key_form, f"{name}.{other}".lstrip("."))
            elif plain in value:
                checked(value[plain], key_form, f"{name}.{plain}".lstrip("."))
            elif plain == key:
                raise ValueError(f"it has no {f'{name}.{key}'.lstrip('.')}")
        return value
    if form is None:
        fits = value is None
    elif form in (str, bool):
        fits = isinstance(value, form)
    else:
        fits = isinstance(value, form if form is int else (int, float)) and not isinstance(value, bool)
        fits = fits and (isinstance(value, float) or -(2**63) <= value < 2**63)
    if not fits:
        raise ValueError(_unexpected(value, form, name))
    return value


def _unexpected(value: Any, form: Any, name: str) -> str:
    words: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    words[None] = "null"

    def described(form: Any) -> str:
        if isinstance(form, tuple):
            return " or ".join(map(described, form))
        return "a list" if isinstance(form, list) else "an object" if isinstance(form, dict) else words[form]

    return f"{name or 'it'} is {reprlib.repr(value)}; expected {described(form)}"


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


def regular_bytes(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file, or larger than `max_bytes`.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > max_bytes:
            raise ValueError(f"file too large (over {max_bytes / 2**20:,g} MiB)")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:  # it has grown since
        raise ValueError(f"file too large (over {max_bytes / 2**20:,g} MiB)")
    return content
