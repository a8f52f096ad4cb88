"""Write tensors to safetensors files, whole or not at all, and check their names, shapes and types when they are read.

Nothing that is read here can execute code.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bigbigan.errors import UserError
from bigbigan.io import open_regular, writing

__all__ = ["check_tensors", "digest_of", "read_tensors", "save_tensors"]

MAX_HEADER = 2**24  # bytes of a header, which has about 100 for each tensor


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None, digest: bool = False
) -> None:
    """Write tensors as safetensors; see `writing`. `digest` adds the SHA-256 of their content to the metadata."""
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if digest:
        metadata = (metadata or {}) | {"sha256": digest_of(ready)}
    with writing(path) as temporary:
        save_file(ready, temporary, metadata=metadata)


def read_tensors(path: Path, prefix: str = "", digest: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file whose names start with `prefix`, and its metadata.

    Args:
        path: the file.
        prefix: of names; without it all tensors are read.
        digest: require the SHA-256 of the content that `save_tensors` records; if it is recorded, it is always checked.

    Raises:
        UserError: it cannot be read, is damaged, or its header is larger than 16 MiB.
    """
    try:
        with open_regular(path) as file:
            size, claimed = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
        if claimed > min(size, MAX_HEADER):
            raise ValueError("it does not begin as a safetensors file does")
        with safe_open(path, framework="pt") as tensors:
            metadata = tensors.metadata() or {}
            found = {key: tensors.get_tensor(key) for key in tensors.keys() if key.startswith(prefix)}  # noqa: SIM118
        recorded = metadata.get("sha256", "" if digest else None)
        if recorded is not None and not prefix and recorded != digest_of(found):
            raise ValueError("its content has changed since it was written" if recorded else "it records no SHA-256")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (SafetensorError, ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:200]})") from None
    return found, metadata


def check_tensors(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Check stored tensors against the tensors that will take their values.

    Args:
        stored: tensors by name.
        expected: tensors of the same names, shapes and types; they may be on the device "meta".
        what: the beginning of the message, such as "RUN does not fit its config.json".

    Raises:
        UserError: a name is missing or unknown, or a tensor has another shape or type or is not finite.
    """
    for name in sorted(stored.keys() | expected.keys()):
        if name not in stored or name not in expected:
            raise UserError(f"{what}: {name} is {'missing' if name not in stored else 'unknown'}")
        have, want = stored[name], expected[name]
        if have.shape != want.shape:
            raise UserError(f"{what}: {name} has shape {list(have.shape)}; expected {list(want.shape)}")
        if have.dtype != want.dtype:
            kinds = [str(dtype).removeprefix("torch.") for dtype in (have.dtype, want.dtype)]
            raise UserError(f"{what}: {name} is {kinds[0]}; expected {kinds[1]}")
        if not torch.isfinite(have).all():
            raise UserError(f"{what}: {name} has values that are not finite")


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors, with their names, types and shapes, in hexadecimal digits."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
