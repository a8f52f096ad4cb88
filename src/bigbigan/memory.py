"""How much memory there is, and whether an error says that there was too little."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

__all__ = ["available", "out_of_memory"]

# What torch raises as a RuntimeError says one of these.
WORDS = ("can't allocate memory", "not enough memory", "CUDA out of memory", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")


def available() -> int | None:
    """Bytes of memory that this process can still have: what the machine has free and its control group (a container,
    a scheduler's job) allows. None where neither is known."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    for most, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # no such file, or "max"
            found.append(max(0, int(Path(most).read_text()) - int(Path(used).read_text())))
    return min(found, default=None)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, on the host or on a GPU."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)
    )
