"""Find the trained models that come with this package, by the name of their experiment: `bigbigan list` shows them.

They are exported folders (`bigbigan export --compact`) in `bigbigan/pretrained`. Each has the SHA-256 of its weights,
which `bigbigan.load` checks.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["FOLDER", "pretrained_folder", "pretrained_names"]

FOLDER = Path(__file__).parents[1] / "pretrained"


def pretrained_names() -> list[str]:
    """Return the names of all trained models in this package, such as "small/fashion_mnist"."""
    return sorted(path.parent.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("model.json"))


def pretrained_folder(name: str | Path) -> Path | None:
    """Return the folder of a trained model in this package; None if there is none, or a local path of this name."""
    if str(name) not in pretrained_names() or Path(name).exists():
        return None
    return FOLDER / name
