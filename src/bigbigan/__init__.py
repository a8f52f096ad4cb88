"""Learn image features without labels by learning to generate images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load"]

if TYPE_CHECKING:
    from bigbigan.inference.loading import load
    from bigbigan.inference.model import Model


def __getattr__(name: str) -> Any:
    # Imported lazily, so that `bigbigan --help` and `bigbigan list` do not wait for torch.
    if name == "Model":
        from bigbigan.inference.model import Model

        return Model
    if name == "load":
        from bigbigan.inference.loading import load

        return load
    raise AttributeError(f"module 'bigbigan' has no attribute {name!r}")
