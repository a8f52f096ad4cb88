"""The section of curves: what is logged along a run, and how to read it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from bigbigan.apps.report.charts import MUTED, SERIES, svg
from bigbigan.apps.report.contents import Line, Run
from bigbigan.apps.report.markup import Html, join, missing, paragraph, tag


class Chart(NamedTuple):
    title: str
    keys: dict[str, str]  # of metrics.jsonl, and what the legend calls them
    how: str  # how to read it and what bad looks like
    dashed: tuple[float, ...] = ()
    scale: str = "zero"  # the axis: "zero" starts there, "free" need not, "log"
    alarm: tuple[float, float, str] = (-math.inf, math.inf, "")  # said when the first line ends outside these bounds


DRAWABLE = 1e30  # what is larger, or not a number, is left out


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
          "Mean ‖x − G(E(x))‖₂ with pixels in [0, 1], and with another image's G(E(x)). The lines should part. One on "
          "the other: a reconstruction has nothing to do with its image."),
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
          "Logarithmic. They should settle. Rising without end: training is about to break. E's near 0: E gets "
          "no gradient.", scale="log"),
    Chart("Validation metric", {"log.validation_metric": ""},
          "Measured without touching a weight or the test split; it names the best step. Worse for long: an older "
          "checkpoint is the better one (--checkpoint best).", scale="free"),
    Chart("Speed", {"images_per_second": "images/s"}, "Lasting dips: something else uses the machine."),
)
# fmt: on


def _of_tasks(run: Run) -> list[Chart]:
    """Of pretext tasks: a chart each."""
    how = "Share of right answers in a training batch, and the loss. No better than at the start: nothing is learned."
    keys = {"accuracy": "right answers", "loss": "loss"}
    return [Chart(f"Task {t}", {f"{k}_{t}": name for k, name in keys.items()}, how) for t in run.config.pretext.tasks]


def _logistic(chart: Chart) -> Chart:
    """As it reads where D's loss is a cross-entropy (BiGAN and its companions), which has no margins."""
    if "loss_d" in chart.keys:
        how = "A cross-entropy: D's is 0.69 (dashed) where it cannot tell pairs apart, 0 where it always can. "
        how += "D near 0 for long: it has won, and the others learn little. An autoencoder has its pixel error alone."
        return chart._replace(how=how, dashed=(math.log(2),), alarm=(0.01, math.inf, chart.alarm[2]))
    if chart.title.startswith("Score"):
        how = (
            "D pushes the first up and the second down, without a limit; 0 (dashed) is undecided. Far apart for long: "
        )
        return chart._replace(how=how + chart.how.partition("Far apart for long: ")[2], dashed=(0,))
    return chart


def curves(run: Run) -> Html:
    if not run.metrics:
        return missing(f"None yet; training logs every {run.config.log.every:,} steps: ", run.resume)
    spread = 1.0 if run.config.latent.prior == "normal" else 1 / math.sqrt(3)
    validation_metric = run.config.log.validation_metric

    def of_run(chart: Chart) -> Chart:
        if "log.validation_metric" in chart.keys:
            return chart._replace(keys={validation_metric: validation_metric})
        if "z_stdev" in chart.keys:
            return chart._replace(dashed=(spread,))
        return chart if run.config.system == "bigbigan" else _logistic(chart)

    charts = (_curve(run.metrics, c) for c in [*_of_tasks(run), *map(of_run, CHARTS)])
    how = "Over steps; faint lines as logged, strong ones smoothed, with their last value in the legend."
    return join(paragraph(how), tag("div", *charts, classes="charts"))


def _curve(metrics: list[Line], chart: Chart) -> Html:
    series = {}
    for key, name in chart.keys.items():
        points = np.array([(m["step"], m[key]) for m in metrics if key in m], dtype=float).reshape(-1, 2)
        if len(points := points[np.abs(points[:, 1]) < DRAWABLE]):
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
    keys = (tag("span", k, " ", tag("b", v), classes=f"key k{i}") for i, (k, v) in enumerate(last.items()))
    label = f"{chart.title}; last: " + ", ".join(f"{name} {value}" for name, value in last.items())
    return tag(
        "figure",
        tag("figcaption", tag("b", chart.title), tag("div", *keys, classes="legend")),
        svg(draw, label, 2.3),
        paragraph(chart.how),
        paragraph(warning, classes="warn") if alarmed else "",
    )


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average over a twentieth of the points; the window shrinks towards the ends."""
    place, sums = np.arange(len(values)), np.concatenate([[0.0], np.cumsum(values)])
    reach = np.minimum(len(values) // 40, np.minimum(place, place[::-1]))
    return (sums[place + reach + 1] - sums[place - reach]) / (2 * reach + 1)
