"""Write the model card of an exported model: what it is, its training data, its results, how to use it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from bigbigan.config import Config, flat
from bigbigan.data.markdown import code, plain
from bigbigan.evaluation.records import PROBE_COLUMNS, PROBE_ROWS, labels_of, with_std
from bigbigan.evaluation.results_text import other_titles
from bigbigan.experiments import EXPERIMENTS
from bigbigan.inference.head import Head
from bigbigan.inference.model import Model
from bigbigan.integrations.onnx import encoder_input, encoder_outputs
from bigbigan.training.run_folder import KNOWN, changed_settings

__all__ = ["PICTURE", "model_card"]

PICTURE = "samples.png"
LEFT_OPEN = "auto"  # the value of a setting that the data or the machine decide
UNITS = "in the units of the files (the graph applies the window)"
SAMPLED = ("fid", "kid", "precision", "recall", "is1", "is5")  # whose lines count samples, not images
HEAD_SCORES = {
    ("top1_head", "trained"): "the saved classifier, accuracy in %",
    ("balanced_head", "trained"): "the saved classifier, mean of the accuracies of the classes in %",
    ("auroc_head", "trained"): "the saved classifier, AUROC from 0 to 1",
    ("ece_head", "trained"): "the saved classifier, calibration error in %",
    ("unlike_head", "trained"): "images that it finds unlike the training images, in %",
}


def _without_name(line: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Return a result line that does not name local data."""
    own = line["dataset"] == data.get("name")
    return line if line["dataset"] in KNOWN else line | {"dataset": "the same images" if own else "other images"}


def model_card(
    model: Model,
    about: dict[str, Any],
    lines: Sequence[dict[str, Any]],
    *,
    tensors: int,
    onnx: bool,
    license: str,
    is_public: bool,
    has_picture: bool,
) -> str:
    """Return the README of an exported model.

    Args:
        model: the model.
        about: the content of its model.json.
        lines: its result lines; those of a saved classifier are of `model.head`.
        tensors: the number of its weights.
        onnx, license, is_public: see `bigbigan.integrations.export.write_folder`.
        has_picture: whether samples were drawn.
    """
    c, data = model.config, about["data"]
    name = plain(data.get("name", "not recorded")) if is_public else "own images"
    labels = "without labels" if c.data.labels == "none" else f"with labels of {c.data.classes} classes"
    facts = _facts(model, about, f"{name}, {data.get('images', 0):,} images, {labels}", tensors)
    results = _results([x if is_public else _without_name(x, data) for x in lines])
    picture = [f"![Images that the generator made]({PICTURE})", ""] if has_picture else []
    if model.networks.G is None:
        what = "An image encoder"
    else:
        what = f"A generative model{'' if model.networks.E is None else ' and its encoder'}"
    what += f", trained {labels}"
    what += f". {plain(about['origin'])}" if about["origin"] else f" by bigbigan {about['bigbigan']}."
    return "\n".join([
        *_front_matter(model, license, onnx), "",
        f"# {plain(c.experiment)} on {name if 'name' in data else 'its data'}", "", what, "", *picture,
        "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items()),
        "", "## Results", "", *results,
        "", "## Use", "", "```python", "import bigbigan", "", *_use(model), "```", "",
        *(_onnx_files(model) if onnx else []),
        "Weights are safetensors and settings JSON: loading executes no code. Usage is subject to the licence of the "
        "training data. Out-of-distribution behaviour is untested: evaluate the model on your own images before you "
        "rely on it.", "",
    ])  # fmt: skip


def _front_matter(model: Model, license: str, onnx: bool) -> list[str]:
    """Return the lines of YAML that the Hub reads."""
    tags = ["BigBiGAN", "representation-learning", *["gan"] * (model.networks.G is not None), *["onnx"] * onnx]
    task = "unconditional-image-generation" if model.networks.E is None else "image-feature-extraction"
    return [
        "---",
        f"license: {license}",
        "library_name: bigbigan",
        f"pipeline_tag: {task}",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "---",
    ]


def _facts(model: Model, about: dict[str, Any], trained_on: str, tensors: int) -> dict[str, str]:
    """Return the rows of the card's first table, as Markdown by their titles."""
    c, classes = model.config, about["data"].get("classes")
    has_encoder, has_generator = model.networks.E is not None, model.networks.G is not None
    experiment = EXPERIMENTS.get(c.experiment)
    latents = f"{c.latent.dim}, {'N(0, I)' if c.latent.prior == 'normal' else 'U(-1, 1)'}"
    counts = {
        letter: sum(p.numel() for p in network.parameters()) for letter, network in model.networks.present().items()
    }
    changed, decided = _settings(c)
    return {
        "experiment": code(c.experiment) + (f": {experiment.summary}" if experiment else ""),
        "changed settings": changed or "none",
        **({"settings that are auto in the experiment": decided} if decided else {}),
        "scaled down": f"{c.scale} px instead of the paper's 128" if c.scale else "no",
        "trained on": trained_on,
        "steps": f"{about['step']:,} ({about['images_seen']:,} images seen), batch {c.training.batch_size}",
        "images": f"{c.data.channels} channel{'s' * (c.data.channels > 1)}, "
        + ", ".join(
            [f"E sees {c.encoder.resolution} px"] * has_encoder
            + [f"G makes {c.generator.resolution} px"] * has_generator
        ),
        **({"window": f"{c.data.window[0]:g} is black, {c.data.window[1]:g} white"} if c.data.window else {}),
        **({"latents": latents} if has_generator else {"tasks": ", ".join(c.pretext.tasks)}),
        "parameters": ", ".join(f"{letter} {count:,}" for letter, count in counts.items()),
        **({"labels": ", ".join(map(plain, classes))} if classes else {}),
        **({} if model.head is None else {"classes": _classes(model.head)}),
        "weights": f"{tensors} tensors, {about['weights_dtype']}, SHA-256 `{about['weights_sha256']}`",
    }


def _use(model: Model) -> list[str]:
    """Return the lines of Python that use the model."""
    lines = ['model = bigbigan.load("THIS FOLDER")']
    has_encoder, has_generator = model.networks.E is not None, model.networks.G is not None
    if has_encoder:
        lines.append("out = model.encode(images)  # [N, C, H, W] in [-1, 1] or uint8")
    if model.head is not None:
        lines.append("found = model.predict(images)  # .names .confidence .unlike_training .probabilities")
    if has_encoder and has_generator:
        lines.append("x_hat = model.reconstruct(images)")
    if has_generator:
        lines.append("samples = model.generate(16)")
    return lines


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
            images = images.replace("in [-1, 1]", UNITS)
        files = [f"- `encoder.onnx`: `{encoder_input(model)}` float32 {images} to {outputs}", *files]
    if model.head is not None:
        head, window = model.head, c.data.window
        kind, units = ("float32", f" {UNITS},") if window else ("uint8", "")
        limit = "" if head.max_distance is None else f"; above {head.max_distance:.4g}: unlike the training images"
        files = [
            f"- `classifier.onnx`: `{encoder_input(model) if window else 'images'}` {kind} "
            f"[N, {head.preprocessing.channels}, H, W] of any size{units} to `probabilities` float32 "
            f"[N, {len(head.classes)}], classes in the order above, and `distance` float32 [N]{limit}",
            *files,
        ]
    return ["Without torch, in any ONNX runtime, for any N:", "", *files, ""]


def _results(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Return the section of results: a small table in words for each data set, split, and file of labels."""
    others = {x["experiment"] for x in lines if x["subject"] == "external"}  # encoders, with their own lines of pixels
    lines = [x for x in lines if x["experiment"] not in others]
    newest_labels = {(x["dataset"], x["split"]): labels for x in lines if (labels := labels_of(x)) is not None}
    places: dict[tuple[str, str, str | None], dict[tuple[str, str], dict[str, Any]]] = {}
    for line in lines:
        at = line["dataset"], line["split"]
        labels = labels_of(line)
        found = places.setdefault((*at, newest_labels.get(at) if labels is None else labels), {})
        found[line["metric"], line["subject"]] = line
    if not places:
        return ["The model was not evaluated before it was exported."]
    parts = [_table(at[:2], found, at[2] != newest_labels.get(at[:2])) for at, found in places.items()]
    more = "All values are in `results.jsonl`; `bigbigan evaluate --list-metrics` explains their names."
    return [*(row for part in parts for row in part), more]


def _table(place: tuple[str, str], found: dict[tuple[str, str], dict[str, Any]], earlier: bool) -> list[str]:
    """Return the results on one split: the probes as a table, baselines first, then the other values in words.

    Args:
        place: data set and split.
        found: the lines, by metric and subject.
        earlier: whether they are of other labels than the newest lines of this split.
    """

    def cell(pattern: str, feature: str, subject: str) -> str:
        line = found.get((pattern.format(feature), subject))
        return "-" if line is None else with_std(line["value"], line.get("std"))

    rows = {title: [cell(p, *of) for p in PROBE_COLUMNS.values()] for title, of in PROBE_ROWS.items()}
    columns = [k for k in range(len(PROBE_COLUMNS)) if any(row[k] != "-" for row in rows.values())]
    out = []
    if columns:
        titles = ["top-1 accuracy, %", *(title for k, title in enumerate(PROBE_COLUMNS) if k in columns)]
        out += [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
        for title, row in rows.items():
            if any(row[k] != "-" for k in columns):
                out.append(f"| {title} | " + " | ".join(row[k] for k in columns) + " |")
        out.append("")
    words = {key: (plain(title), ".4g") for key, title in other_titles(found).items()}
    words |= {key: (title, ".3g") for key, title in HEAD_SCORES.items() if key in found}
    for key, (title, form) in words.items():
        out.append(f"- {title}: {with_std(found[key]['value'], found[key].get('std'), form)}")
    out += [""] if words else []
    if not out:
        return []
    dataset, split = map(plain, place)
    n = max((x.get("n", 0) for (metric, _), x in found.items() if not metric.startswith(SAMPLED)), default=0)
    where = split.replace("_", "-") + (f", {n:,} images" if n else "")
    if place[1] == "folds":
        where = f"held-out folds of its {n:,} labelled images"
    where += ", with other labels" if earlier else ""
    return [f"On {dataset}, {where}:", "", *out]


def _settings(config: Config) -> tuple[str, str]:
    """Return the settings that somebody changed, and those that the data or the machine decided, as Markdown."""
    measured = {"data.classes": config.data.labels == "classes", "data.window": bool(config.data.window_percentiles)}
    experiment = EXPERIMENTS.get(config.experiment)
    defined = flat(experiment.config(config.scale).to_dict()) if experiment else {}
    changed: list[str] = []
    decided: list[str] = []
    for name, value in changed_settings(config).items():
        if measured.get(name):  # the window and the classes have rows of their own
            continue
        text = code(f"{name}={json.dumps(_short(value))}")
        (decided if defined.get(name) == LEFT_OPEN else changed).append(text)
    return ", ".join(changed), ", ".join(decided)


def _short(value: Any) -> Any:
    """Return a setting with its numbers rounded to six digits."""
    if isinstance(value, list | tuple):
        return [_short(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
