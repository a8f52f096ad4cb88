"""`export`: a trained model as a folder to hand on: weights, settings, a model card; `bigbigan.load` reads it anywhere.

    model.safetensors   averaged G and E, and D, those there are, by name ("G.seed.weight", ...)
    config.json         the settings it was trained with
    model.json          step, data set, which networks, and the SHA-256 of the weights and of the settings
    results.jsonl       its result lines, if it was evaluated
    encoder.onnx, generator.onnx    where asked for, see `bigbigan.integrations.onnx`
    README.md           the model card

No path, host or user name of the machine it was trained on goes into it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

import bigbigan
from bigbigan.errors import UserError
from bigbigan.evaluation.records import read_results
from bigbigan.experiments import EXPERIMENTS
from bigbigan.inference.model import ABOUT, EXPORTED, Model, load
from bigbigan.integrations.markdown import code, plain
from bigbigan.integrations.onnx import encoder_outputs, require_onnx, write_onnx
from bigbigan.io import append_lines, read_json, write_json, write_text, writing_folder
from bigbigan.training.run_folder import changed_settings, read_card
from bigbigan.training.tensors import save_tensors

__all__ = ["check_free", "export", "write_folder"]

SCHEMA = 1
SHOWN = ("top1_", "top5_", "knn", "fid", "kid", "precision", "recall", "is1", "is5", "reconstruction_ratio")


def export(run: Path, out: Path, checkpoint: str = "newest", onnx: bool = False) -> Path:
    """Write the model of a run to the folder `out`, which must not be there yet or be empty.

    Args:
        run: run folder.
        out: where to.
        checkpoint: "newest", or "best" by what was measured along the way.
        onnx: E and G as ONNX files too.

    Raises:
        UserError: no such run, `out` holds something, or a package is missing; nothing is written then.
        RunError: an ONNX file does not do what the model does; likewise.
    """
    check_free(out)
    if onnx:
        require_onnx()
    model = load(run, checkpoint)
    before = read_json(run / EXPORTED, ABOUT) if (run / EXPORTED).exists() else {}  # of a model handed on once more
    card = read_card(run) if (run / "data.json").exists() else before.get("data", {})
    lines = [x for x in read_results(run / "results.jsonl") if x["steps"] in (0, model.step)]
    data = {key: card[key] for key in ("name", "images", "fingerprint") if key in card}
    if model.config.data.labels == "classes" and card.get("classes"):
        data["classes"] = card["classes"]  # what label k means
    return write_folder(model, out, data, before.get("origin", ""), lines, onnx)


def check_free(out: Path) -> None:
    """Raises UserError where `out` is there and not an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is there and not an empty folder; choose another")


def write_folder(
    model: Model,
    out: Path,
    data: dict[str, Any],
    origin: str = "",
    lines: Sequence[dict[str, Any]] = (),
    onnx: bool = False,
) -> Path:
    """Write a model, whole or of fewer networks than its config has, as the folder `out`: all of it or nothing.

    Args:
        model: what to write.
        out: where to; not there yet, or empty.
        data: of what it was trained on, "name" and "images".
        origin: a sentence for the card on where the weights are from, unless from here.
        lines: its result lines.
        onnx: E and G as ONNX files too.
    """
    check_free(out)
    weights = {
        f"{letter}.{name}": tensor
        for letter, network in model.networks.present().items()
        for name, tensor in network.state_dict().items()
    }
    with writing_folder(out) as aside:
        save_tensors(aside / "model.safetensors", weights, {"format": "pt"})
        model.config.save(aside / "config.json")
        about = {
            "schema": SCHEMA,
            "experiment": model.config.experiment,
            "step": model.step,
            "images_seen": model.images_seen,
            "data": data,
            "origin": origin,
            "networks": list(model.networks.present()),
            **{
                f"{name}_sha256": hashlib.sha256((aside / file).read_bytes()).hexdigest()
                for name, file in (("weights", "model.safetensors"), ("config", "config.json"))
            },
            "bigbigan": bigbigan.__version__,
        }
        write_json(aside / EXPORTED, about, stamp=True)
        if onnx:
            write_onnx(model, aside)
        if lines:
            append_lines(aside / "results.jsonl", map(_without_places, lines), stamp=True)
        write_text(aside / "README.md", _model_card(model, about, lines, weights, onnx))
    return out


def _without_places(line: dict[str, Any]) -> dict[str, Any]:
    """A result line whose command names files and folders by their last part alone."""
    words = [os.path.basename(w.rstrip("/")) if "/" in w else w for w in line.get("command", "").split()]
    return line | {"command": " ".join(words)}


def _model_card(
    model: Model,
    about: dict[str, Any],
    lines: Sequence[dict[str, Any]],
    weights: dict[str, Tensor],
    onnx: bool,
) -> str:
    """The README of an exported model: what it is, what it was trained on, what was measured, how to load it."""
    c, data = model.config, about["data"]
    experiment = EXPERIMENTS.get(c.experiment)
    has_encoder, has_generator = model.networks.E is not None, model.networks.G is not None
    labels = "without labels" if c.data.labels == "none" else f"with labels of {c.data.classes} classes"
    latents = f"{c.latent.dim}, {'N(0, I)' if c.latent.prior == 'normal' else 'U(-1, 1)'}"
    counts = {
        letter: sum(p.numel() for p in network.parameters()) for letter, network in model.networks.present().items()
    }
    changed = changed_settings(c)
    facts = {
        "experiment": code(c.experiment) + (f": {experiment.summary}" if experiment else ""),
        "changed settings": ", ".join(code(f"{k}={json.dumps(v)}") for k, v in changed.items()) or "none",
        "scaled down": f"{c.scale} px stand for the paper's 128" if c.scale else "no",
        "trained on": f"{plain(data.get('name', 'not recorded'))}, {data.get('images', 0):,} images, {labels}",
        "steps": f"{about['step']:,} ({about['images_seen']:,} images seen), batch {c.training.batch_size}",
        "images": f"{c.data.channels} channel{'s' * (c.data.channels > 1)}, "
        + ", ".join(
            [f"E sees {c.encoder.resolution} px"] * has_encoder
            + [f"G makes {c.generator.resolution} px"] * has_generator
        ),
        **({"latents": latents} if has_generator else {"tasks": ", ".join(c.pretext.tasks)}),
        "parameters": ", ".join(f"{letter} {count:,}" for letter, count in counts.items()),
        "weights": f"{len(weights)} tensors, SHA-256 `{about['weights_sha256']}`",
    }
    measured = _measured(lines)
    tags = ["BigBiGAN", "representation-learning", *["gan"] * has_generator, *["onnx"] * onnx]
    front = ["---", "library_name: bigbigan", "tags:", *(f"- {tag}" for tag in tags), "---"]
    use = ['model = bigbigan.load("THIS FOLDER")']
    if has_encoder:
        use += ["out = model.encode(images)  # [N, C, H, W] in [-1, 1] or uint8"]
    if has_encoder and has_generator:
        use += ["x_hat = model.reconstruct(images)"]
    if has_generator:
        use += ["samples = model.generate(16)"]
        what = f"A generative model{' and its encoder' if has_encoder else ''}"
    else:
        what = "An encoder of images"
    return "\n".join([
        *front, "", f"# {plain(c.experiment)} on {plain(data.get('name', 'its data'))}", "",
        f"{what}, trained {labels}"
        + (f". {plain(about['origin'])}" if about["origin"] else f" by bigbigan {about['bigbigan']}."),
        "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items()),
        "", "## Measured", "", *measured,
        "", "## Use", "", "```python", "import bigbigan", "", *use, "```", "", *(_onnx_files(model) if onnx else []),
        "Weights are safetensors and settings JSON: loading executes no code. What the images it was trained on allow, "
        "their licence says. It knows nothing but those images: measure it on your own before you rely on it.", "",
    ])  # fmt: skip


def _onnx_files(model: Model) -> list[str]:
    """What the ONNX files take and give, for the card."""
    c = model.config
    image = f"[N, {c.data.channels}, {{0}}, {{0}}] in [-1, 1]"
    y = f" and `y` int64 [N], 0 to {c.data.classes - 1}," if c.data.classes > 1 else ""
    z = f"- `generator.onnx`: `z` float32 [N, {c.latent.dim}]{y} to `images` {image.format(c.generator.resolution)}"
    files = [z] if model.networks.G is not None else []
    if model.networks.E is not None:
        images, outputs = image.format(c.encoder.resolution), ", ".join(f"`{name}`" for name in encoder_outputs(model))
        files = [f"- `encoder.onnx`: `images` float32 {images} to {outputs}", *files]
    return ["Without torch, in any ONNX runtime, for any N:", "", *files, ""]


def _measured(lines: Iterable[dict[str, Any]]) -> list[str]:
    """Result lines as a table; the untrained and pixel baselines are those of 0 steps."""
    shown = [x for x in lines if x["metric"].startswith(SHOWN)]
    if not shown:
        return ["Not evaluated before it was exported."]
    newest = {(x["metric"], x["dataset"], x["split"], x["steps"]): x for x in shown}
    rows = [
        f"| {plain(x['metric'])} | {plain(x['dataset'])}, {plain(x['split'])} | {x.get('n', 0):,} | {x['steps']:,} "
        f"| {x['value']:.4g}"
        + (f" ± {x['std']:.2g}" if x.get("std") is not None else "") + " |"
        for x in newest.values()
    ]  # fmt: skip
    return ["0 steps: raw pixels, or the same network untrained.", "", "| metric | data | n | steps | value |",
            "|---|---|---|---|---|", *rows]  # fmt: skip
