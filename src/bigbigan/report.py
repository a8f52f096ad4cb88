"""One self-contained page about a run, for people: did it work, what does it draw, what did the encoder learn.

Each section is a function from `_Run`, what is known of the run, to HTML. What is missing is said, with the
command that makes it; nothing missing stops the page. All text is escaped unless it is `Html`.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch.nn.functional import normalize

from bigbigan import checkpoint as ck
from bigbigan.config import Config
from bigbigan.data import Source, contact_sheet, inspect, load_pixels, open_source
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features, pixel_features
from bigbigan.experiments import find
from bigbigan.model import Model, load
from bigbigan.monitor import read_metrics
from bigbigan.run import read_config

__all__ = ["write_report"]

REFERENCES = 5_000  # images among which neighbours are sought
INSPECTED = 100_000  # a source of more images is described without reading them all


class Html(str):
    """Text that is HTML already; every other text is escaped on its way into the page."""


def _e(value: object) -> Html:
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def _join(parts: Iterable[object], separator: str = "\n") -> Html:
    return Html(separator.join(map(_e, parts)))


def _tag(name: str, *content: object, **attributes: object) -> Html:
    """<name attributes>content</name>; `classes` is class, `aria_label` is aria-label and so on."""
    names = {key: "class" if key == "classes" else key.replace("_", "-") for key in attributes}
    text = "".join(f' {names[key]}="{_e(str(value))}"' for key, value in attributes.items() if value != "")
    return Html(f"<{name}{text}>" + ("" if name in ("img", "br") else f"{_join(content, '')}</{name}>"))


def _table(head: Sequence[object], rows: Iterable[Sequence[object]], classes: str = "") -> Html:
    top = _tag("thead", _tag("tr", *(_tag("th", cell, scope="col") for cell in head))) if head else Html()
    body = (
        _tag("tr", _tag("th", first, scope="row"), *(_tag("td", c) for c in rest)) for first, *rest in rows
    )
    return _tag("div", _tag("table", top, _tag("tbody", *body), classes=classes), classes="scroll")


def _missing(text: str, *command: object) -> Html:
    """A line for what is not there, with the command that makes it."""
    line = _tag("code", shlex.join(["bigbigan", *map(str, command)])) if command else ""
    return _tag("p", text, " " if command else "", line, classes="missing")


# ---------------------------------------------------------------------------------------------------------
# What is known of a run

Results = dict[tuple[str, bool], dict[str, Any]]  # newest line by (metric, of a trained network)


@dataclass
class _Run:
    path: Path
    config: Config
    card: dict[str, Any]  # data.json
    metrics: list[dict[str, Any]]
    own: Results  # on the run's own data
    others: list[Results]  # on other data
    unread: int  # result lines that are damaged
    model: Model | None
    source: Source | None
    problems: dict[str, str]  # why there is no model, no source
    spec: str | None  # of the source that is shown: the run's own, or the one asked for

    @property
    def step(self) -> int:
        return max([line["step"] for line in self.metrics] + [self.model.step if self.model else 0])

    @property
    def resume(self) -> list[object]:
        """The command that trains on."""
        spec = ["--data", self.card["spec"]] if "spec" in self.card else []
        return ["train", self.config.experiment, *spec, "--out", self.path]


def _gather(path: Path, data: str | None) -> _Run:
    config = read_config(path)
    card = _json(path / "data.json")
    problems: dict[str, str] = {}
    model = source = None
    try:
        model = load(path, device="cuda" if torch.cuda.is_available() else "cpu")
    except (UserError, OSError) as error:
        problems["model"] = str(error)
    spec = data or card.get("spec")
    try:
        # Damaged images are the data card's subject here: they stop nothing.
        source = open_source(str(spec), max_unreadable=1.0) if spec else None
    except (UserError, OSError) as error:
        problems["source"] = str(error)
    metrics = [line for line in read_metrics(path) if isinstance(line.get("step"), int)]
    own, others, unread = _results(path / "results.jsonl", str(card.get("name", "")))
    return _Run(path, config, card, metrics, own, others, unread, model, source, problems, spec)


def _json(path: Path) -> dict[str, Any]:
    """An object from a file; empty where it is missing or damaged."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _results(path: Path, name: str) -> tuple[Results, list[Results], int]:
    """The newest result line of each kind: on data set `name` (its split measured last), on others, and how
    many lines could not be read."""
    groups: dict[tuple[str, str], Results] = {}
    unread = 0
    for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
            line["value"], line["std"] = float(line["value"]), None if line["std"] is None else float(line["std"])
            place = str(line["dataset"]), str(line["split"])
            group = groups[place] = groups.pop(place, {})  # the one measured last comes last
            group[str(line["metric"]), line["steps"] > 0] = line
        except (ValueError, KeyError, TypeError):
            unread += bool(text.strip())
    own = next((place for place in reversed(groups) if place[0] == name), None)
    return groups.pop(own, {}) if own else {}, list(groups.values()), unread


# ---------------------------------------------------------------------------------------------------------
# Title and verdict


def _header(run: _Run) -> Html:
    c, steps = run.config, run.config.training.steps
    name = run.card.get("name", "data not known yet")
    images = max([line.get("images_seen", 0) for line in run.metrics] + [run.model.images_seen if run.model else 0])
    count = run.card.get("images")
    epochs = f" ({images / count:,.1f} times each image)" if isinstance(count, int) and count else ""
    facts = {
        "steps": f"{run.step:,} of {steps:,}" + ("" if run.step >= steps else " so far"),
        "images seen": f"{images:,}{epochs}",
        "training time": _duration(run.metrics),
        "device": _json(run.path / "environment.json").get("device", "not recorded"),
        "data": f"{count:,} images" if isinstance(count, int) else "not recorded",
        "networks": f"G draws {c.generator.resolution} px, E sees {c.encoder.resolution} px, z has {c.latent.dim} numbers",
    }
    if run.model is not None:
        networks = {"G": run.model.generator, "E": run.model.encoder, "D": run.model.discriminator}
        sizes = (f"{n} {sum(p.numel() for p in net.parameters()):,}" for n, net in networks.items())
        facts["parameters"] = ", ".join(sizes)
    tiles = (_tag("div", _tag("dt", key), _tag("dd", value)) for key, value in facts.items())
    return _join(
        [
            _tag("h1", c.experiment, " ", _tag("small", "on ", name)),
            _verdict(run),
            _tag("dl", *tiles, classes="facts"),
        ]
    )


def _duration(metrics: list[dict[str, Any]]) -> str:
    """Time spent in the loop, from the images between log lines and their rate."""
    lines = [m for m in metrics if m.get("images_per_second")]
    before = [0, *(m["images_seen"] for m in lines)]
    seconds = sum((m["images_seen"] - b) / m["images_per_second"] for m, b in zip(lines, before, strict=False))
    hours, minutes = divmod(round(seconds / 60), 60)
    if not lines:
        return "not known yet"
    return f"{seconds:.0f} s" if seconds < 120 else f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _verdict(run: _Run) -> Html:
    """Whether it worked, in a sentence computed from result lines; of BN+CReLU, the paper's feature, if measured."""
    evaluate = _tag("code", shlex.join(["bigbigan", "evaluate", str(run.path)]))
    ratio = run.own.get(("reconstruction_ratio", True))
    trained = next((t for n in ("bn_crelu", "avepool") if (t := run.own.get((FEW.format(n), True)))), None)
    sentences: list[object] = []
    kind = "unclear"
    if trained is None and ratio is None:
        kind, sentences = "none", [_tag("b", "Not evaluated yet."), Html(f"Measure what the encoder learned: {evaluate}.")]
    elif trained is None:
        sentences = [_tag("b", "Features not measured."), "Whether they are good takes labels, or was not asked for."]
    else:
        feature = trained["metric"].removeprefix("top1_linear_").removesuffix("_10perclass")
        names = {"raw pixels": "pixels", "the untrained encoder": feature}
        bases = {title: run.own.get((FEW.format(name), False)) for title, name in names.items()}
        words, wins = [], []
        for title, base in bases.items():
            if base is not None:
                gap, spread = trained["value"] - base["value"], math.hypot(trained["std"] or 0, base["std"] or 0)
                clear = abs(gap) > 2 * spread
                wins.append((gap > 0) + (gap > 0 and clear))
                words.append(
                    f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'} {title} ({base['value']:.1f} %), "
                    f"{'more' if clear else 'less'} than two standard deviations"
                )
            else:
                wins.append(1)
                words.append(f"{title} not measured")
        kind = {2: "good", 1: "unclear", 0: "bad"}[min(wins)]
        lead = {"good": "It worked.", "unclear": "Not clearly, so far.", "bad": "Not yet."}[kind]
        sentences = [
            _tag("b", lead),
            f"With 10 labels a class, a linear classifier on the trained encoder's features is right for "
            f"{_figure(trained)} % of the images it has not seen: {'; '.join(words)}.",
        ]
    if ratio is not None:
        sentences.append(
            f"A reconstruction is off by {ratio['value']:.3f} of what another image's would be (1 = nothing learned)."
        )
    elif trained is None and (logged := _series(run.metrics, "reconstruction_ratio")[1]).size:
        sentences.append(f"While training, the reconstruction ratio stood at {logged[-1]:.3f} (1 = nothing learned).")
    measured = (trained or ratio or {}).get("steps")
    if measured is not None and run.model is not None and measured != run.model.step:
        sentences.append(Html(f"Measured at step {measured:,}, the newest checkpoint is of step "
                              f"{run.model.step:,}: {evaluate}."))  # fmt: skip
    return _tag("p", _join(sentences, " "), classes=f"verdict {kind}")


def _figure(line: dict[str, Any]) -> str:
    """The value of a result line and its deviation: percentages with one place, others with four digits."""
    percent = str(line["metric"]).startswith(("top1", "top5", "knn"))
    texts = [f"{v:.1f}" if percent else f"{v:.4g}" for v in (line["value"], line["std"]) if v is not None]
    return " ± ".join(texts)


# ---------------------------------------------------------------------------------------------------------
# Pictures


def _img(image: Image.Image, alt: str, most: int = 900) -> Html:
    """A picture as a data URI, at most `most` pixels a side; photographs as JPEG, where that is much smaller."""
    image = image.convert("RGB")
    if max(image.size) > most:
        image.thumbnail((most, most), Image.Resampling.LANCZOS)
    best, kind = io.BytesIO(), "png"
    image.save(best, "PNG", optimize=True)
    if len(best.getvalue()) > 60_000:
        best, kind = io.BytesIO(), "jpeg"
        image.save(best, "JPEG", quality=88)
    data = base64.b64encode(best.getvalue()).decode()
    # Tiny images are enlarged with sharp edges; what is shown smaller than it is should be smoothed.
    sharp = "px" if max(image.size) <= 300 else ""
    return _tag("img", src=f"data:image/{kind};base64,{data}", alt=alt, width=image.width, height=image.height,
                classes=sharp)  # fmt: skip


def _grids(run: _Run, kind: str) -> list[tuple[int, Image.Image]]:
    """The readable grids `samples/KIND-STEP.png`, oldest first."""
    found = []
    for path in sorted((run.path / "samples").glob(f"{kind}-*.png")):
        step = path.stem.removeprefix(f"{kind}-")
        try:
            if step.isdigit():
                found.append((int(step), Image.open(path).convert("RGB")))
        except (OSError, ValueError, Image.DecompressionBombError):
            continue  # a damaged picture: the others tell the story
    return found


def _spread[T](items: list[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spread, with the first and the last."""
    return [items[i] for i in sorted({round(k) for k in np.linspace(0, len(items) - 1, min(most, len(items)))})]


def _samples(run: _Run) -> Html:
    grids = _spread(_grids(run, "samples"), 6)
    if not grids:
        return _missing("No samples drawn yet; training draws them every "
                        f"{run.config.log.pictures_every:,} steps. To train on:", *run.resume)  # fmt: skip
    *early, (step, last) = grids
    large = [_picture(last, f"G(z) at step {step:,}", f"64 images drawn by the generator at step {step}")]
    try:
        data = Image.open(run.path / "samples" / "data.png")
        large.append(_picture(data, "training images, to compare", "64 images of the training set"))
    except (OSError, ValueError, Image.DecompressionBombError):
        pass
    small = [_picture(g, f"step {s:,}", f"the same 64 latents drawn at step {s}", 400) for s, g in early]
    return _join(
        [
            _tag("p", "Images G draws from random z; the same 64 z each time. Look for images one could take for the "
                 "training set's, and for variety: many alike mean that G has collapsed."),
            _tag("div", *large, classes="pair"),
            _tag("div", *small, classes="strip") if small else "",
        ]
    )  # fmt: skip


def _picture(image: Image.Image, caption: str, alt: str, most: int = 900) -> Html:
    return _tag("figure", _img(image, alt, most), _tag("figcaption", caption))


def _reconstructions(run: _Run) -> Html:
    grids = _spread(_grids(run, "reconstructions"), 4)
    if not grids:
        return _missing("No reconstructions drawn yet. To draw some from the newest checkpoint:",
                        "reconstruct", run.path, "--out", run.path / "reconstructions.png")  # fmt: skip
    *early, (step, last) = grids
    alt = "rows of images, each above its reconstruction, at step {}"
    large = [_picture(half, f"step {step:,}{note}", alt.format(step)) for half, note in
             zip(_halves(last), ("", ", more"), strict=False)]  # fmt: skip
    small = [_picture(_halves(g)[0], f"step {s:,}", alt.format(s), 400) for s, g in early]
    return _join(
        [
            _tag("p", "Training images x, each above G(E(x)): what survives the way through z. No loss asks for a match of "
                 "pixels, so look for the same kind of thing, pose and style. The same picture under every image means "
                 "that E has learned nothing."),
            _tag("div", *large, classes="pair"),
            _tag("div", *small, classes="strip") if small else "",
        ]
    )  # fmt: skip


def _halves(image: Image.Image) -> list[Image.Image]:
    """A grid of 16 columns with gaps of 2 as two of 8, which fit a phone; others as they are."""
    if (image.width + 2) % 16 or image.width < 2 * image.height:
        return [image]
    half = (image.width + 2) // 2
    return [image.crop((0, 0, half - 2, image.height)), image.crop((half, 0, image.width, image.height))]


# ---------------------------------------------------------------------------------------------------------
# Charts: matplotlib's SVG, with its colours replaced by those of the page

COLOURS = {
    "#000001": "currentColor", "#000002": "var(--line)", "#000003": "var(--muted)", "#000004": "var(--on)",
    "#000005": "var(--c0)", "#000006": "var(--c1)", "#000007": "var(--c2)",
}  # fmt: skip
INK, LINE, MUTED, ON, *SERIES = COLOURS
STYLE = {
    "svg.fonttype": "none", "font.size": 10, "axes.edgecolor": LINE, "text.color": INK, "axes.labelcolor": MUTED,
    "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED, "ytick.labelcolor": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": LINE, "grid.linewidth": 0.5,
    "axes.axisbelow": True,
}  # fmt: skip


def _svg(draw: Callable[[Any], None], label: str, height: float) -> Html:
    """What `draw` puts on axes, as inline SVG 4.4 inches wide; `label` is read to who cannot see it."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": label}):
        figure = Figure(figsize=(4.4, height), layout="constrained")
        draw(figure.add_subplot())
        out = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r"(?<=<g) id=\"[^\"]*\"", "", text)  # they repeat from chart to chart; nothing refers to them
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    for colour, variable in COLOURS.items():
        text = text.replace(colour, variable)
    box = re.search(r'viewBox="[^"]*"', text)
    content = text[text.index(">") + 1 :]
    return Html(f'<svg role="img" aria-label="{_e(label)}" {box.group() if box else ""}>{content}')


FEW = "top1_linear_{}_10perclass"
COLUMNS = {
    "linear, all labels": "top1_linear_{}", "linear, 10 labels a class": FEW,
    "5-NN, all labels": "knn5_l2_{}", "5-NN, 10 labels a class": "knn5_l2_{}_10perclass",
}  # fmt: skip
ROWS = {
    "raw pixels": ("pixels", False),
    "untrained E, AvePool": ("avepool", False),
    "untrained E, BN+CReLU": ("bn_crelu", False),
    "trained E, AvePool": ("avepool", True),
    "trained E, BN+CReLU": ("bn_crelu", True),
}


def _probe(run: _Run) -> Html:
    notes = [_tag("p", f"{run.unread} damaged lines of results.jsonl were passed over.", classes="warn")] if run.unread else []
    if not run.own and not run.others:
        return _join([_missing("Nothing measured yet. To measure:", "evaluate", run.path), *notes])
    parts: list[object] = []
    if not run.own:
        parts.append(_missing("Not measured on the run's own data. To measure:", "evaluate", run.path))
    used = {pattern.format(name) for pattern in COLUMNS.values() for name, _ in ROWS.values()}
    if any(metric in used for metric, _ in run.own):
        line = next(line for (metric, _), line in run.own.items() if metric in used)
        parts += [
            _tag("p", f"Top-1 accuracy in percent on {line['n']:,} images of the {line['split']} split of {line['dataset']}, "
                 "from frozen features: a linear classifier, or 5 nearest neighbours. With 10 labels a class: mean and "
                 "standard deviation over 5 draws of the labelled images. Bars are of BN+CReLU, the feature the paper "
                 "probes; the line is at raw pixels. An encoder that learned something is right of it, above all "
                 "with few labels."),
            _tag("div", *(_bars(run.own, title, pattern) for title, pattern in COLUMNS.items()), classes="charts"),
            _probe_table(run.own),
        ]  # fmt: skip
    parts += [_tag("h3", "Other figures"), _lines_table(run.own, used)] if run.own.keys() - _keys(used) else []
    for results in run.others:
        line = next(iter(results.values()))
        parts += [_tag("h3", f"On {line['dataset']}, {line['split']} split"), _probe_table(results), _lines_table(results, used)]
    return _join([*parts, *notes])


def _keys(metrics: Iterable[str]) -> set[tuple[str, bool]]:
    return {(metric, trained) for metric in metrics for trained in (False, True)}


def _bars(results: Results, title: str, pattern: str) -> Html:
    rows = {"raw pixels": ("pixels", False), "untrained E": ("bn_crelu", False), "trained E": ("bn_crelu", True)}
    found = {t: line for t, (name, trained) in rows.items() if (line := results.get((pattern.format(name), trained)))}
    if not found:
        return Html()

    def draw(axes: Any) -> None:
        for place, (name, line) in enumerate(found.items()):
            axes.barh(place, line["value"], height=0.72, color=SERIES[0] if name == "trained E" else MUTED)
            axes.errorbar(line["value"], place, xerr=line["std"] or 0, color=INK, capsize=3 if line["std"] else 0, lw=1.2)
            inside = line["value"] > 30
            axes.text(2 if inside else line["value"] + 2, place, _figure(line), va="center", weight="bold",
                      color=ON if inside else INK)  # fmt: skip
        if "raw pixels" in found:
            axes.axvline(found["raw pixels"]["value"], color=INK, lw=0.8, ls=":")
        axes.set(xlim=(0, 102), yticks=range(len(found)), yticklabels=list(found))
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)

    label = f"{title}: " + ", ".join(f"{name} {_figure(line)} %" for name, line in found.items())
    return _tag("figure", _tag("figcaption", _tag("b", title)), _svg(draw, label, 1.5), classes="chart")


def _probe_table(results: Results) -> Html:
    """Features by protocols; the best of each column is bold."""
    used = {t: p for t, p in COLUMNS.items() if any((p.format(n), s) in results for n, s in ROWS.values())}
    best = {p: max(results[k]["value"] for n, s in ROWS.values() if (k := (p.format(n), s)) in results) for p in used.values()}
    rows: list[list[object]] = []
    for title, (name, trained) in ROWS.items():
        lines = {p: results.get((p.format(name), trained)) for p in used.values()}
        if any(lines.values()):
            rows.append([title] + ["not run" if v is None else _tag("b", _figure(v)) if v["value"] == best[p] else _figure(v)
                                   for p, v in lines.items()])  # fmt: skip
    return _table(["", *used], rows, "numbers") if rows else Html()


def _lines_table(results: Results, without: set[str]) -> Html:
    rows = [
        [m, _figure(v), f"{v['n']:,}", f"{v['steps']:,}" if trained else "untrained"]
        for (m, trained), v in results.items()
        if m not in without
    ]
    return _table(["metric", "value", "images", "step"], rows, "numbers") if rows else Html()


# ---------------------------------------------------------------------------------------------------------
# Curves


@dataclass(frozen=True)
class _Chart:
    title: str
    keys: dict[str, str]  # of metrics.jsonl, with their names in the legend
    how: str  # how to read it, and what bad looks like
    lines: tuple[float, ...] = ()  # dashed, across
    log: bool = False
    alarm: Callable[[float], bool] | None = None  # of the last smoothed value of the first key
    alarm_text: str = ""


PAIRS = "Solid above the upper dashed line and below the lower: D tells the two apart with ease"
CHARTS = (
    _Chart("Reconstruction ratio", {"reconstruction_ratio": "matched / shuffled"},
           "Error of G(E(x)) over that of another image's reconstruction. It should fall below 1 and keep falling. "
           "Stuck at 1: E has learned nothing.", (1.0,), alarm=lambda v: v > 0.97,
           alarm_text="It is close to 1: E tells images apart hardly or not at all."),
    _Chart("Reconstruction error", {"reconstruction_error": "of x", "reconstruction_error_shuffled": "of another image"},
           "Mean distance between x and G(E(x)). The two lines should part. On top of each other: the reconstruction "
           "has nothing to do with its image."),
    _Chart("Latents of E", {"z_mean_spread": "spread of z_mean", "z_stdev": "sigma"},
           "Spread of E's answers over a batch, and the noise it adds. The spread should come to that of z (dashed) with "
           "sigma well below it. Spread near 0: all images go to one z.", alarm=lambda v: v < 0.1,
           alarm_text="The spread is close to 0: E sends nearly all images to one z."),
    _Chart("Losses", {"loss_d": "D", "loss_eg": "G and E"},
           "D's is 2 (dashed) when it cannot tell pairs apart, 0 when it always can. A game in balance wavers somewhere "
           "between. D near 0 for good: it has won, and G and E get no guidance.", (2.0,), alarm=lambda v: v < 0.1,
           alarm_text="D's loss is close to 0: G and E learn little from it."),
    *(_Chart(f"Score {name}: {what}", {f"{name}_enc": "encoder pairs (x, E(x))", f"{name}_gen": "generator pairs (G(z), z)"},
             f"D pushes encoder pairs above +1 and generator pairs below −1 (dashed), G and E push back. {bad}", (-1.0, 1.0))
      for name, what, bad in (
          ("s_x", "images", "Far apart and staying so: G's images are easily told from real ones."),
          ("s_z", "latents", "Far apart and staying so: E's latents are not distributed as z is."),
          ("s_xz", "both together", "Far apart and staying so: image and latent of a pair do not belong together."),
      )),
    _Chart("Gradient norms", {"grad_norm_d": "D", "grad_norm_g": "G", "grad_norm_e": "E"},
           "On a logarithmic scale. They should settle. Rising without end: training is about to break; E's near 0: it is "
           "told nothing.", log=True),
    _Chart("Probe while training", {"probe_top1_10perclass": "top-1, %"},
           "Linear probe with 10 labels a class within the training set. Labels are used for this only; it changes no "
           "weight. It should rise. Falling for long: later checkpoints are worse features."),
    _Chart("Speed", {"images_per_second": "images/s"},
           "Images drawn from the data each second. Dips that last: something else uses the machine."),
)  # fmt: skip


def _series(metrics: list[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one key."""
    points = [(m["step"], m[key]) for m in metrics if isinstance(m.get(key), int | float) and math.isfinite(m[key])]
    table = np.array(points, dtype=float).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average over a twentieth of the points; the window shrinks at the ends."""
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    reach = np.minimum(half, np.minimum(np.arange(len(values)), np.arange(len(values))[::-1]))
    low, high = np.arange(len(values)) - reach, np.arange(len(values)) + reach + 1
    return (sums[high] - sums[low]) / (high - low)


def _thin(steps: np.ndarray, values: np.ndarray, bins: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Long series as the lowest and highest point of each of `bins` stretches, so that no spike is lost."""
    if len(values) <= 2 * bins:
        return steps, values
    picks = {int(s[f(values[s])]) for s in np.array_split(np.arange(len(values)), bins) for f in (np.argmin, np.argmax)}
    chosen = sorted(picks | {len(values) - 1})
    return steps[chosen], values[chosen]


def _curves(run: _Run) -> Html:
    if not run.metrics:
        return _missing(f"No curves yet; training writes a point every {run.config.log.every:,} steps. To train on:", *run.resume)
    prior = 1.0 if run.config.latent.prior == "normal" else 1 / math.sqrt(3)
    charts = [_chart(run.metrics, c, (prior,) if c.title == "Latents of E" else c.lines) for c in CHARTS]
    intro = "Strong lines are smoothed, faint ones as logged; steps run to the right."
    return _join([_tag("p", intro), _tag("div", *charts, classes="charts")])


def _chart(metrics: list[dict[str, Any]], chart: _Chart, dashed: tuple[float, ...]) -> Html:
    series = {name: s for key, name in chart.keys.items() if len((s := _series(metrics, key))[0])}
    if not series:
        return Html()
    smooth = {name: _smooth(values) for name, (_, values) in series.items()}

    def draw(axes: Any) -> None:
        for colour, (name, (steps, values)) in zip(SERIES, series.items(), strict=False):
            mark = "o" if len(steps) < 12 else ""
            axes.plot(*_thin(steps, values), color=colour, lw=0.8, alpha=0.35)
            axes.plot(*_thin(steps, smooth[name]), color=colour, lw=1.8, marker=mark, ms=3)
        for level in dashed:
            axes.axhline(level, color=MUTED, lw=0.9, ls="--")
        if chart.log:
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(lambda v, _: f"{v / 1000:g}k" if abs(v) >= 1000 else f"{v:g}")

    last = {name: f"{values[-1]:.4g}" for name, values in smooth.items()}
    legend = (_tag("span", name, " ", _tag("b", last[name]), classes=f"key k{i}") for i, name in enumerate(series))
    alarmed = chart.alarm is not None and chart.alarm(next(iter(smooth.values()))[-1])
    label = f"{chart.title} over steps; last values: " + ", ".join(f"{n} {v}" for n, v in last.items())
    return _tag(
        "figure",
        _tag("figcaption", _tag("b", chart.title), _tag("div", *legend, classes="legend")),
        _svg(draw, label, 2.3),
        _tag("p", chart.how),
        _tag("p", chart.alarm_text, classes="warn") if alarmed else "",
        classes="chart",
    )
