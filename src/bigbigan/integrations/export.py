"""Export a trained model as a folder with weights, settings and a model card, which `bigbigan.load` reads.

    model.safetensors   averaged G and E, and D, if the model has them, by name ("G.seed.weight", ...); with --compact
                        in float16 and without D
    config.json         the settings it was trained with
    model.json          step, data set, networks, and the SHA-256 of the weights
    results.jsonl       its result lines, if it was evaluated
    head.safetensors    the saved classifier, if --head gives one (`bigbigan.inference.head`)
    encoder.onnx, generator.onnx, classifier.onnx    with --onnx, see `bigbigan.integrations.onnx`
    README.md           the model card
    samples.png         images that G made, for the card

The folder contains no path, host or user name of the machine it was trained on.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bigbigan
from bigbigan.data.names import shown
from bigbigan.errors import UserError
from bigbigan.evaluation.records import read_results
from bigbigan.image.grid import grid, save_image
from bigbigan.inference.exported import EXPORTED, HEAD, SCHEMA, WEIGHTS
from bigbigan.inference.head import Head
from bigbigan.inference.loading import ABOUT, load, model_folder
from bigbigan.inference.model import Model
from bigbigan.integrations.model_card import PICTURE, model_card
from bigbigan.integrations.onnx import require_onnx, write_onnx
from bigbigan.io import append_lines, read_json, sha256_of, write_json, write_text, writing_folder
from bigbigan.io.tensors import save_tensors
from bigbigan.models import Networks
from bigbigan.progress import Bar
from bigbigan.training.devices import default_device
from bigbigan.training.run_folder import KNOWN, read_card

__all__ = ["check_free", "export", "write_folder"]

UNKNOWN_LICENSE = "other"  # the Hub's word for a licence that it has no name for
LICENSE_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]{0,40}")  # it goes into the YAML of the card


def export(
    run: Path,
    out: Path,
    *,
    checkpoint: str = "newest",
    onnx: bool = False,
    progress: bool = False,
    head: Path | None = None,
    compact: bool = False,
    license: str = UNKNOWN_LICENSE,
) -> Path:
    """Write the model of a run to the folder `out`, which must not exist or be empty.

    Args:
        run: run folder, or the name of a model (`bigbigan.load`).
        out: folder to write.
        checkpoint: "newest", or "best" by the validation metric.
        onnx: whether to add E, G and the classifier as ONNX files.
        progress: show which part is being written.
        head: a file of `classify --save`; by default the one in `run`, if that is itself exported.
        compact: store matrices and kernels in float16, and leave out D of a model with E: about a quarter of the size.
        license: the licence of the weights for the card, as the Hub names it: "cc-by-4.0", "apache-2.0", ...

    Raises:
        UserError: no such run, a head of another encoder, `out` is not empty, or a package is missing; nothing is
            written.
        RunError: an ONNX file differs from the model; nothing is written.
    """
    check_free(out)
    if not LICENSE_NAME.fullmatch(license):
        raise UserError(f"--license {shown(license)}: expected a name such as cc-by-4.0, apache-2.0 or other")
    if onnx:
        require_onnx()
    run = model_folder(run)
    model = load(run, checkpoint, default_device())
    if compact:
        if head is not None or model.head is not None:
            raise UserError("--compact changes the encoder's weights: train the head on the exported model")
        model = rounded(model)
    if head is not None:
        model.head = Head.load(head)
        model.head.check(model.encoder, run, head)
    exported = read_json(run / EXPORTED, ABOUT) if (run / EXPORTED).exists() else {}  # if `run` is itself an export
    card = read_card(run) if (run / "data.json").exists() else exported.get("data", {})
    lines = [x for x in read_results(run / "results.jsonl") if x["subject"] != "trained" or x["steps"] == model.step]
    lines = [x for x in lines if not x["metric"].endswith("_head") or _is_of_head(x, model.head)]
    data = {key: card[key] for key in ("name", "images", "fingerprint") if key in card}
    if model.config.data.labels == "classes" and card.get("classes"):
        data["classes"] = card["classes"]  # the name of each class
    is_public = card.get("name") in KNOWN or str(card.get("spec", "")).startswith("hf:")
    return write_folder(
        model,
        out,
        data,
        origin=exported.get("origin", ""),
        lines=lines,
        onnx=onnx,
        progress=progress,
        compact=compact,
        license=license,
        is_public=is_public,
    )


def _is_of_head(line: dict[str, Any], head: Head | None) -> bool:
    """Return whether a result line of `classify --save` is of this saved head."""
    return head is not None and line.get("protocol", {}).get("head") == head.digest


def rounded(model: Model) -> Model:
    """Return the model with weights of two or more dimensions rounded to float16, and without D if it has E.

    Biases and batch norm statistics keep float32: they take little space, and variances may be below float16's range.

    Raises:
        UserError: a weight is outside float16's range.
    """
    networks = Networks(model.networks.G, model.networks.E, model.networks.D if model.networks.E is None else None)
    for letter, network in networks.present().items():
        for name, tensor in network.state_dict().items():
            if _is_large(tensor):
                tensor.copy_(tensor.half())
                if not torch.isfinite(tensor).all():
                    raise UserError(f"--compact: {letter}.{name} has values above 65504, which float16 cannot hold")
    return Model(model.config, networks, model.step, model.images_seen)


def _is_large(tensor: Tensor) -> bool:
    return tensor.ndim > 1 and tensor.dtype == torch.float32


def check_free(out: Path) -> None:
    """Raise UserError if `out` exists and is not an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} exists and is not an empty folder; choose another")


def write_folder(
    model: Model,
    out: Path,
    data: dict[str, Any],
    *,
    origin: str = "",
    lines: Sequence[dict[str, Any]] = (),
    onnx: bool = False,
    progress: bool = False,
    compact: bool = False,
    license: str = UNKNOWN_LICENSE,
    is_public: bool = True,
) -> Path:
    """Write a model as the folder `out`, atomically. The model may have fewer networks than its config.

    Args:
        model: the model, with its saved head if it has one.
        out: folder to write, which must not exist or be empty.
        data: "name" and "images" of its training data.
        origin: a sentence for the card on the source of the weights, if they were not trained by this package.
        lines: its result lines.
        onnx: whether to add E and G as ONNX files.
        progress: show which part is being written.
        compact: store in float16 what `rounded` has rounded.
        license: see `export`.
        is_public: whether others know the data by its name. Other data get a neutral name, such as own-1a2b3c4d, as
            their name is that of a file or folder here.
    """
    check_free(out)
    if not is_public and "name" in data:
        name, neutral = data["name"], f"own-{str(data.get('fingerprint', 'images'))[:8]}"
        data, lines = data | {"name": neutral}, [_renamed(line, name, neutral) for line in lines]
    weights = {
        f"{letter}.{name}": tensor.half() if compact and _is_large(tensor) else tensor
        for letter, network in model.networks.present().items()
        for name, tensor in network.state_dict().items()
    }
    with (
        writing_folder(out) as temporary,
        Bar(total=3 + onnx, desc="export", unit="part", disable=not progress) as bar,
    ):
        bar.part("weights")
        save_tensors(temporary / WEIGHTS, weights, {"format": "pt"})
        model.config.save(temporary / "config.json")
        if model.head is not None:
            model.head.save(temporary / HEAD)
        about = {
            "schema": SCHEMA,
            "experiment": model.config.experiment,
            "step": model.step,
            "images_seen": model.images_seen,
            "data": data,
            "origin": origin,
            "networks": list(model.networks.present()),
            "weights_dtype": "float16" if compact else "float32",
            **{
                f"{name}_sha256": sha256_of(temporary / file)
                for name, file in (("weights", WEIGHTS), ("config", "config.json"))
            },
            "bigbigan": bigbigan.__version__,
        }
        write_json(temporary / EXPORTED, about, stamp=True)
        bar.update()
        bar.part("samples")
        has_picture = model.networks.G is not None and _draw_samples(model, temporary / PICTURE)
        bar.update()
        if onnx:
            bar.part("ONNX")
            write_onnx(model.to("cpu"), temporary)
            bar.update()
        bar.part("model card")
        if lines:
            append_lines(temporary / "results.jsonl", map(_without_places, lines), stamp=True)
        card = model_card(
            model,
            about,
            lines,
            tensors=len(weights),
            onnx=onnx,
            license=license,
            is_public=is_public,
            has_picture=has_picture,
        )
        write_text(temporary / "README.md", card)
        bar.update()
    return out


def _draw_samples(model: Model, path: Path) -> bool:
    """Write a grid of samples as a picture; return False, and write none, if G has diverged."""
    count = 16 if model.config.generator.resolution <= 128 else 4
    try:
        save_image(grid(model.generate(count)), path)
    except UserError:
        return False
    return True


def _renamed(line: dict[str, Any], name: str, neutral: str) -> dict[str, Any]:
    """Return a result line in which the data set `name` is called `neutral`, in its command too."""
    whole = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
    command = whole.sub(neutral, line.get("command", ""))
    protocol = {k: neutral if (k, v) == ("trained_on", name) else v for k, v in line.get("protocol", {}).items()}
    dataset = neutral if line["dataset"] == name else line["dataset"]
    return line | {"dataset": dataset, "protocol": protocol, "command": command}


def _without_places(line: dict[str, Any]) -> dict[str, Any]:
    """Return a result line whose command and names have only the last part of each path."""
    try:
        words = shlex.split(line.get("command", ""))
    except ValueError:  # an open quotation mark, in a line that was written by hand
        words = line.get("command", "").split()
    return line | {
        "command": shlex.join(map(_without_folder, words)),
        "experiment": _without_folder(line["experiment"]) if line["subject"] == "external" else line["experiment"],
    }


def _without_folder(word: str) -> str:
    """Return a word of a command, or the name of an external encoder, with only the last part of a path in it.

    It may stand behind an option or a kind, as in --data=/home/me/photos or hub:/home/me/repository:encoder.
    """
    if windows := re.fullmatch(r"(--[\w-]+=)?(?:[A-Za-z]:)?\\.*?([^\\]*)\\?", word):
        return (windows[1] or "") + windows[2]
    before, sign, value = re.fullmatch(r"(--[\w-]+|[\w.-]+)?([=:])?(.*)", word, flags=re.DOTALL).groups("")  # type: ignore[union-attr]
    if sign == ":" and "/" in value and not value.startswith("//"):
        return before + sign + ":".join(os.path.basename(part.rstrip("/")) for part in value.split(":"))
    if sign == "=":
        return before + sign + _without_folder(value)
    return os.path.basename(word.rstrip("/")) if "/" in word else word
