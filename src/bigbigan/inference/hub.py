"""Exported models on the Hugging Face Hub: owner/name, or owner/name@revision, to a folder of this machine.

Weights are safetensors and settings JSON; no other file of a repository is fetched, and none is executed.
"""

from __future__ import annotations

import re
from pathlib import Path

from bigbigan.errors import UserError

__all__ = ["download", "is_hub_name"]

PART = r"(?![-.])[\w.-]{1,96}"
NAME = re.compile(rf"{PART}/{PART}(@[\w./-]+)?", re.ASCII)
NEEDED = ("config.json", "model.json", "model.safetensors")
PATIENCE = 10  # seconds until a Hub that does not answer counts as out of reach


def is_hub_name(run: str | Path) -> bool:
    """Whether this is a name on the Hub: of the form, nothing here, and its owner no folder here.

    The last is for runs/typo: what is meant for this machine is not looked for on another.
    """
    return bool(NAME.fullmatch(str(run))) and not Path(run).exists() and not Path(run).parent.exists()


def download(name: str) -> Path:
    """The folder of an exported model, from the Hub or, where that is out of reach, from an earlier download.

    Args:
        name: owner/name or owner/name@revision: a branch, a tag or a commit.

    Raises:
        UserError: huggingface_hub is missing, the Hub is out of reach, or it has no such exported model.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError:
        raise UserError(
            f"{name} is not a folder here: expected a run (train --out) or an exported model; "
            "one on the Hugging Face Hub needs: pip install 'bigbigan[hub]'"
        ) from None
    repo, _, revision = name.partition("@")
    unreached: Exception | None = None
    files: set[str] = set(NEEDED)
    try:
        # Asked first for its patience, which snapshot_download has not, and to fetch nothing of another kind of model.
        info = HfApi().model_info(repo, revision=revision or None, timeout=PATIENCE)
        files = {file.rfilename for file in info.siblings or ()}
    except GatedRepoError:
        raise UserError(f"{name} on the Hugging Face Hub is gated: ask for access there, then: hf auth login") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{name} is not a folder here, and the Hugging Face Hub shows no such repository; a private one needs: "
            "hf auth login"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{repo} on the Hugging Face Hub has no revision {revision}") from None
    except Exception as error:  # of whichever HTTP library this version of huggingface_hub is built on
        unreached = error
    if missing := [file for file in NEEDED if file not in files]:
        raise UserError(f"{name} on the Hugging Face Hub is not a model exported by bigbigan: it has no {missing[0]}")
    try:
        folder = snapshot_download(
            repo,
            revision=revision or None,
            allow_patterns=[*NEEDED, "README.md"],
            local_files_only=unreached is not None,
        )
    except Exception as error:
        why = " ".join(str(unreached or error).split())[:200]
        raise UserError(
            f"{name} is not a folder here, and cannot be had from the Hugging Face Hub "
            f"({type(unreached or error).__name__}: {why})"
        ) from None
    return Path(folder)
