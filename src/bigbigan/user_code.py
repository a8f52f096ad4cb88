"""Import the user's own code by name: "my_package.module:name", or "python:my_package.module:name".

Experiments, systems, encoders, data sets, metrics and loggers outside this package are all named in this way
(docs/extending.md). Modules are those that Python finds; the current folder is searched last.

Importing a module runs it. So a name is imported only if the user typed it, if the run that records it was trained
here by the user (`bigbigan.training.seal`), or if the user trusts its module: `--trust MODULE`, or
`bigbigan.load(run, trust=MODULE)`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from bigbigan.errors import UserError, type_and_message

__all__ = ["check_module", "import_named", "is_named", "message_and_place", "refuse_untrusted", "trusting"]

WORD = r"[^\W\d]\w*"
NAME = re.compile(rf"(?:python:)?(?!python:)({WORD}(?:\.{WORD})*):({WORD}(?:\.{WORD})*)")
TRUSTED: set[str] = set()  # modules that the user trusts, for this process


def is_named(text: str) -> bool:
    """Return whether a text has the form "MODULE:NAME" or "python:MODULE:NAME"."""
    return NAME.fullmatch(text) is not None


def import_named(text: str, expected: str) -> Any:
    """Return the object that "MODULE:NAME" names; its module is imported.

    Args:
        text: the name, with or without "python:".
        expected: what it should be, for the message, such as "a function that returns a Config".

    Raises:
        UserError: the text is no such name, there is no such module or object, or the module cannot be imported.
    """
    module_name, path = _parts(text, expected)
    check_module(text)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise _no_module(text, error.name) from None
        raise UserError(f"{text}: {module_name} imports {error.name}, which is not installed") from error
    except Exception as error:  # a module may raise anything
        raise UserError(f"{text}: {module_name} cannot be imported: {message_and_place(error)}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected {expected}"
            raise UserError(f"{text}: {module_name} has no {part}; {hint}")
        found = getattr(found, part)
    return found


def check_module(text: str) -> None:
    """Raise UserError if the package of the module that `text` names cannot be found; nothing is imported."""
    package = _parts(text)[0].partition(".")[0]
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()  # the file may be new
    try:
        missing = package not in sys.modules and importlib.util.find_spec(package) is None
    except ValueError:  # __spec__ is None, as that of a script
        missing = False
    if missing:
        raise _no_module(text, package)


def message_and_place(error: BaseException) -> str:
    """Return an error of the user's code as one line, with the place where it was raised."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
    return f"{type_and_message(error)}{place}"


@contextmanager
def trusting(modules: Iterable[str]) -> Iterator[None]:
    """Trust modules or packages within the context: names in files of others may then refer to them."""
    added = set(modules) - TRUSTED
    TRUSTED.update(added)
    try:
        yield
    finally:
        TRUSTED.difference_update(added)


def refuse_untrusted(names: Iterable[str], origin: object, modules: Collection[str] = ()) -> None:
    """Raise UserError if a file of others names code whose module the user does not trust.

    Args:
        names: the names in the file.
        origin: the file.
        modules: modules and packages to trust, besides those of `trusting`.
    """
    trusted = {*TRUSTED, *modules}
    for name in names:
        module = _parts(name)[0]
        if not any(f"{module}.".startswith(f"{known}.") for known in trusted):
            package = module.partition(".")[0]
            raise UserError(
                f"{origin} names Python code, {name}, which is not run unless you trust it: --trust {package} "
                f"(in Python: trust={package!r})"
            )


def _parts(text: str, expected: str = "Python code") -> tuple[str, str]:
    parts = NAME.fullmatch(text)
    if parts is None:
        raise UserError(f"{text}: expected MODULE:NAME, such as my_package.module:name: {expected}")
    return parts[1], parts[2]


def _no_module(text: str, module: str) -> UserError:
    return UserError(
        f"{text}: there is no module {module}, neither installed nor in the current folder ({os.getcwd()})"
    )
