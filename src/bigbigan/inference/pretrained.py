"""Find the trained models of this package by name: `bigbigan list` shows them.

They are exported folders (`bigbigan export --compact`) in `bigbigan/pretrained`, named after their experiment, or after
their data if the experiment is for any data. Each has the SHA-256 of its weights, which `bigbigan.load` checks. A wheel
has the weights of the smaller models; those of the others are fetched once, from where the project is published.
"""

from __future__ import annotations

import os
import re
from importlib import metadata
from pathlib import Path

from bigbigan.data.readers.download import cache_folder, fetch_file
from bigbigan.errors import UserError
from bigbigan.inference.exported import EXPORTED, WEIGHTS
from bigbigan.io import read_json, sha256_of, writing

__all__ = ["FOLDER", "pretrained_folder", "pretrained_names"]

FOLDER = Path(__file__).parents[1] / "pretrained"
ADDRESS = "BIGBIGAN_MODELS"  # environment variable: where the folder `pretrained` can be fetched from


def pretrained_names() -> list[str]:
    """Return the names of all trained models in this package, such as "small/fashion_mnist"."""
    return sorted(path.parent.relative_to(FOLDER).as_posix() for path in FOLDER.rglob(EXPORTED))


def pretrained_folder(name: str | Path) -> Path | None:
    """Return the folder of a trained model of this package; None if there is none, or a local path of this name.

    Weights that are not in the package are fetched first, to $BIGBIGAN_CACHE/models.

    Raises:
        UserError: the weights cannot be fetched; the message says why and what to do.
    """
    if Path(name).exists() or (known := str(name).replace(os.sep, "/")) not in pretrained_names():
        return None
    folder = FOLDER / known
    return folder if (folder / WEIGHTS).exists() else _fetched(known)


def _fetched(name: str) -> Path:
    """Return a folder in the cache with the model's files in this package and its weights, fetched if need be."""
    digest = read_json(FOLDER / name / EXPORTED, {"weights_sha256": str})["weights_sha256"]
    folder = cache_folder() / "models" / name / digest[:12]  # weights of another version get another folder
    weights = folder / WEIGHTS
    if weights.exists() and sha256_of(weights) != digest:
        weights.unlink()  # damaged since
    address = os.environ.get(ADDRESS) or _published_at()
    if not weights.exists() and not address:
        raise UserError(
            f"{name}: its weights are not in this installation, which does not record where the project is published; "
            f"install from a clone, or set {ADDRESS} to the URL of the project's folder src/bigbigan/pretrained"
        )
    fetch_file(f"{address.rstrip('/')}/{name}/{WEIGHTS}", weights, digest)
    for file in (FOLDER / name).iterdir():
        with writing(folder / file.name) as temporary:
            temporary.write_bytes(file.read_bytes())
    return folder


def _published_at() -> str:
    """Return the URL of the folder of models at this version on GitHub, from the package's metadata; "" without one."""
    try:
        package = metadata.metadata("bigbigan")
    except metadata.PackageNotFoundError:  # the source on sys.path, not installed
        return ""
    urls = dict(line.split(", ", 1) for line in package.get_all("Project-URL", []))
    repository = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", urls.get("Homepage", ""))
    released = re.fullmatch(r"[\d.]+", package["Version"])
    at = f"v{package['Version']}" if released else "HEAD"
    return f"https://raw.githubusercontent.com/{repository[1]}/{at}/src/bigbigan/pretrained" if repository else ""
