r"""Print safely: text from others (names, messages, paths) cannot control the terminal.

Control characters (ESC above all), line separators, marks that reverse the direction of text, and characters that the
terminal's encoding lacks are printed as \x1b, \u2028 and so on.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

__all__ = ["plain_output", "without_control"]

MARKS = "\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
CONTROL = re.compile(f"[\x00-\x1f{MARKS}]")
IN_TEXT = re.compile(f"[\x00-\x08\x0b-\x1f{MARKS}]")  # all but tab and line feed
MESSAGE = "bigbigan: "  # begins errors and warnings, which have one line each


def without_control(text: object) -> str:
    """Return `text` on one line, without control characters."""
    return CONTROL.sub(_escaped, str(text))


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode()


@contextmanager
def plain_output() -> Iterator[None]:
    """Make what is printed in this context safe, as the module says.

    This covers standard output, and errors and warnings on standard error. Progress bars need control characters and
    stay unchanged.
    """
    out, err = _Plain(sys.stdout, ""), _Plain(sys.stderr, MESSAGE)
    with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
        yield


class _Plain:
    """Wrap a text stream, and make text that begins with `start` safe; if `start` is not empty, on one line."""

    def __init__(self, stream: TextIO, start: str) -> None:
        self._stream, self._start = stream, start

    def write(self, text: str) -> int:
        if text.startswith(self._start):
            end = "\n" if text.endswith("\n") else ""
            text = without_control(text.removesuffix(end)) + end if self._start else IN_TEXT.sub(_escaped, text)
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
