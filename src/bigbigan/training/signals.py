"""Stop training on a signal, with its state saved."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

from torch.distributed import is_torchelastic_launched

__all__ = ["Stop", "Stopped"]

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGBREAK")


class Stopped(BaseException):
    """Report a signal that came before the first step: there is nothing to save.

    Like KeyboardInterrupt this is not an `Exception`, which image decoding would take for a damaged image.
    """


class Stop:
    """Turn a signal into a request to save and end; a second signal ends the process at once.

    Signals are SIGINT, SIGTERM, SIGHUP (the terminal was closed; ignored under nohup) and SIGUSR1 (schedulers send it
    before they take a machine away); on Windows, which lacks the last two, SIGBREAK (Ctrl-Break). Under torchrun a
    second signal is ignored: torchrun forwards signals that its processes may have received already, and ends them
    itself after 30 seconds. While there is `nothing_to_save`, the first signal raises `Stopped`.

    Use as a context manager. `signal` is the number of the signal received, or None.
    """

    def __init__(self, nothing_to_save: bool = False) -> None:
        self.signal: int | None = None
        self.nothing_to_save = nothing_to_save
        self._previous: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and not is_torchelastic_launched():
            sys.exit(128 + number)
        first, self.signal = self.signal is None, number
        if first and self.nothing_to_save:
            raise Stopped

    def __enter__(self) -> Stop:
        try:
            for name in SIGNALS:
                number = getattr(signal, name, None)
                if number is not None and (name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN):
                    self._previous[number] = signal.signal(number, self._handle)
        except ValueError:  # not in the main thread: the caller handles signals
            pass
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
