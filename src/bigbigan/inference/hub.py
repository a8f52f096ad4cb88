"""Download exported models from the Hugging Face Hub: owner/name, or owner/name@revision, to a local folder.

Weights are safetensors and settings JSON; no other file of a repository is fetched, and none is executed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from bigbigan.errors import UserError, type_and_message
from bigbigan.inference.exported import EXPORTED, HEAD, WEIGHTS

__all__ = ["download", "is_hub_name"]

PART = r"(?![-.])[\w.-]{1,96}"
NAME = re.compile(rf"{PART}/{PART}(@[\w./-]+)?", re.ASCII)
NEEDED = ("config.json", EXPORTED, WEIGHTS)
OPTIONAL = ("README.md", HEAD)
TIMEOUT = 10  # seconds until a Hub that does not answer counts as unreachable


def is_hub_name(run: str | Path) -> bool:
    """Return whether this is a name on the Hub: it has the form, and neither it nor its owner is a local path.

    The last condition is for runs/typo: a path with a typing error is not looked up on the Hub.
    """
    return (
        bool(NAME.fullmatch(str(run).replace(os.sep, "/"))) and not Path(run).exists() and not Path(run).parent.exists()
    )


def download(name: str) -> Path:
    """Return the folder of an exported model, from the Hub or, if that is unreachable, from an earlier download.

    Args:
        name: owner/name or owner/name@revision: a branch, a tag or a commit.

    Raises:
        UserError: huggingface_hub is missing, the Hub is unreachable, or it has no such exported model.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError:
        raise UserError(
            f"{name} is not a local folder: expected a run (train --out) or an exported model; "
            "one on the Hugging Face Hub needs: pip install 'bigbigan[hub]'"
        ) from None
    repo, _, revision = name.partition("@")
    unreached: Exception | None = None
    files: set[str] = set(NEEDED)
    try:
        # Called first for its timeout, which snapshot_download does not have, and to fetch no other kind of model.
        info = HfApi().model_info(repo, revision=revision or None, timeout=TIMEOUT)
        files = {file.rfilename for file in info.siblings or ()}
    except GatedRepoError:
        raise UserError(f"{name} on the Hugging Face Hub is gated: ask for access there, then: hf auth login") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{name} is not a local folder, and the Hugging Face Hub shows no such repository; a private one needs: "
            "hf auth login"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{repo} on the Hugging Face Hub has no revision {revision}") from None
    except Exception as error:  # versions of huggingface_hub use different HTTP libraries
        unreached = error
    if missing := [file for file in NEEDED if file not in files]:
        raise UserError(f"{name} on the Hugging Face Hub is not a model exported by bigbigan: it has no {missing[0]}")
    try:
        folder = snapshot_download(
            repo,
            revision=revision or None,
            allow_patterns=[*NEEDED, *OPTIONAL],
            local_files_only=unreached is not None,
        )
    except Exception as error:
        raise UserError(
            f"{name} is not a local folder, and cannot be fetched from the Hugging Face Hub "
            f"({type_and_message(unreached or error)})"
        ) from None
    return Path(folder)
