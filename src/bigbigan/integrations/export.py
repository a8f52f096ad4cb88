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

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bigbigan
from bigbigan.data.names import shown
from bigbigan.errors import UserError
from bigbigan.evaluation.records import read_results
from bigbigan.experiments import EXPERIMENTS
from bigbigan.inference.head import Head
from bigbigan.inference.loading import ABOUT, EXPORTED, HEAD, load
from bigbigan.inference.model import Model
from bigbigan.integrations.markdown import code, plain
from bigbigan.integrations.onnx import encoder_input, encoder_outputs, require_onnx, write_onnx
from bigbigan.io import append_lines, read_json, write_json, write_text, writing_folder
from bigbigan.models import Networks
from bigbigan.progress import Bar
from bigbigan.training.image_grid import grid, save_image
from bigbigan.training.run_folder import KNOWN, changed_settings, read_card
from bigbigan.training.tensors import save_tensors

__all__ = ["check_free", "export", "write_folder"]

SCHEMA = 1
PICTURE = "samples.png"
UNKNOWN_LICENSE = "other"  # the Hub's word for a licence that it has no name for
LICENSE_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]{0,40}")  # it goes into the YAML of the card
SHOWN = ("top1_", "top5_", "knn", "fid", "kid", "precision", "recall", "is1", "is5", "reconstruction_ratio")


def export(
    run: Path,
    out: Path,
    checkpoint: str = "newest",
    onnx: bool = False,
    progress: bool = False,
    head: Path | None = None,
    compact: bool = False,
    license: str = UNKNOWN_LICENSE,
) -> Path:
    """Write the model of a run to the folder `out`, which must not exist or be empty.

    Args:
        run: run folder.
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
    model = load(run, checkpoint)
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
    data = {key: card[key] for key in ("name", "images", "fingerprint") if key in card}
    if model.config.data.labels == "classes" and card.get("classes"):
        data["classes"] = card["classes"]  # the name of each class
    is_public = card.get("name") in KNOWN or str(card.get("spec", "")).startswith("hf:")
    return write_folder(
        model, out, data, exported.get("origin", ""), lines, onnx, progress, compact, license, is_public
    )


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
        is_public: whether others know the data by its name. The card does not name other data, as the name is that of
            a file or folder here.
    """
    check_free(out)
    weights = {
        f"{letter}.{name}": tensor.half() if compact and _is_large(tensor) else tensor
        for letter, network in model.networks.present().items()
        for name, tensor in network.state_dict().items()
    }
    with (
        writing_folder(out) as temporary,
        Bar(total=2 + onnx, desc="export", unit="part", disable=not progress, dynamic_ncols=True) as bar,
    ):
        bar.part("weights")
        save_tensors(temporary / "model.safetensors", weights, {"format": "pt"})
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
                f"{name}_sha256": hashlib.sha256((temporary / file).read_bytes()).hexdigest()
                for name, file in (("weights", "model.safetensors"), ("config", "config.json"))
            },
            "bigbigan": bigbigan.__version__,
        }
        write_json(temporary / EXPORTED, about, stamp=True)
        bar.update()
        if onnx:
            bar.part("ONNX")
            write_onnx(model, temporary)
            bar.update()
        bar.part("model card")
        has_picture = model.networks.G is not None and _draw_samples(model, temporary / PICTURE)
        if lines:
            append_lines(temporary / "results.jsonl", map(_without_places, lines), stamp=True)
        write_text(
            temporary / "README.md", _model_card(model, about, lines, weights, onnx, license, is_public, has_picture)
        )
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


def _without_name(line: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Return a result line that does not name local data."""
    own = line["dataset"] == data.get("name")
    return line if line["dataset"] in KNOWN else line | {"dataset": "the same images" if own else "other images"}


def _without_places(line: dict[str, Any]) -> dict[str, Any]:
    """Return a result line whose command has only the last part of each path."""
    words = [os.path.basename(w.rstrip("/")) if "/" in w else w for w in line.get("command", "").split()]
    return line | {"command": " ".join(words)}


def _model_card(
    model: Model,
    about: dict[str, Any],
    lines: Sequence[dict[str, Any]],
    weights: dict[str, Tensor],
    onnx: bool,
    license: str,
    is_public: bool,
    has_picture: bool,
) -> str:
    """Return the README of an exported model: what it is, its training data, its metrics, how to load it."""
    c, data = model.config, about["data"]
    name = plain(data.get("name", "not recorded")) if is_public else "own images"
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
        "scaled down": f"{c.scale} px instead of the paper's 128" if c.scale else "no",
        "trained on": f"{name}, {data.get('images', 0):,} images, {labels}",
        "steps": f"{about['step']:,} ({about['images_seen']:,} images seen), batch {c.training.batch_size}",
        "images": f"{c.data.channels} channel{'s' * (c.data.channels > 1)}, "
        + ", ".join(
            [f"E sees {c.encoder.resolution} px"] * has_encoder
            + [f"G makes {c.generator.resolution} px"] * has_generator
        ),
        **({"window": f"{c.data.window[0]:g} is black, {c.data.window[1]:g} white"} if c.data.window else {}),
        **({"latents": latents} if has_generator else {"tasks": ", ".join(c.pretext.tasks)}),
        "parameters": ", ".join(f"{letter} {count:,}" for letter, count in counts.items()),
        **({"labels": ", ".join(map(plain, data["classes"]))} if data.get("classes") else {}),
        **({} if model.head is None else {"classes": _classes(model.head)}),
        "weights": f"{len(weights)} tensors, {about['weights_dtype']}, SHA-256 `{about['weights_sha256']}`",
    }
    results = _results_table([x if is_public else _without_name(x, data) for x in lines])
    tags = ["BigBiGAN", "representation-learning", *["gan"] * has_generator, *["onnx"] * onnx]
    task = "image-feature-extraction" if has_encoder else "unconditional-image-generation"
    front = [
        "---",
        f"license: {license}",
        "library_name: bigbigan",
        f"pipeline_tag: {task}",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "---",
    ]
    picture = [f"![Images that the generator made]({PICTURE})", ""] if has_picture else []
    use = ['model = bigbigan.load("THIS FOLDER")']
    if has_encoder:
        use += ["out = model.encode(images)  # [N, C, H, W] in [-1, 1] or uint8"]
    if model.head is not None:
        use += ["found = model.predict(images)  # .names .confidence .unlike_training .probabilities"]
    if has_encoder and has_generator:
        use += ["x_hat = model.reconstruct(images)"]
    if has_generator:
        use += ["samples = model.generate(16)"]
        what = f"A generative model{' and its encoder' if has_encoder else ''}"
    else:
        what = "An image encoder"
    return "\n".join([
        *front, "", f"# {plain(c.experiment)} on {name if 'name' in data else 'its data'}", "",
        f"{what}, trained {labels}"
        + (f". {plain(about['origin'])}" if about["origin"] else f" by bigbigan {about['bigbigan']}."),
        "", *picture, "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items()),
        "", "## Results", "", *results,
        "", "## Use", "", "```python", "import bigbigan", "", *use, "```", "", *(_onnx_files(model) if onnx else []),
        "Weights are safetensors and settings JSON: loading executes no code. Usage is subject to the licence of the "
        "training data. Out-of-distribution behaviour is untested: evaluate the model on your own images before you "
        "rely on it.", "",
    ])  # fmt: skip


def _classes(head: Head) -> str:
    """Return the classes of a saved head for the card, and how many images it was trained on."""
    return f"{', '.join(map(plain, head.classes))} (a linear classifier, {head.images:,} labelled images)"


def _onnx_files(model: Model) -> list[str]:
    """Return the lines of the card on the inputs and outputs of the ONNX files."""
    c = model.config
    image = f"[N, {c.data.channels}, {{0}}, {{0}}] in [-1, 1]"
    y = f" and `y` int64 [N], 0 to {c.data.classes - 1}," if c.data.classes > 1 else ""
    z = f"- `generator.onnx`: `z` float32 [N, {c.latent.dim}]{y} to `images` {image.format(c.generator.resolution)}"
    files = [z] if model.networks.G is not None else []
    if model.networks.E is not None:
        images, outputs = image.format(c.encoder.resolution), ", ".join(f"`{name}`" for name in encoder_outputs(model))
        if c.data.window:
            images = images.replace("in [-1, 1]", "in the units of the files, to which it applies the window")
        files = [f"- `encoder.onnx`: `{encoder_input(model)}` float32 {images} to {outputs}", *files]
    if model.head is not None:
        head, shape = model.head, f"[N, {model.head.preprocessing.channels}, H, W]"
        shape += ", already windowed to 8 bits," if c.data.window else ""
        limit = "" if head.max_distance is None else f"; above {head.max_distance:.4g}: unlike the training images"
        files = [
            f"- `classifier.onnx`: `images` uint8 {shape} of any size to `probabilities` float32 "
            f"[N, {len(head.classes)}], classes in the order above, and `distance` float32 [N]{limit}",
            *files,
        ]
    return ["Without torch, in any ONNX runtime, for any N:", "", *files, ""]


def _results_table(lines: Iterable[dict[str, Any]]) -> list[str]:
    """Return result lines as a table."""
    shown = [x for x in lines if x["metric"].startswith(SHOWN)]
    if not shown:
        return ["The model was not evaluated before it was exported."]
    newest = {(x["metric"], x["subject"], x["dataset"], x["split"]): x for x in shown}
    rows = [
        f"| {plain(x['metric'])} | {plain(x['subject'])} | {plain(x['dataset'])}, {plain(x['split'])} "
        f"| {x.get('n', 0):,} "
        f"| {x['value']:.4g}"
        + (f" ± {x['std']:.2g}" if x.get("std") is not None else "") + " |"
        for x in newest.values()
    ]  # fmt: skip
    return ["Of the trained networks, and of the baselines: pixels, PCA-whitened pixels, the untrained networks.", "",
            "| metric | of | data | n | value |", "|---|---|---|---|---|", *rows]  # fmt: skip
