"""Learn image features without labels by learning to generate images."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = ["Model", "__version__", "load", "train"]

if TYPE_CHECKING:
    from bigbigan.apps.train import train
    from bigbigan.inference.loading import load
    from bigbigan.inference.model import Model


def _let_waiting_threads_sleep() -> None:
    """Set OMP_WAIT_POLICY=passive, unless torch is loaded already or the user has chosen a policy.

    OpenMP's threads, by which torch computes on a CPU, otherwise spin at the end of each operation until all have
    arrived. When another program needs a core, they spin for the milliseconds in which one of them does not run, and a
    step takes ten times as long (docs/performance.md).
    """
    if "torch" not in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "passive"


_let_waiting_threads_sleep()


def __getattr__(name: str) -> Any:
    # Imported lazily, so that `bigbigan --help` and `bigbigan list` do not wait for torch.
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
