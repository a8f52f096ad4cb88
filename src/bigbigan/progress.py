"""Show progress: a bar on a terminal; in a log file a line every 30 seconds, as a bar would be thousands of lines."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

__all__ = ["Bar"]

SECONDS = 30.0  # between two lines of a log file


class Bar(tqdm):
    """tqdm's progress bar, on standard error unless `file` is given."""

    last_print_t: float  # of tqdm, which has no types

    def __init__(self, *args: Any, **settings: Any) -> None:
        file = settings.get("file") or sys.stderr
        if not _is_terminal(file):
            settings |= {"mininterval": SECONDS, "maxinterval": SECONDS}
        super().__init__(*args, dynamic_ncols=True, **settings)
        self._task = "" if self.disable else (self.desc or "").removesuffix(": ")

    def part(self, name: str) -> None:
        """Show the name of the part of the work that begins now: "evaluate: nearest neighbours".

        In a log file it is shown if the last line is 30 seconds old: a part of a long evaluation may take minutes.
        """
        if not self.disable:
            due = _is_terminal(self.fp) or self._time() - self.last_print_t >= self.mininterval
            self.set_description(f"{self._task}: {name}", refresh=due)
            if due:
                self.last_print_t = self._time()

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        """Return the function that prints a state of the bar: in place on a terminal, else as a line."""
        if _is_terminal(file):
            printer: Callable[[str], None] = tqdm.status_printer(file)
            return printer

        def print_line(text: str) -> None:
            if text.strip():
                file.write(text.rstrip() + "\n")
                file.flush()

        return print_line

    def clear(self, *args: Any, **settings: Any) -> None:
        """Clear the bar on a terminal; lines of a log file stay."""
        if _is_terminal(self.fp):
            super().clear(*args, **settings)


def _is_terminal(file: Any) -> bool:
    try:
        return bool(file.isatty())
    except (AttributeError, ValueError):  # not a whole file object, or closed
        return False
