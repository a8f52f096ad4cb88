"""Share a trained model on the Hugging Face Hub; `bigbigan.load("owner/name")` fetches it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from bigbigan.errors import UserError, type_and_message
from bigbigan.inference.hub import NAME
from bigbigan.integrations.export import UNKNOWN_LICENSE, export

__all__ = ["push_to_hub"]


def push_to_hub(
    run: str | Path,
    name: str,
    *,
    checkpoint: str = "newest",
    license: str = UNKNOWN_LICENSE,
    private: bool = True,
    onnx: bool = False,
    token: str | None = None,
) -> str:
    """Export a model and upload it to the Hub; return the address of the commit.

    Args:
        run: run folder, or an exported one.
        name: "owner/name" of the repository, which is made if it does not exist.
        checkpoint: "newest", "best" by the validation metric, or a step.
        license: the licence of the weights, as the Hub names it: "cc-by-4.0", "apache-2.0", ...
        private: make a new repository private; one that exists is left as it is.
        onnx: add ONNX files.
        token: an access token; by default the one of `hf auth login`.

    Raises:
        UserError: not a name, no such run, huggingface_hub is missing, or the Hub refuses.
    """
    if not NAME.fullmatch(name) or "@" in name:
        raise UserError(f"{name} is not a name on the Hugging Face Hub; expected owner/name")
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise UserError("push_to_hub needs: pip install 'bigbigan[hub]'") from None
    with TemporaryDirectory(prefix="bigbigan-") as folder:
        exported = export(Path(run), Path(folder) / "model", checkpoint=checkpoint, onnx=onnx, license=license)
        api = HfApi(token=token)
        try:
            api.create_repo(name, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=name, folder_path=exported, commit_message="Upload a model of bigbigan")
        except Exception as error:  # versions of huggingface_hub use different HTTP libraries
            raise UserError(
                f"{name} cannot be uploaded to the Hugging Face Hub ({type_and_message(error)}); "
                "log in with: hf auth login"
            ) from error
    return str(commit)
