"""Write and read JSON and JSON lines: atomically, with bounds on size, types and checksums.

What is read becomes typed values, or an error of one line that names the file. Objects that others rely on carry a
checksum of their content, "crc32". Reading removes it, and warns if the content is not what was written: a bit on the
disk has flipped, or somebody edited the file.
"""

from __future__ import annotations

import json
import os
import reprlib
import stat
import warnings
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bigbigan.errors import UserError
from bigbigan.io import files
from bigbigan.io.files import regular_bytes, write_error, write_text

__all__ = [
    "append_lines",
    "checked",
    "parse_json",
    "read_json",
    "read_lines",
    "stamped",
    "unstamped",
    "warn_of_change",
    "warn_of_damage",
    "write_json",
]

_NOT_JSON = (json.JSONDecodeError, UnicodeDecodeError)
MAX_JSON_BYTES = 2**28  # bytes of a JSON file
MAX_LINES_BYTES = 2**30  # bytes of a file of JSON lines
STAMP = "crc32"  # the key of the checksum of an object


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
                    files.sync(path)
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
