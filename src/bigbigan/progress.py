"""Progress bars on a terminal; in a log file, where a bar would be thousands of lines, a line every 30 seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

__all__ = ["Bar"]

SECONDS = 30.0  # between two lines where there is no terminal


class Bar(tqdm):
    """tqdm's bar, see there; on standard error unless `file` says otherwise."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        file = settings.get("file") or sys.stderr
        if not _is_terminal(file):
            settings |= {"mininterval": SECONDS, "maxinterval": SECONDS}
        super().__init__(*args, **settings)

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        if _is_terminal(file):
            printer: Callable[[str], None] = tqdm.status_printer(file)
            return printer

        def print_line(text: str) -> None:
            if text.strip():
                file.write(text.rstrip() + "\n")
                file.flush()

        return print_line

    def clear(self, *args: Any, **settings: Any) -> None:
        if _is_terminal(self.fp):  # a line that is written stays
            super().clear(*args, **settings)


def _is_terminal(file: Any) -> bool:
    try:
        return bool(file.isatty())
    except (AttributeError, ValueError):  # not a whole file object, or closed
        return False
