"""Seal the names in a run, to know whether its data.json was written here, by this user.

A run folder may come from anybody. Its data.json names folders, files and addresses, and its config.json may name the
user's own code (`bigbigan.user_code`), which data.json repeats. `train` seals these names with
a key that stays in this user's home. Names without the seal are opened only if the user gives them on the command line
(`bigbigan.training.run_folder.source_and_labels`), and code without the seal is imported only if the user trusts it.

The key is made when it is first needed: 32 random bytes in $XDG_STATE_HOME/bigbigan/key, by default
~/.local/state/bigbigan/key, readable only by this user. Whoever can read it can write runs that count as this user's
own. Without the key, own runs ask for --data; nothing else is lost.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from bigbigan.errors import UserError
from bigbigan.io import read_json, regular_bytes
from bigbigan.user_code import refuse_untrusted

__all__ = ["is_sealed", "key_file", "refuse_foreign_code", "seal"]

LENGTH = 32  # bytes of the key


def key_file() -> Path:
    """Return the path of the user's key, which may not exist."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "bigbigan" / "key"


def seal(card: Mapping[str, Any]) -> str:
    """Return the seal of the names in a data card, hexadecimal; "" if the user's key cannot be stored."""
    key = _key(make=True)
    return "" if key is None else hmac.new(key, _names(card), hashlib.sha256).hexdigest()


def is_sealed(card: Mapping[str, Any]) -> bool:
    """Return whether a data card, which is untrusted, has this user's seal on its names."""
    key, found = _key(make=False), card.get("seal")
    if key is None or not isinstance(found, str):
        return False
    return hmac.compare_digest(found.encode(), hmac.new(key, _names(card), hashlib.sha256).hexdigest().encode())


def refuse_foreign_code(names: Sequence[str], file: Path, modules: Collection[str] = ()) -> None:
    """Raise UserError if the config.json `file` names code that the user did not train with here, and does not trust.

    Args:
        names: the names of code in it, see `Config.own_code`.
        file: config.json; the data.json next to it has the seal.
        modules: modules and packages that the user trusts, besides those of `bigbigan.user_code.trusting`.
    """
    if not names:
        return
    try:
        card = read_json(file.with_name("data.json"), {"seal?": str, "code?": ([str], None)}, warn=False)
    except UserError:  # an exported model has none
        card = {}
    if not is_sealed(card) or not set(names) <= set(card.get("code") or ()):
        refuse_untrusted(names, file, modules)


def _names(card: Mapping[str, Any]) -> bytes:
    """Return the names in a card, as bytes in a canonical form."""
    labels = card.get("labels")
    labels = labels if isinstance(labels, Mapping) else {}
    names: list[Any] = [[part.get("spec"), part.get("path"), part.get("from_run")] for part in (card, labels)]
    return json.dumps([*names, code] if (code := card.get("code")) else names).encode()


def _key(make: bool) -> bytes | None:
    """Return this user's key, made if it is missing and `make`; None if there is none."""
    path = key_file()
    try:
        if make and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".key-{secrets.token_hex(8)}")
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(LENGTH))
            try:
                os.link(temporary, path)  # fails if another process was first
            except FileExistsError:
                pass
            finally:
                temporary.unlink()
        key = regular_bytes(path, LENGTH)
    except (OSError, ValueError, RuntimeError):  # RuntimeError: no home
        return None
    return key if len(key) == LENGTH else None
