"""Learn image features without labels by learning to generate images."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

__all__ = ["Model", "__version__", "load", "train"]

if TYPE_CHECKING:
    from bigbigan.apps.train import train
    from bigbigan.inference.loading import load
    from bigbigan.inference.model import Model

    __version__: str


def _let_waiting_threads_sleep() -> None:
    """Set OMP_WAIT_POLICY=passive if other programs compute, unless torch is loaded or the user has chosen a policy.

    The OpenMP threads of torch on a CPU otherwise spin at the end of each operation until all have
    arrived. When another program needs a core, they spin for the milliseconds in which one of them does not run, and a
    step takes several times as long. On a machine of their own, threads that sleep take longer to wake than others
    spin, and a step of small networks takes twice as long (docs/notes/performance.md).
    """
    chosen = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys()
    if "torch" not in sys.modules and not chosen and _others_compute():
        os.environ["OMP_WAIT_POLICY"] = "passive"


def _others_compute(load: Path = Path("/proc/loadavg")) -> bool:
    """Return whether other programs use the CPU now; True if the system does not report it.

    Linux counts what runs or waits for a core at this moment, this process included, as in "0.20 0.18 0.12 1/80 11206".
    """
    try:
        for _ in range(5):
            if int(load.read_text().split()[3].split("/")[0]) <= 1:
                return False
            time.sleep(0.002)
    except (OSError, ValueError, IndexError):
        pass
    return True


_let_waiting_threads_sleep()


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    # Imported lazily, so that `bigbigan --help` and `bigbigan list` wait neither for torch nor for importlib.metadata.
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("bigbigan")  # from the newest tag when it was installed
        except PackageNotFoundError:  # a copy of the source on the path
            return "unknown"
    if name == "Model":
        from bigbigan.inference.model import Model

        return Model
    if name == "load":
        from bigbigan.inference.loading import load

        return load
    if name == "train":
        from bigbigan.apps.train import train

        return train
    raise AttributeError(f"module 'bigbigan' has no attribute {name!r}")
