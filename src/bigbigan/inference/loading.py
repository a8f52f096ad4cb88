"""Load a trained model: from a run folder, an exported folder, this package, or the Hugging Face Hub."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bigbigan.config import Config, config_from_dict
from bigbigan.errors import UserError
from bigbigan.inference.exported import EXPORTED, HEAD, SCHEMA, WEIGHTS
from bigbigan.inference.head import Head
from bigbigan.inference.hub import download, is_hub_name
from bigbigan.inference.model import Model
from bigbigan.inference.pretrained import pretrained_folder
from bigbigan.io import read_json, sha256_of
from bigbigan.io.tensors import check_tensors, read_tensors
from bigbigan.models import Networks, construct
from bigbigan.training import checkpoint as ck
from bigbigan.training.devices import usable_device
from bigbigan.training.run_folder import CARD, read_card, read_config, warn_of_other_settings
from bigbigan.training.seal import refuse_foreign_code

__all__ = ["ABOUT", "class_names", "data_card", "load", "model_folder"]

PREFIXES = {"G": "G_ema.", "E": "E_ema.", "D": "D."}  # names of a model's weights in a checkpoint
ABOUT = {  # form of model.json, see `bigbigan.io.checked`
    "schema": int,
    "step": int,
    "images_seen": int,
    "weights_sha256": str,
    "config_sha256?": str,
    "networks?": [str],
    "weights_dtype?": str,
    "data?": CARD,
    "origin?": str,
}


@torch.inference_mode(False)  # weights made in inference mode could never be differentiated through
def load(
    run: str | Path,
    checkpoint: str | int = "newest",
    device: str | torch.device = "cpu",
    trust: str | Collection[str] = (),
) -> Model:
    """Load the model of a run folder, or of an exported one, from this machine or from the Hugging Face Hub.

    Args:
        run: folder made by `bigbigan train --out` or by `bigbigan export`; or, if there is no such folder here, the
            name of a trained model of this package ("small/fashion_mnist"), or "owner/name" or "owner/name@revision"
            of an exported one on the Hub.
        checkpoint: of a run: "newest", "best" by the metric in checkpoints/best.json, or the number of a saved step.
        device: the device of the networks.
        trust: modules or packages that the settings of a run from elsewhere may import its encoder from
            (`encoder.block`). A run that was trained here by this user needs none.

    Raises:
        UserError: no such folder or device, no valid checkpoint, weights that do not fit, or code that is not trusted
            or cannot be imported.
    """
    if not isinstance(run, str | os.PathLike):
        raise UserError(f"run is a {type(run).__name__}; expected the path of a run folder, or a name on the Hub")
    device = usable_device(device)
    trust = (trust,) if isinstance(trust, str) else trust
    run = model_folder(run)
    if (run / EXPORTED).exists():
        return _load_exported(run, checkpoint, trust).to(device)
    config = read_config(run)
    refuse_foreign_code(config.code_of_networks, run / "config.json", trust)

    def read(chosen: ck.Checkpoint) -> Model:
        info = chosen.info()
        stored = {letter: chosen.tensors("weights.safetensors", prefix) for letter, prefix in PREFIXES.items()}
        named = {letter: {k.removeprefix(PREFIXES[letter]): t for k, t in ts.items()} for letter, ts in stored.items()}
        model = Model(config, networks_with(config, named, chosen.path), chosen.step, info["images_seen"])
        warn_of_other_settings(run, info.get("settings", {}), config)
        return model

    model = ck.read_checkpoint(run, checkpoint, read)
    if model is None:
        raise UserError(f"{run} has no checkpoint yet; train it first: bigbigan train --out {run}")
    return model.to(device)


def model_folder(run: str | Path) -> Path:
    """Return the folder of what `load` takes; a model on the Hub is downloaded, if it was not before."""
    if (shipped := pretrained_folder(run)) is not None:
        return shipped
    return download(str(run).replace(os.sep, "/")) if is_hub_name(run) else Path(run)


def data_card(folder: Path) -> dict[str, Any]:
    """Return the record of the data that a run or an exported model was trained on, with the fields of `CARD`.

    Raises:
        UserError: it is missing or damaged.
    """
    exported = folder / EXPORTED
    return read_json(exported, ABOUT).get("data", {}) if exported.exists() else read_card(folder)


def class_names(run: str | Path, config: Config) -> list[str]:
    """Return the names of the classes that G draws, by number: numbers if no names are recorded; empty without labels.

    Args:
        run: what `load` takes.
        config: its settings.
    """
    if config.data.classes == 1:
        return []
    try:
        names = data_card(model_folder(run)).get("classes")
    except UserError:
        names = None
    return names or [str(k) for k in range(config.data.classes)]


def _load_exported(folder: Path, checkpoint: str | int, trust: Collection[str]) -> Model:
    if (schema := read_json(folder / EXPORTED, {"schema": int})["schema"]) != SCHEMA:
        raise UserError(f"{folder / EXPORTED} has schema {schema}, this version reads {SCHEMA}")
    about = read_json(folder / EXPORTED, ABOUT)
    if str(checkpoint) not in ("newest", str(about["step"])):
        raise UserError(
            f"checkpoint {checkpoint}: {folder} is an exported model, which has only step {about['step']}; "
            "expected no checkpoint"
        )
    config = config_from_dict(read_json(folder / "config.json", warn=False), str(folder / "config.json"))
    refuse_foreign_code(config.code_of_networks, folder / "config.json", trust)
    weights = folder / WEIGHTS
    try:
        if sha256_of(weights) != about["weights_sha256"]:
            raise UserError(f"{weights} is not the file that was exported (its SHA-256 differs); fetch it again")
        changed = about.get("config_sha256") not in (None, sha256_of(folder / "config.json"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not a complete exported model ({type(error).__name__}: {error})") from None
    stored, _ = read_tensors(weights)
    if about.get("weights_dtype") == "float16":
        stored = {name: t.float() if t.dtype == torch.float16 else t for name, t in stored.items()}
    letters = about.get("networks", list(PREFIXES))  # a model may have no E or D; older ones have all three
    if not {"G", "E"} & set(letters):
        raise UserError(f"{folder} is not a complete exported model: it has neither generator nor encoder")
    named = {
        letter: {k.removeprefix(f"{letter}."): t for k, t in stored.items() if k.startswith(f"{letter}.")}
        for letter in letters
    }
    model = Model(config, networks_with(config, named, folder), about["step"], about["images_seen"])
    if (folder / HEAD).exists():
        model.head = Head.load(folder / HEAD)
        model.head.check(model.encoder, folder, folder / HEAD)
    if changed:
        warnings.warn(f"{folder / 'config.json'} is not the file that was exported: fetch it again", stacklevel=3)
    return model


def networks_with(config: Config, weights: dict[str, dict[str, Tensor]], origin: Path) -> Networks:
    """Return the networks of a config with these weights by letter; E or D without weights are None.

    Raises:
        UserError: no networks have these settings, or the weights do not fit; `origin` is named in messages.
    """
    try:
        with torch.device("meta"):  # initialising weights that are then replaced takes minutes for full-size networks
            networks = construct(config)
    except (TypeError, ValueError, RuntimeError) as error:  # settings that no network can have
        reason = str(error).splitlines()[0]
        raise UserError(f"{origin}: no networks can be built from its config.json ({reason})") from None
    for letter, network in networks.present().items():
        if letter in weights:
            _fill(network, weights[letter], origin)
    return Networks(networks.G, networks.E if "E" in weights else None, networks.D if "D" in weights else None)


def _fill(network: nn.Module, tensors: dict[str, Tensor], origin: Path) -> None:
    check_tensors(tensors, network.state_dict(), f"{origin} does not fit the networks of its config.json")
    # Copies, because the alignment of tensors in a file would select other kernels, which round differently.
    network.load_state_dict({name: t.clone() for name, t in tensors.items()}, assign=True)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
