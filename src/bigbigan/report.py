"""One page about a run, for people: did it work, what does G draw, what has E learned.

Each section is a function from `_Run`, all that is known of the run, to HTML. What is missing is said, with the
command that makes it, and stops nothing. Every text is escaped on its way into the page unless it is `Html`.
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
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch.nn.functional import normalize

from bigbigan import checkpoint as ck
from bigbigan.config import Config
from bigbigan.data import Source, contact_sheet, fingerprint, inspect, load_view, open_source
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features, pixel_features
from bigbigan.evaluation.results import PROBE_COLUMNS, PROBE_ROWS, paired_lead
from bigbigan.experiments import find
from bigbigan.model import Model, load
from bigbigan.monitor import read_metrics
from bigbigan.run import changed_settings, read_config

__all__ = ["write_report"]

REFERENCES = 5_000  # images among which neighbours are sought
INSPECTED = 100_000  # a source of more images is described without reading them all


class Html(str):
    """Text that is HTML already."""


def _e(value: object) -> Html:
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def _tag(name: str, *content: object, **attributes: object) -> Html:
    """<name ...>content</name>; `classes=` is class="", `aria_label=` is aria-label=""; empty ones are left out."""
    named = {k.replace("classes", "class").replace("_", "-"): v for k, v in attributes.items() if v != ""}
    start = f"<{name}" + "".join(f' {k}="{_e(v)}"' for k, v in named.items()) + ">"
    return Html(start if name in ("img", "meta") else start + "".join(map(_e, content)) + f"</{name}>")


def _join(*parts: object) -> Html:
    return Html("\n".join(map(_e, parts)))


def _p(*content: object, classes: str = "") -> Html:
    return _tag("p", *content, classes=classes)


def _command(*words: object) -> Html:
    return _tag("code", shlex.join(["bigbigan", *map(str, words)]))


def _missing(*content: object) -> Html:
    """A line for what is not there."""
    return _p(*content, classes="missing")


def _table(head: Sequence[object], rows: Iterable[Sequence[object]], classes: str = "") -> Html:
    top = _tag("thead", _tag("tr", *(_tag("th", cell, scope="col") for cell in head))) if head else ""
    body = [_tag("tr", _tag("th", row[0], scope="row"), *(_tag("td", c) for c in row[1:])) for row in rows]
    return _tag("div", _tag("table", top, _tag("tbody", *body), classes=classes), classes="scroll")


# ---------------------------------------------------------------------------------------------------------
# What is known of a run

Line = dict[str, Any]  # of results.jsonl or metrics.jsonl
Results = dict[tuple[str, bool], Line]  # newest line by (metric, measured on the trained network)


@dataclass
class _Run:
    path: Path
    config: Config
    card: dict[str, Any]  # data.json
    metrics: list[Line]
    own: Results  # on the run's own data
    others: list[Line]  # newest of each kind on other data
    damaged_results: int
    spec: str | None  # of the source that is looked at: the run's own, or the one asked for
    source: Source | None
    no_source: str  # why there is none
    model: Model | None
    no_model: str

    @property
    def resume(self) -> Html:
        """The command that trains on."""
        c = self.config
        data = ["--data", self.card["spec"]] if "spec" in self.card else []
        scale = ["--scale", str(c.scale)] if c.scale else []
        changed = [f"{name}={json.dumps(value)}" for name, value in changed_settings(c).items()]
        settings = ["--set", *changed] if changed else []
        return _command("train", c.experiment, *data, *scale, *settings, "--out", self.path)


def _gather(path: Path, data: str | None) -> _Run:
    config = read_config(path)
    card = _json(path / "data.json")
    spec = data or card.get("spec")
    source, model, no_source, no_model = None, None, "the run has no data.json", ""
    try:
        # Unreadable images are for the data card to show: here they stop nothing.
        source = open_source(spec, max_unreadable=1.0) if spec else None
    except (UserError, OSError) as error:
        no_source = str(error)
    try:
        model = load(path, device="cuda" if torch.cuda.is_available() else "cpu")
    except (UserError, OSError) as error:
        no_model = str(error)
    results = _results(path / "results.jsonl", card.get("name"))
    return _Run(path, config, card, read_metrics(path), *results, spec, source, no_source, model, no_model)


def _json(path: Path) -> dict[str, Any]:
    """An object from a file; empty where it is missing or damaged."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _results(path: Path, name: str | None) -> tuple[Results, list[Line], int]:
    """The newest line of each kind on data set `name` (the split measured last), the same on other data, and the
    number of damaged lines."""
    groups: dict[tuple[str, str], Results] = {}
    damaged = 0
    for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
            place, key = (line["dataset"], line["split"]), (line["metric"], line["steps"] > 0)
            line["value"] = float(line["value"])
        except (ValueError, KeyError, TypeError):
            damaged += 1
            continue
        groups[place] = groups.pop(place, {}) | {key: line}  # the place measured last comes last
    own = next((place for place in reversed(groups) if place[0] == name), None)
    results = groups.pop(own) if own else {}
    return results, [line for group in groups.values() for line in group.values()], damaged


def _figure(line: Line) -> str:
    """Value and deviation of a result line: percentages with one place, others with four digits."""
    form = ".1f" if line["metric"].startswith(("top1", "top5", "knn")) else ".4g"
    return " ± ".join(f"{v:{form}}" for v in (line["value"], line.get("std")) if v is not None)


# ---------------------------------------------------------------------------------------------------------
# Title and verdict


def _header(run: _Run) -> Html:
    c, model, count = run.config, run.model, run.card.get("images")
    step = max([m["step"] for m in run.metrics] + [model.step if model else 0])
    seen = max([m.get("images_seen", 0) for m in run.metrics] + [model.images_seen if model else 0])
    facts = {
        "steps": f"{step:,} of {c.training.steps:,}",
        "images seen": f"{seen:,}" + (f" ({seen / count:,.1f} epochs)" if count else ""),
        "training time": _duration(run.metrics),
        "device": _json(run.path / "environment.json").get("device", "not recorded"),
        "training images": f"{count:,}" if count else "not recorded",
        "sizes": f"G {c.generator.resolution} px, "
        + (f"E {c.encoder.resolution} px, " if c.loss.has_encoder else "")
        + f"z {c.latent.dim} numbers",
    }
    if c.scale:
        facts["scaled down"] = f"{c.scale} px stand for the paper's 128"
    if model is not None:
        networks = {k: network for k, network in model.networks._asdict().items() if network is not None}
        counts = (f"{k} {sum(p.numel() for p in network.parameters()):,}" for k, network in networks.items())
        facts["parameters"] = ", ".join(counts)
    title = _tag("h1", c.experiment, " ", _tag("small", "on ", run.card.get("name", "data not known yet")))
    tiles = (_tag("div", _tag("dt", key), _tag("dd", value)) for key, value in facts.items())
    return _join(title, _verdict(run), _tag("dl", *tiles, classes="facts"))


def _duration(metrics: list[Line]) -> str:
    """Time spent in the loop, from the images between log lines and their rate."""
    seconds, before = 0.0, 0
    for line in metrics:
        if line.get("images_per_second"):
            seconds += (line["images_seen"] - before) / line["images_per_second"]
            before = line["images_seen"]
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if seconds > 120 else f"{seconds:.0f} s"


FEW = "top1_linear_{}_10perclass"


def _verdict(run: _Run) -> Html:
    """Whether it worked, in words computed from result lines; of BN+CReLU, the feature the paper probes."""
    few, ratio = run.own.get((FEW.format("bn_crelu"), True)), run.own.get(("reconstruction_ratio", True))
    evaluate = _command("evaluate", run.path)
    kind, lead, words = "", "No verdict on the features.", list[object]()
    if not run.config.loss.has_encoder:
        lead, words = "No encoder.", ["This is a GAN: it learns to generate images and no features."]
    elif few is not None:
        pixels, untrained = (run.own.get((FEW.format(name), False)) for name in ("pixels", "bn_crelu"))
        beats = [_compare(few, pixels, "raw pixels"), _compare(few, untrained, "the untrained encoder")]
        kind = ("bad", "unclear", "good")[min(mark for mark, _ in beats)]
        lead = {"good": "It worked.", "unclear": "Not clearly, so far.", "bad": "Not yet."}[kind]
        words.append(
            "With 10 labels a class, a linear classifier on the trained encoder's features is right for "
            f"{_figure(few)} % of {few['n']:,} images it has not seen: {'; '.join(text for _, text in beats)}."
        )
    elif run.own:
        words.append("The probe with 10 labels a class was not run: no labels, or other metrics were asked for.")
    else:
        lead = "Not evaluated yet."
        words += ["To measure what the encoder learned: ", evaluate, "."]
    logged = [m["reconstruction_ratio"] for m in run.metrics if "reconstruction_ratio" in m]
    if ratio or logged:
        value, when = (ratio["value"], "") if ratio else (logged[-1], " in the last batch logged")
        words.append(f" Reconstructions: {value:.3f} of the error of mismatched ones{when} (1 = nothing learned).")
    step = (few or ratio or {}).get("steps")
    if step and run.model is not None and step != run.model.step:
        words += [f" Measured at step {step:,}; the newest checkpoint is of step {run.model.step:,}: ", evaluate, "."]
    return _p(_tag("b", lead), " ", *words, classes=f"verdict {kind}")


def _compare(ours: Line, base: Line | None, name: str) -> tuple[int, str]:
    """0 below or equal, 1 above, 2 above by more than two standard deviations of the difference; and in words. The
    difference is taken draw by draw where the draws are known."""
    if base is None:
        return 1, f"{name} not measured"
    gap = round(ours["value"], 1) - round(base["value"], 1)  # as shown, so that a reader's sum comes out
    paired = paired_lead(ours, base)
    clear = abs(gap) > 2 * (paired[1] if paired else math.hypot(ours.get("std") or 0, base.get("std") or 0))
    text = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'} {name} ({base['value']:.1f})"
    return (gap > 0) * (1 + clear), f"{text}, {'more' if clear else 'less'} than two standard deviations"


# ---------------------------------------------------------------------------------------------------------
# Pictures


def _img(image: Image.Image, alt: str, most: int = 900) -> Html:
    """A picture as a data URI, at most `most` pixels a side; large ones, which are photographs, as JPEG."""
    image = image.convert("RGB")
    image.thumbnail((most, most), Image.Resampling.LANCZOS)
    kind = "png" if max(image.size) <= 300 else "jpeg"
    data = io.BytesIO()
    image.save(data, kind, **({"optimize": True} if kind == "png" else {"quality": 88}))
    uri = f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"
    # Small pictures are shown enlarged, with sharp edges.
    return _tag("img", src=uri, alt=alt, width=image.width, height=image.height, classes=kind)


def _picture(image: Image.Image, caption: str, alt: str, most: int = 900) -> Html:
    return _tag("figure", _img(image, alt, most), _tag("figcaption", caption))


def _open(path: Path) -> Image.Image | None:
    """A picture; None where it is missing or damaged."""
    try:
        return Image.open(path).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _over_time(run: _Run, kind: str, most: int, alt: str, beside: Image.Image | None = None) -> Html:
    """The last grid samples/KIND-STEP.png large, and earlier ones small: at most `most`, the first among them."""
    paths = sorted((run.path / "samples").glob(f"{kind}-" + "[0-9]" * 8 + ".png"))
    grids = [(int(p.stem[-8:]), image) for p in paths if (image := _open(p)) is not None]
    if not grids:
        every = run.config.log.pictures_every
        return _missing(f"None drawn yet; training draws them every {every:,} steps: ", run.resume)
    picks = sorted({round(i) for i in np.linspace(0, len(grids) - 1, most)})
    *early, (step, last) = (grids[i] for i in picks)
    large = [_picture(half, f"step {step:,}", f"{alt} at step {step:,}") for half in _halves(last)]
    if beside is not None:
        large.append(_picture(beside, "training images, to compare", "images of the training set"))
    small = [_picture(_halves(grid)[0], f"step {s:,}", f"{alt} at step {s:,}", 400) for s, grid in early]
    return _join(_tag("div", *large, classes="pair"), _tag("div", *small, classes="strip") if small else "")


def _halves(grid: Image.Image) -> list[Image.Image]:
    """A wide grid of 16 columns with gaps of 2 as two of 8, which fit a phone; others as they are."""
    half = (grid.width + 2) // 2
    if (grid.width + 2) % 16 or grid.width < 2 * grid.height:
        return [grid]
    return [grid.crop((0, 0, half - 2, grid.height)), grid.crop((half, 0, grid.width, grid.height))]


def _samples(run: _Run) -> Html:
    how = (
        "What G draws from random z, the same z each time. Look for images that could be of the training set, and "
        "for variety: many alike mean that G has collapsed."
    )
    data = _open(run.path / "samples" / "data.png")
    return _join(_p(how), _over_time(run, "samples", 6, "images drawn by G", data))


def _reconstructions(run: _Run) -> Html:
    how = (
        "Training images x, each above its G(E(x)): what survives the way through z. No loss asks for equal pixels, so "
        "look for the same kind of thing, pose and style. One picture under all: E has learned nothing."
    )
    return _join(_p(how), _over_time(run, "reconstructions", 4, "images, each above its reconstruction,"))


# ---------------------------------------------------------------------------------------------------------
# Charts: matplotlib's SVG with its colours replaced by the page's, so that they follow light and dark

COLOURS = {
    "#000001": "currentColor", "#000002": "var(--line)", "#000003": "var(--muted)", "#000004": "var(--on)",
    "#000005": "var(--c0)", "#000006": "var(--c1)", "#000007": "var(--c2)",
}  # fmt: skip
INK, LINE, MUTED, ON, *SERIES = COLOURS
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 10, "text.color": INK, "axes.edgecolor": LINE, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": LINE, "grid.linewidth": 0.5,
    "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED, "ytick.labelcolor": INK,
    "path.simplify_threshold": 0.4,
}  # fmt: skip


def _svg(draw: Callable[[Any], None], label: str, height: float) -> Html:
    """What `draw` puts on axes 5 inches wide, as inline SVG; `label` is read to those who cannot see it."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": label}):  # marks get names that no other chart uses
        figure = Figure(figsize=(5, height), layout="constrained")
        draw(figure.add_subplot())
        out = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=no_metadata)
    opening, text = out.getvalue().partition("<svg")[2].split(">", 1)
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(?<=<g) id="[^"]*"', "", text)  # the same in every chart, and referred to by nothing
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    for colour, replacement in COLOURS.items():
        text = text.replace(colour, replacement)
    box = " ".join(re.findall(r'viewBox="[^"]*"', opening))
    return Html(f'<svg role="img" aria-label="{_e(label)}" {box}>{text}')


def _probe(run: _Run) -> Html:
    parts: list[object] = []
    known = {pattern.format(name) for pattern in PROBE_COLUMNS.values() for name, _ in PROBE_ROWS.values()}
    line = next((line for (metric, _), line in run.own.items() if metric in known), None)
    if line is None:
        parts.append(_missing("Not measured on the run's own data. To measure: ", _command("evaluate", run.path)))
    else:
        how = (
            f"Right answers in percent on {line['n']:,} images (the {line['split']} split of {line['dataset']}) by a "
            "linear classifier, or by 5 nearest neighbours, on frozen features; bars are of BN+CReLU, the feature the "
            "paper probes. With 10 labels a class: mean and standard deviation over draws of the labelled images. An "
            "encoder that has learned passes the dotted line of the raw pixels, above all with few labels."
        )
        bars = (_bars(run.own, title, pattern) for title, pattern in PROBE_COLUMNS.items())
        parts += [_p(how), _tag("div", *bars, classes="charts"), _probe_table(run.own)]
    rest = [line for line in run.own.values() if line["metric"] not in known] + run.others
    if rest:
        columns = ("metric", "dataset", "split", "n", "steps")
        rows = [(v["metric"], _figure(v), *(v.get(key, "") for key in columns[1:])) for v in rest]
        table = _table(("metric", "value", *columns[1:]), rows, "numbers")
        summary = _tag("summary", f"Other figures ({len(rows)}): other protocols, neighbours, image quality")
        parts.append(_tag("details", summary, table, **({"open": ""} if len(rows) < 12 else {})))
    if run.damaged_results:
        parts.append(_p(f"{run.damaged_results} damaged lines of results.jsonl were passed over.", classes="warn"))
    return _join(*parts)


def _bars(results: Results, title: str, pattern: str) -> Html:
    rows = {
        "raw pixels": ("pixels", False),
        "untrained E": ("bn_crelu", False),
        "trained E": ("bn_crelu", True),
    }
    found = {row: line for row, (name, on) in rows.items() if (line := results.get((pattern.format(name), on)))}
    if not found:
        return Html()

    def draw(axes: Any) -> None:
        for place, (row, line) in enumerate(found.items()):
            value, std = line["value"], line.get("std") or 0
            axes.barh(place, value, 0.72, color=SERIES[0] if row == "trained E" else MUTED)
            if std:
                axes.errorbar(value, place, xerr=std, color=INK, capsize=3, lw=1.2)
            start, colour = (2, ON) if value > 30 else (value + std + 2, INK)
            axes.text(start, place, _figure(line), color=colour, va="center", weight="bold")
        if "raw pixels" in found:
            axes.axvline(found["raw pixels"]["value"], color=INK, lw=0.9, ls=":")
        axes.set(xlim=(0, 102), yticks=range(len(found)), yticklabels=list(found))
        axes.tick_params(length=0)
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()

    label = f"{title}: " + ", ".join(f"{row} {_figure(line)}" for row, line in found.items())
    return _tag("figure", _tag("figcaption", _tag("b", title)), _svg(draw, label, 1.5))


def _probe_table(results: Results) -> Html:
    """Features by protocols; the highest of each column is bold."""
    cells = {
        (row, column): line
        for row, (name, trained) in PROBE_ROWS.items()
        for column, pattern in PROBE_COLUMNS.items()
        if (line := results.get((pattern.format(name), trained)))
    }

    def cell(row: str, column: str) -> object:
        if (row, column) not in cells:
            return "not run"
        highest = max(line["value"] for (_, c), line in cells.items() if c == column)
        text = _figure(cells[row, column])
        return _tag("b", text) if cells[row, column]["value"] == highest else text

    return _table(
        ["", *PROBE_COLUMNS], ([row, *(cell(row, column) for column in PROBE_COLUMNS)] for row in PROBE_ROWS), "numbers"
    )


# ---------------------------------------------------------------------------------------------------------
# Curves


class Chart(NamedTuple):
    title: str
    keys: dict[str, str]  # of metrics.jsonl, and what the legend calls them
    how: str  # how to read it and what bad looks like
    dashed: tuple[float, ...] = ()
    scale: str = "zero"  # the axis: "zero" starts there, "free" need not, "log"
    alarm: tuple[float, float, str] = (-math.inf, math.inf, "")  # said when the first line ends outside these bounds


def _score(name: str, what: str, bad: str) -> Chart:
    keys = {f"{name}_enc": "encoder pairs (x, E(x))", f"{name}_gen": "generator pairs (G(z), z)"}
    how = "D pushes the first above +1 and the second below −1 (dashed); G and E push back. Far apart for long: "
    return Chart(f"Score {name}, {what}", keys, how + bad, (-1, 1), "free")


# fmt: off
CHARTS = (
    Chart("Reconstruction ratio", {"reconstruction_ratio": "matched over mismatched"},
          "Error of G(E(x)) over that of another image's reconstruction. Below 1 and falling is good. Stuck at 1: E "
          "has learned nothing.", (1,), alarm=(0, 0.97, "It is near 1: E hardly tells images apart.")),
    Chart("Reconstruction error", {"reconstruction_error": "matched", "reconstruction_error_shuffled": "mismatched"},
          "Mean distance of x from G(E(x)), and from another image's. The lines should part. One on the other: a "
          "reconstruction has nothing to do with its image."),
    Chart("Latents of E", {"z_mean_spread": "spread of z_mean", "z_stdev": "sigma"},
          "How far E's answers lie apart within a batch, and the noise it adds. The spread should come near that of z "
          "(dashed), sigma stay well below. Spread near 0: all images go to one z.",
          alarm=(0.1, math.inf, "The spread is near 0: nearly all images go to one z.")),
    Chart("Losses", {"loss_d": "D", "loss_eg": "G and E"},
          "D's is 2 (dashed) where it cannot tell pairs apart, 0 where it always can; a fair game stays between. D "
          "near 0 for long: it has won, and G and E learn little.", (2,), "free",
          (0.1, math.inf, "D's loss is near 0: G and E learn little from it.")),
    _score("s_x", "of images", "G's images are easily told from real ones."),
    _score("s_z", "of latents", "E's latents are not spread as z is."),
    _score("s_xz", "of both together", "image and latent do not belong together."),
    Chart("Gradient norms", {"grad_norm_d": "D", "grad_norm_g": "G", "grad_norm_e": "E"},
          "Logarithmic. They should settle. Rising without end: training is about to break. E's near 0: E is told "
          "nothing.", scale="log"),
    Chart("Watched while training", {"log.watch": ""},
          "Measured without touching a weight or the test split; it names the best step. Worse for long: an older "
          "checkpoint is the better one (--checkpoint best).", scale="free"),
    Chart("Speed", {"images_per_second": "images/s"}, "Lasting dips: something else uses the machine."),
)
# fmt: on


def _curves(run: _Run) -> Html:
    if not run.metrics:
        return _missing(f"None yet; training logs every {run.config.log.every:,} steps: ", run.resume)
    spread = 1.0 if run.config.latent.prior == "normal" else 1 / math.sqrt(3)
    watch = run.config.log.watch

    def of_run(chart: Chart) -> Chart:
        if "log.watch" in chart.keys:
            return chart._replace(keys={watch: watch})
        return chart._replace(dashed=(spread,)) if "z_stdev" in chart.keys else chart

    charts = (_curve(run.metrics, of_run(c)) for c in CHARTS)
    how = "Over steps; faint lines as logged, strong ones smoothed, with their last value in the legend."
    return _join(_p(how), _tag("div", *charts, classes="charts"))


def _curve(metrics: list[Line], chart: Chart) -> Html:
    series = {}
    for key, name in chart.keys.items():
        points = np.array([(m["step"], m[key]) for m in metrics if key in m], dtype=float).reshape(-1, 2)
        if len(points := points[np.isfinite(points[:, 1])]):
            series[name] = points[:, 0], points[:, 1], _smooth(points[:, 1])
    if not series:
        return Html()

    def draw(axes: Any) -> None:
        for colour, (steps, values, smooth) in zip(SERIES, series.values(), strict=False):
            axes.plot(steps, values, color=colour, lw=0.8, alpha=0.35)
            axes.plot(steps, smooth, color=colour, lw=1.8, marker="o" if len(steps) < 12 else "", ms=3)
        for level in chart.dashed:
            axes.axhline(level, color=MUTED, lw=0.9, ls="--")
        if chart.scale == "log":
            axes.set_yscale("log")
        elif chart.scale == "zero":
            axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        axes.xaxis.get_major_locator().set_params(nbins=5, integer=True)
        axes.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k" if step >= 1000 else f"{step:g}")

    last = {name: smooth[-1] for name, (_, _, smooth) in series.items()}
    low, high, warning = chart.alarm
    alarmed = not low <= next(iter(last.values())) <= high
    last = {name: f"{value:.3g}" for name, value in last.items()}
    keys = (_tag("span", k, " ", _tag("b", v), classes=f"key k{i}") for i, (k, v) in enumerate(last.items()))
    label = f"{chart.title}; last: " + ", ".join(f"{name} {value}" for name, value in last.items())
    return _tag(
        "figure",
        _tag("figcaption", _tag("b", chart.title), _tag("div", *keys, classes="legend")),
        _svg(draw, label, 2.3),
        _p(chart.how),
        _p(warning, classes="warn") if alarmed else "",
    )


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average over a twentieth of the points; the window shrinks towards the ends."""
    place, sums = np.arange(len(values)), np.concatenate([[0.0], np.cumsum(values)])
    reach = np.minimum(len(values) // 40, np.minimum(place, place[::-1]))
    return (sums[place + reach + 1] - sums[place - reach]) / (2 * reach + 1)


# ---------------------------------------------------------------------------------------------------------
# Nearest neighbours


def _neighbours(run: _Run, queries: int = 8, nearest: int = 8) -> Html:
    if run.model is None:
        return _missing(f"Left out: {run.no_model}.")
    if run.source is None:
        other = _command("report", run.path, "--data", "SOURCE")
        return _missing(f"Left out, as the images were not found: {run.no_source}. With images elsewhere: ", other)
    # Read through a source of its own, so that the data card counts each image once.
    source = Source(run.source.spec, run.source.name, run.source.splits, max_unreadable=1.0)
    train, c = source.splits["train"], run.config
    view = (c.encoder.resolution, c.data.channels, c.data.augment, source)
    draw = np.random.default_rng(0)
    order, most = draw.permutation(len(train)), 2 * queries  # twice, as some may be unreadable
    held = next((name for name in ("test", "val") if name in source.splits), None)
    if held:
        whose = f"Images of the {held} split"
        asked = source.splits[held].subset(draw.permutation(len(source.splits[held]))[:most])
    else:
        whose = "Images set apart for this (training has seen them)"
        asked, order = train.subset(order[:most]), order[most:]
    x, kept = load_view(asked, *view)
    x, asked = x[:queries], asked.subset(kept[:queries])
    known = train.subset(order[:REFERENCES])
    y, kept = load_view(known, *view)
    known = known.subset(kept)

    def closest(of_x: np.ndarray, of_y: np.ndarray) -> np.ndarray:
        cosine = normalize(torch.from_numpy(of_x)) @ normalize(torch.from_numpy(of_y)).t()
        return cosine.topk(min(nearest, len(of_y))).indices.numpy()

    E = run.model.encoder
    found = closest(*(encoder_features(E, pixels, batch_size=100)["bn_crelu"] for pixels in (x, y)))
    text = (
        f"{whose}, left, and the nearest to each among {len(y):,} training images, by the angle between BN+CReLU "
        "features. Look for the same kind of thing, not only the same brightness or place."
    )
    same = np.zeros(found.shape, dtype=bool)
    if asked.labels is not None and known.labels is not None and len(np.unique(known.labels)) > 1:
        shared = known.labels[None, :] == asked.labels[:, None]  # [queries, references]
        same = np.take_along_axis(shared, found, 1)
        raw = np.take_along_axis(shared, closest(pixel_features(x), pixel_features(y)), 1)
        text += (
            f" {same.sum()} of {same.size} are of their query's class (framed); of those nearest by raw pixels "
            f"{raw.sum()}, by chance {shared.mean() * same.size:.0f}. Labels are used for this count only."
        )
    rows = []
    for i, neighbours in enumerate(found):
        tiles = [_tile(x[i], f"query {i + 1}")]
        for j, shares in zip(neighbours, same[i], strict=True):
            tiles.append(_tile(y[j], "neighbour, same class" if shares else "neighbour", "same" if shares else ""))
        rows.append(_tag("div", *tiles, classes="neighbours"))
    return _join(_p(text), *rows)


def _tile(pixels: np.ndarray, alt: str, classes: str = "") -> Html:
    image = Image.fromarray(pixels.transpose(1, 2, 0).squeeze())
    return _tag("div", _img(image, alt, 64), classes=f"tile {classes}")


# ---------------------------------------------------------------------------------------------------------
# Settings and data


def _settings(run: _Run) -> Html:
    now = run.config.to_dict()
    try:
        usual, how = (
            find(run.config.experiment).config(run.config.scale).to_dict(),
            "Marked: other than in the experiment.",
        )
    except UserError:
        usual, how = now, f"{run.config.experiment} is no experiment of this version; nothing to compare with."
    blocks = {}
    for group in (key for key in now if isinstance(now[key], dict)):
        rows = []
        for key, value in now[group].items():
            was = usual[group][key]
            cell = [_tag("mark", json.dumps(value)), f" instead of {json.dumps(was)}"]
            rows.append((key, json.dumps(value) if value == was else _tag("span", *cell)))
        blocks[group] = _table([], rows)
    environment = _json(run.path / "environment.json")
    if "earlier" in environment:
        environment["earlier"] = ", ".join(e.get("started", "?") for e in environment["earlier"]) or "none"
    blocks["environment"] = _table([], environment.items()) if environment else _missing("Not recorded.")
    best, kept = ck.best_record(run.path) or {}, list[Sequence[object]]()
    for checkpoint in ck.checkpoints(run.path):
        problem, note = checkpoint.problem(), ""
        if checkpoint.step == best.get("step"):
            note = "best by {metric}: {value:.4g}".format_map(best)
        kept.append((f"step {checkpoint.step:,}", _tag("mark", f"damaged: {problem}") if problem else note))
    blocks["checkpoints"] = _table([], kept) if kept else _missing("None yet; to train on: ", run.resume)
    sections = (_tag("section", _tag("h3", name), block) for name, block in blocks.items())
    return _join(_p(how), _tag("div", *sections, classes="settings"))


def _data(run: _Run) -> Html:
    card, source = run.card, run.source
    notes, skipped = card.get("notes", {}), card.get("skipped", [])
    total = len(skipped)
    labels = "Training used no labels; evaluation did"
    labels += ", and so did the probe along the way, which changes no weight." if run.config.log.probe_every else "."
    rows: list[Sequence[object]] = [("source", run.spec or "not recorded")]
    parts: list[object] = []
    if source is None:
        rows.append(("training images", card.get("images", "not recorded")))
        parts.append(_missing(f"Not looked at: {run.no_source}. The above is what the run noted."))
    elif sum(map(len, source.splits.values())) > INSPECTED:
        rows += [(f"{name} split", f"{len(images):,} images") for name, images in source.splits.items()]
        parts.append(_missing("Too many to look at each here: ", _command("data", "inspect", run.spec)))
    else:
        facts = inspect(source)
        train, notes, skipped, total = (
            facts["splits"]["train"], facts["notes"], facts["skipped"], facts["skipped_count"]
        )  # fmt: skip
        rows += [(f"{name} split", _describe(split)) for name, split in facts["splits"].items()]
        rows += [(f"in both {pair}", _tag("mark", f"{n:,} images")) for pair, n in facts["shared"].items()]
        parts.append(_classes(facts["splits"]))
        if card.get("fingerprint") not in (None, _fingerprint(source, train)):
            parts.append(_p("These are not the images the run was trained on.", classes="warn"))
    if skipped:
        summary = _tag("summary", f"{total:,} files skipped, the first of them:")
        parts.append(_tag("details", summary, _table(("file", "reason"), skipped[:20]), open="open"))
    if source is not None:
        parts.append(_picture(contact_sheet(source), "drawn at random from the training split", "training images"))
    return _join(_p(labels), _table([], [*rows, *((kind, f"{n:,}") for kind, n in notes.items())]), *parts)


def _fingerprint(source: Source, train: dict[str, Any]) -> str:
    """As a run records it: of the training images that can be read."""
    images, bad = source.splits["train"], {file for file, _ in source.skipped}
    if not train["unreadable"]:
        return train["fingerprint"]
    return fingerprint(images.subset([i for i, file in enumerate(images.files) if file not in bad]))


def _describe(split: dict[str, Any]) -> str:
    """A line on one split of `bigbigan.data.inspect`."""
    text = [f"{split['count']:,} images"]
    if split["sizes"]:
        low, high = ("×".join(map(str, split["sizes"][key])) for key in ("min", "max"))
        text.append(f"{low} px" if low == high else f"{low} to {high} px")
    text += [f"{n:,} {kind}" for kind, n in split["channels"].items() if n]
    text += [f"{split[key]:,} {key}" for key in ("unreadable", "duplicates") if split[key]]
    return ", ".join([*text, "labelled" if split["labelled"] else "no labels"])


def _classes(splits: dict[str, Any], most: int = 20) -> Html:
    """Images of each class in each split; of more than `most` classes the largest and the smallest."""
    counts = splits["train"]["classes"] or {}
    names, left = list(counts), len(counts) - most
    if left > 0:
        names.sort(key=lambda name: -counts[name])
        names[most // 2 : -most // 2] = []
    rows = [
        (
            name,
            *(f"{(split['classes'] or {}).get(name, 0):,}" for split in splits.values()),
            _tag("div", classes="bar", style=f"width:{100 * counts[name] / max(1, *counts.values()):.1f}%"),
        )
        for name in names
    ]
    between = _p(f"Left out: {left} classes of sizes in between.") if left > 0 else ""
    return _join(_table(("class", *splits, ""), rows, "classes"), between) if rows else Html()


# ---------------------------------------------------------------------------------------------------------
# The page

SECTIONS: dict[str, Callable[[_Run], Html]] = {
    "Samples over time": _samples, "Reconstructions": _reconstructions, "What the encoder learned": _probe,
    "Nearest neighbours": _neighbours, "Curves": _curves, "Settings": _settings, "Data": _data,
}  # fmt: skip
OF_ENCODER = ("Reconstructions", "What the encoder learned", "Nearest neighbours")


def write_report(run: Path, data: str | None = None) -> Path:
    """Write report.html into a run folder from whatever is there.

    Args:
        run: the run folder; training may be at any step, or going on.
        data: source of the images to look at; by default the one the run was trained on.

    Returns:
        The path of the page: one file that needs no other, no network and no script.

    Raises:
        UserError: not a run folder, or not writable.
    """
    known = _gather(run, data)
    links, sections = [], []
    for number, (title, section) in enumerate(SECTIONS.items()):
        if title in OF_ENCODER and not known.config.loss.has_encoder:
            continue
        try:
            content = section(known)
        except (
            UserError,
            OSError,
        ) as error:  # such as images that went away meanwhile; the rest still stands
            content = _missing(f"Left out: {error}.")
        links.append(_tag("a", title, href=f"#s{number}"))
        sections.append(_tag("section", _tag("h2", title), content, id=f"s{number}"))
    written = f"Written {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC by bigbigan report."
    body = _join(_header(known), _tag("nav", *links), *sections, _tag("footer", written))
    page = PAGE.format(title=_e(f"{known.config.experiment}: report"), style=STYLESHEET, body=body)
    aside = run / ".report.html"
    try:
        aside.write_text(page, encoding="utf-8", errors="backslashreplace")
        return aside.replace(run / "report.html")
    except OSError as error:
        raise UserError(f"{run / 'report.html'} cannot be written: {error.strerror}") from None


# The policy holds even if a hostile file name found its way into the page: nothing is run, nothing is fetched.
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,"><title>{title}</title><style>{style}</style></head>
<body>{body}</body></html>
"""

STYLESHEET = """
:root { color-scheme: light dark; --bg: #fff; --soft: #f3f5f7; --ink: #1c2128; --muted: #5c6672; --line: #d5dae0;
  --on: #fff; --c0: #1f66b0; --c1: #b8500f; --c2: #2b7a4b; --good: #2b7a4b; --unclear: #9a6400; --bad: #b3303b; }
@media screen and (prefers-color-scheme: dark) { :root { --bg: #14181d; --soft: #1f262e; --ink: #e6e9ed;
  --muted: #9ba6b2; --line: #39424d; --on: #10151a; --c0: #6cacf0; --c1: #f0955a; --c2: #66c492; --good: #66c492;
  --unclear: #e0b050; --bad: #f0808a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--bg); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { margin: .5rem 0; line-height: 1.2; } h1 small { color: var(--muted); font-weight: normal; font-size: 1.1rem; }
h2 { margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line); } h3 { margin: 1.25rem 0 .25rem; font-size: 1rem; }
section > figure { padding-top: 1rem; }
p { margin: .5rem 0; max-width: 48rem; } figure, dd { margin: 0; } a { color: var(--c0); }
code { background: var(--soft); font-size: .9em; } mark { background: none; color: var(--unclear); font-weight: 600; }
dt, figcaption, figure p, footer { color: var(--muted); font-size: .875rem; } figcaption b { color: var(--ink); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; } footer { margin-top: 3rem; }
img, svg { display: block; max-width: 100%; height: auto; } svg { width: 100%; }
.verdict { padding: .75rem 1rem; max-width: none; font-size: 1.1rem; background: var(--soft);
  border-left: 5px solid var(--muted); }
.good { border-color: var(--good); } .unclear { border-color: var(--unclear); } .bad { border-color: var(--bad); }
.missing { padding-left: .75rem; color: var(--muted); border-left: 3px solid var(--line); }
.warn, figure p.warn { color: var(--bad); font-weight: 600; }
.facts, .pair, .charts, .strip { display: grid; gap: 1rem 1.5rem; margin: 1rem 0; }
.facts { grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); }
.pair { grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); }
.charts { grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1.5rem 2rem; }
.strip { grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
.pair img { width: 100%; max-width: 36rem; } .pair .png, .tile .png { image-rendering: pixelated; }
.legend { display: flex; flex-wrap: wrap; gap: 0 1rem; } .key::before { content: "■ "; }
.k0::before { color: var(--c0); } .k1::before { color: var(--c1); } .k2::before { color: var(--c2); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .2rem 1rem .2rem 0; text-align: left; vertical-align: top; font-weight: normal; }
th { color: var(--muted); } tbody th { white-space: nowrap; } thead th { border-bottom: 1px solid var(--line); }
tr + tr > * { border-top: 1px solid var(--line); }
.numbers td { font-variant-numeric: tabular-nums; white-space: nowrap; } .classes td:last-child { width: 12rem; }
.bar { height: .8rem; min-width: 1px; margin-top: .35rem; background: var(--c0); }
.settings { columns: 19rem; column-gap: 2rem; } .settings h3 { margin-top: 0; }
.settings section { break-inside: avoid; padding-bottom: 1rem; }
.neighbours { display: grid; grid-template-columns: 1fr .3fr repeat(8, 1fr); gap: .25rem; max-width: 36rem;
  margin-bottom: .25rem; }
.tile { border: 3px solid transparent; } .tile:nth-child(2) { grid-column: 3; } .same { border-color: var(--good); }
.tile img { width: 100%; }
@media print { nav { display: none; } figure, tr, .neighbours { break-inside: avoid; } h2, h3 { break-after: avoid; }
  * { print-color-adjust: exact; } }
"""
