"""Runs work in forked processes that die on the way: at a random time, at a disk call, or in the middle of a write.

The parent has imported everything, so a death costs what the work costs and no start of Python. It must not have run
autograd, whose threads do not survive a fork.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Python's audit events of disk calls, by what they are called here; "fsync" has none and is patched.
EVENTS = {
    "open": "open",
    "os.rename": "rename",
    "os.remove": "unlink",
    "os.rmdir": "rmdir",
    "os.mkdir": "mkdir",
    "os.truncate": "truncate",
    "os.chmod": "chmod",
}
WRITES = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Death:
    """When a process dies. `kind` "time": `at` seconds after its start, by SIGKILL. "write": in the middle of a write,
    when a file grows beyond `at` bytes (SIGXFSZ of the kernel, not handled). Else the name of a disk call: before
    number `at` of these, counted from 1, by SIGKILL."""

    kind: str
    at: float


def run(work: Callable[[], Any], folder: Path, death: Death | None = None) -> tuple[int, Counter[str]]:
    """Do `work` in a forked process, which writes below `folder` and dies as `death` says.

    Returns:
        The exit code, 0 if `work` returned None, or minus the number of the signal that ended it; and without a `death`
        how many disk calls of each kind there were.

    Raises:
        AssertionError: `work` raised an error; its traceback is the message.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(f"{folder.name}.log")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.close(reading)
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(output, stream)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            counted = _arm(folder, death)
            ended = work()
            counts = " ".join(f"{kind}={count}" for kind, count in counted.items())
            os.write(writing, counts.encode())
            code = 0 if ended is None else int(ended)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    os.close(writing)
    if death is not None and death.kind == "time":
        time.sleep(death.at)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        counts = Counter({kind: int(count) for kind, count in (w.split("=") for w in pipe.read().decode().split())})
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code != 70, log.read_text(errors="replace")
    return code, counts


def _arm(folder: Path, death: Death | None) -> Counter[str]:
    """Make this process die at its disk call, or count the calls that concern `folder`."""
    counted: Counter[str] = Counter()
    where = os.fspath(folder)

    def called(kind: str) -> None:
        counted[kind] += 1
        if death is not None and death.kind == kind and counted[kind] == death.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        kind = EVENTS.get(event)
        if kind is None or not isinstance(path := arguments[0], str | bytes | os.PathLike | int):
            return
        if kind == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
            return
        if isinstance(path, int) or os.fsdecode(path).startswith(where) or not os.path.isabs(path):
            called(kind)

    def fsync(descriptor: int, original: Callable[[int], None] = os.fsync) -> None:
        called("fsync")
        original(descriptor)

    os.fsync = fsync
    sys.addaudithook(hear)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if death is not None and death.kind == "write":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(death.at), int(death.at)))
    return counted


def plan(rng: random.Random, counts: Counter[str], seconds: float, largest: int) -> Death:
    """Draw a death for work that takes so long, makes so many disk calls, and whose largest file has so many bytes."""
    kind = rng.choice(["time", "write", "write", *sorted(counts)])
    if kind == "time":
        return Death(kind, rng.uniform(0, seconds))
    if kind == "write":
        return Death(kind, int(largest ** rng.uniform(0.3, 1)))
    return Death(kind, rng.randint(1, counts[kind]))
